"""Names of those who made something: behind notices, words for makers, "by", and in their lists."""

import re
from collections.abc import Iterator

from starkiln.code.spans import SURE, Span
from starkiln.curate.pii.persons import TABLE, Run, inverted_at, is_low, low_at, run_at, told

_REACH = 200  # characters each way
_LINES = 40  # of years below a notice
_BARREN = 20  # names that are no person's, one after the other, which end a list


def line(text: str, place: int) -> tuple[int, int]:
    """Where the line of ``place`` starts and ends, as far as it is looked at."""
    low, high = max(0, place - _REACH), min(len(text), place + _REACH)
    end = text.find("\n", place, high)
    return text.rfind("\n", low, place) + 1 or low, high if end < 0 else end


_FIRM = re.compile(  # what makes a company, a group or an identifier of the words before it
    r",?[ \t](?:Inc|INC|Ltd|LTD|LLC|L\.L\.C|LLP|[Gg]mb[Hh]|AG|S\.?A\.?S?|S\.?[Rr]\.?[Ll]|"
    r"Corp|CORP|Co|B\.?V|N\.?V|A/S|Oy|AB|KG|PLC|Pty|Limited|Corporation|Company)\b(?![-\w])|"
    r"[ \t](?i:contributors|authors|developers|maintainers|team|teams|project|community|group|"
    r"foundation|committee|consortium|organi[sz]ation)\b|_[^\W_]"
)


def span(text: str, run: Run, reason: str, weight: float) -> Iterator[Span]:
    """``run`` as a name, believed by ``weight``; none where a company goes by it."""
    sure = round(run.trust * weight, 2)
    if sure >= 0.1 and not _FIRM.match(text, run.end):
        yield Span(run.start, run.end, "NAME", reason, sure)


_KNOWN, _LOW, _ANY = 0.7, 0.65, 0.6  # worth of an odd name with a known part, in lower case, any
_JOIN = re.compile(
    r"(?:[\s,;&+/*#|:.!\"'`_]|\b(?:and|et|und|y|e|by|with|the|from|Dr|Prof|Mr|Ms)\b|"
    r"<[^<>\n]{0,80}>|\([^()\n]{0,80}\)|\\f[BIRP]|"
    r"\[[^\[\]\n]{0,60}\]|https?://\S{1,100}|\S{1,64}@\S{1,64}|(?:19|20)\d\d|\d\d?(?!\d)|[-–—]|"
    r"©|&copy;|\\n)*+"
)
_MORE = re.compile(r"(?:,|&|\band)[ \t]*\r?\n(?:[ \t]*(?:[*#;%|>]{1,3}|//+!?|--+)?[ \t]*)")


def listed(
    text: str,
    start: int,
    end: int,
    reason: str,
    weight: float,
    odd: float = _KNOWN,
    sure: bool = False,
) -> Iterator[Span]:
    """The names of a list that begins at ``start``, up to the first thing that is none.

    The list goes on below where a comma or "and" ends its line. Names in lower case, and with the
    surname first, must be worth ``odd``; ``sure``: those in capitals count as well.
    """
    idle, barren, first = 0, 0, True
    while barren < _BARREN:
        joined = _JOIN.match(text, start, end)
        at = joined.end() if joined else start
        run = _name_at(text, at, end, first, odd)
        if run is None or (idle := 0 if run.trust else idle + 1) > 3:
            return
        made = list(span(text, told(run) if sure else run, reason, weight))
        yield from made
        barren = 0 if made else barren + 1
        start, first = max(run.end, at + 1), False
        end = max(end, line(text, start)[1]) if made else end
        if more := _MORE.match(text, start):
            start = more.end()
            end = max(end, line(text, start)[1])


def _name_at(text: str, at: int, end: int, first: bool, odd: float) -> Run | None:
    """The name in any form at ``at``."""
    character = text[at : at + 1]
    if not character or not (character.isalpha() or character in "\\&"):
        return None
    run = run_at(text, at, end)
    other = None
    if first and is_low(character):
        other = low_at(text, at, end)
    elif run and not run.trust and text[run.end : run.end + 1] == ",":
        other = inverted_at(text, at, end)
    return other if other and other.trust >= odd else run


