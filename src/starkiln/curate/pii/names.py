"""Names of persons: in credits, notices, trailers, lists of authors and beside addresses.

A name has two words or more (or two to five characters of a script without spaces); companies,
projects and licences have none (rules §9). Below ``SURE`` stand name-shaped words in weak places.
"""

import re
from collections.abc import Iterator, Sequence

from starkiln.code.spans import Span
from starkiln.curate.pii.persons import Run, runs
from starkiln.curate.pii.values import Rule

_REACH = 200  # characters each way
_LINES = 40  # of a list of authors


def find(text: str, at: Sequence[int]) -> Iterator[Span]:
    """The names of ``text`` near the places ``at`` of its anchors, ascending; none twice."""
    found: dict[int, Span] = {}
    ends: dict[Rule, int] = {}
    for place in at:
        for anchor, rule in _RULES.get(
            text[place : place + 2].lower(), _AT if text[place] == "@" else ()
        ):
            if place < ends.get(rule, 0) or text[place : place + len(anchor)].lower() != anchor:
                continue
            for span in rule(text, place):
                if span.confidence > found.get(span.start, _NONE).confidence:
                    found[span.start] = span
                ends[rule] = max(ends.get(rule, 0), span.end)
    yield from found.values()


_NONE = Span(0, 0, "NAME", "", 0.0)


def _span(run: Run, reason: str, weight: float) -> Iterator[Span]:
    sure = round(run.trust * weight, 2)
    if sure >= 0.1:
        yield Span(run.start, run.end, "NAME", reason, sure)


def _line(text: str, place: int) -> tuple[int, int]:
    """Where the line of ``place`` starts and ends, as far as it is looked at."""
    low, high = max(0, place - _REACH), min(len(text), place + _REACH)
    end = text.find("\n", place, high)
    return text.rfind("\n", low, place) + 1 or low, high if end < 0 else end


_OPENS = re.compile(r"[ \t\"'`]{0,3}\\?[<(\[]\Z")
_RESERVED = re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,40}\.){0,3}(?:example|test|invalid|localhost)\b")


def _before(text: str, opening: int) -> Run | None:
    """The name that ends where ``<`` opens."""
    start, _ = _line(text, opening)
    *_, last = (None, *runs(text, max(start, opening - 80), opening))
    if last and not text[last.end : opening].strip(" \t\"'`*_,:\\"):
        return last
    return None


def _mail(text: str, place: int) -> Iterator[Span]:
    """``Name <name@host>``, ``Name (name@host)`` and ``"Name", "name@host"``."""
    if not (text[place - 1 : place].isalnum() and place):
        return
    start = place
    stop = max(0, place - 64)
    while start > stop and (text[start - 1].isalnum() or text[start - 1] in "._+-=%"):
        start -= 1
    opening = text[max(0, start - 9) : start].removesuffix("mailto:")[-1:]
    if opening not in _BEFORE_MAIL:
        return
    yield from _turned(text, place)
    run = _before(text, start - (8 if text[start - 1] == ":" else 1))
    if run:
        weight = 0.95 if opening in "<([" else 0.8
        if _RESERVED.match(text, start):
            weight = 0.4
        yield from _span(run, "mail", weight)


_BEFORE_MAIL = ("<", "(", "[", " ", "\t", '"', "'", ",", "")
_HOST = re.compile(r"@[\w.-]{1,80}[>\"']? ?[(\"]")


def _turned(text: str, place: int) -> Iterator[Span]:
    """``name@host (Name)``."""
    match = _HOST.match(text, place)
    if match:
        run = next(runs(text, match.end(), min(len(text), match.end() + 60)), None)
        if run and run.start == match.end() and text[run.end : run.end + 1] in (")", '"'):
            yield from _span(run, "mail", 0.9)


