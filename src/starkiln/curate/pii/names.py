"""Names of persons: in credits, notices, trailers, lists of authors and beside addresses.

A name has two words or more (or two to five characters of a script without spaces); companies,
projects and licences have none (rules §9). Below ``SURE`` stand name-shaped words in weak places.
"""

import re
from collections.abc import Iterator

from starkiln.code.spans import Span
from starkiln.curate.pii import credits
from starkiln.curate.pii.anchors import GAP, LOWER, UPPER
from starkiln.curate.pii.credits import line, listed, span
from starkiln.curate.pii.persons import (
    COMMON,
    GIVEN,
    Run,
    inverted_at,
    is_low,
    low_at,
    run_at,
    runs,
    told,
)
from starkiln.curate.pii.values import FONT, Rule

_RESERVED = re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,40}\.){0,3}(?:example|test|invalid|localhost)\b")


def _before(text: str, opening: int) -> Run | None:
    """The name that ends where ``<`` opens."""
    end = opening
    while end and opening - end < 9 and text[end - 1] in _BETWEEN:
        end -= 1
    end -= 3 if FONT.match(text, max(0, end - 3), end) else 0
    low = max(0, end - 40)
    last = max(low, text.rfind(" ", low, end) + 1, text.rfind("\t", low, end) + 1)
    if opening - end > 8 or not text[last:end].strip("\"'(").lstrip("\\&")[:1].isalpha():
        return None
    start, _ = line(text, opening)
    *_, found = (None, *runs(text, max(start, opening - 80), opening))
    return found if found and found.end >= end - (text[end - 1] == ".") else None


_BETWEEN = frozenset(" \t\"'`*_,:\\")


def _mail(text: str, place: int) -> Iterator[Span]:
    """``Name <name@host>``, ``Name (name@host)`` and ``"Name", "name@host"``."""
    if not (text[place - 1 : place].isalnum() and place):
        return
    local = _LOCAL.match(text[max(0, place - 64) : place][::-1])
    start = first = place - (local.end() if local else 0)
    if start and (font := FONT.match(text, start - 1)):
        start, first = start - 1, font.end()
    opening = text[max(0, start - 9) : start].removesuffix("mailto:")[-1:]
    if opening not in _BEFORE_MAIL:
        return
    yield from _turned(text, place)
    if not start:
        return
    before = start - (8 if text[start - 1] == ":" else 1)
    run = _before(text, before) or (_low(text, start, place) if opening == "<" else None)
    if run:
        weight = 0.95 if opening in "<([" else 0.8
        if _RESERVED.match(text, first):
            weight = 0.4
        yield from span(text, told(run) if opening == "<" else run, "mail", weight)


def _low(text: str, start: int, place: int) -> Run | None:
    """``name name <name@host>``: in lower case, with a word of it in the mailbox."""
    match = _LOW.search(text, max(0, start - 40), start - 1)
    run = low_at(text, match.start(1), start) if match else None
    box = text[start:place].lower()
    named = match and any(len(word) > 2 and word in box for word in match[1].split())
    return run if named else None


_LOW = re.compile(r"(?<![\w.'-])([^\W\d_A-Z]{2,20}(?: [^\W\d_A-Z]{1,20}){1,2})[ \"]{1,2}\Z")
_LOCAL = re.compile(r"[\w.+=%-]+")
_BEFORE_MAIL = ("<", "(", "[", " ", "\t", '"', "'", ",", "")
_HOST = re.compile(r"@[\w.-]{1,80}[>\"']? ?[(\"]")


def _turned(text: str, place: int) -> Iterator[Span]:
    """``name@host (Name)``."""
    match = _HOST.match(text, place)
    if match:
        run = run_at(text, match.end(), min(len(text), match.end() + 60))
        if run and text[run.end : run.end + 1] in (")", '"'):
            yield from span(text, run, "mail", 0.9)


