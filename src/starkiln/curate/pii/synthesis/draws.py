"""A stream of keyed draws, buffered: a scalar draw from NumPy costs a microsecond, this a tenth."""

from bisect import bisect
from collections.abc import Sequence
from typing import TypeVar

from starkiln.core import keyed

T = TypeVar("T")
_BUFFER = 512


class Draws:
    """The draws of one item; equal keys give equal streams (``keyed.generator``)."""

    def __init__(self, *key: object) -> None:
        self._generator = keyed.generator(*key)
        self._left: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._left:
            self._left = self._generator.random(_BUFFER).tolist()
        return self._left.pop()

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.unit() < probability

    def below(self, count: int) -> int:
        """An integer from 0 to ``count`` - 1."""
        return int(self.unit() * count)

    def between(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + int(self.unit() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of ``items``, all alike."""
        return items[int(self.unit() * len(items))]

    def weighted(self, items: Sequence[T], ends: Sequence[float]) -> T:
        """One of ``items``; ``ends`` are their running sums of weights."""
        return items[min(bisect(ends, self.unit() * ends[-1]), len(items) - 1)]

    def string(self, alphabet: str, length: int) -> str:
        """``length`` characters of ``alphabet``."""
        size = len(alphabet)
        return "".join([alphabet[int(self.unit() * size)] for _ in range(length)])

    def bytes(self, length: int) -> bytes:
        """``length`` bytes."""
        return self._generator.bytes(length)
