"""The value that follows a name: in a string literal, or bare as in ``.env``, headers and URLs."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from starkiln.code.spans import Span
from starkiln.curate.pii import bare, literals, naming

FONT = re.compile(r"\\f(?:[BIRP]|\([A-Z]{2})")  # an escape of roff, which stands before a word
Rule = Callable[[str, int], Iterator[Span]]  # of a text and the place of an anchor


class Value(NamedTuple):
    """``text[start:end]`` follows a name that ended at ``name`` and a ``link`` (``=``, ``:``…).

    ``rest``: where further pieces of it stand, in other literals or on other lines.
    """

    start: int
    end: int
    name: int
    link: str
    quoted: bool
    rest: tuple[tuple[int, int], ...] = ()

    def body(self, text: str) -> str:
        """The value, its pieces as one."""
        first = text[self.start : self.end]
        return first + "".join(text[a:b] for a, b in self.rest) if self.rest else first

    def places(self) -> tuple[tuple[int, int], ...]:
        """Where its pieces stand."""
        return ((self.start, self.end), *self.rest)


_UNSEEN = "\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # marks of direction, of no width
_NAME = re.compile(rf"[\w$.{_UNSEEN}-]{{0,40}}")
_LINK = re.compile(
    rf"(?:\\{{0,7}}[\"'`]|&quot;)?(?:[\])]|\*\*|\[\d{{0,4}}\])?"  # "name", ["name"], name[9]
    rf"[{_UNSEEN}]{{0,8}}"
    # an annotation, but not base64 with its padding; a type behind; accessors
    r"(?:[ \t]{0,4}[?!]?:[ \t]{0,2}(?:[A-Za-z_.\[\]|<> ]{3,31}|[&*\[][\w&*'\[\]<> ]{2,31}[ \t])"
    r"(?==(?!=|[ \t]*(?:[\r\n]|\Z)))|[ \t](?:[Aa]s[ \t]\w{3,16}|string|\[\]byte)(?=[ \t]?=[ \t])|"
    r"[ \t]?\{[ \t]?get;[\w ;]{0,24}\}(?=[ \t]?=))?"
    rf"[ \t{_UNSEEN}]{{0,80}}"
    r"(=>|[:?]=|\|\|=|={1,3}|!==?|::|->|<-|is:?(?= [\"'`])|[:,(>\uff1a]|\{(?=\")|(?=[ \t]))"
    r"(?:\*\*(?=[ \t]))?"  # **Name:** value
)
_TAG = re.compile(r"(?:\s{1,4}[\w:.-]{1,30}=\"[^\"<>\n]{0,60}\"){1,4}\s?(>)")
_OPEN = re.compile(
    rf"(?:[\s{_UNSEEN}]{{0,80}}(?:\\\r?\n\s{{0,80}})?)"
    r"(?:(?:new )?(?:[A-Za-z0-9_.:]{0,24}?(?i:b64|hex|base64|bytes|array|from|str|text|"
    r"secure|secret|quote|buffer|dedent|some)[A-Za-z0-9_]{0,12}|[bhu]|hb|\[\]byte)\(\s{0,20}){0,2}[\[(]?\s{0,8}"
    r"(?:[bBuUrRfFL@$]{1,2}(?=[\"']))?"
)
_QUOTED = re.compile(
    r"\"\"\"\\?\s{0,40}([^\"\s][^\"]{0,600})\"\"\"|'''\\?\s{0,40}([^'\s][^']{0,600})'''|"
    r"\"((?:[^\"\\\n]|\\.){1,600})\"|'((?:[^'\\\n]|\\.){1,600})'|`([^`\\\n]{1,600})`|"
    # escaped once, twice…: what is escaped further is within
    r"(?P<slash>\\{1,7})(?P<mark>[\"'])((?:[^\"'\\\n]|\\+(?![\"'\\])|(?P=slash)\\+[\"'])"
    r"{1,600})(?P=slash)(?P=mark)|"
    r"&quot;([^&\n]{1,600})&quot;|<!\[CDATA\[\s{0,40}([^\]\s][^\]]{0,600})\]\]>"
)
_BLOCK = re.compile(  # a block scalar of YAML, a here-document: up to its first line
    r"[ \t]{0,80}(?:[|>][+-]?\d?[+-]?|(?:\$\( ?cat )?<<<?[~-]?[ \t]{0,4}[\"']?"
    r"([A-Za-z_]\w{0,30})[\"']?)[ \t]{0,40}(?:#[^\n]{0,80})?\r?\n([ \t]{0,80})([^\s#][^\n]{3,600})"
)
_FURTHER = re.compile(r"\r?\n([ \t]{0,80})(\S{4,600})(?=\r?(?:\n|\Z))")
_BARE = re.compile(rf"[ \t{_UNSEEN}]{{0,80}}" r"([^\s\"'`,;&<>(){}\[\]|=\\]{4,600}={0,2})")
_FIRST = re.compile(r"[ \t]{0,80}(?=[^\s\"'`<>{|])")
_TEXT = re.compile(r"\s{0,40}([^<>\s][^<>]{2,600})</")
_DEFAULT = re.compile(r":?[-=]([^\s\"'`{}$<>]{4,300})(?=\})")  # of a shell: ${NAME:-value}
_BARE_LINKS = ("=", ":", "::", ">", ":=", "?=", "\uff1a")
_LINES = 60  # of a wrapped value


def after(text: str, place: int) -> Value | None:
    """The value given to the name that holds ``place``; None where there is none."""
    link = _LINK.match(text, name := name_end(text, place))
    if link is None:
        return None
    if not link[1] and (tag := _TAG.match(text, name)):
        link = tag
    if quoted := _QUOTED.match(text, _end(_OPEN, text, link.end())):
        start, end = quoted.span(quoted.lastindex or 0)
        command = not link[1] or text[name : name + 2] in ('="', "='")
        rest = tuple((one.start, one.end) for one in literals.pieces(text, end, command))
        return Value(start, _stripped(text, start, end), name, link[1], True, rest)
    if link[1] == ">" and (inner := _TEXT.match(text, link.end())):
        start, end = inner.span(1)
        return Value(start, _stripped(text, start, end), name, ">", False)
    if link[1] in (":", ":=", "") and (shell := _DEFAULT.match(text, name)):
        return Value(*shell.span(1), name, "=", False)
    bare = _BARE.match(text, link.end())
    if bare and (link[1] in _BARE_LINKS or (not link[1] and link.end() == name)):
        start, end = bare.span(1)
        if "#" in bare[1] and text[naming.start_of(text, place) - 1] in "?&":
            end = start + bare[1].index("#")  # the fragment of a URL
        return Value(start, end, name, link[1], False)
    return _block(text, name, link) if link[1] in ("=", ":", "") else None


def given(text: str, place: int) -> Value | None:
    """``after``, with what signs within a value without quotes, or a shell, add to it."""
    value = after(text, place)
    if value is None:
        link = _LINK.match(text, name := name_end(text, place))
        begin = link and link[1] in ("=", ":", "", ":=", "?=") and _FIRST.match(text, link.end())
        value = Value(begin.end(), begin.end(), name, link[1], False) if link and begin else None
    value = whole(text, naming.start_of(text, place), value) if value else None
    return value if value and value.start < value.end else None


def whole(text: str, first: int, value: Value) -> Value:
    """``value``, given to the name at ``first``, to where its syntax ends it."""
    if value.quoted:
        assigned = value.link == "=" and text[value.name] == "=" and text[value.end] in "\"'"
        more = bare.glued(text, first, value.end) if assigned and not value.rest else ()
        return value._replace(rest=tuple(more)) if more else value
    if value.link == ">" or text[first - 1 : first] in ("?", "&"):
        return value
    end = bare.line_of(text, first, value.name, value.start)
    if end > value.end:
        return value._replace(end=end)
    end = bare.end_of(text, first, value.start)
    longer = end > max(value.end, value.start + 3)
    opaque = longer and bare.opaque(text, first, value.start, end)
    value = value._replace(end=end) if opaque else value
    more = bare.continued(text, first, value.end) if text[value.end : value.end + 1] == "\\" else ()
    return value._replace(rest=tuple(more)) if more else value


def _block(text: str, name: int, link: re.Match[str]) -> Value | None:
    """The lines below a name, where none has a blank within or where there is one alone."""
    if not (block := _BLOCK.match(text, link.end())) or not (block[1] or (block[2] and link[1])):
        return None
    start, end, rest = block.start(3), _stripped(text, *block.span(3)), []
    while len(rest) < _LINES and (more := _FURTHER.match(text, rest[-1][1] if rest else end)):
        if more[2] == block[1] or (not block[1] and len(more[1]) < len(block[2])):
            break
        rest.append(more.span(2))
    return Value(start, end, name, link[1], True, tuple(rest))


def is_number(text: str, name: int, start: int, end: int) -> bool:
    """Whether what a name that ends at ``name`` gets is a numeral of code: 0x and digits, bare.

    No word may stand in its place, but in settings.
    """
    if not text.startswith(("0x", "0X"), start) or text[start - 1] in "\"'`":
        return False
    return text[name:start] not in ("=", ":", ": ") or text[end : end + 1] not in ("", "\r", "\n")


def name_end(text: str, place: int) -> int:
    """Where the name that holds ``place`` ends."""
    return _end(_NAME, text, place)


def _stripped(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place
