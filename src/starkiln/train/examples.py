"""The tagger's examples: labelled texts, read by split, and the train split as windows by number.

A table of Parquet shards: ``id``, ``split`` (train, validation or test, by repository), ``text``,
``spans`` (start, end, label) and ``unsure`` (start, end: places that are not judged), in code
points.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from starkiln.core import keyed, table
from starkiln.core.errors import UserError
from starkiln.model import tagging
from starkiln.model.tagging import MARKS, UNJUDGED
from starkiln.tokenizer import encoder_words
from starkiln.tokenizer.tokenizer import Tokenizer

COLUMNS = ("id", "split", "text", "spans", "unsure")


class Example(NamedTuple):
    """A text, its spans (start, end, class), and places (start, end) that are not judged."""

    id: str
    text: str
    spans: list[tuple[int, int, str]]
    unsure: list[tuple[int, int]]


def read(folder: Path, split: str) -> Iterator[Example]:
    """The examples of a split, in order; UserError where a shard is damaged or of another kind."""
    for name in table.shard_names(folder):
        frame = table.read(folder / name)
        lacking = [column for column in COLUMNS if column not in frame.columns]
        if lacking:
            what = f"has no column '{lacking[0]}'"
            raise UserError(folder / name, what, "name a table of examples for a tagger")
        rows = frame.filter(pl.col("split") == split).select("id", "text", "spans", "unsure")
        for id_, text, spans, unsure in rows.iter_rows():
            known = [(s["start"], s["end"], s["label"]) for s in spans]
            yield Example(id_, text, known, [(s["start"], s["end"]) for s in unsure])


def count(folder: Path) -> dict[str, int]:
    """How many examples each split has."""
    paths = [folder / name for name in table.shard_names(folder)]
    found = sum((Counter(table.read(path, ["split"])["split"]) for path in paths), Counter())
    return dict(sorted(found.items()))


def some(folder: Path, split: str, tokens: int, tokenizer: Tokenizer, seed: int) -> list[Example]:
    """Examples of a split in a keyed order: all that fit ``tokens``, and one at least."""
    drawn = sorted(read(folder, split), key=lambda one: keyed.digest("examples", seed, one.id))
    kept = []
    for one in drawn:
        tokens -= len(tagging.encode(one.text, tokenizer).ids)
        if tokens < 0 and kept:
            break
        kept.append(one)
    return kept


@dataclass(frozen=True)
class Windows:
    """The windows of the train split, in another keyed order each epoch; 5 bytes a token.

    ``bounds`` [N, 4] are the places of each window's tokens (start, stop) in ``ids`` and
    ``targets``, and of those that it judges (first, last).
    """

    ids: np.ndarray
    targets: np.ndarray
    bounds: np.ndarray
    tokenizer: Tokenizer
    window: int
    seed: int

    @classmethod
    def of(
        cls,
        examples: Iterable[Example],
        tokenizer: Tokenizer,
        labels: tuple[str, ...],
        *,
        window: int,
        overlap: float,
        seed: int,
    ) -> "Windows":
        """Windows of ``window`` tokens, marks included; those without a target are left out."""
        ids, targets, bounds, done = [np.empty(0, np.uint32)], [np.empty(0, np.int8)], [], 0
        for one in examples:
            tokens = tagging.encode(one.text, tokenizer)
            wanted = tagging.targets(tokens, one.spans, one.unsure, labels)
            ids.append(tokens.ids.astype(np.uint32))
            targets.append(wanted.astype(np.int8))
            cuts = tagging.windows(len(wanted), window - MARKS, overlap)
            judging = (w for w in cuts if (wanted[w.first : w.last] != UNJUDGED).any())
            bounds += [[done + place for place in w] for w in judging]
            done += len(wanted)
        where = np.array(bounds, np.int64).reshape(-1, 4)
        return cls(np.concatenate(ids), np.concatenate(targets), where, tokenizer, window, seed)

    def batch(self, first_sample: int, count: int) -> dict[str, np.ndarray]:
        """Samples ``first_sample``...: ``ids``, ``targets`` (int64) and ``mask`` (bool) [B, T].

        A sample judges what its window does, so that each token of the split counts once an epoch;
        targets elsewhere are ``UNJUDGED``. ``source`` [B] is 0.
        """
        epochs = (divmod(first_sample + i, len(self.bounds)) for i in range(count))
        drawn = self.bounds[[self._order(epoch)[place] for epoch, place in epochs]]
        words = encoder_words.words(self.tokenizer)
        rows = [self.ids[start:stop] for start, stop, *_ in drawn]
        ids, mask = tagging.framed(rows, words, self.window)
        targets = np.full(ids.shape, UNJUDGED)
        for row, (start, _, first, last) in zip(targets, drawn, strict=True):
            row[1 + first - start : 1 + last - start] = self.targets[first:last]
        return {"ids": ids, "mask": mask, "targets": targets, "source": np.zeros(count, np.int64)}

    def _order(self, epoch: int) -> np.ndarray:
        return _order(self.seed, epoch, len(self.bounds))


@lru_cache(2)  # a batch may begin in one epoch and end in the next
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return keyed.generator("windows", seed, epoch).permutation(count)
