"""Programming languages: names, extensions, syntax, filter limits, volumes, and detection.

Everything known lies in ``languages.toml`` beside this file (rules §2 and §3). Extensions are in
lower case and without the dot; "" is the extension of a file that is known by its name
(``Dockerfile.debian``, ``CMakeLists.txt``) or by its first line (a script without extension).
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

UNKNOWN = "unknown"
LOOK = 1 << 16  # code points that detection looks at


@dataclass(frozen=True)
class Limits:
    """What the row filters ask of a file; None or False switches a test off (rules §3)."""

    max_line: int | None = 1000
    mean_line: float | None = 100.0
    alphanumeric: float | None = 0.25
    alphabetic: float | None = None
    xml: bool = True  # an XML declaration in the first 100 characters drops the file
    visible_share: float | None = None  # of an HTML file, its visible text at least
    visible_characters: int | None = None
    min_characters: int | None = None
    max_characters: int | None = None
    ngram: int | None = None  # near-deduplication: another length of shingles than usual,
    similarity: float | None = None  # another threshold,
    near_dedup: bool = True  # or none of it


@dataclass(frozen=True)
class Language:
    """One language; ``limits`` holds an entry for "" (all extensions) and for special ones."""

    name: str
    paper: bool  # one of StarCoderData's 88
    extensions: frozenset[str]  # that we keep
    main: str
    names: frozenset[str]
    stems: frozenset[str]
    spoken: tuple[str, ...]  # names that others give it, enry's first
    line: tuple[str, ...]
    block: tuple[str, ...]
    limits: Mapping[str, Limits] = field(hash=False)


class Volume(NamedTuple):
    """What StarCoderData holds of one source (rules §2)."""

    documents: float  # millions
    characters: float  # thousand millions, which the paper calls GB


@dataclass(frozen=True)
class Rule:
    """Content that decides the language of an ambiguous extension."""

    language: str
    pattern: re.Pattern[str]


_LIMITS = {f.name for f in fields(Limits)} | {"long_line"}


def _limits(base: Limits, flags: Mapping[str, Any]) -> Limits:
    known = {k: v for k, v in flags.items() if k in _LIMITS}
    if known.pop("long_line", True) is False:  # the mean goes with the maximum
        known |= {"max_line": None, "mean_line": None}
    if known.get("alphanumeric") is False:
        known["alphanumeric"] = None
    return replace(base, **known)


def _language(name: str, row: dict[str, Any]) -> Language:
    whole = _limits(Limits(), row)
    special = {e: _limits(whole, flags) for e, flags in row.get("limits", {}).items()}
    return Language(
        name=name,
        paper="volume" in row,
        extensions=frozenset(row.get("extensions", []) + row.get("added", [])),
        main=row.get("main", ""),
        names=frozenset(row.get("names", ())),
        stems=frozenset(row.get("stems", ())),
        spoken=(*row["enry"], *row.get("aka", ())),
        line=tuple(row.get("line", ())),
        block=tuple(row.get("block", ())),
        limits={"": whole, **special},
    )


def _read() -> tuple[dict[str, Language], dict[str, list[Rule]], dict[str, Volume]]:
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    rules: dict[str, list[Rule]] = {}
    kinds = data.pop("kinds")
    for row in data.pop("rule"):
        rule = Rule(row["language"], re.compile(row.get("pattern", "")))
        for suffix in row["extension"].split():
            rules.setdefault(suffix, []).append(rule)
    volumes = {name: Volume(*row["volume"]) for name, row in data.items() if "volume" in row}
    volumes |= {kind: Volume(*pair) for kind, pair in kinds.items()}
    return {name: _language(name, row) for name, row in data.items()}, rules, volumes


LANGUAGES, RULES, VOLUMES = _read()  # VOLUMES: of the 88 languages and the four other kinds
PAPER: tuple[str, ...] = tuple(name for name, known in LANGUAGES.items() if known.paper)
_KNOWN = {
    one.lower().replace(" ", "-").replace("_", "-"): name
    for name, known in LANGUAGES.items()
    for one in (*known.spoken, name)
}
_ENRY = {spoken: name for name, known in LANGUAGES.items() for spoken in known.spoken}
_NAMES = {file: name for name, known in LANGUAGES.items() for file in known.names}
_STEMS = {stem: name for name, known in LANGUAGES.items() for stem in known.stems}
_OWNERS: dict[str, set[str]] = {}
for _name, _known in LANGUAGES.items():
    for _suffix in _known.extensions - {""}:
        _OWNERS.setdefault(_suffix, set()).add(_name)


def extension(path: str) -> str:
    """The extension of ``path`` as the tables spell it; "" where the file's name decides."""
    name = path.rpartition("/")[2].lower()
    stem, dot, suffix = name.rpartition(".")
    return "" if _by_name(name) or not stem or not dot else suffix


def _by_name(name: str) -> str | None:
    """The language that a whole file name (in lower case) gives."""
    if name in _NAMES:
        return _NAMES[name]
    stem, _, rest = name.partition(".")
    if stem in _STEMS and rest and rest.rpartition(".")[2] not in _OWNERS:
        return _STEMS[stem]
    return None


def detect(path: str, text: str) -> str:
    """The language of a file by its name and content: a name of ``LANGUAGES`` or "unknown".

    Text that holds NUL is binary and so unknown. Order: whole file names, the rules for
    ambiguous extensions, enry (name, first line, content), the one owner of the extension.
    """
    named = _by_name(path.rpartition("/")[2].lower())
    if named or "\0" in text[:LOOK]:
        return named or UNKNOWN
    suffix, head = extension(path), text[:LOOK]
    for rule in RULES.get(suffix, ()):
        if rule.pattern.search(head):
            return rule.language
    spoken = _enry()(path.rpartition("/")[2], head.encode("utf-8", "replace"))
    owners = _OWNERS.get(suffix, set())
    if not spoken and len(owners) == 1:
        return next(iter(owners))
    return _ENRY.get(spoken, UNKNOWN)


@lru_cache(maxsize=1)
def _enry() -> Any:
    import enry  # its shared library costs 25 ms, and limits() has no need of it

    return enry.get_language


def named(name: str) -> str | None:
    """Our name of the language that The Stack, Linguist or enry calls ``name``, in any case."""
    return _KNOWN.get(name.strip().lower().replace(" ", "-").replace("_", "-"))


def limits(language: str, extension: str) -> Limits:
    """The filter limits of files of ``language`` with ``extension`` (rules §3)."""
    known = LANGUAGES.get(language)
    if known is None:
        return Limits()
    return known.limits.get(extension, known.limits[""])


def kept(language: str, extension: str) -> bool:
    """Whether the paper, its list's defects mended, keeps this extension of ``language``."""
    known = LANGUAGES.get(language)
    return known is not None and extension in known.extensions
