"""Bringing together what belongs together, on the disk: many writers, many parts, no server.

Each writer leaves one file with its share of every part, the parts end to end, and behind them
where each begins (int64, little-endian) and their number. A reader of part p takes a slice of each
file. So a killed writer damages nothing but its own file, and memory holds one part at a time.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from starkiln.core import atomic
from starkiln.core.errors import UserError

WORD = 8  # bytes of an offset


def write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Write ``parts`` as one file, atomically; a part may be empty."""
    ends = np.cumsum([0, *(memoryview(part).nbytes for part in parts)], dtype="<i8")
    tail = ends.tobytes() + np.array([len(parts)], "<i8").tobytes()

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.write(tail)

    atomic.write(path, fill)


def read(paths: Iterable[Path], part: int) -> Iterator[bytes]:
    """Part ``part`` of each file, in the order of ``paths``."""
    for path in paths:
        with path.open("rb") as file:
            yield _slice(file.fileno(), path, part)


def _slice(handle: int, path: Path, part: int) -> bytes:
    size = os.fstat(handle).st_size
    count = int.from_bytes(os.pread(handle, WORD, size - WORD), "little") if size >= WORD else -1
    table = size - WORD * (count + 2)
    if not 0 <= part < count or table < 0:
        raise UserError(path, f"damaged, or has no part {part}", "remove its folder, run again")
    begin, end = np.frombuffer(os.pread(handle, 2 * WORD, table + WORD * part), "<i8").tolist()
    return os.pread(handle, end - begin, begin)
