"""One unit of joining: similar documents within buckets, as a forest of edges."""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from starkiln.curate.sets import Sets

HASHES = 1 << 22  # in memory at a time, give or take a set
BLOCK = 2048  # documents in the side of a tile
FEW = 3  # documents whose pairs are not worth a sketch


class Held(NamedTuple):
    """Sets in memory: hashes end to end, [begin, end) and threshold of each, odd sketches."""

    hashes: np.ndarray
    spans: np.ndarray
    thresholds: np.ndarray
    bits: np.ndarray
    cells: np.ndarray


def bounds(flat: np.ndarray) -> np.ndarray:
    """Where the buckets of a flat array begin, and where the last one ends (int64)."""
    return np.concatenate([[0], np.flatnonzero(flat < 0) + 1])


def plain(flat: np.ndarray) -> np.ndarray:
    """The rows of a flat array, without the marks of the buckets' ends."""
    return np.where(flat < 0, ~flat, flat)


class Forest:
    """The union-find of the documents in some buckets, and the edges that were found."""

    def __init__(self, flat: np.ndarray, root: np.ndarray, sets: Sets) -> None:
        """``flat`` holds the buckets; ``root`` says of every document what it is one with."""
        self.sets, self.bounds = sets, bounds(flat)
        self.members, self.rows = np.unique(plain(flat), return_inverse=True)
        _, first, back = np.unique(root[self.members], return_index=True, return_inverse=True)
        self.own = first[back]
        self.places = sets.locate(self.members)
        self.edges, self.count = np.empty((len(self.members), 2), np.int64), 0

    def found(self) -> np.ndarray:
        """The edges (int64 [n, 2]) between documents."""
        return self.members[self.edges[: self.count]]

    def compare_small(self) -> list[np.ndarray]:
        """Work off all buckets that can be held at once; the rows of each that cannot."""
        lengths = np.diff(self.bounds)
        held = np.concatenate([[0], np.cumsum(self.places.size[self.rows])])
        weights = np.diff(held[self.bounds])
        small = (lengths <= BLOCK) & (weights <= HASHES)
        order = self._repeats_together(lengths)
        order = order[small[order]]
        chunk = np.cumsum(weights[order]) // HASHES
        for one in np.unique(chunk):
            self._compare_buckets(order[chunk == one], lengths)
        return [self.rows[self.bounds[k] : self.bounds[k + 1]] for k in np.flatnonzero(~small)]

    def compare_tiles(self, rows: np.ndarray, share: tuple[int, int] | None) -> None:
        """Work off every n-th tile of one bucket from the k-th on; None: the first row of tiles."""
        blocks = self._blocks(rows)
        pairs = combinations_with_replacement(range(len(blocks)), 2)
        tiles = [pair for pair in pairs if share or not pair[0]]
        first, step = share or (0, 1)
        for i, j in tiles[first::step]:
            self._compare_tile(blocks[i], blocks[j], cross=i != j)

    def _repeats_together(self, lengths: np.ndarray) -> np.ndarray:
        """The buckets (int64) in an order that brings those of the same documents together."""
        mixed = (self.rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = np.concatenate(
            [np.zeros(1, np.uint64), np.cumsum((mixed >> np.uint64(20)) * mixed)]
        )
        return np.lexsort([lengths, np.diff(mixed[self.bounds]), self.rows[self.bounds[:-1]]])

    def _compare_buckets(self, which: np.ndarray, lengths: np.ndarray) -> None:
        from starkiln.curate import join_kernels

        ends = np.cumsum(lengths[which])
        shift = np.repeat(self.bounds[which] - ends + lengths[which], lengths[which])
        flat = self.rows[shift + np.arange(len(shift))]
        flat[ends - 1] = ~flat[ends - 1]
        join_kernels.flatten(self.own)
        flat = join_kernels.unsettled(self.own, flat)
        at, held = self._hold(plain(flat), np.diff(bounds(flat)).max(initial=0) > FEW)
        self.count = join_kernels.compare_buckets(
            self.own, flat, at, *held, self.edges, self.count, FEW
        )

    def _hold(self, rows: np.ndarray, sketched: bool) -> tuple[np.ndarray, Held]:
        """Which of the sets held is each row's (int64), and the sets."""
        from starkiln.curate import join_kernels

        need, at = np.unique(rows, return_inverse=True)
        places = self.places.of(need)
        hashes, spans = self.sets.load(places)
        bits, cells = join_kernels.parities(hashes, spans if sketched else spans[:0])
        return at, Held(hashes, spans, places.threshold, bits, cells)

    def _blocks(self, rows: np.ndarray) -> list[np.ndarray]:
        """``rows`` in blocks for tiles: what is one already first, and by size of set."""
        from starkiln.curate import join_kernels

        join_kernels.flatten(self.own)
        found, counts = np.unique(self.own[rows], return_counts=True)
        others = self.own[rows] != found[counts.argmax()]
        sizes = self.places.size[rows]
        order = np.lexsort([sizes, others])
        weight = np.cumsum(sizes[order]) // (HASHES // 2)
        number = np.arange(len(rows)) // BLOCK
        apart = np.diff(np.stack([weight, number, others[order]]), axis=1).any(axis=0)
        return np.split(rows[order], np.flatnonzero(apart) + 1)

    def _compare_tile(self, one: np.ndarray, two: np.ndarray, *, cross: bool) -> None:
        from starkiln.curate import join_kernels

        join_kernels.flatten(self.own)
        threshold = self.places.threshold[one].min()
        least, most = self.places.size[two].min(), self.places.size[one].max()
        if most < threshold * least or len(np.unique(self.own[np.concatenate([one, two])])) == 1:
            return
        rows = np.concatenate([one, two]) if cross else one
        at, held = self._hold(rows, sketched=True)
        self.count = join_kernels.compare(
            self.own, rows, at, len(one), cross, *held, self.edges, self.count
        )