def _spelt(text: str, place: int) -> Iterator[Span]:
    """``Name <name at host>``."""
    opening = max(
        text.rfind("<", max(0, place - 40), place), text.rfind("(", max(0, place - 40), place)
    )
    if opening > 0 and text[opening + 1 : place].replace(".", "").replace(" dot ", "").isalnum():
        run = _before(text, opening)
        if run:
            yield from _span(run, "mail", 0.9)


_PROFILE = re.compile(
    r"[<(]?(?:https?://)?(?:www\.)?(?:github\.com|gitlab\.com|twitter\.com|"
    r"bitbucket\.org)/@?[\w.-]{1,40}/?[>)\s\"']"
)


def _linked(text: str, place: int) -> Iterator[Span]:
    """``Name <http://…>``, ``[Name](http://…)`` and ``Name (github.com/name)``."""
    opening = place + text[place : place + 2].find("](") if text[place] == "]" else place
    run = _before(text, opening)
    if run:
        profile = _PROFILE.match(text, opening + (text[opening] == "]"))
        yield from _span(run, "link", 0.85 if profile else 0.5 if text[place] == "<" else 0.3)


_JOIN = re.compile(
    r"(?:[\s,;&+/*#|:.!\"'`]|\b(?:and|et|und|y|e|by|with|the|from|Dr|Prof|Mr|Ms)\b|"
    r"<[^<>\n]{0,80}>|\([^()\n]{0,80}\)|"
    r"\[[^\[\]\n]{0,60}\]|https?://\S{1,100}|\S{1,64}@\S{1,64}|(?:19|20)\d\d|\d\d?(?!\d)|[-–—]|"
    r"©|&copy;|\\n)*+\Z"
)


def _listed(text: str, start: int, end: int, reason: str, weight: float) -> Iterator[Span]:
    """The names of a list that begins at ``start``, up to the first thing that is none."""
    last, idle = start, 0
    for run in runs(text, start, end):
        idle = 0 if run.trust else idle + 1
        if idle > 3 or not _JOIN.match(text[last : run.start]):
            return
        yield from _span(run, reason, weight)
        last = run.end


_NOTICE = re.compile(
    r"(?:copyright(?:ed)?|\(c\)|&copy;)(?:[\s:,;*/#|.=\"'>-]|\bby\b|\(c\)|copyright|©|&copy;|"
    r"[–—]|\\\(co|"
    r"(?:19|20)\d\d|\d\d?\b|present\b|and\b|\$\w+:?|<year>|(?:19|20)\dx){0,40}+",
    re.IGNORECASE,
)


def _notice(text: str, place: int) -> Iterator[Span]:
    """``Copyright (c) 2001, 2003-2007 by Name and Name``, and the lines of years below."""
    match = _NOTICE.match(text, place, min(len(text), place + _REACH))
    for _ in range(_LINES):
        if not match:
            return
        _, end = _line(text, match.end())
        yield from _listed(text, match.end(), end, "copyright", 0.9)
        match = _YEARS.match(text, end)


_YEARS = re.compile(
    r"\r?\n[ \t*#/;|.-]{0,20}(?:\(c\)[ \t]*)?(?:19|20)\d\d[\d ,–-]{0,60}[ \t:,]{1,8}(?=[^\W\d])",
    re.I,
)


def _reserved(text: str, place: int) -> Iterator[Span]:
    """``© 2001 Name. All rights reserved``."""
    start, _ = _line(text, place)
    sign = text.rfind("©", start, place)
    if sign >= 0:
        match = _YEARS_ONLY.match(text, sign + 1)
        yield from _listed(text, match.end() if match else sign + 1, place, "copyright", 0.9)


