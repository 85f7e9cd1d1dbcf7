"""Bulk encoding: many texts to one array of ids, the very ids of ``Tokenizer.encode``.

gigatoken's BPE runs at some forty times the speed of ``tokenizers`` but knows only GPT-2's
pattern. Ours applies that pattern inside each piece that single digits leave, so texts are cut
there first, on their bytes, and each piece is encoded as a text of its own.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tokenizers
from tokenizers import models, pre_tokenizers

from starkiln.tokenizer.tokenizer import Tokenizer

_BATCH = 8 << 20  # bytes encoded at once, which bounds the memory of what lies between
_LIFE = 256 << 20  # bytes that one encoder is given: its cache of words only ever grows
_PROBE = 1 << 13  # characters of each text of a sample
_RUN = 4  # digits
_DIGITS = frozenset(b"0123456789")
_SPACE = "Ġ"  # as byte-level BPE writes it
_UNICODE = 0x110000
_UNASKED, PLAIN, NUMBER, UNLIKE = range(4)  # kinds of characters
_STRINGS = {
    "class": "ListOffsetArray",
    "form_key": "strings",
    "offsets": "i64",
    "parameters": {"__array__": "bytestring"},
    "content": {
        "class": "NumpyArray",
        "form_key": "bytes",
        "primitive": "uint8",
        "parameters": {"__array__": "byte"},
    },
}


class Encoded(NamedTuple):
    """Texts end to end: text i is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: np.ndarray  # uint32 [offsets[-1]]
    offsets: np.ndarray  # int64 [texts + 1]


Encode = Callable[[pl.Series], Encoded]


def encoder(tokenizer: Tokenizer, sample: pl.Series) -> tuple[Encode, str]:
    """The fastest exact encoder of strings at hand, and its name with the reason it was chosen.

    gigatoken serves where it is installed and gives the ids of ``tokenizers`` on the beginning
    of each text of ``sample``; otherwise ``tokenizers`` does.
    """
    reference = partial(encode, tokenizer)
    try:
        fast = Fast(tokenizer)
    except ImportError:
        return reference, "tokenizers (gigatoken is not installed)"
    except ValueError as error:
        return reference, f"tokenizers (gigatoken: {error})"
    probes = sample.str.slice(0, _PROBE)
    if not all(map(np.array_equal, fast(probes), reference(probes))):
        return reference, "tokenizers (gigatoken gave other ids)"
    return fast, f"gigatoken {version('gigatoken')}"


def encode(tokenizer: Tokenizer, texts: pl.Series) -> Encoded:
    """Each of ``texts`` (strings) by ``tokenizers``."""
    return _joined(_by_tokenizers(tokenizer, batch) for batch in _batches(texts))


class Fast:
    """As ``encode``, by gigatoken on one thread; ImportError or ValueError where it cannot.

    A text with a character that the two do not see alike (their Unicode versions differ) is left
    to ``tokenizers``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """``tokenizer`` gives the vocabulary and merges."""
        if any(len(t) > 1 and not _DIGITS.isdisjoint(t) for t in tokenizer.token_bytes):
            raise ValueError("its merges join digits")
        if tokenizer.stand_ins:
            raise ValueError("its vocabulary lacks some of the 256 bytes")
        parsed = json.loads(tokenizer.definition)
        # Without added tokens, a sentinel's name in a text stays text.
        changed = {"added_tokens": [], "post_processor": None, "pre_tokenizer": _byte_level()}
        self._definition = json.dumps({**parsed, **changed})
        self._tokenizer, self._kinds = tokenizer, Kinds()
        self._renew()

    def __call__(self, texts: pl.Series) -> Encoded:
        """The ids of each of ``texts`` (strings)."""
        return _joined(chain.from_iterable(map(self._encode, _batches(texts))))

    def _renew(self) -> None:
        import gigatoken

        self._bpe, self._left = gigatoken.Tokenizer.from_json(self._definition), _LIFE

    def _encode(self, texts: pl.Series) -> Iterator[Encoded]:
        ends = np.cumsum([0, *texts.str.len_bytes()])
        data = np.frombuffer(b"".join(texts.cast(pl.Binary)), np.uint8)
        cuts, unlike = pieces(data, ends, self._kinds)
        done = 0
        for i in np.unique(ends.searchsorted(unlike, side="right") - 1).tolist():
            yield self._strings(data, ends[done : i + 1], cuts)
            yield _by_tokenizers(self._tokenizer, texts[i : i + 1])
            done = i + 1
        yield self._strings(data, ends[done:], cuts)

    def _strings(self, data: np.ndarray, ends: np.ndarray, cuts: np.ndarray) -> Encoded:
        """The texts of ``data`` between ``ends``, cut at those ``cuts`` that lie there."""
        import awkward

        cuts = cuts[cuts.searchsorted(ends[0]) : cuts.searchsorted(ends[-1], side="right")]
        size = int(ends[-1] - ends[0])
        if self._left < size:
            self._renew()
        self._left -= size
        buffers = {"strings-offsets": cuts, "bytes-data": data}
        strings = awkward.from_buffers(_STRINGS, len(cuts) - 1, buffers)
        found: Any = self._bpe.encode_batch(strings, parallel=False).layout  # a ListOffsetArray
        return Encoded(found.content.data, found.offsets.data[cuts.searchsorted(ends)])


class Kinds:
    """What kind each character is, asked of ``tokenizers`` and gigatoken themselves.

    Which characters are letters, numbers or space depends on the version of Unicode that each
    was built with, and Python's is another.
    """

    def __init__(self) -> None:
        """ImportError without gigatoken; ValueError if the two differ on ASCII."""
        import gigatoken

        reference = _revealing()
        self._digits = pre_tokenizers.Digits(individual_digits=True)
        self._reference = reference
        self._fast = gigatoken.Tokenizer.from_json(reference.to_str())
        self._known = np.full(_UNICODE, _UNASKED, np.uint8)
        if (self(np.arange(128)) == UNLIKE).any():
            raise ValueError("it does not split ASCII alike")

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """``PLAIN``, ``NUMBER`` or ``UNLIKE`` for each code point (no surrogates), uint8."""
        new = np.unique(points[self._known[points] == _UNASKED])
        if len(new):
            characters = [chr(point) for point in new.tolist()]
            self._known[new] = np.where(self._unlike(characters), UNLIKE, PLAIN)
            self._known[new[self._numbers(characters)]] = NUMBER
        return self._known[points]

    def _unlike(self, characters: list[str]) -> list[bool]:
        """Letters join the letter before, signs the sign, and both the space, as numbers do."""
        probes = [f"a{c}\n.{c}\n {c}a" for c in characters]
        expected = self._reference.encode_batch_fast(probes, add_special_tokens=False)
        found = self._fast.encode_batch_list(probes, parallel=False)
        return [one.ids != other for one, other in zip(expected, found, strict=True)]

    def _numbers(self, characters: list[str]) -> list[int]:
        """Indices of those that are split off as digits: between letters, pieces of their own."""
        probe = "a".join(["", *characters, ""])
        spans = (span for _, span in self._digits.pre_tokenize_str(probe))
        return [start // 2 for start, end in spans if end - start == 1 and start % 2]


def _byte_level() -> dict:
    return json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__())


def _revealing() -> tokenizers.Tokenizer:
    """A BPE whose ids tell whether a character joins the one before: a, full stop or space."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(before, letter) for before in f"a.{_SPACE}" for letter in letters]
    vocab = [*letters, *map("".join, merges)]
    revealing = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(vocab)}, merges))
    revealing.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return revealing