_NOTICE = re.compile(
    r"(?:copyright(?:ed|s)?(?:text|-holders?| holders?)?|\(c\)|&copy;|©)"
    r"(?:[\s:,;*/#|.=\"'>_-]|\bby\b|\(c\)|copyright|©|&copy;|[–—]|\\\(co|\\xa9|\\u00a9|"
    r"(?:19|20)\d\d|\d\d?\b|present\b|and\b|\$\w+:?|<year>|(?:19|20)\dx){0,40}+",
    re.IGNORECASE,
)
_DATED = re.compile(r"\d\d\d\d|©|.\(c\)|&copy;", re.IGNORECASE)
_AGAIN = re.compile(r"(?:copyright|\(c\)|©|&copy;)[ \t:,0-9–-]{0,12}\Z", re.IGNORECASE)


def notice(text: str, place: int) -> Iterator[Span]:
    """``Copyright (c) 2001, 2003-2007 by Name and Name``, and the lines of years below."""
    if _AGAIN.search(text, max(0, place - 21), place):
        return  # seen with the sign before it
    match = _NOTICE.match(text, place, min(len(text), place + _REACH))
    for _ in range(_LINES):
        if not match:
            return
        _, end = line(text, match.end())
        odd = _LOW if _DATED.search(match[0]) else _KNOWN
        made = list(listed(text, match.end(), end, "copyright", 0.9, odd))
        yield from made
        match = _YEARS.match(text, _past(text, end, made))


def _past(text: str, end: int, made: list[Span]) -> int:
    """Where the line ends that ends at ``end``, or that of the last name of a list that went on."""
    return max(end, line(text, made[-1].end)[1]) if made else end


_YEARS = re.compile(
    r"\r?\n[ \t*#/;|.-]{0,20}(?:\(c\)[ \t]*)?(?:19|20)\d\d[\d ,–-]{0,60}[ \t:,]{1,8}(?=[^\W\d])",
    re.I,
)
_ROLE = re.compile(
    rf"(?:{'|'.join(TABLE['roles'].split())})(?:\(s\))?"
    r"(?:[ _-]?(?:name|full_?name|by|to|for|of|go|team)|__)?"
    r"(?P<link>[ \t]{0,12}(?:[\"']?[ \t]{0,12}(?:=>|::?|[=,>–-]{1,3})|\]|\)|[\"'] "
    r"(?:content|value)=)?[ \t]{0,20}(?:(?:[\[{]\s{0,40}){0,2}(?:[\"']?name[\"']?\s?[:=]>?\s{0,2})?"
    r"(?:[\"'`(\[]{0,3}|u[\"']))?)[ \t*_]{0,20}",
    re.IGNORECASE,
)
_EMPTY = re.compile(r"[ \t:=*\"'\]>.-]{0,80}(?:\r?\n[ \t*#/;%|-]{0,8}[=~^*-]{0,80}){1,3}")


_HEADING = re.compile(  # of a list; a line of words about those who made something
    r"[ \t*/;|#=-]{0,12}[A-Z][^\n.;(){}=]{5,100}(?::[ \t]*\r?\n|\r?\n[ \t#*]{0,4}[-=~^]{3})|"
    r"#{1,6} [^\n]{5,80}\n"
)


def role(text: str, place: int) -> Iterator[Span]:
    """What follows a word for one who made something, on its line or on the lines below."""
    match = _ROLE.match(text, place, min(len(text), place + _REACH))
    if not match:
        return
    _, end = line(text, match.end())
    link = match["link"].strip()
    marked = bool(link) or text[place - 1 : place] in {"@", "\\"}
    odd = _KNOWN if link[:1] in {",", "("} or not marked else _ANY
    weight, sure = (0.9 if marked else 0.75), odd == _ANY
    spans = list(listed(text, match.end(), end, "role", weight, odd, sure))
    if spans and _NEARLY <= spans[0].confidence < SURE and _HEARTILY.match(text, place):
        spans[0] = spans[0]._replace(confidence=0.55)
    yield from spans
    if spans and not text[match.end() : end].rstrip().endswith((",", " and", "[", "{", "&")):
        return
    below = None
    if not spans:
        low, _ = line(text, place)
        below = _EMPTY.match(text, match.end())
        if not below and _HEADING.match(text[low : end + 8]):
            below = _EMPTY.match(text, end)
    yield from _roll(text, below.end() if below else end, 0.7) if below or spans else ()


