"""Runs of words that are shaped like a person's name, and how far the words alone are believed."""

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

_TABLE = tomllib.loads(files("starkiln.curate.pii").joinpath("names.toml").read_text("utf-8"))
OTHERS, STOPS, NOBODY, PARTICLES, SURNAMES, GIVEN, COMMON = (
    frozenset(_TABLE[key].split())
    for key in ("others", "stops", "nobody", "particles", "surnames", "given", "common")
)

_LETTER = (
    r"(?:[^\W\d_]|[\u0300-\u036f]|\\u[0-9a-fA-F]{4}|\\x[89a-fA-F][0-9a-fA-F]|"
    r"&(?:[A-Za-z]{1,2}(?:uml|acute|grave|circ|tilde|cedil|ring|caron|slash|lig)|"
    r"#x?[0-9a-fA-F]{2,5});|"
    r"\\['\"`^~=.]\{?[A-Za-z]\}?)"
)
_WORD = re.compile(
    rf"(?:[^\W\d_]\.-?){{1,4}}(?![^\W\d_])|{_LETTER}(?:{_LETTER}|['’`-](?={_LETTER})){{0,30}}\.?"
)
_GAP = re.compile(r"[ \t\xa0]{1,3}\Z")
_NICK_OPENS = re.compile(r"[ \t]{1,2}[\"'(“‘]\Z")
_NICK_ENDS = re.compile(r"[\"')”’][ \t]{1,2}\Z")
_NICK_SHUT = re.compile(r"[\"')”’][ \t]{1,2}[^\W\d_]")
_GOES_ON = re.compile(r"[ \t]{1,2}[^\W\d_a-z]")
_CAMEL = re.compile(r"(?:Mc|Mac|De|Del|Di|Du|La|Le|Van|Von|Fitz|O|D|St|Ter|Ten)[A-Z][^\W\d_A-Z]+\Z")
_MOST = 6  # words of a name


class Run(NamedTuple):
    """``text[start:end]`` is shaped like a name; ``trust`` (0 to 1) is what its words are worth."""

    start: int
    end: int
    trust: float


def runs(text: str, start: int, end: int) -> Iterator[Run]:
    """The name-shaped runs of words of ``text[start:end]``, those worth nothing as well."""
    run: list[re.Match[str]] = []
    for word in _WORD.finditer(text, start, end):
        gap = text[run[-1].end() : word.start()] if run else ""
        if run and not (_GAP.match(gap) or _NICK_ENDS.match(gap) or _nicks(text, gap, word)):
            yield from _closed(text, run)
            run = []
        if _belongs(text, word, run):
            run.append(word)
        elif run:
            yield from _closed(text, run)
            run = []
    yield from _closed(text, run)


def _nicks(text: str, gap: str, word: re.Match[str]) -> bool:
    """Whether the word is a nickname in quotes or brackets with more of the name behind it."""
    return bool(_NICK_OPENS.match(gap) and _NICK_SHUT.match(text, word.end()))


def _belongs(text: str, word: re.Match[str], run: list[re.Match[str]]) -> bool:
    if word[0][0].islower():
        return word[0] in PARTICLES
    lower = word[0].lower()
    if lower.rstrip(".") not in STOPS or (len(lower) == 2 and lower[1] == "."):
        return True
    if run:
        return lower in SURNAMES and run[0][0].lower() in GIVEN
    return lower in GIVEN and bool(_GOES_ON.match(text, word.end()))


def _closed(text: str, run: list[re.Match[str]]) -> Iterator[Run]:
    """The run without particles at its ends that lead nowhere."""
    while run and run[-1][0].islower():
        run = run[:-1]
    while run and run[0][0][0].islower() and len(run) < 3:
        run = run[1:]
    if not run:
        return
    words = [word[0] for word in run]
    end = run[-1].end()
    if text[end - 1] == "." and len(words[-1].rstrip(".")) > 1 and words[-1] not in ("Jr.", "Sr."):
        end -= 1
    yield Run(run[0].start(), end, trust(words))


def trust(words: list[str]) -> float:
    """How far these words may be the full name of a person: 0 to 1."""
    plain = [word.rstrip(".") for word in words]
    names = [word for word in plain if len(word) > 1 and word[0].isupper() and "." not in word]
    low = [word.lower() for word in plain]
    if OTHERS.intersection(low) or NOBODY.intersection(low) or len(words) > _MOST:
        return 0.0
    if any(_is_asian(word) for word in plain):
        letters = sum(map(len, plain))
        return 0.75 if 2 <= letters <= 5 else 0.0
    if not names and not any("." not in w and not w[0].isascii() for w in plain):
        return 0.0
    if len(words) < 2 or any(_odd(word) for word in names):
        return 0.0
    known = low[0] in GIVEN or low[0].partition("-")[0] in GIVEN
    usual = sum(word.lower() in COMMON and word.lower() not in GIVEN for word in names)
    caps = all(word.isupper() for word in names)
    if caps and not known:
        return 0.0 if usual or STOPS.intersection(low) else 0.35
    if known:
        return 1.0 if not usual else 0.9
    return (0.9, 0.65, 0.3)[min(usual, 2)] if len(names) > usual or usual == 0 else 0.25


def _odd(word: str) -> bool:
    """Whether the word mixes cases as the names of programs do."""
    inner = word[1:]
    if word.isupper() or inner.islower() or "\\" in word or "&" in word:
        return False
    parts = re.split(r"['’`-]", word)
    return not all(p.isupper() or p[1:].islower() or len(p) < 2 or _CAMEL.match(p) for p in parts)


def _is_asian(word: str) -> bool:
    return (
        "\u3040" <= word[0] <= "\u30ff"
        or "\u4e00" <= word[0] <= "\u9fff"
        or "\uac00" <= word[0] <= "\ud7af"
    )
