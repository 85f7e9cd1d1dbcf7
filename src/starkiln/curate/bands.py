"""Documents whose keys are equal, found on the disk: memory holds one part of the keys at a time.

Documents are numbered in the order of the table. Workers take runs of shards; a run leaves one
shuffle file of (key, row) in parts by band and range of keys, 12 bytes a row. Then each part gives
the buckets of two rows or more, as *flat* arrays (see ``join_kernels``), again one file a unit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from starkiln.code.document import SCHEMA
from starkiln.core import shuffle

PART = 1 << 20  # rows that a unit aims to hold at a time
RUNS = 1024  # of shards, at most: what one reader of a part opens
SMALLEST = 1 << 28  # bytes of Parquet that hold a good part of rows, however short these are
PAIR = 12  # bytes of a key and a row


@dataclass(frozen=True)
class Places:
    """Where the documents of a table lie."""

    heights: list[list[int]]  # documents of each shard of each run
    starts: np.ndarray  # int64 [runs + 1]: number of each run's first document, and of all

    @property
    def documents(self) -> int:
        """Of the whole table."""
        return int(self.starts[-1])


class Buckets(NamedTuple):
    """One part of a shuffle file that holds the buckets of one band."""

    path: Path
    part: int
    band: int
    rows: int

    def flat(self) -> np.ndarray:
        """The buckets, as a flat array (int64)."""
        (data,) = shuffle.read([self.path], self.part)
        return np.frombuffer(data, np.int64)


def runs(view: Any) -> list[tuple[str, list[Any]]]:
    """(name, shards) of each run of a view; most tables have one shard a run."""
    step = max(1, -(-len(view) // RUNS))
    begins = range(0, len(view), step)
    return [
        (f"{k:05d}", [view.shard(i) for i in range(begin, min(begin + step, len(view)))])
        for k, begin in enumerate(begins)
    ]


def spill(path: Path, keys: np.ndarray, rows: np.ndarray, parts: int) -> None:
    """Write ``keys`` (uint64 [n, bands]) of ``rows`` (uint32 [n]) in ``bands * parts`` parts."""
    from starkiln.curate import join_kernels

    words, counts = join_kernels.scatter(keys, rows, parts)
    ends = np.cumsum(3 * counts).tolist()
    shuffle.write(path, [words[a:b].data.cast("B") for a, b in zip([0, *ends], ends)])


def equal(paths: Sequence[Path], starts: np.ndarray, part: int) -> np.ndarray:
    """The documents with equal keys in one part of spilled files, as a flat array (int64).

    ``starts`` (int64) is added to the rows of each file. Buckets list documents in ascending order.
    """
    from starkiln.curate import join_kernels

    pieces = list(shuffle.read(paths, part))
    ends = np.cumsum([0, *(len(piece) // PAIR for piece in pieces)])
    keys, rows = np.empty(ends[-1], np.uint64), np.empty(ends[-1], np.int64)
    for piece, start, begin, end in zip(pieces, starts, ends, ends[1:]):
        keys[begin:end] = np.frombuffer(piece, "<u8", end - begin)
        rows[begin:end] = np.frombuffer(piece, "<u4", end - begin, 8 * (end - begin))
        rows[begin:end] += start
    del pieces
    return join_kernels.equal(keys, rows)


def collisions(view: Any, name: str, spilled: list[Path], places: Places, bands: int) -> list:
    """All buckets of spilled files, by band: a list of ``Buckets``."""
    if not spilled:
        return []
    rows = reduce(np.add, map(shuffle.sizes, spilled)) // PAIR
    parts = len(rows) // bands
    together = groupby(enumerate(rows), share(PART, _rows))
    shares = [[part for part, _ in group] for _, group in together]
    calls = [(f"{one[0]:07d}", (f"{one[0]:07d}", spilled, places.starts, one)) for one in shares]
    found = []
    for listed, result in zip(shares, view.run(name, _collisions, calls), strict=True):
        (path,) = result["files"]
        counted = enumerate(zip(listed, result["found"], strict=True))
        made = (Buckets(view.scratch / name / path, k, p // parts, n) for k, (p, n) in counted)
        found += [one for one in made if one.rows]
    return found


def share(limit: int, size: Callable[[Any], int]) -> Callable[[Any], int]:
    """A key for ``groupby`` that keeps neighbours together until their sizes pass ``limit``."""
    number, held = 0, 0

    def key(one: Any) -> int:
        nonlocal number, held
        if held and held + size(one) > limit:
            number, held = number + 1, 0
        held += size(one)
        return number

    return key


def _rows(part: tuple[int, int]) -> int:
    return int(part[1])


def _collisions(
    folder: Path, name: str, spilled: list[Path], starts: np.ndarray, parts: list[int]
) -> dict[str, Any]:
    found = [equal(spilled, starts, part) for part in parts]
    shuffle.write(folder / name, [flat.data.cast("B") for flat in found])
    return {"files": [folder / name], "found": [len(flat) for flat in found]}


def alike(
    view: Any, name: str, columns: Sequence[str], keyed: Callable[..., np.ndarray], *more: Any
) -> tuple[Places, np.ndarray]:
    """Documents with the same 64-bit key: where all lie, and each one's root (int64).

    ``keyed(frame, *more)`` gives the keys (uint64) of the rows of a shard, from ``columns``. A root
    is the first document with the key.
    """
    from starkiln.curate import join_kernels

    listed = runs(view)
    stored = sum(shard.documents.stat().st_size for _, shards in listed for shard in shards)
    parts = 1 + stored // SMALLEST
    calls = [(run, (run, shards, parts, list(columns), keyed, more)) for run, shards in listed]
    results = view.run(name, _keyed, calls)
    heights = [result["heights"] for result in results]
    places = Places(heights, np.cumsum([0, *map(sum, heights)]))
    spilled = [view.scratch / name / run for run, _ in listed]
    root = np.arange(places.documents)
    for buckets in collisions(view, f"{name}-equal", spilled, places, 1):
        join_kernels.join_buckets(root, buckets.flat())
    join_kernels.flatten(root)
    return places, root


def _keyed(
    folder: Path, run: str, shards: list, parts: int, columns: list, keyed: Callable, more: tuple
) -> dict[str, Any]:
    found = [keyed(shard.read(columns), *more) for shard in shards]
    keys = np.concatenate(found).reshape(-1, 1)
    spill(folder / run, keys, np.arange(len(keys), dtype=np.uint32), parts)
    return {"files": [folder / run], "heights": [len(one) for one in found]}


def keys(digests: Iterable[bytes]) -> np.ndarray:
    """The first 8 bytes of each digest (uint64)."""
    return np.frombuffer(b"".join(one[:8] for one in digests), "<u8")


def chosen(shard: Any, columns: Sequence[str], wanted: np.ndarray) -> pl.DataFrame:
    """The wanted rows (Boolean) of a shard; it is not read where there are none."""
    if not wanted.any():
        return pl.DataFrame(schema={column: SCHEMA.get(column, pl.String) for column in columns})
    return shard.read(columns).filter(pl.Series(wanted))
