"""Usernames: handles in credits and logs of changes, home directories, values of logins.

The @ is no part of the span. Placeholders, accounts of systems, decorators, tags of documentation,
scopes of packages and variables are none (rules §9). Below ``SURE`` stand handles and literals
whose place says less.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files

from starkiln.code.spans import Span
from starkiln.curate.pii import values
from starkiln.curate.pii.persons import COMMON, GIVEN, OTHERS
from starkiln.curate.pii.values import Rule

_TABLE = tomllib.loads(files("starkiln.curate.pii").joinpath("usernames.toml").read_text("utf-8"))
_PLACEHOLDERS, _ACCOUNTS, _TAGS, _FORGES = (
    frozenset(_TABLE[key].split()) for key in ("placeholders", "accounts", "tags", "forges")
)
_REACH = 160  # characters each way


def find(text: str, at: Sequence[int]) -> Iterator[Span]:
    """The usernames of ``text`` near the places ``at`` of its anchors, ascending; none twice."""
    found: dict[int, Span] = {}
    for place in at:
        if text[place] == "@":
            rules = _AT
        else:
            rules = _RULES.get(text[place : place + 2].lower(), ())
        for anchor, rule in rules:
            if len(anchor) > 2 and text[place : place + len(anchor)].lower() != anchor:
                continue
            for span in rule(text, place):
                if span.confidence > found.get(span.start, _NONE).confidence:
                    found[span.start] = span
    yield from found.values()


_NONE = Span(0, 0, "USERNAME", "", 0.0)


def _span(text: str, start: int, end: int, reason: str, sure: float) -> Iterator[Span]:
    name = text[start:end].lower()
    if not _nobody(name):
        yield Span(start, end, "USERNAME", reason, round(sure, 2))


def _nobody(name: str) -> bool:
    stem = name.rstrip("0123456789_-.")
    if len(name) < 2 or not stem or name.endswith(("[bot]", "-bot", "_bot", "_user", "-user")):
        return True
    return any(word in _PLACEHOLDERS or word in _ACCOUNTS for word in (name, stem))


def _word(name: str) -> bool:
    """Whether the name is a word of prose or code, no given name."""
    lower = name.lower()
    return (lower in COMMON or lower in OTHERS) and lower not in GIVEN


_HANDLE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|-(?=[A-Za-z0-9])){1,38}")
_THANKED = re.compile(
    r"\b(?:by|thanks|thank you|thanks to|thx|cc|credits?(?: to| for)?|authors?|kudos(?: to)?|"
    r"ping|props|reviewers?|"
    r"contributors?|maintainers?|assignee|hi|hey|shoutout(?: to)?|(?:patch|pr|report|work|idea|"
    r"help) (?:from|of)|"
    r"(?:twitter|github|telegram))[:,]?[ \t]?[\[(`*_\"]{0,3}\Z",
    re.IGNORECASE,
)
_FORGED = re.compile(r"\]\(https?://(?:www\.)?(?:github|gitlab|twitter|x|bitbucket)\.(?:com|org)/")
_JOINED = re.compile(r"(?:\b(?:and|or|to|from|via)|[,&+(/])[ \t]?[\[(`*_\"]{0,3}\Z", re.IGNORECASE)
_CREDITED = re.compile(
    r"#\d|https?://(?:www\.)?(?:github|gitlab|twitter)|\b(?:thanks|by|credit|contribut|props|"
    r"report|author)",
    re.I,
)
_MARGIN = re.compile(r"[ \t]*(?:[*#;%!|]|//[/!]?|/\*\*?|--|<!--|\"\"\"|\{)?[ \t]*\Z")
_BULLET = re.compile(r"[ \t]*(?:[-*+•]|\d{1,2}[.)])[ \t]+[\[(`*_]{0,3}\Z")


def _handle(text: str, place: int) -> Iterator[Span]:
    """``@handle`` in credits, changelogs, comments and links."""
    before = text[place - 1 : place] if place else ""
    if before.isalnum() or before in _NOT_BEFORE:
        return
    match = _HANDLE.match(text, place + 1)
    if not match or match[0].lower() in _TAGS or text[place - 2 : place] == "\\\\":
        return
    after = text[match.end() : match.end() + 2]
    if after[:1] in _NOT_AFTER or (after[:1] in ".:" and after[1:].isalnum()) or after == "::":
        return
    low = max(0, place - _REACH)
    start = text.rfind("\n", low, place) + 1 or low
    head = text[start:place]
    yield from _span(text, *match.span(), "handle", _mention(text, match, head, after))


_NOT_BEFORE = frozenset(
    ["@", "/", ".", "_", "+", "-", "$", "=", "{", "&", "%", ":", "<", ">", "}", "]", "\\", "'", ")"]
)
_NOT_AFTER = frozenset("/@([={\\$<%'\"")


def _mention(text: str, match: re.Match[str], head: str, after: str) -> float:
    end = text.find("\n", match.end(), match.end() + _REACH)
    tail = text[match.end() : end if end >= 0 else match.end() + _REACH]
    if after == "](":
        return 0.85 if _FORGED.match(tail) else 0.3
    wordy = _word(match[0])
    credited = bool(_CREDITED.search(head) or _CREDITED.search(tail))
    if _MARGIN.match(head):
        return 0.12
    if _THANKED.search(head[-24:]):
        return (0.55 if wordy else 0.8) if credited else 0.25 if wordy else 0.6
    if wordy:
        return 0.15
    if _BULLET.match(head):
        return 0.55 if credited or not tail.strip() else 0.3
    if credited and (_JOINED.search(head[-24:]) or "(" in head[-2:]):
        return 0.6
    return 0.3 if credited else 0.2


_HOME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,38}(?<![.-])")


def _home(text: str, place: int) -> Iterator[Span]:
    """``/home/name``, ``/Users/name``, ``C:\\Users\\name``."""
    slash = text[place]
    start = text.find(slash, place + 1) + 1
    if text[start : start + 1] == slash:  # escaped
        start += 1
    capital = text[place + 1 : start - 1].strip("\\") in ("home", "Users")
    match = _HOME.match(text, start)
    before = text[place - 1 : place] if place else ""
    inner = slash == "/" and before and (before.isalnum() or before in "._-})]*/>~")
    mounted = text[max(0, place - 4) : place].endswith(("/c", "/mnt", "/C", "//"))
    if not match or (inner and not mounted):
        return
    after = text[match.end() : match.end() + 1]
    if after in ("(", "="):
        return
    if not capital and not _VERB.search(text, max(0, place - 8), place):
        return
    weight = 0.85 if capital else 0.6
    if _word(match[0]):
        weight = 0.3
    elif after not in ("/", "\\"):
        weight = min(weight, 0.6)
    yield from _span(text, *match.span(), "home", weight)


_VERB = re.compile(r"\b(?:GET|PUT|POST|PATCH|DELETE|HEAD) \Z")
_PERSON = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_]|-(?=[A-Za-z0-9])){1,38}")
_CREDIT = re.compile(
    r"\b(?:thanks|thank|by|credits?|author|maintain\w*|contribut\w*|report\w*|patch|from|"
    r"created|written|courtesy|"
    r"suggest\w*|kudos|cc|props|developer|follow|twitter|sponsor)\b",
    re.IGNORECASE,
)


def _forge(text: str, place: int) -> Iterator[Span]:
    """``github.com/name`` where a person is thanked or named, no project of theirs."""
    start = text.index("/", place) + 1
    start += text[start : start + 1] in ("@", "~")
    match = _PERSON.match(text, start)
    if not match or match[0].lower() in _FORGES:
        return
    stop = match.end() + (text[match.end() : match.end() + 1] == "/")
    after = text[stop : stop + 1]
    ends = after == "." and not text[stop + 1 : stop + 2].isalnum()
    if after and not ends and (after.isalnum() or after in ".-_/?#=%&{$*"):
        return
    low = max(0, place - _REACH)
    line = text.rfind("\n", low, place) + 1 or low
    head = text[line:place]
    shown = _SHOWN.search(head)
    credited = _CREDIT.search(head) or _CREDIT.search(text, max(low, line - 80), place)
    if _word(match[0]):
        weight = 0.35
    elif shown and (shown[1] or "").lower() == match[0].lower():
        weight = 0.85
        yield from _span(text, line + shown.start(1), line + shown.end(1), "shown", 0.8)
    elif shown or _FIELD.match(head):
        weight = 0.75
    else:
        weight = 0.75 if credited else 0.3
    yield from _span(text, *match.span(), "forge", weight)


_SHOWN = re.compile(
    r"(?:[`\[]@?([A-Za-z0-9_-]{2,39})|"
    r"[`\[]?\b[A-Z][^\W\d_]+(?:[ ][A-Z][^\W\d_.]{0,20}\.?){1,3})[\"']?[ \t]?(?:[<(]|\]\()"
    r"(?:https?://)?(?:www\.)?\Z"
)
_FIELD = re.compile(
    r"[ \t]*(?:W:|\*? ?@?(?:author|link)\b|[\"']?(?:html_url|homepage|blog|url)[\"']?:[ \t]*\")",
    re.I,
)
_LOGIN = re.compile(
    r"(?:[A-Za-z]{0,16}[_-]?(?:user_?(?:name|id)|login|user|screen_?name|nick(?:name)?|handle|"
    r"maintainer|assignee|"
    r"committer|by_user)(?:[_-]?name)?\d?)\Z",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,30}(?<![.-])")
_LINKS = ("=", ":", "=>", ":=", "==")


def _value(text: str, place: int) -> Iterator[Span]:
    """A literal given to what is called a user, username or login."""
    value = values.after(text, place)
    if value is None or value.link not in _LINKS or value.start - value.name > 24:
        return
    start = place
    while start > max(0, place - 24) and (text[start - 1].isalnum() or text[start - 1] in "_-"):
        start -= 1
    if not _LOGIN.match(text, start, value.name):
        return
    match = _VALUE.match(text, value.start, value.end)
    if not match or match.end() != value.end:
        return
    body = match[0]
    if not value.quoted:
        line = text[text.rfind("\n", max(0, start - 40), start) + 1 : start]
        if text[match.end() : match.end() + 1] not in ("\n", "\r", "") or line.strip(" \t-#;*"):
            return
        weight = 0.3
    else:
        weight = 0.62
    if _word(body) or _KEYLIKE.search(body):
        weight = min(weight, 0.2)
    yield from _span(text, *match.span(), "value", weight)


_KEYLIKE = re.compile(
    r"(?i:user|login|name|admin|test|email|account|pass)|[a-z][A-Z]|_[a-z]+_|\.[a-z]+\.|\.(?:js|"
    r"py|php|html?)\Z|\A[A-Z_]+\Z"
)
_VERSION = re.compile(r"[vV]?\d")
_MARKED = re.compile(
    r"[a-z]{2,5}\(@?([A-Za-z][A-Za-z0-9_.-]{1,30})\)(?=[ \t]*[:,\-\n]|[ \t]\S)", re.IGNORECASE
)


def _marked(text: str, place: int) -> Iterator[Span]:
    """``TODO(name): …`` and ``imap(name): …`` of a log."""
    match = _MARKED.match(text, place)
    if match and not _word(match[1]) and not _VERSION.match(match[1]):
        mark = text[place : match.start(1)]
        todo = mark.isupper() and mark[:4] not in ("LDA(", "IMAP", "POP3", "LMTP")
        log = text[match.end() : match.end() + 2] == ": "
        yield from _span(text, *match.span(1), "marked", 0.7 if todo or log else 0.15)


_KEYWORD = re.compile(
    r"\$(?:Id|"
    r"Header): [^$\n]{1,100}? \d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\dZ? "
    r"([A-Za-z][\w.-]{1,30}) [^$\n]{0,12}\$|"
    r"\$(?:Author|LastChangedBy): ([A-Za-z][\w.-]{1,30}) \$",
    re.IGNORECASE,
)


def _keyword(text: str, place: int) -> Iterator[Span]:
    """``$Id: file,v 1.2 2001/02/03 04:05:06 name Exp $``."""
    match = _KEYWORD.match(text, place)
    if match:
        yield from _span(text, *match.span(match.lastindex or 0), "keyword", 0.85)


_HOLDER = re.compile(
    r"(?:[ \t]*(?:\(c\)|©|by|"
    r"[\d,–-]{1,9})[ \t]*){1,8}+([A-Za-z0-9][\w-]{1,30})[ \t]+<[^<>@\s]{1,60}@",
    re.I,
)


def _holder(text: str, place: int) -> Iterator[Span]:
    """``Copyright 2001 name <name@host>``: one word that is no given name."""
    match = _HOLDER.match(text, place + 9)
    if match and not _word(match[1]) and match[1].lower() not in GIVEN and not match[1].isdigit():
        yield from _span(text, *match.span(1), "holder", 0.75)


_ENTRY = re.compile(r"\nN: ([A-Za-z0-9][\w-]{1,30})\r?\n")


def _entry(text: str, place: int) -> Iterator[Span]:
    """``N: name`` of a CREDITS file."""
    match = _ENTRY.match(text, place)
    if match and not _word(match[1]):
        yield from _span(text, *match.span(1), "credits", 0.7)


_SSH = re.compile(
    r"(?:ssh|scp|sftp|"
    r"rsync)[ \t](?:-\S{1,20}[ \t](?:\S{1,30}[ \t])?){0,4}([A-Za-z][\w.-]{1,30})@[A-Za-z0-9\[]",
    re.I,
)
_LED = re.compile(r"(?:ssh|sftp|svn\+ssh|rsync|ftp)://([A-Za-z][\w.-]{1,30})@", re.I)


def _ssh(text: str, place: int) -> Iterator[Span]:
    """``ssh name@host`` and ``ssh://name@host``."""
    match = (_LED if "://" in text[place : place + 10] else _SSH).match(text, place)
    if match:
        weight = 0.3 if _word(match[1]) else 0.65
        yield from _span(text, *match.span(1), "ssh", weight)


