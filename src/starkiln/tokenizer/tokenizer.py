"""Byte-level BPE with StarCoder's sentinels, and the door no text can pass to become one of them.

Digits are split singly, then GPT-2's pattern applies; no normaliser; all 256 bytes are always in
the vocabulary, so any bytes round-trip (rules §11).
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from starkiln.code.sentinels import END_OF_TEXT, SENTINELS
from starkiln.core import atomic
from starkiln.core.errors import UserError

NAME = "tokenizer.json"
_STRAY = re.compile("([\udc80-\udcff])")  # one byte that is not UTF-8, as "surrogateescape" has it
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that BPE writes as such


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: itself if it prints, else a letter from U+0100 on."""
    hidden = [b for b in range(256) if b not in _PRINTED]
    return {chr(b): b for b in _PRINTED} | {chr(256 + i): b for i, b in enumerate(hidden)}


class Tokenizer:
    """Text to ids and back; ids 0-18 are the sentinels, which ``encode`` never gives."""

    def __init__(self, definition: str, *, reads_alone: bool = False) -> None:
        """``definition`` is the text of a ``tokenizer.json``; raises ValueError if not ours.

        For an encoder, which ``reads_alone``, sentinels may lack, and bytes: text with such a
        byte gets the ids of the same text with a stand-in, the nearest byte of its kind.
        """
        parsed = json.loads(definition)
        self.definition = definition
        self.added: dict[int, str] = {t["id"]: t["content"] for t in parsed["added_tokens"]}
        sentinels = [self.added.get(i) for i in range(len(SENTINELS))]
        if not reads_alone and sentinels != list(SENTINELS):
            raise ValueError(f"ids 0 to {len(SENTINELS) - 1} are not StarCoder's sentinels")
        letters = _byte_letters()
        known = parsed["model"]["vocab"]
        self.stand_ins = _stand_ins({byte for letter, byte in letters.items() if letter in known})
        if self.stand_ins and not reads_alone:
            raise ValueError("its vocabulary lacks some of the 256 bytes")
        if parsed["normalizer"] or _pattern(parsed["pre_tokenizer"]) != _pattern(_PRE_TOKENIZER):
            raise ValueError("it does not split text as StarCoder's does")
        self.vocab_size: int = max([*known.values(), *self.added]) + 1
        self.token_bytes: list[bytes] = [b""] * self.vocab_size
        for token, i in known.items():
            if i not in self.added:
                self.token_bytes[i] = bytes(letters[c] for c in token)
        names = {byte: letter for letter, byte in letters.items()}
        whole = {**known, **{names[b]: known[names[other]] for b, other in self.stand_ins.items()}}
        self._byte_ids = {byte: whole[letter] for letter, byte in letters.items()}
        # Without its added tokens the same BPE has no way to give a sentinel's id.
        plain = {**parsed, "added_tokens": [], "post_processor": None, "truncation": None}
        plain["model"] = {**parsed["model"], "vocab": whole}
        try:
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library has no other
            raise ValueError(str(error)) from error

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read ``tokenizer.json`` (or its folder); UserError if it is absent or another kind."""
        path = Path(folder)
        path = path / NAME if path.is_dir() else path
        try:
            return cls(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(path, "no tokenizer here", "name the folder of a checkpoint") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                path, f"not a StarCoder tokenizer: {error}", "train one with starkiln"
            ) from error

    def save(self, folder: Path | str) -> None:
        """Write what ``transformers.AutoTokenizer`` loads; equal tokenizers give equal bytes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        end = SENTINELS[END_OF_TEXT]
        roles: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
        specials = {**roles, "additional_special_tokens": list(SENTINELS[1:])}
        # "GPT2TokenizerFast" would make transformers drop the digit splitting.
        config = {
            **specials,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        }
        atomic.write_bytes(folder / NAME, self.definition.encode())
        atomic.write_json(folder / "tokenizer_config.json", config)
        atomic.write_json(folder / "special_tokens_map.json", specials)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``; a sentinel's name in it is ordinary text."""
        return self._plain.encode(_whole(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all threads that ``RAYON_NUM_THREADS`` allows."""
        whole = [_whole(text) for text in texts]
        return [e.ids for e in self._plain.encode_batch_fast(whole, add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes: UTF-8 by BPE, every stray byte as a token of its own."""
        try:
            return self.encode(data.decode()) if data else []
        except UnicodeDecodeError:
            parts = _STRAY.split(data.decode(errors="surrogateescape"))
        ids: list[int] = []
        for i, part in enumerate(parts):
            ids += [self._byte_ids[ord(part) - 0xDC00]] if i % 2 else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``: sentinels by name, bytes that are not UTF-8 as U+FFFD."""
        pieces = (self.token_bytes[i] or self.added.get(i, "").encode() for i in ids)
        return b"".join(pieces).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ``ids``; sentinels have none."""
        return b"".join(map(self.token_bytes.__getitem__, ids))

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of each token, int64 [vocab_size]; 0 for sentinels."""
        return np.array([len(piece) for piece in self.token_bytes])

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters that begin in each token, int64 [vocab_size]; a sentinel counts as one."""
        return np.array([len(lead_bytes(p)) if p else 1 for p in self.token_bytes])

    def boundaries(self, ids: np.ndarray) -> np.ndarray:
        """Where tokens are what they are whatever stands beyond, bool [len(ids) + 1].

        White space after a printed ASCII character always begins a new pre-token, a digit is one
        by itself, and segments and metadata are encoded apart. So a text cut there has, on each
        side, the very tokens that encoding that side alone would give. (Within a run of white
        space this would not hold: a run cut short by something else merges in another way.)
        """
        opens, closes, special = self._edges
        inner = (opens[ids[1:]] & closes[ids[:-1]]) | special[ids[1:]] | special[ids[:-1]]
        return np.concatenate(([True], inner, [True])) if len(ids) else np.ones(1, bool)

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pieces = self.token_bytes
        opens = np.array([p[:1].isspace() for p in pieces])
        closes = np.array([len(p) > 0 and 33 <= p[-1] <= 126 for p in pieces])
        return opens, closes, np.array([not p or p.isdigit() for p in pieces])


def _stand_ins(present: set[int]) -> dict[int, int]:
    """For each byte that is not ``present`` the nearest that is, so that lengths stay right."""
    found = {}
    for byte in set(range(256)) - present:
        kin = [b for b in present if _continues(b) == _continues(byte)]
        if not kin:
            raise ValueError("its vocabulary lacks too many of the 256 bytes")
        found[byte] = min(kin, key=lambda other: (abs(other - byte), other))
    return found


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def lead_bytes(piece: bytes) -> list[int]:
    """Offsets of the bytes in ``piece`` that begin a UTF-8 character."""
    return [i for i, byte in enumerate(piece) if not _continues(byte)]


def fit(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of at most ``vocab_size`` entries (fewer if no pair occurs twice).

    The result depends on the counts of words alone: neither on the order of ``texts`` nor on the
    number of threads. Source: rules §10-11, with the full byte alphabet that BigCode's lacked.
    """
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = _PRE_TOKENIZER
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SENTINELS),
        initial_alphabet=sorted(_byte_letters()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return Tokenizer(trained.to_str())


_PRE_TOKENIZER = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
)


def _pattern(pre_tokenizer: Any) -> list[dict]:
    """What decides where a pre-tokenizer splits; offsets do not matter here."""
    if not isinstance(pre_tokenizer, dict):
        pre_tokenizer = json.loads(pre_tokenizer.__getstate__())
    return [
        {k: v for k, v in part.items() if k != "trim_offsets"}
        for part in pre_tokenizer.get("pretokenizers", [])
    ]


def _whole(text: str) -> str:
    """``text``, or UserError if it holds half a surrogate pair, which no UTF-8 can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError("text", "holds half of a surrogate pair", "send valid Unicode") from error
    return text
