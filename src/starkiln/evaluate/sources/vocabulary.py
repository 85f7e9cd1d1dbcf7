"""Prompts as ids for any Hugging Face tokenizer; text in them never becomes a special token."""

from collections.abc import Sequence
from typing import Any

from starkiln.core.errors import UserError
from starkiln.evaluate.sources.ask import Ask
from starkiln.evaluate.sources.fitting import fitted

# What stands before prefix, suffix and middle, in this order; the first that a vocabulary has.
_INFILL = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder2, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)
_FILE = ("<filename>", "<file_sep>", "<|file_sep|>")  # before a file's name: StarCoder, 2, Qwen
_OTHERS = ("<reponame>", "<repo_name>", "<|repo_name|>", "<fim_pad>", "<fim-pad>", "<|fim_pad|>")
_ANCHOR = "☺"
_LAST = 8  # ids that a text's spaces at its beginning may depend on


def prompt_ids(tokenizer: Any, ask: Ask, context: int | None = None) -> list[int]:
    """The ids of a prompt, PSM where it has a suffix, behind the tokenizer's own first token.

    One that may be trimmed fits a model of ``context`` tokens. ``UserError`` where the vocabulary
    has no tokens for infilling, or for a file's name.
    """
    return _ids(tokenizer, fitted(ask, lambda one: len(_ids(tokenizer, one)), context))


def _ids(tokenizer: Any, ask: Ask) -> list[int]:
    known = tokenizer.get_vocab()
    opening = [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id][:1]
    if ask.path is not None:
        mark = next((known[name] for name in _FILE if name in known), None)
        if mark is None:
            what = "its tokenizer has no token for a file's name"
            raise UserError("evaluate.path", what, "leave it empty for this model")
        opening += [mark, *_inner(tokenizer, f"{ask.path}\n")]
    if ask.suffix is None:
        return opening + (_inner if opening[1:] else encode)(tokenizer, ask.prompt)
    marks = next((m for m in _INFILL if all(name in known for name in m)), None)
    if marks is None:
        what = "its tokenizer has no tokens for infilling"
        raise UserError("model", what, "evaluate it on tasks without infilling")
    prefix, suffix, middle = (known[name] for name in marks)
    before, after = encode(tokenizer, ask.prompt), _inner(tokenizer, ask.suffix)
    return [*opening, prefix, *before, suffix, *after, middle]


def ends(tokenizer: Any) -> set[int]:
    """The tokens with which another document or part begins: no completion goes on behind them."""
    known = tokenizer.get_vocab()
    names = {*_FILE, *_OTHERS, *(name for marks in _INFILL for name in marks)}
    return {known[name] for name in (*names, tokenizer.eos_token) if name in known}


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of ``text`` alone."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _inner(tokenizer: Any, text: str) -> list[int]:
    """The ids of ``text`` behind other text: without the space that SentencePiece puts first."""
    anchor = encode(tokenizer, _ANCHOR)
    if not tokenizer.convert_ids_to_tokens(anchor)[0].startswith("▁"):
        return encode(tokenizer, text)
    return encode(tokenizer, _ANCHOR + text)[len(anchor) :]


def completed(tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text that ``new`` ids add to ``prompt``'s, special tokens by name."""
    how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = tokenizer.decode(prompt[-_LAST:], **how)
    text = tokenizer.decode([*prompt[-_LAST:], *new], **how)
    return text[len(before) :] if text.startswith(before) else tokenizer.decode(new, **how)
