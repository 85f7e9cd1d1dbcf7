"""Tokens of a text and the labels on them: windows, BIO, and spans of code points out and in.

A label is ``O``, ``B-CLASS`` or ``I-CLASS``. A long text is read in windows that overlap, and each
token is judged by the window in which it lies farthest from a cut, both in training and in use.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from starkiln.code.spans import LABELS, Span
from starkiln.model.encoder import Tagger
from starkiln.tokenizer import encoder_words
from starkiln.tokenizer.encoder_words import Words
from starkiln.tokenizer.tokenizer import Tokenizer

OUTSIDE = "O"
UNJUDGED = -100  # the target of a token that carries no loss
WINDOW, OVERLAP = 512, 0.25  # tokens read at once (rules §9), and what neighbours share of them
MARKS = 2  # of them: <cls> and <sep>
_GRAIN = 32  # windows are padded to multiples of it, and those of one batch are of one length
_TOKENS = 8192  # in one pass of the model


class Tokens(NamedTuple):
    """A text's tokens: ``text[starts[i]:ends[i]]`` are the characters that token i has bytes of.

    Tokens that share a character have it both. All int64 [n].
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def within(self, start: int, end: int) -> slice:
        """The tokens that overlap ``text[start:end]``."""
        first = int(self.ends.searchsorted(start, "right"))
        return slice(first, max(first, int(self.starts.searchsorted(end, "left"))))


class Window(NamedTuple):
    """The model reads tokens ``start`` to ``stop``, and judges those from ``first`` to ``last``."""

    start: int
    stop: int
    first: int
    last: int


class Tagged(NamedTuple):
    """The tokens of a text, and how likely each label is, float32 [n, L]."""

    tokens: Tokens
    probabilities: np.ndarray
    labels: tuple[str, ...]


class _Scheme(NamedTuple):
    """Columns of labels: of each class its B and its I, and all others."""

    classes: tuple[str, ...]
    begin: np.ndarray
    inside: np.ndarray
    outside: np.ndarray


def labels_of(classes: Iterable[str]) -> tuple[str, ...]:
    """``O``, then B and I of each class (rules §9)."""
    return (OUTSIDE, *(f"{place}-{name}" for name in classes for place in "BI"))


@cache
def _scheme(labels: tuple[str, ...]) -> _Scheme:
    """Only our classes are read; what else a checkpoint may tag is outside of them."""
    classes = tuple(c for c in LABELS if {f"B-{c}", f"I-{c}"} <= set(labels))
    begin, inside = ([labels.index(f"{place}-{c}") for c in classes] for place in "BI")
    rest = [i for i in range(len(labels)) if i not in {*begin, *inside}]
    return _Scheme(classes, *(np.array(part, np.int64) for part in (begin, inside, rest)))


def encode(text: str, tokenizer: Tokenizer) -> Tokens:
    """The tokens of any text; half a surrogate pair is read as a question mark."""
    data = text.encode(errors="replace")  # as many code points as before
    ids = np.array(tokenizer.encode(data.decode()), np.int64)
    edges = np.concatenate(([0], tokenizer.byte_lengths[ids].cumsum()))
    begun = (np.frombuffer(data, np.uint8) & 0xC0 != 0x80).cumsum()  # characters up to each byte
    return Tokens(ids, begun[edges[:-1]] - 1, begun[edges[1:] - 1])


