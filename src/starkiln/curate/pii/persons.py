"""Runs of words that are shaped like a person's name, and how far the words alone are believed."""

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

TABLE = tomllib.loads(files("starkiln.curate.pii").joinpath("names.toml").read_text("utf-8"))
OTHERS, STOPS, NOBODY, PARTICLES, SURNAMES, GIVEN, COMMON = (
    frozenset(TABLE[key].split())
    for key in ("others", "stops", "nobody", "particles", "surnames", "given", "common")
)

_MARKS = (  # above and below letters, of scripts without upper and lower case
    "\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0981-\u0983\u09bc-\u09cd\u0a01-\u0a4d\u0a70\u0a71"
    "\u0a81-\u0acd\u0b01-\u0b57\u0b82-\u0bcd\u0c00-\u0c56\u0c81-\u0cd6\u0d00-\u0d57\u0dca-\u0ddf\u0e31"
    "\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u200c\u200d"
)
_LETTER = (
    rf"(?:[^\W\d_]|[\u0300-\u036f{_MARKS}]|\\u[0-9a-fA-F]{{4}}|\\x[89a-fA-F][0-9a-fA-F]|"
    r"&(?:[A-Za-z]{1,2}(?:uml|acute|grave|circ|tilde|cedil|ring|caron|slash|lig)|"
    r"#x?[0-9a-fA-F]{2,5});|\\['\"`^~=.]\{?[A-Za-z]\}?)"
)
_WORD = re.compile(  # E<lt> and C<< are signs of POD
    rf"(?![A-Z]<)(?:(?:[^\W\d_]\.-?){{1,4}}(?![^\W\d_])|{_LETTER}(?:{_LETTER}|['’`-](?={_LETTER})){{0,30}}\.?)"
)
_GAP = re.compile(  # between two words of a name; a nickname may stand there
    r"[ \t\xa0]{1,3}(?:(?:\"[^\W\d][\w .-]{0,20}\"|'[^\W\d][\w .-]{0,20}'|“[^\W\d][\w .-]{0,20}”|"
    r"‘[^\W\d][\w .-]{0,20}’)[ \t]{1,2}(?=[^\W\d_a-z]))?"
)
_BRACKETED = re.compile(r"[ \t]\([^\W\d][\w-]{0,20}\)[ \t](?=[^\W\d_a-z])")
_MARGIN = r"[ \t]*(?:[*#;%|>]{1,3}|//+!?|--+|dnl|rem)?[ \t]*"
_WRAP = re.compile(
    rf"[ \t]?\r?\n({_MARGIN})(?=(?:(?:{'|'.join(sorted(PARTICLES))}) ){{0,2}}"
    r"[^\W\d_a-z][^\W\d_]+[.,;:]?(?:\s|\Z)(?![ \t]*[:=(]))"
)
_LINE = re.compile(_MARGIN)
_LEAST = 24  # characters of a line that is wrapped
_GOES_ON = re.compile(r"[ \t]{1,2}[^\W\d_a-z]")
_CAMEL = re.compile(r"(?:Mc|Mac|De|Del|Di|Du|La|Le|Van|Von|Fitz|O|D|St|Ter|Ten)[A-Z][^\W\d_A-Z]+\Z")
_OWNS = re.compile(r"['’]s\Z")
_MOST = 6  # words of a name
_REACH = 200


class Run(NamedTuple):
    """``text[start:end]`` is shaped like a name; ``trust`` (0 to 1) is what its words are worth."""

    start: int
    end: int
    trust: float


def run_at(text: str, start: int, end: int) -> Run | None:
    """The name-shaped run of words that begins at ``start``; a line of prose may wrap it."""
    words = _parted(_words(text, start, end, []))
    run = _closed(words)
    return _wrapped(text, words, run) if run and _unfinished(words) else run


def _words(text: str, start: int, end: int, before: list[re.Match[str]]) -> list[re.Match[str]]:
    """The words of a name from ``start`` on, which may be no more than one too many."""
    words: list[re.Match[str]] = []
    while word := _WORD.match(text, start, end):
        if not _belongs(text, word, before or words):
            break
        words.append(word)
        gap = _GAP.match(text, word.end(), end) if len(words) <= _MOST else None
        if gap is None or _OWNS.search(word[0]):
            break
        nick = _BRACKETED.match(text, word.end(), end) if len(words) == 1 else None
        start = (nick or gap).end()
    return words


