"""Passwords: literal values where a password stands, in code, configuration, commands and URLs.

Trivial test words (``WEAK``) and what a message, type or variable may be stay below ``SURE``; no
variable, call, prompt, label, pattern or hash is a password (rules §9).
"""

import re
from collections.abc import Iterator, Sequence

from starkiln.code.spans import SURE, Span
from starkiln.curate.pii import (
    bare,
    commands,
    drawn,
    literals,
    logins,
    naming,
    positions,
    settled,
    values,
    wording,
)
from starkiln.curate.pii.blocks import sealed
from starkiln.curate.pii.providers import decoded
from starkiln.curate.pii.wording import WEAK

_ECHOES = 64  # different passwords that are


def _named(text: str, place: int) -> Iterator[Span]:
    """A value given to a name that ends in a word for password."""
    start = naming.start_of(text, place)
    name = text[start : values.name_end(text, place)]
    trust = wording.password(name)
    value = values.given(text, place) if trust is not None else None
    if trust is None or value is None:
        return
    if value.link == "(" and _ASKS.match(name.rpartition(".")[2]):
        return
    if _of_pair(text, start, value) or _SHELL.match(text, start - 1):
        return
    kind = _kind(text, value)
    if kind is None and value.rest:  # of the first piece alone
        value = value._replace(rest=())
        kind = _kind(text, value)
    sure = (_quoted if value.quoted else _bare)(text, start, value, kind) * trust
    if sure > 0:
        form = WEAK if kind == WEAK else "named-quoted" if value.quoted else "named-bare"
        sure = min(sure, 0.4) if kind == WEAK else round(sure, 2)
        yield from (Span(a, b, "PASSWORD", form, sure) for a, b in _spans(text, value))


def _kind(text: str, value: values.Value) -> str | None:
    """What sort of value it is; of base64, of what it holds where that is trivial."""
    body = value.body(text)
    if value.link == "::":  # LDIF: in base64
        return wording.kind(decoded(body).decode("utf-8", "replace"))
    if sealed(text, value.start, body):
        return None
    kind = wording.kind(body)
    if kind == "hash" and _HEX32.fullmatch(body) and not _HASHED.search(text, *_around(value)):
        return "strong"
    if (
        kind is None
        and "{" in body
        and not (_SCHEME.match(body) and text[value.start - 2] not in "fF")
    ):
        plain = wording.unfielded(body)
        drawn_ = drawn.bits(plain) >= _DRAWN and any(map(str.isdigit, plain))
        return kind if not drawn_ or wording.kind(plain) != "strong" else "strong"
    if kind == "strong" and _BASE64.fullmatch(body):
        plain = decoded(body)
        trivial = plain.isascii() and wording.kind(plain.decode("ascii").strip()) == WEAK
        return WEAK if trivial else kind
    return kind


def _spans(text: str, value: values.Value) -> Sequence[tuple[int, int]]:
    """Its pieces; from the first to the last where a mere bit of it would stay."""
    places = value.places()
    start, end = value.start, places[-1][1]
    bits = value.rest and min(b - a for a, b in places) < _SHORTEST
    return [(start, end)] if bits and text[start - 1] == text[end : end + 1] else places


_SHORTEST = 4  # characters of a piece that redaction replaces
_SCHEME = re.compile(r"\{[A-Za-z][\w-]{2,9}\}")  # of a hash, but in an f-string
_DRAWN = 10.0  # bits of what stands about the fields of a template
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4}){1,20}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def _of_pair(text: str, start: int, value: values.Value) -> bool:
    """Whether it is the user's that comes first: ``user, password = "…", "…"``."""
    return bool(
        value.quoted
        and value.link in ("=", ":=")
        and _AFTER_ANOTHER.search(text, max(0, start - 40), start)
        and _ANOTHER.match(text, value.end + 1)
    )


_SHELL = re.compile(r",\$pass\"")  # of a compiler
_AFTER_ANOTHER = re.compile(r"[\w$@.]+,[ \t]{0,2}[$@]?\Z")
_ANOTHER = re.compile(r",[ \t]{0,2}[\"']")


def _around(value: values.Value) -> tuple[int, int]:
    return max(0, value.name - 60), value.end + 60


_HEX32 = re.compile(r"[0-9a-f]{32}|[0-9A-F]{32}")
_HASHED = re.compile(r"md5|hash|digest|crypt|sha\d|ntlm|lanman", re.IGNORECASE)
_ASKS = re.compile(
    r"(?:get|find|fetch|read|load|prompt|input|ask|has|is|delete|remove)", re.IGNORECASE
)
_SETTER = re.compile(
    r"(?:define|put|set|setproperty|setitem|setenv|append|add|header|param|field|config|option|"
    r"env|attr|insert|update|fill|type|with\w*)\(\s{0,8}[\"']\Z",
    re.IGNORECASE,
)
_ASSIGNS = (
    *("=", ":", "=>", ":=", "?=", "||=", "<-", "{", "\uff1a"),
    *("==", "===", "!=", "!==", "->", "is", "is:"),
)
_SURE = {"strong": 0.85, "word": 0.6, "phrase": 0.2, "hash": 0.3, WEAK: 0.4}


