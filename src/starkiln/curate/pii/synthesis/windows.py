"""Windows of real code, and the places in them where a line can be put in."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from starkiln.code.languages import LANGUAGES
from starkiln.curate.pii.synthesis.draws import Draws
from starkiln.curate.pii.synthesis.templates import Margin

LOOK = 1 << 20  # code points of a document that windows are taken from
_LEAST = 80  # code points of a document that gives any
_HEAD = 0.2  # how often a window begins where the document does: headers name their authors
_DRAWN = 0.4  # how often it is laid around a word that entities stand near
_ANCHORS = (
    "@", "Copyright", "copyright", "://", "password", "Password", "token", "TOKEN", "secret",
    "SECRET", "apiKey", "_key", "KEY", "author", "Author", "by ", "host", "user", "/home/", "127.",
    "192.", "10.", "::", "sha", "BEGIN ", "version",
)  # fmt: skip
_PROSE = ("markdown", "rmarkdown", "restructuredtext", "asciidoc", "text", "html")
_MARKED = re.compile(r"[ \t]*(#+|//+!?|\*|--+|;+|%+|'|dnl|REM|rem)(?=[ \t])[ \t]+(?=\S)")


class Place(NamedTuple):
    """Where a line begins, its indentation, and the line."""

    at: int
    indent: str
    line: str


def cut(
    text: str, draws: Draws, most: int, shortest: int, longest: int
) -> Iterator[tuple[int, int]]:
    """Up to ``most`` windows (start, end) in code points, apart from one another, cut at lines.

    A line longer than a window is cut anywhere.
    """
    size = min(len(text), LOOK)
    taken: list[tuple[int, int]] = []
    for _ in range(most if size >= _LEAST else 0):
        length = draws.between(shortest, longest)
        start = _line(text, _start(text, size, length, draws), length)
        end = min(start + length, size)
        newline = text.rfind("\n", start + length // 2, end) if end < size else -1
        end = newline + 1 if newline >= 0 else end
        if end - start >= _LEAST and not any(a < end and start < b for a, b in taken):
            taken.append((start, end))
            yield start, end


def _start(text: str, size: int, length: int, draws: Draws) -> int:
    if size <= length or draws.chance(_HEAD):
        return 0
    at = draws.below(size - length + 1)
    if draws.chance(_DRAWN):
        anchor = draws.pick(_ANCHORS)
        found = text.find(anchor, at, size)
        found = found if found >= 0 else text.find(anchor, 0, size)
        if found >= 0:
            return max(0, min(found - draws.below(length), size - length))
    return at


def _line(text: str, start: int, length: int) -> int:
    """The beginning of the line at ``start``, or the next one, or ``start`` where none is near."""
    before = text.rfind("\n", max(0, start - length), start)
    if start == 0 or before >= 0:
        return before + 1
    after = text.find("\n", start, start + length // 2)
    return after + 1 if after >= 0 else start


def places(text: str, taken: list[tuple[int, int]]) -> list[Place]:
    """Where lines of ``text`` begin, outside the spans ``taken`` (by start, not overlapping)."""
    found: list[Place] = []
    at, held = 0, iter([*taken, (len(text) + 1, len(text) + 1)])
    start, end = next(held)
    for line in text.splitlines(keepends=True):
        while at >= end:
            start, end = next(held)
        if not start < at < end:
            body = line.rstrip("\r\n")
            found.append(Place(at, body[: len(body) - len(body.lstrip(" \t"))], body))
        at += len(line)
    return found or [Place(0, "", "")]


def margin(place: Place, language: str, newline: str, *, comment: bool) -> Margin:
    """How lines put in at ``place`` begin and end; comments as the neighbour's, if it is one."""
    if not comment:
        return Margin(place.indent[:40], "", newline)
    marked = _MARKED.match(place.line[:80])
    if marked:
        return Margin(marked[0], "", newline)
    opening, closing = mark(language)
    return Margin(f"{place.indent[:40]}{opening} ", f" {closing}" if closing else "", newline)


def is_prose(language: str) -> bool:
    """Whether all of a file is text, or nothing in it can be a comment."""
    known = LANGUAGES.get(language)
    return language in _PROSE or known is None or not (known.line or known.block)


def mark(language: str) -> tuple[str, str]:
    """What opens and closes a comment of one line."""
    known = LANGUAGES.get(language)
    if known and known.line:
        return known.line[0], ""
    if known and len(known.block) == 2:
        return known.block[0], known.block[1]
    return "#", ""
