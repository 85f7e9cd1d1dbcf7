"""Clusters: the connected components of the similar pairs among documents that share a band key.

Bands are worked off in rounds. The units of a round run side by side on the state that the round
began with: what is one already is not looked at again. A unit compares the exact sets of the pairs
within its buckets and writes a forest of the similar ones, so the outcome depends neither on order
nor on workers. Most pairs are told apart by their sizes or odd sketches. A bucket of very many
documents is compared in tiles: first one row of them, so that a mass of near-copies becomes one;
then, in units of their own, the tiles whose documents are still apart.
"""

from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from starkiln.core import atomic
from starkiln.curate.bands import Buckets, share
from starkiln.curate.forest import BLOCK, Forest, bounds
from starkiln.curate.sets import Sets

ROUNDS = (0, 1, 3, 7, 15, 31)  # each begins with this band
SLICE, SLICES = 1 << 15, 1 << 12  # rows of buckets in a unit; more, where there were more units
TILES = 64  # in a unit


class Piece(NamedTuple):
    """Those of ``buckets`` that begin in rows [begin, end)."""

    buckets: Buckets
    begin: int
    end: int
    tiles: tuple[int, int] | None = None  # of the one bucket every n-th tile from the k-th on

    def flat(self) -> tuple[int, np.ndarray]:
        """Where the first of them begins, and they as a flat array (int64)."""
        flat = self.buckets.flat()
        begins = bounds(flat)
        first, last = np.searchsorted(begins[:-1], [self.begin, self.end])
        return int(begins[first]), flat[begins[first] : begins[last]]


def components(view: Any, root: np.ndarray, buckets: list[Buckets], sets: Sets, bands: int) -> None:
    """Unite in ``root`` (int64, flattened, in place) all similar documents of each bucket."""
    for first, last in zip(ROUNDS, [*ROUNDS[1:], bands]):
        mine = [one for one in buckets if first <= one.band < last]
        size = max(SLICE, sum(one.rows for one in mine) // SLICES)
        pieces = [
            Piece(one, begin, min(begin + size, one.rows))
            for one in mine
            for begin in range(0, one.rows, size)
        ]
        key = share(size, lambda piece: piece.end - piece.begin)
        units = [list(group) for _, group in groupby(pieces, key)]
        large = _pass(view, f"join-{first}", units, root, sets)
        _pass(view, f"join-{first}-large", [[piece] for piece in large], root, sets)


def _pass(
    view: Any, name: str, units: list[list[Piece]], root: np.ndarray, sets: Sets
) -> list[Piece]:
    """Bring the edges of units into ``root``; the rest of the work on large buckets, in shares."""
    from starkiln.curate import join_kernels

    if not units:
        return []
    state = view.scratch / f"{name}.root"
    atomic.write(state, root.tofile)
    calls = [(f"{k:06d}", (f"{k:06d}", pieces, state, sets)) for k, pieces in enumerate(units)]
    rest = []
    for pieces, result in zip(units, view.run(name, _unit, calls), strict=True):
        for path in result["files"]:
            edges = np.fromfile(view.scratch / name / path, np.int64)
            join_kernels.join_edges(root, edges.reshape(-1, 2))
        for k, begin, rows in result["large"]:
            blocks = -(-rows // BLOCK)
            shares = -(-blocks * (blocks + 1) // (2 * TILES))
            large = pieces[k]._replace(begin=begin, end=begin + 1)
            rest += [large._replace(tiles=(i, shares)) for i in range(shares)]
    join_kernels.flatten(root)
    state.unlink()
    return rest


def _unit(folder: Path, name: str, pieces: list[Piece], state: Path, sets: Sets) -> dict[str, Any]:
    from starkiln.curate import join_kernels

    root = np.memmap(state, np.int64, "r")
    large, flats = [], []
    for k, piece in enumerate(pieces):
        start, flat = piece.flat()
        begins = bounds(flat)
        lengths = np.diff(begins)
        over = np.flatnonzero(lengths > BLOCK) if piece.tiles is None else ()
        large += [[k, start + int(begins[i]), int(lengths[i])] for i in over]
        flats.append(join_kernels.unsettled(root, flat))
    forest = Forest(np.concatenate(flats), root, sets)
    for rows in forest.compare_small():
        whole = (0, 1) if len(rows) <= BLOCK else None
        forest.compare_tiles(rows, pieces[0].tiles or whole)
    atomic.write_bytes(folder / name, forest.found().tobytes())
    return {"files": [folder / name], "large": large}
