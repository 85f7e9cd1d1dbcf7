"""Passwords that stand not right behind their name: defaults, fields, comparisons and calls."""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from starkiln.code.spans import Span
from starkiln.curate.pii import naming, values, wording
from starkiln.curate.pii.wording import WEAK

STRING = r"[bBuUrR@]?(?:\"([^\"\\\n]{2,100})\"|'([^'\\\n]{2,100})')"
_BACK = 100  # characters before a name that tell what is done with it


Found = tuple[str, tuple[int, int]]  # the reason, and where a value stands


class Position(NamedTuple):
    """A value in the last group of ``behind``, which follows a name; ``before`` precedes it."""

    reason: str
    before: re.Pattern[str] | None
    behind: re.Pattern[str]


def _position(reason: str, before: str, behind: str) -> Position:
    led = re.compile(rf"(?:{before})\Z", re.IGNORECASE) if before else None
    return Position(reason, led, re.compile(behind.replace("STRING", STRING), re.IGNORECASE))


_TESTS = r"(?:assert\w*|expect\w*|is|is_deeply|eq\w*|ok|check\w*|verify\w*|should\w*|strn?cmp|same)"
_CLOSED = r"[\"'`\]]{0,3}(?:\(\))?\)?"  # what ends the name: quotes, a call, a subscript
_FIRST = r"(?:[A-Za-z_$][\w.>$-]{0,30}|\"[^\"\n]{0,60}\"|'[^'\n]{0,60}')"  # argument
_HEAD = r"[\w.$-]{0,30}"  # of the name itself
POSITIONS = (
    _position(  # add_argument("--password", default="…"), password=dict(default="…"), variable {…}
        "default",
        "",
        r"(?:[\"'`]?,|(?::\s?[\w\[\]]{1,20}\s?)?=\s?(?:dict|Field)\(|\"\s?\{)[^(){}]{0,200}?"
        r"\b(?:default(?:_value)?|fallback)[\"']?\s{0,3}[=:]\s{0,3}STRING",
    ),
    _position(
        "default", rf"\.str(?:ing)?\w*\([^()\n]{{0,30}}[\"']{_HEAD}", r"[\"'],\s?STRING,\s?[\"']"
    ),
    _position("default", "", r"[\"'`]?[\])]{0,2}\s{0,4}(?:\|\||\?\?|\?:|\bor\b)\s{0,4}STRING"),
    _position("default", rf"\$\{{{_HEAD}", r":[-=]?([^\s\"'`{}$=-][^\s\"'`{}$]{2,60})\}"),
    _position(  # name="password" value="…", {"name": "password", "value": "…"}
        "field",
        rf"\b(?:name|key|id|type)[\"']?\s{{0,2}}[=:]\s{{0,2}}[\"']?{_HEAD}",
        r"[\"']?[,\s][^<>{}\n]{0,80}?\s{0,40}\bvalue[\"']?\s{0,2}[=:]\s{0,2}STRING",
    ),
    _position(
        "field",
        rf"\bname:\s?{_HEAD}",
        r"[ \t]{0,4}\r?\n[ \t]{0,40}value:[ \t]{1,4}([^\s\"'{}]{4,80})\s",
    ),
    _position(
        "field",
        rf"<[\w:]{{0,20}}(?:>\s{{0,20}})?{_HEAD}",
        r"(?:</(?:key|name)>)?>?\s{0,40}<(?:string|value)>\s{0,20}([^<>\s]{3,80})\s{0,20}<",
    ),
    _position("compared", "", rf"{_CLOSED}\.(?:equals|isEqual\w*)\(\s{{0,2}}STRING"),
    _position(
        "compared",
        "",
        rf"{_CLOSED}\)\.(?:to(?:Be|Equal|StrictEqual)|isEqualTo|to\.equal|to\.eql|to eq)[ (]STRING",
    ),
    _position(
        "compared",
        rf"\b{_TESTS}[ (][^\"'\n]{{0,60}}",
        rf"{_CLOSED},\s{{0,12}}(?:(?:is|equalTo)\()?STRING",
    ),
    _position("typed", "", rf"{_CLOSED}\.(?:send_?keys|type|fill|set\w*|enter\w*)\(\s?STRING"),
    _position(
        "typed",
        rf"\b(?:fill\w*|type|enter\w*|set_?value|send_?keys|input)[ (]\s?[\"'][#\[= '\"]{{0,3}}"
        rf"(?:\w{{1,8}}=[\"']?)?{_HEAD}",
        r"[\"'\]]{1,3},\s?(?:with(?::| =>)\s?)?STRING",
    ),
    _position(
        "call",
        rf"(?:(?<![a-z])|_)(?:add|set|check|verify|update|change|reset|use|auth)_?{_HEAD}",
        rf"\(\s{{0,8}}{_FIRST},\s{{0,8}}STRING(?:\.toCharArray\(\))?\s{{0,8}}\)",
    ),
    _position(  # user, password = "…", "…"
        "assigned",
        rf"[\w$@.]+,\s{{0,2}}[$@]?{_HEAD}",
        r"\)?\s{0,2}:?=\s{0,2}[(\[]?(?:\"[^\"\n]{0,80}\"|'[^'\n]{0,80}'),\s{0,2}STRING",
    ),
    _position(
        "assigned",
        rf"(?:\A|\n)[ \t]{{0,20}}(?:ENV|setx)[ \t]{{1,4}}{_HEAD}",
        r"[ \t]{1,4}[\"']?([^\s\"'$<>{}=]{4,80})[\"']?[ \t]*(?:\\?\r?\n|\Z)",
    ),
    _position(
        "dsn",
        r"\b(?:dbname|host|user|port|sslmode|server|database|data source|uid|user id)\s?=\s?"
        rf"[^\s;\"'=]{{1,60}}[ ;]{{1,2}}{_HEAD}",
        r"=((?:[^\s\"';&,)]|[&,)](?=[\w!@#%^*])){3,60})(?=[\"';\s\\])",
    ),
    _position(
        "spoken",
        rf"(?:\b(?:equal|string=|eq|def\w*|set[qf]|#\s?define)\s{{1,8}}|[({{\s]:|\bwith (?:the )?)"
        rf"{_HEAD}",
        r"\s{1,8}(?:STRING|`([^`\s]{3,60})`)",
    ),
    _position("spoken", r"(?:\s|\A)", r": {1,2}``([^`\s]{3,80})``"),
    _position(
        "spoken",
        r"(?:\s|\A)",
        r"(?: (?:for|of|to) [^\n\"'`:]{1,40}?)? (?:is|was)(?: set to)?:? "
        r"[\"'`]([^\s\"'`]{3,60})[\"'`]",
    ),
    _position(
        "spoken",
        r"\b(?:user|login)(?:name)?[\"'`]?(?: is)?[:=]? ?[\"'`]?[\w.@-]{1,40}[\"'`]?"
        r"(?:,|;| /|,? and| with) (?:the )?",
        r"(?:[:=] ?|\s(?=[\"'`]))[\"'`]?([^\s\"'`,;(){}<>]{4,60}?)[\"'`]?[.,;)]?(?=\s|\Z)",
    ),
)
GIVEN = frozenset(("default", "field"))  # reasons of positions of any secret


