"""Pairs of segments by number, for an encoder: MLM and NSP (rules §9, its flaws mended).

Sample n -> (source, window) as the decoder's loader draws them, by tokens: each token stands in
about as many pairs, and pairs are mostly full, where a draw by documents would pad for the many
short files. The window's document gives ``room`` = T - 3 ids of content, cut in two: A, and the
part that follows. B is that part, or as long a part of another document *of the same source*, so
that neither language nor length tells them apart. Metadata and the end of text are left out.

There is no state: whatever regroups samples changes none.
"""

from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer import encoder_words
from starkiln.tokenizer.shards import Head, Shard, Tokens
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.loader import Loader, apportion
from starkiln.train.settings import PairSettings

MARKS = 3  # of a pair: <cls> A <sep> B <sep>
NO_TARGET = -1
SHORTEST = 8  # tokens of a pair
_OPEN = 128  # shards mapped at a time
_TRIES = 8  # draws of another document


class Document(NamedTuple):
    """The content of one document: ids ``begin`` to ``end`` of a shard."""

    shard: Shard
    before: int  # ids of the source in front of the shard
    begin: int
    end: int

    def ids(self, start: int, end: int) -> np.ndarray:
        """Those of the shard from ``start`` to ``end`` (int64); UserError if they are damaged."""
        self.shard.pieces(start, end, 0)
        return self.shard.tokens[start:end].astype(np.int64)


class Stretch(NamedTuple):
    """Ids ``start`` to ``end`` of a document, and where they are cut in two."""

    document: Document
    start: int
    cut: int
    end: int


class Documents:
    """The documents of a source, found by the place of any of their ids."""

    def __init__(self, tokens: Tokens) -> None:
        self.heads, self.size, self.count = tokens.heads, tokens.size, tokens.documents
        self.ends = np.cumsum([head.tokens for head in self.heads])

    def at(self, place: int) -> tuple[Document, int]:
        """The document that holds the id at ``place``, and where the next one begins."""
        i = int(self.ends.searchsorted(place, side="right"))
        shard, before = _opened(self.heads[i]), int(self.ends[i - 1]) if i else 0
        n = int(shard.offsets.searchsorted(np.uint64(place - before), side="right")) - 1
        first, last = shard.offsets[n : n + 2].tolist()
        found = Document(shard, before, first + int(shard.content[n]), last - 1)
        if not place - before < last <= len(shard.tokens) or found.begin > found.end:
            raise shard.damaged(f"its index does not fit its ids from {first:,} on")
        return found, (before + last) % self.size

    def short(self) -> int:
        """How many have fewer than two ids of content, and so make no pair."""
        shards = map(_opened, self.heads)
        return sum(int((np.diff(s.offsets.astype(np.int64)) - s.content < 3).sum()) for s in shards)