_YEARS_ONLY = re.compile(r"[\s\d,–:-]{0,60}")
_ROLE = re.compile(
    r"(?:author(?:ed|s|ship|\(s\))?|maintain(?:ers?|ed)|translat(?:ors?|ed|ion)|"
    r"contribut(?:ors?|ed|ion)|"
    r"creators?|created|credits?|developers?|owner|committer|co-authors?|editors?|written|"
    r"contact|packager|"
    r"uploaders?|thanks|programmers?|reviewers?|mentors?|acknowledg\w{0,6})"
    r"(?:[ _-]?(?:name|full_?name|by|to|for|of|go|team)|__)?"
    r"(?P<link>[ \t]{0,12}(?:[\"']?[ \t]{0,12}(?:=>|[:=,>–-]{1,3})|\]|\))?[ \t]{0,20}"
    r"(?:(?:[\[{]\s{0,40}){0,2}(?:[\"']?name[\"']?\s?[:=]>?\s{0,2})?[\"'`u(\[]{0,3})?)[ \t*]{0,20}",
    re.IGNORECASE,
)
_EMPTY = re.compile(r"[ \t:=*\"'\]>.-]{0,80}(?:\r?\n[ \t*#/;%|-]{0,8}[=~^*-]{0,80}){1,3}")


def _role(text: str, place: int) -> Iterator[Span]:
    """What follows a word for one who made something, on its line or on the lines below."""
    match = _ROLE.match(text, place, min(len(text), place + _REACH))
    if not match:
        return
    _, end = _line(text, match.end())
    spans = list(_listed(text, match.end(), end, "role", 0.9 if match["link"].strip() else 0.75))
    yield from spans
    if spans and not text[match.end() : end].rstrip().endswith((",", " and", "[", "{", "&")):
        return
    below = _EMPTY.match(text, match.end()) if not spans else None
    yield from _roll(text, below.end() if below else end, 0.7) if below or spans else ()


_BULLET = re.compile(
    r"[ \t]{0,20}(?:[*#/;%|.\"'-]{1,3}[ \t]{0,20}){0,3}(?:@author\s|N:[ \t]|\d{1,3}[.)][ \t]|"
    r"[\[`(\"'])?"
)
_AFTER = re.compile(
    r"[ \t\"'`\]\\]{0,8}(?:[<(,;\[:.|#*{]|[-–—]{1,2}[ \t>]|\r?\n|\Z|https?:|and\b|for\b|\t|"
    r"\S{1,40}@)"
)


def _roll(text: str, start: int, weight: float) -> Iterator[Span]:
    """The names that stand first on the lines from ``start`` on."""
    bad = 0
    for _ in range(_LINES):
        bullet = _BULLET.match(text, start)
        first = bullet.end() if bullet else start
        _, end = _line(text, first)
        run = next(runs(text, first, min(end, first + 60)), None)
        if run and run.start == first and run.trust and _AFTER.match(text, run.end):
            yield from _listed(text, first, end, "roll", weight)
            bad = 0
        elif end - first > 1:
            bad += 1
        start = end + 1
        if bad > 2 or start >= len(text):
            return


_CREDIT = re.compile(
    r"(?:patch\w*|fix\w*|report\w*|suggest\w*|contribut\w*|written|wrote|thank\w*|credits?|"
    r"author\w*|idea|"
    r"found|"
    r"spotted|submitted|provided|based on|code|port\w*|translat\w*|update\w*|adapt\w*|"
    r"develop\w*|implement\w*|"
    r"created|made|maintained|review\w*|sign\w*|ack\w*|test\w*|bug\w*|from|discovered|noticed|"
    r"requested|work|"
    r"changes?|improve\w*|modif\w*|hack\w*|help\w*|script|supplied|donated|courtesy|due|added|"
    r"done|support)[^.\n]{0,60}\Z",
    re.IGNORECASE,
)


def _by(text: str, place: int) -> Iterator[Span]:
    """``… by Name``, ``Signed-off-by: Name``, ``patch from Name``, ``to Name``."""
    start = place + 4
    colon = text[place + 2 : place + 4]
    if text[place : place + 1].lower() == "b":
        start = place + 3
    elif text[place : place + 5].lower() == " from":
        start = place + 6
    while start < len(text) and text[start] in " \t*`\"'[:":
        start += 1
    first = text[start : start + 1]
    if not first or first.islower() or not first.isalpha():
        return
    low, end = _line(text, start)
    head = text[low:place]
    if colon.startswith(":") and text[place - 1 : place] == "-":
        weight = 0.9
    elif text[place : place + 3].lower() == " by":
        weight = 0.75 if _CREDIT.search(head[-80:]) or not head.strip(" *#/-") else 0.55
    else:
        weight = 0.7 if _CREDIT.search(head[-60:]) else 0.4
    yield from _listed(text, start, min(end, start + 120), "by", weight)