def _spelt(text: str, place: int) -> Iterator[Span]:
    """``Name <name at host>``."""
    opening = max(
        text.rfind("<", max(0, place - 40), place), text.rfind("(", max(0, place - 40), place)
    )
    if opening > 0 and text[opening + 1 : place].replace(".", "").replace(" dot ", "").isalnum():
        run = _before(text, opening)
        if run:
            yield from span(text, run, "mail", 0.9)


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
        yield from span(text, run, "link", 0.85 if profile else 0.5 if text[place] == "<" else 0.3)


def _bracketed(text: str, place: int) -> Iterator[Span]:
    """``  [ Name ]`` on a line of a changelog."""
    _, end = line(text, place + 2)
    run = run_at(text, place + 5, min(end, place + 64))
    if run and text[run.end : run.end + 2] == " ]":
        yield from span(text, run, "changelog", 0.9)


def _issue(text: str, place: int) -> Iterator[Span]:
    """``(Name, #123)`` and ``(#123, Name)``."""
    digit = place + 3 if text[place] == "," else place + 2
    if not text[digit : digit + 1].isdigit():
        return
    if text[place] == ",":
        run = _before(text, place)
        if run and text[run.start - 1 : run.start] in ("(", "["):
            yield from span(text, run, "issue", 0.8)
        return
    match = _NUMBERS.match(text, place)
    if match:
        yield from listed(text, match.end(), line(text, match.end())[1], "issue", 0.7)


_NUMBERS = re.compile(r"\(#\d{1,6}(?:, #\d{1,6}){0,5}(?:,| by|:|;) ?@?")
_FIELD = re.compile(
    r"(?:[{,] ?)?[\"']?(?:full_?|display_?|real_?)?name[\"']?[ \t]{0,3}(?:=>|[:=])[ \t]{0,3}"
    r"u?[\"']",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"[\"']?(?:e-?mail|login|username|avatar\w*|orcid|affiliation)[\"']?\s?[:=]", re.IGNORECASE
)


def _field(text: str, place: int) -> Iterator[Span]:
    """``"name": "Name"`` beside an address or a login."""
    match = _FIELD.match(text, place)
    if not match or is_low(text[match.end() : match.end() + 1]):
        yield from () if match else _scalar(text, place)
        return
    run = run_at(text, match.end(), min(len(text), match.end() + 60))
    if run and text[run.end : run.end + 1] in ('"', "'"):
        inline = text[place] in "{,"  # of TOML; an argument of a call, where no address is near
        near = _BESIDE.search(text, run.end, min(len(text), run.end + 160)) or _BESIDE.search(
            text, max(0, place - 160), place
        )
        if near or not inline:
            yield from span(text, told(run) if near else run, "field", 0.85 if near else 0.45)


_SCALAR = re.compile(r"(?i:name):[ \t]{1,4}(?=[^\W\d_a-z])(?=[^\n]{2,60}\n)")
_MAIL_KEY = re.compile(r"[ \t]*\r?\n[ \t]{1,20}[\"']?e?-?mail[\"']?:[ \t]", re.IGNORECASE)
_MAIL_LINE = re.compile(
    r"(?:\A|\n)[ \t-]{0,20}[\"']?e?-?mail[\"']?:[^\n]{3,60}\n[ \t]{1,20}\Z", re.IGNORECASE
)


def _scalar(text: str, place: int) -> Iterator[Span]:
    """``name: Name`` of YAML, with ``email:`` on the line above or below."""
    match = _SCALAR.match(text, place)
    if not match or not (text[place - 1 : place].isspace() or not place):
        return
    end = text.find("\n", match.end())
    run = run_at(text, match.end(), end)
    if run and not text[run.end : end].strip():
        near = _MAIL_KEY.match(text, run.end)
        if near or _MAIL_LINE.search(text, max(0, place - 90), place):
            yield from span(text, told(run), "field", 0.85)


def _entry(text: str, place: int) -> Iterator[Span]:
    """``N: Name`` of a CREDITS file."""
    _, end = line(text, place + 4)
    run = run_at(text, place + 4, end)
    if run:
        yield from span(text, run, "credits", 0.85)


_PERSON = re.compile(
    r"<(?:developer|author|contributor|maintainer|person|owner|creator|lead|credit)s?\b",
    re.IGNORECASE,
)


