"""Candidates by MinHash bands, exact sets of the candidates, and their union.

``rank`` numbers all documents of a table, best provenance first, so the root of a cluster (its
smallest rank) is the copy to keep.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from starkiln.core import keyed

Sets = tuple[np.ndarray, np.ndarray]  # sorted shingle hashes (uint64); [begin, end) by rank
NO_SETS: Sets = (np.zeros(0, np.uint64), np.zeros((0, 2), np.int64))


@dataclass(frozen=True)
class Rule:
    """How a text becomes shingles, and shingles a signature."""

    ngram: int
    keep_empty: bool
    bands: int
    rows: int
    permutations: int

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Slopes (odd) and shifts, uint32 [bands * rows], of the permutations ax + b."""
        draws = keyed.generator("near-dedup", self.permutations)
        drawn = draws.integers(0, 2**32, (2, self.permutations), np.uint32)
        used = drawn[:, : self.bands * self.rows]
        return used[0] | np.uint32(1), used[1].copy()


def sketch(frame: pl.DataFrame, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Token counts (int64 [n]) and band keys (uint64 [n, bands]) of one shard; runs in a worker."""
    from starkiln.curate import kernels

    pairs = frame.select("kind", "language")
    codes = {
        pair: int.from_bytes(keyed.digest("near-dedup", *pair)[:8], "little")
        for pair in pairs.unique().iter_rows()
    }
    groups = np.array([codes[pair] for pair in pairs.iter_rows()], np.uint64)
    data, offsets = kernels.buffers(frame["text"])
    slopes, shifts = rule.coefficients()
    return kernels.sketch(
        data, offsets, groups, rule.ngram, rule.keep_empty, slopes, shifts, rule.bands
    )


def shingle_sets(
    frame: pl.DataFrame, rule: Rule, wanted: pl.Series
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the wanted ids, their sorted shingle sets end to end, and the sets' sizes."""
    from starkiln.curate import kernels

    places = np.flatnonzero(frame["id"].is_in(wanted.implode()).to_numpy())
    data, offsets = kernels.buffers(frame["text"].gather(places))
    hashes, starts = kernels.shingles(data, offsets, rule.ngram, rule.keep_empty)
    sets = [_distinct(hashes[a:b]) for a, b in pairwise(starts)]
    sizes = np.array([len(one) for one in sets], np.int64)
    return places, np.concatenate([NO_SETS[0], *sets]), sizes


def sketches(view: Any, rule: Rule, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token counts and band keys of the whole table, for the given rows in their order."""
    parts = list(view.map(sketch, ["kind", "language", "text"], rule=rule))
    counts = np.concatenate([np.zeros(0, np.int64), *(p[0] for p in parts)])
    keys = np.concatenate([np.zeros((0, rule.bands), np.uint64), *(p[1] for p in parts)])
    return counts[rows], keys[rows]


def colliding(keys: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Those of ``ranks`` that share at least one band key with another of them."""
    hit = np.zeros(len(ranks), bool)
    for band in range(keys.shape[1]):
        column = keys[ranks, band]
        order = np.argsort(column, kind="stable")
        same = column[order][1:] == column[order][:-1]
        hit[order[1:][same]] = True
        hit[order[:-1][same]] = True
    return ranks[hit]


def sets(
    view: Any, rule: Rule, found: pl.DataFrame, heights: list[int], members: np.ndarray
) -> Sets:
    """The exact shingle sets of ``members`` (ranks), made anew from their texts."""
    wanted = found["id"].gather(members)
    rank = np.empty(found.height, np.int64)
    rank[found["row"].to_numpy()] = found["rank"].to_numpy()
    spans = np.zeros((found.height, 2), np.int64)
    parts, begin, first = [NO_SETS[0]], 0, 0
    mapped = view.map(shingle_sets, ["id", "text"], rule=rule, wanted=wanted)
    for height, (places, hashes, sizes) in zip(heights, mapped, strict=True):
        ends = begin + np.cumsum(sizes)
        spans[rank[first + places]] = np.stack([ends - sizes, ends], axis=1)
        parts.append(hashes)
        begin, first = begin + len(hashes), first + height
    return np.concatenate(parts), spans


def unite(
    parent: np.ndarray,
    keys: np.ndarray,
    members: np.ndarray,
    sets: Sets,
    threshold: float,
    verify: bool,
) -> np.ndarray:
    """The root of each rank (int64): components of the verified pairs, or of all collisions."""
    from starkiln.curate import kernels

    for band in range(keys.shape[1]):
        order = members[np.argsort(keys[members, band], kind="stable")]
        kernels.join(parent, keys, order, band, *sets, threshold, verify)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return parent


def _distinct(hashes: np.ndarray) -> np.ndarray:
    ordered = np.sort(hashes)
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]