def _bracketed(text: str, place: int) -> Iterator[Span]:
    """``  [ Name ]`` on a line of a changelog."""
    _, end = _line(text, place + 2)
    run = next(runs(text, place + 4, min(end, place + 64)), None)
    if run and run.start == text.find("[", place) + 2 and text[run.end : run.end + 2] == " ]":
        yield from _span(run, "changelog", 0.9)


def _issue(text: str, place: int) -> Iterator[Span]:
    """``(Name, #123)`` and ``(#123, Name)``."""
    digit = place + 3 if text[place] == "," else place + 2
    if not text[digit : digit + 1].isdigit():
        return
    if text[place] == ",":
        run = _before(text, place)
        if run and text[run.start - 1 : run.start] in ("(", "["):
            yield from _span(run, "issue", 0.8)
        return
    match = _NUMBERS.match(text, place)
    if match:
        yield from _listed(text, match.end(), _line(text, match.end())[1], "issue", 0.7)


_NUMBERS = re.compile(r"\(#\d{1,6}(?:, #\d{1,6}){0,5}(?:,| by|:|;) ?@?")
_FIELD = re.compile(
    r"[\"']?(?:full_?|display_?|real_?)?name[\"']?[ \t]{0,3}(?:[:=]|=>)[ \t]{0,3}u?[\"']",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"[\"']?(?:e-?mail|login|username|avatar\w*|orcid|affiliation)[\"']?\s?[:=]", re.IGNORECASE
)


def _field(text: str, place: int) -> Iterator[Span]:
    """``"name": "Name"`` beside an address or a login."""
    match = _FIELD.match(text, place)
    if not match or text[match.end() : match.end() + 1].islower():
        return
    run = next(runs(text, match.end(), min(len(text), match.end() + 60)), None)
    if run and run.start == match.end() and text[run.end : run.end + 1] in ('"', "'"):
        near = _BESIDE.search(text, run.end, min(len(text), run.end + 160)) or _BESIDE.search(
            text, max(0, place - 160), place
        )
        yield from _span(run, "field", 0.85 if near else 0.45)


def _entry(text: str, place: int) -> Iterator[Span]:
    """``N: Name`` of a CREDITS file."""
    _, end = _line(text, place + 4)
    run = next(runs(text, place + 4, end), None)
    if run and run.start == place + 4:
        yield from _span(run, "credits", 0.85)


_TABLE: dict[Rule, tuple[str, ...]] = {
    _mail: ("@",),
    _spelt: (" at ", "(at)"),
    _linked: ("<http", "](http", "(github.com/", "(http"),
    _notice: ("copyright", "(c)", "&copy;"),
    _reserved: ("rights reserved",),
    _role: (
        *("author", "maintain", "translat", "contribut", "creator", "created by", "credit"),
        *("developer", "owner", "committer", "editor", "written", "contact", "packager"),
        *("uploader", "thanks", "programmer", "reviewer", "acknowledg"),
    ),
    _by: (" by ", " by:", "by: ", " from "),
    _bracketed: ("\n  [ ",),
    _issue: (", #", "(#"),
    _field: ('name"', "name'", "name=", "name:"),
    _entry: ("\nn: ",),
}
ANCHORS = tuple(sorted({anchor for anchors in _TABLE.values() for anchor in anchors}))
_RULES: dict[str, list[tuple[str, Rule]]] = {}
for _rule, _anchors in _TABLE.items():
    for _anchor in _anchors:
        _RULES.setdefault(_anchor[:2], []).append((_anchor, _rule))
_AT = _RULES.pop("@")
