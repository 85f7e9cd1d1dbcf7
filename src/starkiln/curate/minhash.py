"""The rule of comparison, and the MinHash bands by which near-duplicates are found."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from starkiln.code import languages
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.curate import bands

IDS = ("kind", "language", "path", "id")
TEXTS = ("kind", "language", "path", "text")


class Group(NamedTuple):
    """How the documents of one kind and language, and perhaps extension, are compared."""

    code: int  # documents of different codes are never compared
    ngram: int
    threshold: float
    near: bool  # False: exact copies only


@dataclass(frozen=True)
class Rule:
    """How a text becomes shingles, shingles a signature, and what counts as near."""

    threshold: float
    ngram: int
    permutations: int
    bands: int
    rows: int
    keep_empty: bool
    min_tokens: int
    by_extension: bool

    def __post_init__(self) -> None:
        if self.bands * self.rows > self.permutations:
            need, have = self.bands * self.rows, self.permutations
            what = f"{self.bands} bands of {self.rows} rows need {need} of {have} permutations"
            raise UserError("near_dedup", what, "raise permutations, or lower bands or rows")

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Slopes (odd) and shifts, uint32 [bands * rows], of the permutations ax + b."""
        draws = keyed.generator("near-dedup", self.permutations)
        drawn = draws.integers(0, 2**32, (2, self.permutations), np.uint32)
        used = drawn[:, : self.bands * self.rows]
        return used[0] | np.uint32(1), used[1].copy()

    def groups(self, frame: pl.DataFrame) -> list[Group]:
        """The group of each row, by its ``kind``, ``language`` and ``path``."""
        own = _with_own_rules() if self.by_extension else frozenset()
        known: dict[tuple[str, str, str], Group] = {}
        found = []
        for kind, language, path in frame.select("kind", "language", "path").iter_rows():
            key = (kind, language, languages.extension(path) if language in own else "")
            if key not in known:
                known[key] = self._group(*key)
            found.append(known[key])
        return found

    def _group(self, kind: str, language: str, extension: str) -> Group:
        limits = languages.limits(language, extension) if self.by_extension else languages.Limits()
        ngram, threshold = limits.ngram or self.ngram, limits.similarity or self.threshold
        code = keyed.digest("near-dedup", kind, language, ngram, threshold, limits.near_dedup)
        return Group(int.from_bytes(code[:8], "little"), ngram, threshold, limits.near_dedup)


@cache
def _with_own_rules() -> frozenset[str]:
    """Languages of which some extension is compared otherwise than the rest (rules §3)."""
    usual = languages.Limits()
    return frozenset(
        name
        for name, known in languages.LANGUAGES.items()
        for one in known.limits.values()
        if (one.ngram, one.similarity, one.near_dedup) != (None, None, usual.near_dedup)
    )


def copy_keys(frame: pl.DataFrame, rule: Rule) -> np.ndarray:
    """Keys (uint64 [n]) that are equal for copies of a text within a group."""
    codes = (group.code for group in rule.groups(frame))
    return bands.keys(keyed.digest(code, one) for code, one in zip(codes, frame["id"]))


def sketches(view: Any, rule: Rule, places: bands.Places, root: Path) -> list[Path]:
    """The band keys of all texts that are no copy of an earlier one, as spilled files."""
    parts = 1 + places.documents // bands.PART
    calls = [
        (run, (run, shards, places.heights[k], int(places.starts[k]), root, rule, parts))
        for k, (run, shards) in enumerate(bands.runs(view))
    ]
    view.run("sketch", _sketch, calls)
    return [view.scratch / "sketch" / run for run, _ in calls]


def _sketch(
    folder: Path, run: str, shards: list, heights: list, start: int, root: Path, rule: Rule, parts
) -> dict[str, Any]:
    numbers = np.arange(start, start + sum(heights))
    first = numbers == part_of(root, np.int64, start, len(numbers))
    keys, rows, begin = [np.zeros((0, rule.bands), np.uint64)], [np.zeros(0, np.int64)], 0
    for shard, height in zip(shards, heights, strict=True):
        wanted = first[begin : begin + height]
        able, found = sketch(bands.chosen(shard, TEXTS, wanted), rule)
        keys.append(found[able])
        rows.append(begin + np.flatnonzero(wanted)[able])
        begin += height
    bands.spill(folder / run, np.concatenate(keys), np.concatenate(rows).astype(np.uint32), parts)
    return {"files": [folder / run]}


def sketch(frame: pl.DataFrame, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Which texts have tokens enough (Boolean [n]), and all band keys (uint64 [n, bands])."""
    from starkiln.curate import kernels

    groups = rule.groups(frame)
    data, offsets = kernels.buffers(frame["text"])
    codes = np.array([group.code for group in groups], np.uint64)
    ngrams = np.array([group.ngram for group in groups], np.int64)
    slopes, shifts = rule.coefficients()
    counts, keys = kernels.sketch(
        data, offsets, codes, ngrams, rule.keep_empty, slopes, shifts, rule.bands
    )
    near = np.array([group.near for group in groups], bool)
    return near & (counts >= np.maximum(ngrams, rule.min_tokens)), keys


def part_of(path: Path, dtype: type, start: int, count: int) -> np.ndarray:
    """``count`` values from ``start`` on of a file that holds nothing else."""
    return np.fromfile(path, dtype, count, offset=start * np.dtype(dtype).itemsize)