def _element(text: str, place: int) -> Iterator[Span]:
    """``<name>Name</name>`` in the element of a person."""
    start = place + 6
    if _PERSON.search(text, max(0, place - 160), place):
        run = run_at(text, start, min(len(text), start + 60))
        if run and text[run.end : run.end + 2] == "</":
            yield from span(text, run, "field", 0.85)


_HEAD = re.compile(
    r"(?:(?<![\w.$])|(?<=(?<!\\)\\[nrt])|(?<=\\f[BIRP]))(?:[A-Z][a-z'-]*|(?:[A-Z]\.[ -]?){1,3})\Z"
)
_SPEAKS = re.compile(
    r"(?:\b(?:by|from|to|with|of|and|see|per|via|for|thanks?|asks?|asked|cc|e\.g\.|when|if|as|since|"
    r"that|after|dear|hi|author|prof\.?|dr\.?|mr\.?|mrs\.?|ms\.?)|[,;(\[&\"])[ \t]\Z",
    re.IGNORECASE,
)
_SPOKEN = re.compile(
    r"['’]s\b|,? (?:and|who|wrote|writes|said|says|suggest\w*|point\w*|note[sd]|report\w*|asked|"
    r"has|had|is|was|told|found|contribut\w*|did|made|at|for|in|on|et al)\b|,? ?\(?(?:19|20)\d\d|"
    r"[,;] [A-Z]| ?[<(\[@]"
)


def _prose(text: str, place: int) -> Iterator[Span]:
    """Capitalised words, one after the other, anywhere: a name if the first is a given one."""
    if text[text.rfind(" ", max(0, place - 14), place) + 1].islower():
        return  # most are
    head = _HEAD.search(text, max(0, place - 16), place + 1 + (text[place + 1] == "."))
    if not head:
        return
    start, stop = head.start(), min(len(text), place + 60)
    if head[0].lower() in COMMON and head[0].lower() not in GIVEN:
        start = place + 2  # "Ask Jane Roe"
    run = run_at(text, start, stop)
    if not run or run.trust < 0.6 or run.end < place + 3:
        return
    words = text[run.start : run.end].split()
    if all(word.endswith(".") for word in words[1:]):  # "Roe, Jane B."
        before = _SURNAME.search(text, max(0, run.start - 30), run.start)
        run = run._replace(start=before.start(), trust=0.7) if before else run
    ended = text[run.end : run.end + 1] == ")" and _NOTED.match(text, run.end)
    if ended and run.trust >= _LINED and _SAID.search(text, max(0, run.start - 4), run.start):
        yield from span(text, run, "item", 0.6)
    spoken = _SPEAKS.search(text, max(0, run.start - 12), run.start)
    spoken = spoken or _SPOKEN.match(text, run.end)
    if words[0].lower() in GIVEN and run.trust == 1.0:
        yield from span(text, run, "prose", 0.6)
    else:
        lined = not spoken and _among(text, run)
        yield from span(text, run, "prose", 0.6 if lined else 0.38 if spoken else 0.25)


_SAID = re.compile(r"[\w\])>][.!)] \(\Z")  # "… is on. (Name)" ends an item of release notes
_NOTED = re.compile(r"\)[ \t]{0,40}(?:\r?\n|\Z|</(?:p|li|para|listitem)\b)", re.IGNORECASE)
_OWN = re.compile(r"\n[ \t]*(?:[*#+;%•|-]{1,2}[ \t]+|//[ \t]*)?\Z")
_REST = re.compile(r"[ \t]*(?:[,;.]?[ \t]*(?:\r?\n|\Z)|[ \t]*(?:[<(]|--? |https?:))")
_STARTS = re.compile(r"[ \t]*(?:[*#+;%•|-]{1,2}[ \t]+|//[ \t]*)?")
_SIDES = 2  # lines each way that are looked at
_LINED = 0.9  # worth of a name among names


