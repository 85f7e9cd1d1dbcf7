"""The four words of an encoder beside its tokenizer's: padding, separator, class, mask (rules §9).

They have the ids after the tokenizer's own, where BigCode's scripts add them. No text gives one.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.tokenizer.tokenizer import NAME, Tokenizer

ROLES = {"pad_token": "<pad>", "sep_token": "<sep>", "cls_token": "<cls>", "mask_token": "<mask>"}
_END = "<|endoftext|>"
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


class Words(NamedTuple):
    """Ids of the four words."""

    pad: int
    sep: int
    cls: int
    mask: int


def words(tokenizer: Tokenizer) -> Words:
    """The ids that an encoder has for its words."""
    return Words(*range(tokenizer.vocab_size, size(tokenizer)))


def size(tokenizer: Tokenizer) -> int:
    """Entries of an encoder's vocabulary: the tokenizer's and the four."""
    return tokenizer.vocab_size + len(ROLES)


def save(folder: Path, tokenizer: Tokenizer, longest: int) -> None:
    """Write what ``transformers.AutoTokenizer`` loads, with the words as its special tokens.

    There it frames texts as ``<cls> A <sep>`` or ``<cls> A <sep> B <sep>`` with segment ids, of
    at most ``longest`` tokens. Equal tokenizers give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given, ids = json.loads(tokenizer.definition), dict(zip(ROLES.values(), words(tokenizer)))
    model = {**given["model"], "vocab": {**given["model"]["vocab"], **ids}}
    added = [{"id": i, "content": word, "special": True, **_PLAIN} for word, i in ids.items()]
    whole = {**given, "model": model, "added_tokens": [*given["added_tokens"], *added]}
    whole["post_processor"] = _frame(ids)
    named = list(tokenizer.added.values())
    specials: dict[str, Any] = {**ROLES, "additional_special_tokens": named}
    if _END in named:
        specials |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END)
        specials["additional_special_tokens"] = [name for name in named if name != _END]
    config = {
        **specials,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }
    atomic.write_bytes(folder / NAME, _text(whole).encode())
    atomic.write_json(folder / "tokenizer_config.json", config)
    atomic.write_json(folder / "special_tokens_map.json", specials)


def load(folder: Path, rows: int) -> Tokenizer:
    """The tokenizer of an encoder of so many ``rows``, without its four words.

    Sentinels, bytes and the words themselves may lack: BigCode's scripts add the words at every
    start. UserError where the file is absent, of another kind, or has the words elsewhere.
    """
    path = folder / NAME
    try:
        return _tokenizer(json.loads(path.read_bytes()), rows)
    except OSError as error:
        raise UserError(path, "no tokenizer here", "copy the model's tokenizer.json") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"not a StarCoder encoder's tokenizer: {error}"
        raise UserError(path, what, "copy the model's own tokenizer.json") from error


def _tokenizer(given: dict[str, Any], rows: int) -> Tokenizer:
    marked = {token["content"]: token["id"] for token in given["added_tokens"]}
    found = {word: marked.get(word) for word in ROLES.values()}
    own = {name: i for name, i in given["model"]["vocab"].items() if found.get(name) is None}
    kept = [token for token in given["added_tokens"] if token["content"] not in found]
    ids = [*own.values(), *(token["id"] for token in kept)]
    if min(ids) < 0 or max(ids) + len(found) + 1 > rows:
        raise ValueError(f"its ids, {min(ids)} to {max(ids)} and four words, are not {rows} rows'")
    for i, (word, at) in enumerate(found.items(), max(ids) + 1):
        if at not in (None, i):
            raise ValueError(f"{word} has the id {at}, not {i}")
    model = {**given["model"], "vocab": own}
    plain = {**given, "model": model, "added_tokens": kept, "post_processor": None}
    return Tokenizer(_text(plain), reads_alone=True)


def _frame(ids: dict[str, int]) -> dict[str, Any]:
    """A post-processor of ``tokenizers``: the words around one text or two."""

    def word(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [word("<cls>", 0), text("A", 0), word("<sep>", 0)]
    used = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<cls>", "<sep>")}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), word("<sep>", 1)],
        "special_tokens": used,
    }


def _text(definition: dict[str, Any]) -> str:
    return json.dumps(definition, indent=1, ensure_ascii=False)
