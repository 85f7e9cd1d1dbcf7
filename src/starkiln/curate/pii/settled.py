"""What the lines about a name tell: whether it is given its value among settings, or in code."""

import re

from starkiln.curate.pii import values

REACH = 20_000  # characters each way in which a value is looked for again
_OWN_LINE = re.compile(r"(?:\A|[\r\n])[ \t]*(?:#[ \t]?)?(?:(?:export|set|ENV|ARG) )?\Z")
_LINE_ENDS = re.compile(r"[\"']?[ \t]*(?:[\r\n]|\Z)")


def directive(text: str, start: int, value: values.Value) -> bool:
    """Whether a name and its value have a line of their own."""
    own = _OWN_LINE.search(text, max(0, start - 24), start)
    return bool(own and _LINE_ENDS.match(text, value.end))


_SETTING = re.compile(  # a line of settings: no call, block or statement
    r"[ \t]*(?:#[ \t]?)?(?:\[[\w .:-]{1,40}\]|[A-Za-z][\w.-]{0,40}:|"
    r"(?!return\b|else\b|let\b|var\b|const\b)[A-Za-z][\w.-]{0,40}"
    r"[ \t]*[:=][ \t]*(?!\s)[^()\[\]{}\"'`;,<>$&|\n]{1,100})\r?\Z"
)
_KEY_ONLY = re.compile(
    r"[A-Za-z0-9_.-]*(?:password|passwd|passphrase|pwd|pw|pass)\d?", re.IGNORECASE
)


def _beside(text: str, start: int, value: values.Value) -> tuple[str, str]:
    """The line before that of the name at ``start``, and the line after."""
    low = text.rfind("\n", max(0, start - 160), start)
    before = text[text.rfind("\n", max(0, low - 160), max(0, low)) + 1 : max(0, low)]
    first = text.find("\n", value.end, value.end + 8) + 1
    end = text.find("\n", first, first + 160) if first else -1
    return before, text[first : end if end >= 0 else first + 160] if first else ""


def configured(text: str, start: int, value: values.Value) -> bool:
    """Whether a line of its own, among lines of settings, sets a password to a word that no other
    line knows: a variable would be made somewhere."""
    if not directive(text, start, value) or not _KEY_ONLY.fullmatch(text, start, value.name):
        return False
    shell = value.link == "=" and text[value.start - 1] == "="
    if not shell and not any(_SETTING.match(line) for line in _beside(text, start, value)):
        return False
    word = re.compile(rf"(?<![\w\"']){re.escape(text[value.start : value.end])}(?!\w)")
    seen = word.finditer(text, max(0, start - REACH), min(len(text), start + REACH))
    return all(one.start() == value.start for one in seen)


_BARELY = re.compile(  # a line that neither Python nor TOML has: a bare word for a value
    r"[ \t]*(?!return\b)[A-Za-z][\w.-]{0,40}[ \t]*=[ \t]*(?!(?:true|false|none|nan|inf)\b)"
    r"(?=[\w.:/-]*[A-Za-z])[^()\[\]{}\"'`;,<>$&|\s]{1,100}[ \t]*\r?\Z",
    re.IGNORECASE,
)


def numeral(text: str, start: int, value: values.Value) -> bool:
    """Whether a value of digits alone may be a number of a program: no ``.env``, no settings."""
    name, spaced = text[start : value.name], text[value.start - 1] in " \t"
    if not spaced and (name.isupper() or ("." in name and not name.startswith("self."))):
        return False
    return not any(_BARELY.match(line) for line in _beside(text, start, value))