def placed(text: str, place: int, end: int, reasons: Collection[str] = ()) -> Found | None:
    """The reason and the place of the value that ``POSITIONS`` know of the name that ends there."""
    before = text[max(0, naming.start_of(text, place) - _BACK) : place]
    for reason, led, behind in POSITIONS:
        if reasons and reason not in reasons:
            continue
        match = behind.match(text, end)
        if match and (led is None or led.search(before)):
            return reason, match.span(match.lastindex or 0)
    return None


_INSERT = re.compile(r"\binto\s[^()\n;]{1,60}\(([^()]{0,200})\Z", re.IGNORECASE)
_VALUES = re.compile(r"[`\"\]]?\s{0,20}(?:,[^()]{0,300})?\)\s{0,40}VALUES\s{0,40}\(", re.IGNORECASE)
_CELL = re.compile(
    r"\s{0,40}(?:N?'((?:[^'\\\n]|''|\\.){0,300})'|[^,'()]{0,80}(?:\([^()]{0,80}\))?)\s{0,40}([,)])"
)
_ROW = re.compile(r"\s{0,40},\s{0,40}\(")
_ROWS = 100  # of one statement


def inserted(text: str, place: int, end: int) -> Iterator[tuple[int, int]]:
    """The values of the column of SQL's INSERT whose name holds ``place`` and ends at ``end``."""
    if text[end : end + 1] not in _COLUMN or not (row := _VALUES.match(text, end)):
        return
    start = naming.start_of(text, place)
    if not (head := _INSERT.search(text, max(0, start - 300), start)):
        return
    column, at = head[1].count(","), row.end()
    for _ in range(_ROWS):
        number, cell = 0, _CELL.match(text, at)
        while cell and cell[2] == "," and number < 60:
            if number == column and cell[1] is not None:
                yield cell.span(1)
            number, cell = number + 1, _CELL.match(text, cell.end())
        if cell is None:
            return
        if number == column and cell[1] is not None:
            yield cell.span(1)
        if not (row := _ROW.match(text, cell.end())):
            return
        at = row.end()


