"""The value that follows a name: in a string literal, or bare as in ``.env``, headers and URLs."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from starkiln.code.spans import Span

Rule = Callable[[str, int], Iterator[Span]]  # of a text and the place of an anchor


class Value(NamedTuple):
    """``text[start:end]`` follows a name that ended at ``name`` and a ``link`` (``=``, ``:``…)."""

    start: int
    end: int
    name: int
    link: str
    quoted: bool


_NAME = re.compile(r"[A-Za-z0-9_$.-]{0,40}")
_LINK = re.compile(
    r"(?:\\?[\"'`])?[\])]?"  # "name", ["name"], \"name\"
    r"(?:[ \t]{0,4}[?!]?:[ \t]{0,2}[A-Za-z_][\w.\[\]|<> ]{0,30}(?==))?"  # an annotation
    r"[ \t]{0,16}(=>|:=|={1,3}|!==?|::|->|is:?(?= [\"'`])|[:,(>]|(?=[ \t]))"
)
_OPEN = re.compile(
    r"\s{0,40}(?:(?:new )?(?:[A-Za-z0-9_.]{0,24}?(?i:b64|hex|base64|bytes|array|from|str|text|"
    r"secure|secret|quote|buffer)[A-Za-z0-9_]{0,12}|[bhu]|hb)\(\s{0,20}){0,2}[\[(]?\s{0,8}"
    r"(?:[bBuUrRfFL@]{1,2}(?=[\"']))?"
)
_QUOTED = re.compile(
    r"\"\"\"([^\"\n]{1,600})\"\"\"|\"((?:[^\"\\\n]|\\.){1,600})\"|'''([^'\n]{1,600})'''|"
    r"'((?:[^'\\\n]|\\.){1,600})'|`([^`\\\n]{1,600})`|\\\"([^\"\\\n]{1,600})\\\"|"
    r"&quot;([^&\n]{1,600})&quot;"
)
_BARE = re.compile(r"[ \t]{0,12}([^\s\"'`,;&<>(){}\[\]|=\\]{4,600}={0,2})")
_BARE_LINKS = ("=", ":", "::", ">")


def after(text: str, place: int) -> Value | None:
    """The value given to the name that holds ``place``; None where there is none."""
    link = _LINK.match(text, name := _end(_NAME, text, place))
    if link is None:
        return None
    if quoted := _QUOTED.match(text, _end(_OPEN, text, link.end())):
        return Value(*quoted.span(quoted.lastindex or 0), name, link[1], True)
    bare = _BARE.match(text, link.end())
    if bare and (link[1] in _BARE_LINKS or (not link[1] and link.end() == name)):
        return Value(*bare.span(1), name, link[1], False)
    return None


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place
