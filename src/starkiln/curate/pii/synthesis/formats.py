"""Values of every kind as patterns, in a small language that users can add to.

A pattern is literal text with elements in braces (``{{`` and ``}}`` are braces themselves)::

    acme_{live|test}_{base62:32}     one of some words; 32 characters of an alphabet
    {word}-{word}-{digit:2-4}        words of a list; 2 to 4 digits
    ghp_{base62:30}{crc32}           a maker: here the checksum of what stands before it

An element is an alphabet or a list of ``formats.toml`` (or of the user's file), a maker of
``makers.py``, or alternatives. A row's table says what the value is: ``[key]`` are keys,
``[none.key]`` stand where a key could and are none, ``[unsure.key]`` are neither (no loss).
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from starkiln.core.errors import UserError
from starkiln.curate.pii.synthesis.makers import MAKERS, Element, Scene

SLOTS = {  # what a template may ask for -> the label of its real values
    "key": "KEY", "pem": "KEY", "basic": "KEY", "hook": "KEY", "bytes": "KEY", "octets": "KEY",
    "password": "PASSWORD", "email": "EMAIL", "ip": "IP_ADDRESS", "long-ip": "IP_ADDRESS",
    "name": "NAME", "username": "USERNAME",
}  # fmt: skip
UNSURE = "unsure"
_KINDS = ("none", UNSURE)
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_ELEMENT = re.compile(r"([A-Za-z][\w-]*)(?::(.+))?")
_COUNT = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")

Place = tuple[str, ...]  # where in a file: its tables' names, and the row's


class Format(NamedTuple):
    """One row: how to draw a value of ``slot``, and what a field that holds it is called."""

    name: str
    slot: str
    label: str | None  # one of LABELS, "unsure", or None: no entity
    fields: tuple[str, ...]
    weight: float
    elements: tuple[Element, ...]

    def draw(self, scene: Scene) -> str:
        """A fresh value."""
        value = ""
        for element in self.elements:
            value += element(scene, value)
        return value


class Choice(NamedTuple):
    """Rows to choose from, with the running sums of their weights."""

    rows: tuple[Format, ...]
    ends: tuple[float, ...]

    def draw(self, scene: Scene) -> Format:
        """One row by weight."""
        return scene.draws.weighted(self.rows, self.ends)


@dataclass
class Words:
    """Alphabets and lists that elements name."""

    alphabets: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)


class Formats:
    """All rows by slot: those that are entities, and those that are not."""

    def __init__(self, rows: list[Format]) -> None:
        self.rows = tuple(rows)
        self.real = _choices(row for row in rows if row.label in SLOTS.values())
        self.other = _choices(row for row in rows if row.label not in SLOTS.values())
        self.anywhere = _choices(  # no entity even where no field's name says so
            row for row in rows if row.label not in SLOTS.values() and not row.fields
        )
        self.fields = {  # what fields of a slot are called, for rows that do not say it
            slot: [name for row in choice.rows for name in row.fields]
            for slot, choice in self.real.items()
        }


def _choices(rows: Iterable[Format]) -> dict[str, Choice]:
    slots: dict[str, list[Format]] = {}
    for row in rows:
        slots.setdefault(row.slot, []).append(row)
    return {
        slot: Choice(tuple(rows), tuple(accumulate(row.weight for row in rows)))
        for slot, rows in slots.items()
    }


def read(own: str | None = None) -> Formats:
    """The formats that come with us and, after them, the user's; UserError names file and line."""
    shipped, words = _shipped()
    if own is None:
        return shipped
    words = Words(dict(words.alphabets), dict(words.lists))
    return Formats([*shipped.rows, *_file(Path(own), words)])


@lru_cache(maxsize=1)
def _shipped() -> tuple[Formats, Words]:
    words = Words()
    return Formats(_file(Path(__file__).with_suffix(".toml"), words)), words


def _file(path: Path, words: Words) -> list[Format]:
    source = _text(path)
    try:
        data = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else path
        raise UserError(where, f"is not TOML ({error})", "mend its syntax") from error
    try:
        return _rows(data, words)
    except _Fault as fault:
        raise UserError(f"{path}:{_line(source, fault.place)}", fault.what, fault.mend) from None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(path, error.strerror or "unreadable", "name a file of formats") from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"not UTF-8: {error.reason}", "save it as UTF-8") from error


class _Fault(Exception):
    def __init__(self, place: Place, what: str, mend: str) -> None:
        super().__init__(what)
        self.place, self.what, self.mend = place, what, mend