def windows(count: int, size: int, overlap: float) -> list[Window]:
    """Windows of at most ``size`` of ``count`` tokens; neighbours share ``overlap`` of it.

    The middle of what two windows share parts what they judge. So what is judged has half of the
    share on each side at least, where the text goes on; an average would also ask the window that
    saw an entity cut in two.
    """
    if not count:
        return []
    size = min(size, count)
    starts = [*range(0, count - size, max(1, size - round(size * overlap))), count - size]
    cuts = [0, *((one + size + other) // 2 for one, other in pairwise(starts)), count]
    return [Window(s, s + size, *cut) for s, cut in zip(starts, pairwise(cuts), strict=True)]


def excerpts(length: int, places: Iterable[Span], reach: int) -> list[tuple[int, int]]:
    """Starts and ends of the parts of a text that lie within ``reach`` code points of ``places``.

    In order, and none overlaps another: what a tagger has to read to judge candidates.
    """
    found: list[tuple[int, int]] = []
    for start, end in sorted((max(0, p.start - reach), p.end + reach) for p in places):
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found.pop()[1])
        found.append((start, min(length, end)))
    return found


def targets(
    tokens: Tokens,
    spans: Iterable[tuple[int, int, str]],
    unsure: Iterable[tuple[int, int]],
    labels: tuple[str, ...],
) -> np.ndarray:
    """The label of each token, int64 [n]: of the span (start, end, class) that it overlaps.

    Where it overlaps several it is the first's; spans of classes without a label are outside.
    Tokens of ``unsure`` (start, end) that no span has are ``UNJUDGED``.
    """
    found = np.full(len(tokens.ids), labels.index(OUTSIDE))
    for start, end in unsure:
        found[tokens.within(start, end)] = UNJUDGED
    done = 0
    for start, end, name in sorted(spans):
        if f"B-{name}" in labels:
            first, last, _ = tokens.within(start, end).indices(len(found))
            first = max(first, done)
            found[first:last] = labels.index(f"I-{name}")
            found[first : min(first + 1, last)] = labels.index(f"B-{name}")
            done = max(done, last)
    return found


def tag(
    model: Tagger,
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    window: int = WINDOW,
    overlap: float = OVERLAP,
    dtype: torch.dtype | None = None,
) -> list[Tagged]:
    """How likely ``model``, in eval mode, holds each label for each token of each text.

    It reads ``window`` tokens at once, marks included, or as many as it has positions; windows of
    all texts go through together, by length. ``dtype`` is the arithmetic of products; None:
    bfloat16 on GPUs and on CPUs that have it. Holds 24 bytes a token and 4 for each of its labels,
    of all texts: give a bounded number of them.
    """
    device, words = next(model.parameters()).device, encoder_words.words(tokenizer)
    dtype = dtype or (torch.bfloat16 if _has_bfloat16(device) else torch.float32)
    tokens = [encode(text, tokenizer) for text in texts]
    found = [np.empty((len(one.ids), len(model.labels)), np.float32) for one in tokens]
    size = min(window, model.config.max_position_embeddings)
    for batch in _batches(tokens, size - MARKS, overlap):
        rows = [tokens[i].ids[w.start : w.stop] for i, w in batch]
        ids, mask = (torch.from_numpy(part).to(device) for part in framed(rows, words, size))
        with torch.inference_mode(), torch.autocast(device.type, dtype, dtype != torch.float32):
            likely = model(ids, mask).softmax(-1).cpu().numpy()
        for (i, w), row in zip(batch, likely, strict=True):
            found[i][w.first : w.last] = row[1 + w.first - w.start : 1 + w.last - w.start]
    return [Tagged(one, some, model.labels) for one, some in zip(tokens, found, strict=True)]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _batches(
    tokens: Sequence[Tokens], size: int, overlap: float
) -> Iterator[list[tuple[int, Window]]]:
    """All windows with the number of their text; those of a batch are padded to one length."""
    groups: dict[int, list[tuple[int, Window]]] = {}
    for i, one in enumerate(tokens):
        for w in windows(len(one.ids), size, overlap):
            groups.setdefault(_padded(w.stop - w.start, size + MARKS), []).append((i, w))
    for length, group in sorted(groups.items()):
        rows = max(1, _TOKENS // length)
        yield from (group[at : at + rows] for at in range(0, len(group), rows))


def framed(rows: Sequence[np.ndarray], words: Words, most: int) -> tuple[np.ndarray, np.ndarray]:
    """``<cls> row <sep> <pad>...`` int64 [B, T] and what of it is no padding, bool [B, T].

    T is a multiple of 32 or ``most``; no row has more than ``most`` tokens, marks included.
    """
    sizes = np.array([len(row) for row in rows])
    ids = np.full((len(rows), _padded(int(sizes.max()), most)), words.pad)
    ids[:, 0] = words.cls
    for i, row in enumerate(rows):
        ids[i, 1 : len(row) + 1] = row
        ids[i, len(row) + 1] = words.sep
    return ids, np.arange(ids.shape[1]) < sizes[:, None] + MARKS


def _padded(size: int, most: int) -> int:
    return min(most, -(-(size + MARKS) // _GRAIN) * _GRAIN)


def masses(tagged: Tagged, start: int, end: int) -> dict[str, float]:
    """How likely ``text[start:end]`` is of each class, B and I together, or ``O``; the sum is 1.

    That is the mean over the tokens that overlap it; without any, all is ``O``.
    """
    classes = _scheme(tagged.labels).classes
    found = _masses(tagged, tagged.tokens.within(start, end))
    mean = found.mean(0).tolist() if len(found) else [1.0] + [0.0] * len(classes)
    return dict(zip((OUTSIDE, *classes), mean, strict=True))


def _masses(tagged: Tagged, tokens: slice) -> np.ndarray:
    """Of ``O`` and of each class, float32 [n, 1 + C]."""
    some, scheme = tagged.probabilities[tokens], _scheme(tagged.labels)
    outside = some[:, scheme.outside].sum(1, keepdims=True)
    return np.concatenate([outside, some[:, scheme.begin] + some[:, scheme.inside]], axis=1)


def decode(text: str, tagged: Tagged, reason: str = "tagger") -> list[Span]:
    """The spans that are tagged in ``text``, in order and disjoint, however unsure.

    A token is of its likeliest class, B and I together; an entity ends where the class changes, or
    where a B is likelier than an I and no word goes on. So an I after an O begins an entity. The
    confidence is the mean mass of the class. Edges are trimmed (rules §9) and split no character.
    """
    likely, classes = _masses(tagged, slice(None)), _scheme(tagged.labels).classes
    best = likely.argmax(1)
    starts, ends = tagged.tokens.starts, tagged.tokens.ends
    found: list[Span] = []
    for first, last in pairwise([*_begins(text, tagged, best), len(best)]):
        if best[first]:
            label, done = classes[best[first] - 1], found[-1].end if found else 0
            start, end = _trimmed(text, max(done, int(starts[first])), int(ends[last - 1]), label)
            if start < end:
                start, end = _whole(text, done, start, end, label in _WORDS)
                sure = float(likely[first:last, best[first]].mean())
                found.append(Span(start, end, label, reason, sure))
    return found


def _begins(text: str, tagged: Tagged, best: np.ndarray) -> list[int]:
    """Where runs of tokens begin that are one entity, or none."""
    (_, starts, ends), likely, _ = tagged
    scheme, rows, of = _scheme(tagged.labels), np.arange(len(best)), np.maximum(best - 1, 0)
    changes = np.diff(best, prepend=-1) != 0
    if best.any():
        anew = likely[rows, scheme.begin[of]] > likely[rows, scheme.inside[of]]
        anew[1:] &= starts[1:] >= ends[:-1]
        for i in np.flatnonzero(anew & (best > 0) & ~changes).tolist():
            changes[i] = not (text[starts[i] - 1].isalnum() and text[starts[i]].isalnum())
    return np.flatnonzero(changes).tolist()


# What is no part of a value, at its head and, read backwards, at its tail. A secret may begin and
# end with any sign, up to the quotes around it.
_EDGES = {
    "KEY": (r"""\W{0,64}["'`]|[\s=:,(\[{]*""", r"""\W{0,64}["'`]|\s*"""),
    "IP_ADDRESS": (r"(?:(?!::)\W)*", r"(?:(?!::)\W)*"),
}
_EDGES["PASSWORD"] = _EDGES["KEY"]
_PLAIN = (r"\W*", r"\W*")
_WORDS = ("EMAIL", "NAME", "USERNAME")  # no part of a word is one, nor is the rest of it left


def _trimmed(text: str, start: int, end: int, label: str) -> tuple[int, int]:
    head, tail = _EDGES.get(label, _PLAIN)
    value = text[start:end]
    return start + _matched(head, value), end - _matched(tail, value[::-1])


def _matched(pattern: str, value: str) -> int:
    found = re.match(pattern, value)
    return found.end() if found else 0


def _whole(text: str, least: int, start: int, end: int, words: bool) -> tuple[int, int]:
    """The span, from ``least`` on, with all of the characters, or ``words``, at its edges."""
    while start > least and _joins(text, start, words):
        start -= 1
    while end < len(text) and _joins(text, end, words):
        end += 1
    return start, end


def _joins(text: str, at: int, words: bool) -> bool:
    """Whether the character at ``at`` goes on what is before it, which is not an escape's."""
    one, two = text[at - 1 : at + 1]
    if words and _spells(one) and _spells(two) and text[at - 2 : at - 1] != "\\":
        return True
    mark = unicodedata.category(two)[0] == "M" and not one.isspace()
    return mark or "\u200d" in (one, two)


def _spells(character: str) -> bool:
    """A digit, or a letter of a script that has cases, and so puts spaces between words."""
    return character.isdigit() or character.lower() != character.upper()
