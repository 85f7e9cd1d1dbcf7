"""Bringing together what belongs together, on the disk: many writers, many parts, no server.

Each writer leaves one file with its share of every part, the parts end to end, and behind them
where each begins (int64, little-endian) and their number. A reader of part p takes a slice of each
file. So a killed writer damages nothing but its own file, and memory holds one part at a time.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from starkiln.core import atomic
from starkiln.core.errors import UserError

WORD = 8  # bytes of an offset


def write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write ``parts`` as one file, atomically; a part may be empty."""

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            ends = list(accumulate(map(file.write, parts), initial=0))
            file.write(np.array([*ends, len(ends) - 1], "<i8").tobytes())

    atomic.write(path, fill)


def read(paths: Iterable[Path], part: int) -> Iterator[bytes]:
    """Part ``part`` of each file, in the order of ``paths``."""
    for path in paths:
        with path.open("rb") as file:
            begin, end = _offsets(file, path, part, 2)
            yield os.pread(file.fileno(), end - begin, begin)


def sizes(path: Path) -> np.ndarray:
    """The bytes (int64) of each part of one file."""
    with path.open("rb") as file:
        return np.diff(_offsets(file, path, 0, None))


def _offsets(file: BinaryIO, path: Path, first: int, number: int | None) -> np.ndarray:
    """``number`` of the offsets from the one of part ``first`` on; None: all."""
    handle = file.fileno()
    size = os.fstat(handle).st_size
    count = int.from_bytes(os.pread(handle, WORD, size - WORD), "little") if size >= WORD else -1
    table, end = size - WORD * (count + 2), count + 1 if number is None else first + number
    if not 0 <= first <= end <= count + 1 or table < 0:
        raise UserError(path, f"damaged, or has no part {first}", "remove its folder, run again")
    found = np.frombuffer(os.pread(handle, WORD * (end - first), table + WORD * first), "<i8")
    if np.any(np.diff(found, prepend=0, append=table) < 0):
        raise UserError(path, "its table of parts is damaged", "remove its folder, run again")
    return found