def _quoted(text: str, start: int, value: values.Value, kind: str | None) -> float:
    sure = _SURE.get(kind or "", 0.0)
    last = value.places()[-1][1]
    name, end = text[start : value.name], text[last + 1 : last + 2]
    if value.link in _ASSIGNS:
        beside = kind == "phrase" and _BESIDE.search(text, max(0, start - 80), start)
        word = text[value.start : value.end]
        return 0.55 if beside and word.isalpha() and len(word) > 4 else sure
    if value.link == ",":
        setter = _SETTER.search(text, max(0, start - 24), start)
        if text[start - 1 : start] == "{" and end == "}":  # of Erlang
            return sure
        pair = text[start - 2 : start - 1] == "(" and end == ")"
        return sure if setter else min(sure, 0.6 if kind == "strong" else 0.3) if pair else 0.0
    if value.link == "(":
        told = end == ")" and _VERB.search(name)
        sure = min(sure, 0.3) if name.lower().endswith("pass") else sure
        return sure if told else min(sure, 0.65 if end == ")" and kind == "strong" else 0.3)
    if not value.link and settled.directive(text, start, value):
        return sure
    if not value.link and name[-2:] in ("ss", "pw"):
        return 0.0  # to pass "this"
    if not value.link and _STATEMENT.search(text, max(0, start - 100), start):
        return sure
    return min(sure, 0.65 if kind == "strong" else 0.3)


