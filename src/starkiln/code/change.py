"""What one commit changed in one text: the span of lines between those that both sides share."""

import io
from typing import NamedTuple


class Change(NamedTuple):
    """The lines of both sides; of each, ``above`` and ``below`` lie outside the change."""

    before: list[str]
    after: list[str]
    above: int
    below: int

    @property
    def span(self) -> int:
        """Lines of the longer side that lie in the change; 0 if only line ends differ."""
        return max(len(self.before), len(self.after)) - self.above - self.below


def change(before: str, after: str) -> Change:
    """What differs between two texts, leaving how their lines end out of account.

    A line ends with LF, or with the text; lines that differ only in CR LF, LF or a missing end
    are the same line.
    """
    old, new = io.StringIO(before).readlines(), io.StringIO(after).readlines()
    above = _alike(old, new, min(len(old), len(new)))
    rest = min(len(old), len(new)) - above
    return Change(old, new, above, _alike(old[::-1], new[::-1], rest))


def window(found: Change, above: int, below: int) -> tuple[str, str]:
    """Both sides with at most ``above`` and ``below`` lines around the change (rules §6)."""
    start, cut = max(found.above - above, 0), max(found.below - below, 0)
    before, after = found.before, found.after
    return (
        "".join(before[start : len(before) - cut]),
        "".join(after[start : len(after) - cut]),
    )


def _alike(old: list[str], new: list[str], most: int) -> int:
    """How many lines at the head are the same, up to ``most``."""
    for count in range(most):
        one, other = old[count], new[count]
        if one != other and one.rstrip("\r\n") != other.rstrip("\r\n"):
            return count
    return most