_ACCREDITED = re.compile(
    r"(?:thanks to|reported by|patch by|contributed by|"
    r"suggested by)[ \t]+`?([A-Za-z0-9][\w-]{2,30})(?=[`.,;)\n]| (?:for|and|on|in)\b)",
    re.I,
)


def _thanked(text: str, place: int) -> Iterator[Span]:
    """``Thanks to name``, one word no dictionary knows."""
    match = _ACCREDITED.match(text, place)
    if match and not _word(match[1]) and match[1].lower() not in GIVEN:
        thanks = text[place : place + 6].lower() == "thanks" and match[1].islower()
        drawn = thanks or any(c.isdigit() for c in match[1])
        yield from _span(text, *match.span(1), "thanked", 0.55 if drawn else 0.3)


_RULE_ANCHORS: dict[Rule, tuple[str, ...]] = {
    _home: ("/home/", "/users/", "\\users\\", "\\\\users\\\\"),
    _forge: ("github.com/", "gitlab.com/", "bitbucket.org/", "twitter.com/", "launchpad.net/~"),
    _value: ("user", "login", "nick", "screen_name", "screenname"),
    _marked: ("todo(", "fixme(", "xxx(", "hack(", "note(", "lda(", "imap(", "pop3(", "lmtp("),
    _keyword: ("$id", "$header", "$author", "$lastchangedby"),
    _holder: ("copyright",),
    _entry: ("\nn: ",),
    _ssh: ("ssh ", "scp ", "sftp ", "rsync ", "ssh://", "sftp://", "ftp://"),
    _thanked: ("thanks to", "reported by", "patch by", "contributed by", "suggested by"),
}
ANCHORS = ("@", *sorted({anchor for anchors in _RULE_ANCHORS.values() for anchor in anchors}))
_AT: tuple[tuple[str, Rule], ...] = (("@", _handle),)
_RULES: dict[str, list[tuple[str, Rule]]] = {}
for _rule, _anchors in _RULE_ANCHORS.items():
    for _anchor in _anchors:
        _RULES.setdefault(_anchor[:2], []).append((_anchor, _rule))