def _neighbours(text: str, start: int, end: int) -> Iterator[Run]:
    """The names, in either order, that have the lines about ``text[start:end]`` to themselves."""
    low, high = start, end
    for _ in range(_SIDES):
        low = text.rfind("\n", max(0, low - 120), low)
        first = text.rfind("\n", max(0, low - 120), max(0, low)) if low > 0 else -1
        if low > 0:
            yield from _lined(text, first + 1)
        high = text.find("\n", high, high + 120)
        if high >= 0:
            yield from _lined(text, high := high + 1)


def _lined(text: str, start: int) -> Iterator[Run]:
    first = _STARTS.match(text, start)
    at = first.end() if first else start
    run = run_at(text, at, min(len(text), at + 60)) if text[at : at + 1].isalpha() else None
    if run and not run.trust and text[run.end : run.end + 1] == ",":
        run = inverted_at(text, at, min(len(text), at + 60))
    if run and run.trust >= 0.6 and _REST.match(text, run.end):
        yield run


def _among(text: str, run: Run) -> bool:
    """Whether a name stands alone on its line, among names on theirs, some of them well known."""
    if not _OWN.search(text, max(0, run.start - 40), run.start):
        return False
    if run.trust < _LINED or not _REST.match(text, run.end):
        return False
    others = list(_neighbours(text, run.start, run.end))
    known = sum(one.trust > _LINED for one in [*others, run])
    good = sum(one.trust >= _LINED for one in others)
    return (good > 1 and known > 1) or (good > 2 and known > 0)


def _inverted(text: str, place: int) -> Iterator[Span]:
    """``Surname, Given`` on a line or in an item of its own, beside another of that shape."""
    start = place + 1
    while start > max(0, place - 40) and (text[start - 1].isalpha() or text[start - 1] in "'’- "):
        start -= 1
    while text[start : start + 1] in {" ", "-", "'"}:
        start += 1
    run = inverted_at(text, start, min(len(text), start + 80))
    if not run or run.trust < 0.6:
        return
    items = [run, *_items(text, run.end)]
    own = _OWN.search(text, max(0, start - 40), start) and _REST.match(text, run.end)
    near = _neighbours(text, start, run.end) if own else ()
    lines = [one for one in near if "," in text[slice(*one[:2])]]
    if sum(one.trust > _LINED for one in items + lines) > 1 - (len(items) > 1):
        for item in items:
            yield from span(text, item._replace(trust=max(item.trust, 0.75)), "inverted", 0.8)


def _items(text: str, end: int) -> Iterator[Run]:
    """The further items of a list of ``Surname, Given``."""
    while joined := _ITEMS.match(text, end):
        item = inverted_at(text, joined.end(), min(len(text), joined.end() + 80))
        if not item or item.trust < 0.6:
            return
        yield item
        end = item.end


_ITEMS = re.compile(r"(?:;|,? (?:and|&))\s{1,12}")
_SURNAME = re.compile(r"(?<!\w)[A-Z][a-z][\w'-]{0,20}, \Z")


RULES: dict[Rule, tuple[str, ...]] = {
    _mail: ("@",),
    _spelt: (" at ", "(at)"),
    _linked: ("<http", "](http", "(github.com/", "(http"),
    credits.notice: ("copyright", "(c)", "&copy;", "©"),
    credits.role: (
        *("author", "maintain", "translat", "contribut", "creator", "created by", "credit"),
        *("developer", "owner", "committer", "editor", "written", "contact", "packager"),
        *("uploader", "thanks", "programmer", "reviewer", "acknowledg"),
    ),
    credits.by: (f"{GAP}by ", "by:", f"{GAP}from ", f"{GAP}cc: "),
    _bracketed: ("\n  [ ",),
    _issue: (", #", "(#"),
    _field: ('name"', "name'", "name=", "name:", "{name =", "{ name =", ", name ="),
    _element: ("<name>",),
    _entry: ("\nn: ",),
    _inverted: (f"{LOWER}, {UPPER}{LOWER}",),
    _prose: (f"{LOWER} {UPPER}{LOWER}", f"{LOWER} {UPPER}.", f"{UPPER}. {UPPER}{LOWER}"),
}