class Pairs(Loader):
    """One split of a folder of token shards as pairs of segments; picklable.

    ``names`` are the sources that pairs are drawn from.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        split: str,
        sequence_length: int,
        seed: int,
        settings: PairSettings,
        weights: Mapping[str, float] | None = None,
        only: Collection[str] = (),
    ) -> None:
        """Errors and ``weights`` are the loader's; UserError too on sequences too short."""
        if sequence_length < SHORTEST:
            what = f"{sequence_length} is too short for a pair of segments"
            raise UserError("train.sequence_length", what, f"give it {SHORTEST} or more")
        self.room = sequence_length - MARKS
        windows = {"sequence_length": self.room, "fim_rate": 0.0, "spm_rate": 0.0}
        super().__init__(
            folder, tokenizer, split=split, seed=seed, weights=weights, only=only, **windows
        )
        self.split, self.settings = split, settings
        self.documents = {name: Documents(tokens) for name, tokens in self.tokens.items()}
        self.words = encoder_words.words(tokenizer)

    def short(self) -> int:
        """How many documents, of all sources, are too short for a pair."""
        return sum(documents.short() for documents in self.documents.values())

    def batch(self, first_sample: int, count: int) -> dict[str, np.ndarray]:
        """Pairs ``first_sample``..., each [count, T] but the last two, int64 but ``mask``.

        ``tokens`` as the encoder reads them; ``segments`` 0 for A with ``<cls>`` and its
        ``<sep>``, 1 for B with its own; ``mask`` (bool) is False at padding; ``targets`` are the
        ids to tell, ``NO_TARGET`` elsewhere. ``follows`` [count] is 0 where B follows A, else 1
        (Hugging Face's order); ``source`` [count] the number of A's source in ``names``.
        UserError, with the shard's name, where ids turn out to be damaged.
        """
        shape, (pad, sep, cls, _) = (count, self.room + MARKS), self.words
        tokens, targets = np.full(shape, pad), np.full(shape, NO_TARGET)
        segments, labels = np.zeros(shape, np.int64), np.zeros((2, count), np.int64)
        for i in range(count):
            rng = keyed.generator("pair", self.seed, self.split, first_sample + i)
            labels[:, i], a, b = self._pair(first_sample + i, rng)
            row = np.concatenate([[cls], a, [sep], b, [sep]])
            segments[i, len(a) + 2 : len(row)] = 1
            tokens[i, : len(row)], targets[i, : len(row)] = self._hidden(row, rng)
        batch = {"tokens": tokens, "segments": segments, "mask": tokens != pad}
        return batch | {"targets": targets, "follows": labels[0], "source": labels[1]}

    def _pair(
        self, sample: int, rng: np.random.Generator
    ) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        """Label and source, and the ids of both segments."""
        source, draw = apportion(self._mixture, sample)
        name = self.names[source]
        first = self._stretch(name, self._start(name, draw) % self.documents[name].size, rng)
        follows = rng.random() < self.settings.follows_share
        other = None if follows else self._other(name, first, rng)
        ids = first.document.ids(first.start, first.end)
        a, b = np.split(ids, [first.cut - first.start])
        return (int(other is not None), source), a, b if other is None else other

    def _stretch(self, name: str, place: int, rng: np.random.Generator) -> Stretch:
        """What stands around ``place``, cut in its middle; a short document anywhere but at its
        ends. Documents that cannot be cut are passed over for the next."""
        documents, share = self.documents[name], rng.uniform(0.25, 0.75)
        for _ in range(documents.count):
            document, following = documents.at(place)
            start = self._begins(document, place - document.before, self.room)
            end = min(start + self.room, document.end)
            full = end - start == self.room
            cut = start + (self.room // 2 if full else round(share * (end - start)))
            start, end = self._between(document, start, end)
            inner = document.shard.tokens[start + 1 : end]
            cuts = start + 1 + np.flatnonzero(self._opens.take(inner, mode="clip"))
            if len(cuts):
                return Stretch(document, start, int(cuts[np.abs(cuts - cut).argmin()]), end)
            place = following
        mend = "add documents, or leave the source out by train.weights"
        raise UserError(name, "no document is long enough for a pair of segments", mend)

    def _other(self, name: str, first: Stretch, rng: np.random.Generator) -> np.ndarray | None:
        """A part of another document that could as well stand at B; None if there is none."""
        documents, wanted = self.documents[name], first.end - first.cut
        drawn = [int(share * documents.size) for share in rng.random(_TRIES)]
        best: tuple[Document, int] | None = None
        for place in (*drawn, documents.at(first.document.before + first.document.end)[1]):
            other = documents.at(place)[0]
            if _same(other, first.document):
                continue
            if best is None or _size(other) > _size(best[0]):
                best = other, place
            if _size(other) >= wanted:
                break
        return None if best is None else self._part(*best, first)

    def _part(self, other: Document, place: int, first: Stretch) -> np.ndarray | None:
        """As much of ``other`` as follows in ``first``: its end if that is its document's end,
        else from where B would begin."""
        wanted = min(first.end - first.cut, _size(other))
        start = other.end - wanted
        if first.end < first.document.end:
            ahead = first.cut - first.start
            behind = self._begins(other, place - other.before, ahead + wanted) + ahead
            start = min(start, behind)
        start, end = self._between(other, start, start + wanted)
        return other.ids(start, end) if end > start else None

    def _begins(self, document: Document, place: int, size: int) -> int:
        """Where ``size`` ids from ``place`` on begin, moved to lie in the content."""
        return max(document.begin, min(place, document.end - size))

    def _between(self, document: Document, start: int, end: int) -> tuple[int, int]:
        """``start`` to ``end`` without the parts of characters at either edge."""
        ids, opens = document.shard.tokens, self._opens
        while document.begin < start < end and not opens.take(ids[start], mode="clip"):
            start += 1
        while start < end < document.end and not opens.take(ids[end], mode="clip"):
            end -= 1
        return start, end

    def _hidden(self, row: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``row`` with some of its ordinary tokens hidden, and what stood in their places."""
        chosen = rng.permutation(np.flatnonzero(self._ordinary[row]))
        chosen = chosen[: max(1, round(self.settings.mlm_rate * len(chosen)))]
        targets = np.full(len(row), NO_TARGET)
        targets[chosen] = row[chosen]
        how, texts = rng.random(len(chosen)), self._texts
        masked = self.settings.mask_share
        swapped = how < masked + self.settings.random_share
        found = np.where(swapped, texts[rng.integers(len(texts), size=len(chosen))], row[chosen])
        row[chosen] = np.where(how < masked, self.words.mask, found)
        return row, targets

    @cached_property
    def _ordinary(self) -> np.ndarray:
        """Whether an id stands for text, bool [entries]."""
        return np.array([*map(bool, self.tokenizer.token_bytes), *[False] * len(self.words)])

    @cached_property
    def _texts(self) -> np.ndarray:
        """The ids that stand for text."""
        return np.flatnonzero(self._ordinary)

    @cached_property
    def _opens(self) -> np.ndarray:
        """Whether a character can begin where a token does, bool [vocab_size].

        Ids beyond are clipped: ``Document.ids`` finds out damaged ones.
        """
        pieces = self.tokenizer.token_bytes
        return np.array([not piece or piece[0] & 0xC0 != 0x80 for piece in pieces])


def _same(one: Document, two: Document) -> bool:
    return (one.before, one.begin) == (two.before, two.begin)


def _size(document: Document) -> int:
    return document.end - document.begin


@lru_cache(_OPEN)
def _opened(known: Head) -> Shard:
    shard = Shard(known.path)
    if shard.head != known:
        raise shard.damaged("replaced by another while in use")
    return shard