_COLUMN = frozenset('`"],) \n')
_SAID = re.compile(r" (?:is|was)(?: set to)?:? ([^\s\"'`<>(){}]{5,60}?)[.,;)]?(?=\s|\Z)")
_REVERSED = re.compile(  # assertEquals("…", x.getPassword())
    rf"(?:\b{_TESTS}[ (]\s{{0,4}}{STRING},\s{{0,8}}|{STRING}\s?(?:\.equals\(|===?)\s{{0,2}})"
    r"[\w$.>()-]{0,40}\Z",
    re.IGNORECASE,
)
_WORTH = {"strong": 0.65, "word": 0.55, WEAK: 0.4}


def beyond(text: str, place: int) -> Iterator[Span]:
    """The value that something about the name that holds ``place`` says is its own."""
    start, end = naming.start_of(text, place), values.name_end(text, place)
    dot = text.find(".", place, end)
    end = end if dot < 0 else dot
    trust = wording.password(text[start:end])
    if trust is None:
        return
    if found := placed(text, place, end):
        yield from judged(text, found[1], found[0], trust)
        return
    for at in inserted(text, place, end):
        yield from judged(text, at, "inserted", trust)
    if match := _REVERSED.search(text, max(0, start - _BACK), place):
        yield from judged(text, match.span(match.lastindex or 0), "compared", trust)
    match = _SAID.match(text, end) if text[start - 1 : start] == " " else None
    if match and wording.kind(match[1]) == "strong" and any(map(str.isdigit, match[1])):
        yield Span(*match.span(1), "PASSWORD", "spoken", 0.55)


def judged(text: str, at: tuple[int, int], reason: str, trust: float = 1.0) -> Iterator[Span]:
    """A span for the value in a password's position, by the kind that it is of."""
    kind = wording.kind(text[slice(*at)])
    if sure := _WORTH.get(kind or "", 0.0):
        told = WEAK if kind == WEAK else reason
        yield Span(*at, "PASSWORD", told, round(sure * max(trust, 0.95), 2))


_HASHED = re.compile(  # functions whose names ``wording`` takes for those of a hash
    r"(?:.*[\W_])?(?:check|verify|generate|make|create|hash|validate|compare|encrypt)_?"
    r"(?:password|passwd|pw)(?:_?hash)?|(?:.*\W)?password_(?:hash|verify)",
    re.IGNORECASE,
)
_ARGUMENT = re.compile(
    rf"\(\s{{0,8}}(?:[A-Za-z_$][\w.>$-]{{0,30}},\s{{0,8}})?{STRING}\s{{0,8}}[,)]"
)


def hashed(text: str, place: int) -> Iterator[Span]:
    """``check_password_hash(hash, "…")``, ``password_hash('…', …)``."""
    start, end = naming.start_of(text, place), values.name_end(text, place)
    match = _ARGUMENT.match(text, end)
    filtered = text[max(0, start - 3) : start].rstrip()[-1:] == "|"
    if match and not filtered and _HASHED.fullmatch(text, start, end):
        yield from judged(text, match.span(match.lastindex or 0), "hashed")