def _line(source: str, place: Place) -> int:
    """The line where the table or row ``place`` begins."""
    lines, line = source.splitlines(), 1
    for depth, part in enumerate(place, 1):
        heading = rf"\s*\[{re.escape('.'.join(place[:depth]))}\]|\s*[\"']?{re.escape(part)}\b"
        found = (n for n, text in enumerate(lines[line - 1 :], line) if re.match(heading, text))
        line = next(found, line)
    return line


def _rows(data: Mapping[str, Any], words: Words) -> list[Format]:
    for name, characters in _table(data.get("alphabets", {}), ("alphabets",)).items():
        if not isinstance(characters, str) or len(characters) < 2:
            what = f"alphabet '{name}' is no string of two characters or more"
            raise _Fault(("alphabets", name), what, 'write it as abc = "abc"')
        words.alphabets[name] = characters
    for name, items in _table(data.get("lists", {}), ("lists",)).items():
        items = items.split() if isinstance(items, str) else items
        if not isinstance(items, list) or not items or not all(isinstance(i, str) for i in items):
            what = f"list '{name}' holds no words"
            raise _Fault(("lists", name), what, 'write it as colours = "red green blue"')
        words.lists[name] = items
    tables: dict[Place, Any] = {(): data}
    tables |= {(kind,): _table(data.get(kind, {}), (kind,)) for kind in _KINDS}
    return [
        _row((*kind, slot, name), row, words)
        for kind, slots in tables.items()
        for slot, rows in slots.items()
        if slot not in {"alphabets", "lists", *_KINDS}
        for name, row in _table(rows, (*kind, slot)).items()
    ]


def _table(value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        dotted = ".".join(place)
        raise _Fault(place, f"'{dotted}' is no table", f"write [{dotted}] and its rows below it")
    return value


def _row(place: Place, row: Any, words: Words) -> Format:
    *kind, slot, name = place
    row = {"pattern": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("pattern"), str) or not row["pattern"]:
        raise _Fault(place, f"'{name}' has no pattern", f'write {name} = "abc_{{base62:20}}"')
    for key in sorted(row.keys() - {"pattern", "fields", "weight"}):
        what = f"'{key}' is no part of a format"
        raise _Fault(place, what, "a row holds pattern, fields and weight")
    if not kind and slot not in SLOTS:
        what = f"'{slot}' is no kind of entity"
        raise _Fault(place, what, f"one of {', '.join(SLOTS)}, or [none.{slot}]")
    fields, weight = row.get("fields", ""), row.get("weight", 1)
    if not isinstance(fields, str):
        raise _Fault(place, "fields are no string", 'write fields = "api_key access_token"')
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise _Fault(place, f"weight {weight!r} is no positive number", "write weight = 2")
    label = SLOTS[slot] if not kind else UNSURE if kind[0] == UNSURE else None
    elements = _parse(row["pattern"], place, words)
    return Format(name, slot, label, tuple(fields.split()), float(weight), elements)


def _parse(pattern: str, place: Place, words: Words) -> tuple[Element, ...]:
    elements: list[Element] = []
    for token in _TOKEN.finditer(pattern):
        whole, inside = token[0], token[1]
        if whole in ("{", "}"):
            raise _Fault(place, f"'{whole}' in '{pattern}' is alone", "double it: {{ or }}")
        if inside is None:
            elements.append(_literal({"{{": "{", "}}": "}"}.get(whole, whole)))
        else:
            elements.append(_element(inside, place, words))
    return tuple(elements)


def _literal(text: str) -> Element:
    return lambda scene, so_far: text


def _element(inside: str, place: Place, words: Words) -> Element:
    if "|" in inside:
        ways = inside.split("|")
        return lambda scene, so_far: scene.draws.pick(ways)
    match = _ELEMENT.fullmatch(inside)
    name, argument = (match[1], match[2] or "") if match else (inside, "")
    if name in words.alphabets:
        return _drawn(words.alphabets[name], argument, place)
    if name in words.lists:
        items = words.lists[name]
        return lambda scene, so_far: scene.draws.pick(items)
    if name in MAKERS:
        try:
            return MAKERS[name](argument)
        except ValueError as error:
            raise _Fault(place, f"'{{{inside}}}' takes {error}", "mend the pattern") from error
    known = [*words.alphabets, *words.lists, *MAKERS]
    close = difflib.get_close_matches(name, known, 1)
    mend = f"did you mean {{{close[0]}}}?" if close else "add it under [alphabets] or [lists]"
    raise _Fault(place, f"nothing is called '{{{inside}}}'", mend)


def _drawn(alphabet: str, argument: str, place: Place) -> Element:
    match = _COUNT.fullmatch(argument or "1")
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high:
        what = f"'{argument}' is no count"
        raise _Fault(place, what, "write one number or two, from low to high: {hex:32-40}")
    return lambda scene, so_far: scene.draws.string(alphabet, scene.draws.between(low, high))
