"""String literals that make one value: joined by an operator or side by side, over lines too."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from starkiln.curate.pii import drawn


class Piece(NamedTuple):
    """``text[start:end]`` is what a further literal adds; ``operator`` is empty where none is."""

    start: int
    end: int
    operator: str


_PIECES = 40  # of one value
_INDEED = 15.0  # bits of what is no other argument
_NEXT = re.compile(
    r"[\"'`]\s{0,60}(\+{1,2}|\.{1,2}|&|\|\||<>|\^|~|)\s{0,60}(?:\\\r?\n\s{0,60})?"
    r"[bBuUrRfFL@$]{0,2}(?:\"((?:[^\"\\\n]|\\.){1,400})\"|'((?:[^'\\\n]|\\.){1,400})'|"
    r"`([^`\\\n]{1,400})`)(?!\s{0,8}(?:[:(\[]|=|->))"  # and that names nothing itself
)


def pieces(text: str, end: int, command: bool = False) -> Iterator[Piece]:
    """What follows the literal whose closing quote stands at ``end``.

    In a ``command``, a literal beside it is another argument, unless it looks drawn.
    """
    for _ in range(_PIECES):
        match = _NEXT.match(text, end)
        if match is None:
            return
        start, end = match.span(match.lastindex or 0)
        if command and not match[1] and drawn.bits(text[start:end]) < _INDEED:
            return
        yield Piece(start, end, match[1])


_OPENED = re.compile(r"[A-Za-z0-9_.+/=-]{3,80}(?=[\"'`]\s{0,60}[+.&|<^~\\\"'`bu])")


def spliced(text: str, place: int) -> tuple[str, list[tuple[int, int]]]:
    """What literals make that begin within one, at ``place``, and where its pieces stand.

    Empty where there is one literal alone.
    """
    if not (head := _OPENED.match(text, place)):
        return "", []
    spans = [head.span(), *((one.start, one.end) for one in pieces(text, head.end()))]
    return ("".join(text[a:b] for a, b in spans), spans) if len(spans) > 1 else ("", [])