def _parted(words: list[re.Match[str]]) -> list[re.Match[str]]:
    """The first of several names that only blanks part: up to the next given one."""
    if len(words) <= _MOST:
        return words
    for n in range(2, len(words)):
        last = words[n - 1][0]
        if words[n][0].lower() in GIVEN and last[-1] != "." and not last.islower():
            return words[:n]
    return words


def runs(text: str, start: int, end: int) -> Iterator[Run]:
    """The name-shaped runs of words of ``text[start:end]``, those worth nothing as well."""
    while first := _FIRST.search(text, start, end):
        run = run_at(text, first.start(), end)
        if run:
            yield run
        word = _WORD.match(text, first.start(), end)
        start = max(run.end if run else 0, word.end() if word else 0, first.end())


_FIRST = re.compile(
    r"(?:(?<![^\W_])|(?<=\\f[BIRP]))(?:[^\W\d_a-z]|\\[ux'\"`^~=.]|&[A-Za-z#]|"
    rf"(?:{'|'.join(sorted(PARTICLES))}) )"
)


def _belongs(text: str, word: re.Match[str], run: list[re.Match[str]]) -> bool:
    if is_low(word[0][0]):
        return word[0] in PARTICLES
    lower = word[0].lower()
    if lower.rstrip(".") not in STOPS or (len(lower) == 2 and lower[1] == "."):
        return True
    if run:
        return lower in SURNAMES and run[0][0].lower() in GIVEN
    return lower in GIVEN and bool(_GOES_ON.match(text, word.end()))


def _closed(run: list[re.Match[str]]) -> Run | None:
    """The run without particles at its ends that lead nowhere."""
    while run and is_low(run[-1][0][0]):
        run = run[:-1]
    while run and is_low(run[0][0][0]) and len(run) < 3:
        run = run[1:]
    if not run:
        return None
    words, end = [word[0] for word in run], run[-1].end()
    if owns := _OWNS.search(words[-1]):
        words[-1], end = words[-1][: owns.start()], end - 2
    if words[-1][-1:] == "." and len(words[-1].rstrip(".")) > 1 and words[-1] not in ("Jr.", "Sr."):
        end -= 1
    return Run(run[0].start(), end, trust(words))


def _unfinished(words: list[re.Match[str]]) -> bool:
    """Whether a name that goes no further on its line lacks its last word."""
    last = words[-1][0]
    if last[-1] == "." or (len(last) > 1 and last.isupper()):
        return len(last) == 2 and last[-1] == "."
    return len(words) == 1 or last.islower()


def _wrapped(text: str, words: list[re.Match[str]], run: Run) -> Run:
    """``run``, with the words of it on the next line of a comment, where they make it a name."""
    wrap = _WRAP.match(text, words[-1].end())
    if not wrap:
        return run
    low = text.rfind("\n", max(0, run.start - _REACH), run.start) + 1
    margin = _LINE.match(text, low)
    if not margin or wrap.start() - low < _LEAST:
        return run
    hung = margin[0].strip() == "*" and wrap[1].isspace()  # the rest of an item
    hung = hung and len(wrap[1].expandtabs()) >= len(margin[0].expandtabs())
    if not hung and margin[0].strip(" \t/") != wrap[1].strip(" \t/"):
        return run
    rest = _words(text, wrap.end(), min(len(text), wrap.end() + 60), words)
    rest = rest[:1] if rest and len(rest[0][0].rstrip(".")) > 1 and rest[0][0][-1] == "." else rest
    whole = _closed([*words, *rest])
    return whole if rest and whole and whole.trust >= _WHOLE else run


_WHOLE = 0.65  # what a name over two lines must be worth
_LOW = re.compile(r"[^\W\d_A-Z](?:[^\W\d_A-Z]|['’-](?=[^\W\d_])){1,20}")
_LOW_ENDS = re.compile(
    r"[ \t]*(?:\r?\n|\Z|[<(\[;,&/\"'`|*]|\.(?:\s|\Z)|-->|https?:|and\b|on \d|\S{1,40}@)"
)


