"""Where a value without quotes ends: by the line, URL, string, list or tag that it stands in.

What ends it in one place is a character of it in another (``a&b`` in ``.env`` and in a query), so
each sign is judged by what follows: a value that is cut at one leaves its rest in the text.
"""

import re

from starkiln.curate.pii import drawn

_LINES = 20  # that continue a value
_LONGEST = 200  # characters of a value with signs
_LINE = 200  # characters before a name in which a quote is opened
_SIGN = re.compile(r"[\s\"'`,;&<>(){}\[\]|=\\]")
_STOP = re.compile(
    r"\s|&(?:(?:amp|quot);|[\w.%\[\]-]{1,40}=|[\s&]|\Z)|;(?:[\s\"'`]|\Z|[\w .-]{1,40}=)|"
    r",(?:[\s\"'`]|\Z|[\w.-]{1,40}[ \t]?[=:])|"
    r"(?<=[(\[{,=:+|&;])[\"'`]|[\"'`](?:[\s,;:)\]}>+|&.\\\"'`]|\Z)|"
    r"\\(?:[nrtu\"'`\\\s]|\Z)|<(?:[/!]|[A-Za-z][\w-]{0,20}(?:/?>|[ \t][\w:-]{1,40}=))|"
    r"[)\]}](?:[\s;,.:)\]}\"'`]|\Z)|\|(?:[\s|]|\Z)|[({\[]\s"
)
_MARKS = "\"'`"
_QUOTE = re.compile(r"\\.|[\"'`]")


def end_of(text: str, first: int, start: int) -> int:
    """The end of the value at ``start``, given to the name at ``first``; ``start`` if unknown."""
    stop, opened = min(len(text), start + _LONGEST), None
    for sign in _SIGN.finditer(text, start, stop):
        if _STOP.match(text, at := sign.start()):
            return at
        if sign[0] in _MARKS:
            opened = _opened(text, first) if opened is None else opened
            if sign[0] == opened:
                return at
    return stop if stop == len(text) else start


def _opened(text: str, first: int) -> str:
    """The quotation mark that is open where the name at ``first`` begins; empty if none is."""
    low, mark = max(0, first - _LINE), ""
    for quote in _QUOTE.finditer(text, max(low, text.rfind("\n", low, first)), first):
        if len(quote[0]) == 1:
            mark = quote[0] if not mark else "" if quote[0] == mark else mark
    return mark


_BRACKETS = frozenset("(){}[]<>")
_OWN_LINE = re.compile(  # before a name, in settings
    r"(?:\A|[\r\n])[ \t]*(?:[-#] ?)?(?:(?:export|set|setenv|env|ENV|ARG) )?[\"']?[\w.-]{0,40}\Z"
)
_LINE_ENDS = re.compile(r"[ \t]*(?:[\r\n]|\Z|[ \t][#;])")
_PATTERN = re.compile(r"\\[xdwsbDWS]|^(?:qr|[smy])/|\[\^|\(\?|^/")
_CALL = re.compile(r"[\w.$:-]*(?:\(.*\)|\[.*\]|\{.*\}|<.*>)|\(.*|\{.*")  # subscript, generic
_HEAD = re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{5}")
_DRAWN = 15.0  # bits of what no expression would be made of


_REST = re.compile(r"[^\s\"'`]{8,200}(?=\s|\Z)")
_MEANT = re.compile(r"\$[({\[]|\(\)|<[a-zA-Z_ -]+>|\\\Z")
_INDEED = 25.0  # bits of what is nothing but a value


def line_of(text: str, first: int, name: int, start: int) -> int:
    """The end of a drawn value that alone stands behind ``NAME=``; ``start`` where none does."""
    if start != name + 1 or not text[first:name].isupper():
        return start
    rest = _REST.match(text, start)
    if not rest or _MEANT.search(rest[0]) or not is_setting(text, first, rest.end()):
        return start
    return rest.end() if drawn.bits(_SIGN.sub("", rest[0])) >= _INDEED else start


def opaque(text: str, first: int, start: int, end: int) -> bool:
    """Whether the run with signs at ``start`` is a value, and no expression of code."""
    body = text[start:end]
    plain = _SIGN.sub("", body)
    if not any(c.isdigit() for c in plain) or plain.isdigit():
        return False
    if _PATTERN.search(body):
        return False
    if body.count("(") > body.count(")") and not text[end : end + 1].isspace() and end < len(text):
        return False  # a call
    if drawn.bits(plain) >= _DRAWN:
        return True
    if is_setting(text, first, end):
        return not _CALL.fullmatch(body)
    return bool(_HEAD.match(body)) and not _BRACKETS.intersection(body)


def is_setting(text: str, first: int, end: int) -> bool:
    """Whether the name at ``first`` and a value that ends at ``end`` have a line of their own."""
    own = _OWN_LINE.search(text, max(0, first - 80), first)
    return bool(own and _LINE_ENDS.match(text, end))


_CONTINUED = re.compile(
    r"\\\r?\n[ \t]{0,40}([^\s\"'`;|&<>()=\\$-][^\s\"'`;|&<>()=\\]{2,200})(?=\s|\\|\Z)"
)


def continued(text: str, first: int, end: int) -> list[tuple[int, int]]:
    """What the next lines add to the value that a backslash and the line's end follow."""
    found: list[tuple[int, int]] = []
    if not _OWN_LINE.search(text, max(0, first - 80), first):
        return found
    while len(found) < _LINES and (more := _CONTINUED.match(text, end)):
        found.append(more.span(1))
        end = more.end()
    return found


_TAIL = re.compile(r"(?:[^\s\"'`;|&<>(),\]}\\]++|\"[^\"\n]{0,100}\"|'[^'\n]{0,100}'){1,8}(?=\s|\Z)")
_WORD = re.compile(r"[^\"']{2,}")


def glued(text: str, first: int, end: int) -> list[tuple[int, int]]:
    """What a shell adds to the quoted value whose closing quote stands at ``end``."""
    tail = _TAIL.match(text, end + 1)
    if tail is None or not _OWN_LINE.search(text, max(0, first - 80), first):
        return []
    return [word.span() for word in _WORD.finditer(text, *tail.span())]


def shell_word(first: str, least: int) -> str:
    """The pattern of a word of a command, its value in one of three groups; no quote in it.

    ``first``: what its first character is none of; ``least``: its fewest characters.
    """
    size = f"{{{least},80}}"
    return (
        rf"(?:\\?\"(?![{first}])([^\"\\\n]{size})\\?\"|'(?![{first}])([^'\\\n]{size})'|"
        rf"[\"']?(?![{first}])((?:[^\s\"'`;|&<>()\\]|[;&()](?=[\w!@#%^*+])|\\[^\s\"'\\nrt]|"
        rf"(?<=[^\s\"'=])[\"'](?=[A-Za-z0-9!@#%^*])){size}+)(?!<[A-Za-z _-]{{1,30}}>))"
    )