_VERB = re.compile(
    r"(?:set|check|authenticate|verify|change|update|reset|add|with|use|enter|is_?valid)_?"
    r"(?:[a-z]{1,12}_?)?(?:password|passwd|passphrase|pwd)\Z",
    re.IGNORECASE,
)
_STATEMENT = re.compile(  # of SQL
    r"\b(?:create|alter|user|role|login|grant|options)\b[^\n;=]{0,80}\Z", re.IGNORECASE
)
_BESIDE = re.compile(
    r"\b(?:user\w{0,8}|name|login)[\"']?\s?(?:[:=]|=>)\s?[\"'][^\"'\n]{1,40}[\"'],\s?[\"':]?\Z",
    re.IGNORECASE,
)
_LINE = re.compile(  # before a name in .env, INI, YAML, a command, a URL or a connection string
    r"(?:(?:\A|[\r\n])[ \t]*(?:[-#;/*>$]{1,3}[ \t]*)*(?:(?:export|set|env)[ \t]+)?|"
    r"[?&;<\"'`]|/:|-[eD] ?|[ \t]--?(?:[a-z-]{3,16}=)?|(?<=[A-Z0-9_]) )[\"']?[A-Za-z0-9_.]*\Z",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[\"'`&]|</|;(?=\S)|[ \t]*(?:\\?[\r\n]|\Z|\\|[#&])|[ \t]")
_FLOW = re.compile(r"[ \t]*(?:,[ \t]|\})")  # of a mapping in braces
_INDEED = 15.0  # bits of what is no variable
_GOES_ON = re.compile(r"[ \t]+[^\s#;]")
_DASHES = re.compile(r"(?<![\w-])--?[A-Za-z]")
_WITH_USER = re.compile(r" --?(?:u|user|username|login)[ =]\S{1,40} -{0,2}\Z")
_UNLIKE_PROSE = re.compile(r"(?:root|bind|default|admin|enable)pw|requirepass|masterauth", re.I)
_NETRC = re.compile(r"\b(?:login|machine)\s+\S+\s+(?:account\s+\S+\s+)?\Z", re.IGNORECASE)


def _bare(text: str, start: int, value: values.Value, kind: str | None) -> float:
    """The same for a value without quotes, which may as well be a variable."""
    if kind in (None, "phrase", "hash"):
        return 0.0
    body = text[value.start : value.end]
    if value.link == "=" and body.isdigit() and settled.numeral(text, start, value):
        return 0.0
    if value.link == ">":  # an element's text
        tagged = text[start - 1 : start] in ("<", ":", '"', "'")
        return {"strong": 0.7, WEAK: 0.4}.get(kind, 0.3) if tagged else 0.0
    spaced = text[value.start - 1] in " \t"
    if value.link == "":
        if _DASHES.match(text, start):
            paired = _WITH_USER.search(text, max(0, start - 60), start)
            return {"strong": 0.7, WEAK: 0.4}.get(kind, 0.55 if paired else 0.3)
        if _NETRC.search(text, max(0, start - 120), start):
            return 0.7
        return _directed(text, start, value, kind)
    if value.link in (":=", "?="):  # of make
        made = kind == "strong" and settled.directive(text, start, value)
        return 0.7 if made and text[start : value.name].isupper() else 0.0
    if kind in ("word", "strong") and settled.configured(text, start, value):
        return 0.7 if kind == "strong" else 0.6
    if _FLOW.match(text, value.end) and value.link == ":" and spaced:
        body = text[value.start : value.end]
        return 0.6 if any(map(str.isdigit, body)) and drawn.bits(body) >= _INDEED else 0.0
    if not _ENDS.match(text, value.end):
        return 0.0
    within = value.link == "=" and not spaced and text[start - 1 : start] == " "  # of a line
    within = within and text[start : value.name].isupper()
    if not within and not _LINE.search(text, max(0, start - 60), start):
        return 0.0
    if spaced and _GOES_ON.match(text, value.end):
        return 0.0
    if value.link == "=" and spaced and text[value.start : value.end].isidentifier():
        return 0.2 if kind == "strong" else 0.0
    if value.link == "=" and spaced:
        return {"strong": 0.55, WEAK: 0.3}.get(kind, 0.2)
    return {"strong": 0.7, WEAK: 0.4}.get(kind, 0.3)


def _directed(text: str, start: int, value: values.Value, kind: str) -> float:
    """``rootpw value`` and ``AuthPassword value9``, each on a line of its own."""
    if not settled.directive(text, start, value):
        return 0.0
    if _UNLIKE_PROSE.fullmatch(text, start, value.name):
        return 0.4 if kind == WEAK else 0.6
    drawn = any(c.isdigit() for c in text[value.start : value.end])
    return (
        0.55
        if kind == "strong" and drawn and len(naming.words(text[start : value.name])) > 1
        else 0.0
    )


def _beside(find: logins.Find) -> values.Rule:
    """The rule for the passwords that stand beside a user."""

    def rule(text: str, place: int) -> Iterator[Span]:
        for login in find(text, place):
            sure, weak = logins.worth(text, login)
            if sure:
                yield Span(*login.password, "PASSWORD", WEAK if weak else login.form, sure)

    return rule


_SPACED = re.compile(r"(?:sshpass|\bpw|--?u(?:ser(?:name)?)?[ =]\S{1,40}) \Z")
_GLUED = re.compile(
    r"(?:mysql\w*|mariadb\w*|sshpass|sqlcmd|mongo\w*)\b[^\n|;]{0,60}\Z", re.IGNORECASE
)
_LITTLE_P = re.compile(rf" -p[ =]?{bare.shell_word('$/-', 3)}")


def _option(text: str, place: int) -> Iterator[Span]:
    """``-p password`` beside a user or of a known command."""
    beside = _SPACED if text[place + 3 : place + 4] in " =" else _GLUED
    if beside.search(text, max(0, place - 80), place + (beside is _SPACED)):
        match = _LITTLE_P.match(text, place)
        at = match.span(match.lastindex or 0) if match else None
        yield from positions.judged(text, at, "option") if at else ()


_WORDS = ("pass", "pw", "senha", "kennwort", "psk", "clave", *wording.FOREIGN.values())
RULES: dict[values.Rule, tuple[str, ...]] = {
    _named: _WORDS,
    positions.beyond: _WORDS,
    positions.hashed: _WORDS,
    _option: (" -p",),
    **commands.RULES,
    **{_beside(find): anchors for find, anchors in logins.FINDS.items()},
}


def further(text: str, at: dict[values.Rule, list[int]], found: list[Span]) -> Iterator[Span]:
    """What was found, in other places of the text, and what further literals add to it."""
    known = {span.start for span in found}
    sure = [span for span in found if span.confidence >= SURE]
    more = (*_echoes(text, sure), *_added(text, sure))
    return (span for span in more if span.start not in known)


def _added(text: str, sure: Sequence[Span]) -> Iterator[Span]:
    """The rest of a literal that is a password, over its operators."""
    for span in sure:
        if span.start and text[span.start - 1] == text[span.end : span.end + 1] in ('"', "'"):
            for piece in literals.pieces(text, span.end):
                if not piece.operator:
                    break
                yield Span(piece.start, piece.end, "PASSWORD", "part", 0.6)


_COMMON = re.compile(r"[A-Za-z_ -]+[\d\W]{0,2}|\W?[A-Za-z_-]+\W?")


def _telling(value: str) -> bool:
    """Whether a value is a password wherever it stands."""
    return len(value) > 5 and (not _COMMON.fullmatch(value) or drawn.bits(value) >= _INDEED)


def _echoes(text: str, sure: Sequence[Span]) -> Iterator[Span]:
    """The same values in other string literals nearby: what a test compares with."""
    seen: set[str] = set()
    for span in sure:
        value = text[span.start : span.end]
        if value in seen or len(seen) == _ECHOES or not _telling(value):
            continue
        seen.add(value)
        stop = min(len(text), span.end + settled.REACH)
        place = text.find(value, max(0, span.start - settled.REACH), stop)
        while place >= 0:
            end = place + len(value)
            if text[place - 1 : place] in {'"', "'"} and text[end : end + 1] in {'"', "'"}:
                yield Span(place, end, "PASSWORD", "echo", 0.6)
            place = text.find(value, end, stop)