def low_at(text: str, start: int, end: int) -> Run | None:
    """The name of two to four words in lower case that begins at ``start`` and stands alone."""
    words = [match := _LOW.match(text, start, end)]
    while match and len(words) < 5 and text[match.end() : match.end() + 1] == " ":
        if _LOW_ENDS.match(text, match.end()):
            break
        words.append(match := _LOW.match(text, match.end() + 1, end))
    if match is None or not 1 < len(words) < 5 or not _LOW_ENDS.match(text, match.end()):
        return None
    first, *inner, last = [word[0] for word in words if word]
    if first in PARTICLES or last in _LOW_NOT or any(word not in PARTICLES for word in inner[1:]):
        return None
    known = first in GIVEN
    if (first in _LOW_NOT and not known) or _LOW_NOT.difference(PARTICLES).intersection(inner):
        return None
    return Run(start, match.end(), 0.85 if known else 0.65)


_LOW_NOT = COMMON.union(STOPS, OTHERS, NOBODY, PARTICLES)
_INVERTED = re.compile(
    rf"((?:(?:{'|'.join(sorted(PARTICLES))}) ){{0,2}}[^\W\d_a-z]{_LETTER}"
    rf"(?:{_LETTER}|['’-](?={_LETTER})){{1,30}}), "
    rf"((?:[^\W\d_]\.[ -]?){{1,3}}(?![^\W\d_])|[^\W\d_a-z]{_LETTER}{{1,20}}"
    r"(?: [^\W\d_]\.?(?!\w)){0,2})"
)


def inverted_at(text: str, start: int, end: int) -> Run | None:
    """``Surname, Given`` and ``Surname, G.`` at ``start``; two unknown words are worth 0.6."""
    match = _INVERTED.match(text, start, end)
    if match is None:
        return None
    surname, given = match[1].lower(), match[2].lower().split()[0]
    if OTHERS.intersection((surname, given)) or surname in STOPS or surname in GIVEN:
        return None
    if _odd(match[1].rpartition(" ")[2]) or _odd(match[2].split()[0]):
        return None
    initials = "." in given
    known = given in GIVEN
    if not known and not initials and (given in _LOW_NOT or match[1].isupper()):
        return None
    stop = match.end(2) - len(match[2]) + len(match[2].rstrip(" -"))
    sure = 0.95 if known else 0.85 if initials else 0.6
    return Run(start, stop, sure if surname not in COMMON else sure - 0.25)


_CAPITALS = 0.35  # worth of unknown words in capitals, which titles are more often
_CASELESS = re.compile("[\u0590-\u109f\u10d0-\u10ff\u1200-\u137f\u1780-\u17ff]")


def is_low(character: str) -> bool:
    """Whether a letter is one of lower case; those of Georgian are, but names begin with them."""
    return character.islower() and not "\u10d0" <= character <= "\u10ff"


def told(run: Run) -> Run:
    """``run`` where its place leaves no doubt of a person: names in capitals are believed too."""
    return run._replace(trust=0.6) if run.trust == _CAPITALS else run


def trust(words: list[str]) -> float:
    """How far these words may be the full name of a person: 0 to 1."""
    plain = [word.rstrip(".") for word in words]
    names = [word for word in plain if len(word) > 1 and word[0].isupper() and "." not in word]
    low = [word.lower() for word in plain]
    if OTHERS.intersection(low) or NOBODY.intersection(low) or len(words) > _MOST:
        return 0.0
    if not all(map(str.isascii, plain)):
        if any(_is_asian(word) for word in plain):
            letters = sum(map(len, plain))
            return 0.75 if 2 <= letters <= 5 else 0.0
        if all(_CASELESS.match(word) for word in plain):
            return 0.75 if 2 <= len(plain) <= 4 else 0.0
    if not names and not any("." not in w and not w[0].isascii() for w in plain):
        return 0.0
    if len(words) < 2 or any(_odd(word) for word in names):
        return 0.0
    known = low[0] in GIVEN or low[0].partition("-")[0] in GIVEN
    usual = sum(word.lower() in COMMON and word.lower() not in GIVEN for word in names)
    caps = all(word.isupper() for word in names)
    if caps and not known:
        return 0.0 if usual or STOPS.intersection(low) else _CAPITALS
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