_HEARTILY = re.compile(r"thanks to [^\W\d_]\S{1,20}(?: \S{2,20}){2,3}\s{1,12}for\b", re.IGNORECASE)
_NEARLY = 0.45  # worth of a name that is also a word, and of others that are none


_BULLET = re.compile(
    r"[ \t]{0,20}(?:[*#/;%|.\"'-]{1,3}[ \t]{0,20}){0,3}(?:@author\s|N:[ \t]|\d{1,3}[.)][ \t]|"
    r"[\[`(\"'])?"
)
_AFTER = re.compile(
    r"[ \t\"'`\]\\]{0,8}(?:[<(,;\[:.|#*{]|[-–—]{1,2}[ \t>]|\r?\n|\Z|https?:|and\b|for\b|\t|"
    r"\S{1,40}@|[ \t][A-Z]<)"
)


_TITLE = re.compile(r"\r?\n[ \t#*]{0,12}([-=~^])\1{3}")  # what underlines one


def _roll(text: str, start: int, weight: float) -> Iterator[Span]:
    """The names that stand first on the lines from ``start`` on."""
    bad = barren = 0
    while barren < _BARREN:
        bullet = _BULLET.match(text, start)
        first, made = bullet.end() if bullet else start, []
        _, end = line(text, first)
        run = _stood(text, first, min(end, first + 60))
        if run and run.trust and _AFTER.match(text, run.end) and not _TITLE.match(text, end):
            turned = "," in text[run.start : run.end]
            found = span(text, run, "roll", weight)
            made = list(found if turned else listed(text, first, end, "roll", weight))
            yield from made
            bad = 0
        elif end - first > 1:
            bad += 1
        barren = 0 if made else barren + 1
        start = _past(text, end, made) + 1
        if bad > 2 or start >= len(text):
            return


def _stood(text: str, first: int, end: int) -> Run | None:
    """The name that begins a line of a roll, in either order."""
    if not text[first : first + 1].isalpha():
        return None
    run = run_at(text, first, end)
    if run and not run.trust and text[run.end : run.end + 2] == ", ":
        other = inverted_at(text, first, end)
        sure = other and other.trust >= _ANY
        return other._replace(trust=max(other.trust, 0.75)) if other and sure else run
    return run


_CREDIT = re.compile(rf"(?:{'|'.join(TABLE['credited'].split())})[^.\n]{{0,60}}\Z", re.IGNORECASE)
_BY = re.compile(r"\W?(?<![^\W_])((?i:by|from|cc))(:)?[ \t*_`\"'\[:]{1,8}(?=[^\W\d_a-z]|[\\&])")


def by(text: str, place: int) -> Iterator[Span]:
    """``… by Name``, ``Signed-off-by: Name``, ``Cc: Name``, ``patch from Name``."""
    match = _BY.match(text, place)
    if not match or is_low(text[match.end()]):
        return
    low, end = line(text, match.end())
    head, word = text[low : match.start(1)], match[1].lower()
    weight = 0.0
    trailer = bool(match[2]) and head.endswith("-")
    stop = min(end, match.end() + 120)
    for one in listed(text, match.end(), stop, "by", 1.0, sure=trailer):
        weight = weight or _made(head, word, bool(match[2]))
        yield one._replace(confidence=round(one.confidence * weight, 2))


def _made(head: str, word: str, colon: bool) -> float:
    """How much ``head``, and "by", "from" or "cc" behind it, say of who made something."""
    if colon:
        return 0.9 if head.endswith("-") or word == "cc" else 0.7
    if word == "by":
        return 0.75 if _CREDIT.search(head[-80:]) or not head.strip(" *#/-(") else 0.55
    return 0.7 if _CREDIT.search(head[-60:]) else 0.4
