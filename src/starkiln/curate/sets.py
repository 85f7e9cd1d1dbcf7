"""The exact shingle sets of candidates, on the disk, and read back in bounded numbers.

One file a run of shards: the sets end to end (sorted uint64), where each document's begins and the
last one's ends (int64), and the documents' thresholds (float64). Who is no candidate has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from starkiln.core import atomic
from starkiln.curate import bands
from starkiln.curate.minhash import TEXTS, Rule, part_of

HASH = 8  # bytes


def store(view: Any, rule: Rule, places: bands.Places, wanted: Path) -> "Sets":
    """Make the sets of the wanted documents (a file of bool, one each) anew from their texts."""
    calls = [
        (run, (run, shards, places.heights[k], int(places.starts[k]), wanted, rule))
        for k, (run, shards) in enumerate(bands.runs(view))
    ]
    view.run("sets", _store, calls)
    return Sets([view.scratch / "sets" / run for run, _ in calls], places.starts)


def _store(
    folder: Path, run: str, shards: list, heights: list, start: int, wanted: Path, rule: Rule
) -> dict[str, Any]:
    chosen = part_of(wanted, np.bool_, start, sum(heights))
    sizes, thresholds = np.zeros(len(chosen), np.int64), np.zeros(len(chosen))

    def fill(temporary: Path) -> None:
        begin = 0
        with temporary.open("wb") as file:
            for shard, height in zip(shards, heights, strict=True):
                here = chosen[begin : begin + height]
                rows = begin + np.flatnonzero(here)
                frame = bands.chosen(shard, TEXTS, here)
                sets, sizes[rows], thresholds[rows] = made(frame, rule)
                file.write(sets.data)
                begin += height
            file.write(np.cumsum([0, *sizes]).tobytes())
            file.write(thresholds.tobytes())

    atomic.write(folder / run, fill)
    return {"files": [folder / run]}


def made(frame: pl.DataFrame, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sorted shingle sets of a frame's texts end to end (uint64), their sizes, thresholds."""
    from starkiln.curate import kernels

    groups = rule.groups(frame)
    ngrams = np.array([group.ngram for group in groups], np.int64)
    data, offsets = kernels.buffers(frame["text"])
    hashes, starts = kernels.shingles(data, offsets, ngrams, rule.keep_empty)
    found = [_distinct(hashes[begin:end]) for begin, end in pairwise(starts)]
    sizes = np.array([len(one) for one in found], np.int64)
    thresholds = np.array([group.threshold for group in groups], np.float64)
    return np.concatenate([hashes[:0], *found]), sizes, thresholds


def _distinct(hashes: np.ndarray) -> np.ndarray:
    ordered = np.sort(hashes)
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


class Located(NamedTuple):
    """Where the sets of some documents lie."""

    run: np.ndarray  # int64 [n]: number of the file
    begin: np.ndarray  # int64 [n]: hashes before it in that file
    size: np.ndarray  # int64 [n]
    threshold: np.ndarray  # float64 [n]

    def of(self, some: np.ndarray) -> "Located":
        """Those of some of the documents, by their numbers here."""
        return Located(*(one[some] for one in self))


@dataclass(frozen=True)
class Sets:
    """The stored sets of a table."""

    paths: list[Path]
    starts: np.ndarray  # int64 [runs + 1]: number of each run's first document, and of all

    def locate(self, documents: np.ndarray) -> Located:
        """The places of the sets of ``documents`` (int64, ascending)."""
        run = np.searchsorted(self.starts, documents, "right") - 1
        begin, size = np.empty_like(documents), np.empty_like(documents)
        threshold = np.empty(len(documents))
        for k, mine in _stretches(run):
            count = int(self.starts[k + 1] - self.starts[k])
            tail = self.paths[k].stat().st_size - HASH * (2 * count + 1)
            words = np.memmap(self.paths[k], np.int64, "r", tail)
            rows = documents[mine] - self.starts[k]
            begin[mine], size[mine] = words[rows], words[rows + 1] - words[rows]
            threshold[mine] = words[count + 1 + rows].view(np.float64)
        return Located(run, begin, size, threshold)

    def load(self, wanted: Located) -> tuple[np.ndarray, np.ndarray]:
        """Those sets end to end (uint64) and [begin, end) of each in them (int64 [n, 2])."""
        ends = np.cumsum(wanted.size)
        spans = np.stack([ends - wanted.size, ends], axis=1)
        hashes = np.empty(wanted.size.sum(), np.uint64)
        for k, mine in _stretches(wanted.run):
            with self.paths[k].open("rb", buffering=0) as file:
                for first, last in _together(wanted.begin[mine], wanted.size[mine]):
                    file.seek(HASH * int(wanted.begin[mine][first]))
                    _fill(file, hashes[spans[mine][first, 0] : spans[mine][last, 1]])
        return hashes, spans


def _stretches(run: np.ndarray) -> Iterator[tuple[int, slice]]:
    """(run, where it stands) of ascending numbers of runs."""
    breaks = [0, *(np.flatnonzero(np.diff(run)) + 1).tolist(), len(run)]
    for first, end in pairwise(breaks):
        if first < end:
            yield int(run[first]), slice(first, end)


def _together(begin: np.ndarray, size: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) of the sets that lie behind each other, to be read at once."""
    breaks = np.flatnonzero(begin[1:] != begin[:-1] + size[:-1]) + 1
    for first, end in pairwise([0, *breaks.tolist(), len(begin)]):
        yield first, end - 1


def _fill(file: FileIO, array: np.ndarray) -> None:
    into = array.data.cast("B")
    while into:
        into = into[file.readinto(into) :]