def pieces(data: np.ndarray, ends: np.ndarray, kinds: Kinds) -> tuple[np.ndarray, np.ndarray]:
    """Where to cut texts for GPT-2's pattern to give our words (int64, never falling).

    ``data`` is UTF-8 (uint8); text i is ``data[ends[i]:ends[i + 1]]``; ``ends`` are among the
    cuts. Of the places before and after every numeric character, where our pattern cuts, those
    suffice that change an id. No merge has an ASCII digit, so a run of those gives one id each, a
    space before it another; but the last of several spaces would be lost to the run. (Runs are
    cut short as well, so that the cache of words never holds long numbers.) Second, where the
    characters begin that are ``UNLIKE``.
    """
    digits = np.flatnonzero(data - np.uint8(ord("0")) < 10)
    # At the very start these are any bytes: a cut before a digit never does harm.
    previous, second = (data.take(digits - i, mode="wrap") for i in (1, 2))
    needed = _may_be_space(previous) & _may_be_space(second)
    needed |= (previous - np.uint8(ord("0")) < 10) & (digits % _RUN == 0)
    others = np.flatnonzero(data >= 0xC0)
    points, widths = _code_points(data, others)
    kind = kinds(points)
    before = others[kind == NUMBER]
    after = before + widths[kind == NUMBER]
    cuts = np.concatenate([ends, digits[needed], before, after])
    return np.sort(cuts, kind="stable"), others[kind == UNLIKE]


def _may_be_space(data: np.ndarray) -> np.ndarray:
    return (data <= ord(" ")) | (data >= 0x80)


def _code_points(data: np.ndarray, lead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The characters of two bytes and more that begin at ``lead``, and their widths in bytes."""
    first = data[lead].astype(np.int64)
    widths = 2 + (first >= 0xE0) + (first >= 0xF0)
    points = first & (0x7F >> widths)
    for i in range(1, 4):
        inside = widths > i
        points[inside] = points[inside] << 6 | data[lead[inside] + i] & 0x3F
    return points, widths


def _by_tokenizers(tokenizer: Tokenizer, texts: pl.Series) -> Encoded:
    ids = tokenizer.encode_batch(texts.to_list())
    offsets = np.cumsum([0, *map(len, ids)])
    return Encoded(np.fromiter(chain.from_iterable(ids), np.uint32, offsets[-1]), offsets)


def _batches(texts: pl.Series) -> Iterator[pl.Series]:
    """Runs of ``texts`` of about ``_BATCH`` bytes each, none inside a text."""
    ends = texts.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()
    start = 0
    while start < len(texts):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(ends.searchsorted(before + _BATCH, side="right")))
        yield texts[start:end]
        start = end


def _joined(parts: Iterable[Encoded]) -> Encoded:
    tokens, offsets, done = [np.empty(0, np.uint32)], [np.zeros(1, np.int64)], 0
    for part in parts:
        tokens.append(part.tokens)
        offsets.append(part.offsets[1:] + done)
        done += len(part.tokens)
    return Encoded(np.concatenate(tokens), np.concatenate(offsets))
