"""Lines that values stand in (``templates.toml``), and how they are filled."""

import html
import re
import tomllib
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from starkiln.curate.pii.synthesis import people
from starkiln.curate.pii.synthesis.formats import SLOTS, UNSURE, Format, Formats
from starkiln.curate.pii.synthesis.makers import Scene

ANY = "value"  # the slot of a value of any kind that has a field
_KINDS = ("key", "password", "ip", "email", "username", "name")
_SHARES = tuple(accumulate((52, 20, 10, 7, 7, 4)))
_RAW = ("pem", "bytes", "octets")  # written as the source has it
_AGAIN = 0.1  # how often a value comes again that stood in the window before
_SAME = 0.25  # how often the person of the last template is spoken of again
_PREFIXED = 0.15  # how often a field's name has a word in front
_SLOT = re.compile(r"«([A-Za-z#][A-Za-z -]*)([0-9]?)(?::([a-z]+))?»")
_BARE = re.compile(r"[\s\"'`\\#;,&|<>()]")  # what an unquoted secret cannot hold


class Slot(NamedTuple):
    """One gap of a template: what goes in, a number if it comes again, how it is spelt."""

    name: str
    number: str
    manner: str


class Template(NamedTuple):
    """Text and slots in turn."""

    parts: tuple[str | Slot, ...]
    asks: tuple[int, ...]  # places of slots that an entity can fill
    named: frozenset[int]  # those of them that a field's name stands for


class Group(NamedTuple):
    """Templates of one kind of file, and where their lines belong."""

    name: str
    languages: frozenset[str]
    comment: bool
    tail: bool
    file: bool
    escape: str
    weight: float
    asking: tuple[Template, ...]  # with an entity's slot
    plain: tuple[Template, ...]  # without: nothing in them is an entity


class Margin(NamedTuple):
    """What a line begins and ends with where a template is put in."""

    before: str = ""
    after: str = ""
    newline: str = "\n"


class Piece(NamedTuple):
    """A filled template; spans are (start, end, label or "unsure")."""

    text: str
    spans: list[tuple[int, int, str]]

    def moved(self, by: int) -> list[tuple[int, int, str]]:
        """The spans as they lie where the piece begins at ``by``."""
        return [(start + by, end + by, label) for start, end, label in self.spans]


@lru_cache(maxsize=1)
def groups() -> tuple[Group, ...]:
    """All groups of ``templates.toml``."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return tuple(_group(name, row) for name, row in data.items())


def _group(name: str, row: dict) -> Group:
    templates = [parse(line) for line in row["lines"]]
    return Group(
        name=name,
        languages=frozenset(row.get("languages", "").split()),
        comment=row.get("comment", False),
        tail=row.get("tail", False),
        file=row.get("file", False),
        escape=row.get("escape", "backslash"),
        weight=row["weight"],
        asking=tuple(one for one in templates if one.asks),
        plain=tuple(one for one in templates if not one.asks),
    )


def parse(line: str) -> Template:
    """A template from its text."""
    parts: list[str | Slot] = []
    end = 0
    for match in _SLOT.finditer(line):
        parts += [line[end : match.start()], Slot(match[1], match[2], match[3] or "")]
        end = match.end()
    parts.append(line[end:])
    asks = [i for i, p in enumerate(parts) if isinstance(p, Slot) and p.name in (*SLOTS, ANY)]
    fields = [i for i, p in enumerate(parts) if isinstance(p, Slot) and p.name in _SPELT]
    named = {_owner(field, asks) for field in fields if asks}
    return Template(tuple(parts), tuple(asks), frozenset(named))


def _owner(field: int, asks: list[int]) -> int:
    """The value that a field names: the next one, or the last."""
    return next((i for i in asks if i > field), asks[-1])


def render(
    template: Template, group: Group, scene: Scene, formats: Formats, margin: Margin, *, real: bool
) -> Piece:
    """Fill a template, with entities if ``real`` and else with what stands in their place.

    Its lines begin with the margin, but for a tail's.
    """
    return _Filling(template, group, scene, formats, margin, real).piece()


class _Filling:
    def __init__(
        self,
        template: Template,
        group: Group,
        scene: Scene,
        formats: Formats,
        margin: Margin,
        real: bool,
    ) -> None:
        self.template, self.group, self.margin = template, group, margin
        self.scene, self.formats = scene, formats
        self.rows = {at: self._row(at, real) for at in template.asks}
        self.fields: dict[int, str] = {}
        self.known: dict[tuple[str, str], tuple[str, str | None]] = {}
        self.text = "" if group.tail else margin.before
        self.spans: list[tuple[int, int, str]] = []
        self.names = 0

    def piece(self) -> Piece:
        if not self.scene.draws.chance(_SAME):
            self.scene.person = people.person(self.scene.draws)
        for at, part in enumerate(self.template.parts):
            if isinstance(part, str):
                self.text += part.replace("\n", self._break())
            elif part.name == "#":
                self.text += self.margin.before.strip() or "#"
            elif part.name in _SPELT:
                self.text += self._field(at, part)
            elif at in self.rows:
                self._value(at, part)
            else:
                self.text += self._filler(part)
        return Piece(self.text + self.margin.after, self.spans)

    def _row(self, at: int, real: bool) -> Format:
        slot = self.template.parts[at]
        name = slot.name if isinstance(slot, Slot) else ""
        if name == ANY:
            name = self.scene.draws.weighted(_KINDS, _SHARES)
        other = self.formats.other if at in self.template.named else self.formats.anywhere
        choice = self.formats.real[name] if real or name not in other else other[name]
        return choice.draw(self.scene)

    def _break(self) -> str:
        return self.margin.after + self.margin.newline + self.margin.before

    def _value(self, at: int, slot: Slot) -> None:
        row = self.rows[at]
        if slot.number and (slot.name, slot.number) in self.known:
            value, label = self.known[slot.name, slot.number]
        else:
            value, label = self._drawn(row, slot), row.label
            self.known[slot.name, slot.number] = value, label
        if label is not None:
            self.spans.append((len(self.text), len(self.text) + len(value), label))
        self.text += value

    def _drawn(self, row: Format, slot: Slot) -> str:
        scene, quoted = self.scene, self.text[-1:] in ('"', "'", "`")
        if row.slot == "name":
            self.names += 1
            if self.names > 1:
                scene.person = people.person(scene.draws)
        scene.wrap = self._break() if self.group.comment and not quoted else " "
        if row.slot == "pem":
            inner = self._break() + self._indentation()
            scene.joint = {"escaped": "\\n", "quoted": f'\\n"{inner}"'}.get(slot.manner, inner)
        real = row.label in SLOTS.values()
        again = real and row.slot in scene.seen and self.names < 2
        if again and scene.draws.chance(_AGAIN):
            value = scene.seen[row.slot]
        else:
            value = row.draw(scene)
            if real and not re.search(r"\s{2}|\n", value):
                scene.seen[row.slot] = value
        return self._spelt(value, row, slot.manner, quoted)

    def _indentation(self) -> str:
        """How far the line in the making is set in, beyond the margin."""
        line = self.text.rpartition("\n")[2].removeprefix(self.margin.before)
        return line[: len(line) - len(line.lstrip())]

    def _spelt(self, value: str, row: Format, manner: str, quoted: bool) -> str:
        """``value`` as the source has it: escaped in quotes and in addresses."""
        if row.slot in _RAW or row.label is None:
            return value
        if manner == "url":
            return quote(value, safe="")
        if self.group.escape == "xml":
            return html.escape(value)
        if quoted:
            return _ESCAPES[self.group.escape](value, self.text[-1])
        if row.slot in ("password", "key") and row.label != UNSURE:
            return _BARE.sub("", value) or "x"
        return value

    def _field(self, at: int, slot: Slot) -> str:
        owner = _owner(at, list(self.template.asks))
        if owner not in self.fields:
            row, draws = self.rows[owner], self.scene.draws
            name = draws.pick(row.fields or self.formats.fields[row.slot] or ("name",))
            if row.slot != "pem" and draws.chance(_PREFIXED):
                name = f"{draws.pick(('test', 'my', 'prod', 'app', 'default', 'old'))}_{name}"
            self.fields[owner] = name
        return _SPELT[slot.name](self.fields[owner].split("_"), self.scene.camel)

    def _filler(self, slot: Slot) -> str:
        key = (slot.name, slot.number)
        if slot.number and key in self.known:
            return self.known[key][0]
        loud = slot.name.isupper()
        name = slot.name.lower() if loud else slot.name
        self.scene.joint = self._break()
        value = self.formats.other[name].draw(self.scene).draw(self.scene)
        value = value.upper() if loud else value
        self.known[key] = value, None
        return value


def _camel(words: list[str]) -> str:
    return words[0] + "".join(word.capitalize() for word in words[1:])


_SPELT: dict[str, Callable[[list[str], bool], str]] = {
    "field": lambda words, camel: _camel(words) if camel else "_".join(words),
    "FIELD": lambda words, _: "_".join(words).upper(),
    "Field": lambda words, _: "".join(word.capitalize() for word in words),
    "fieldName": lambda words, _: _camel(words),
    "field-name": lambda words, _: "-".join(words),
    "field name": lambda words, _: " ".join(words),
    "PEM KIND": lambda words, _: " ".join(words).upper(),
}
_ESCAPES: dict[str, Callable[[str, str], str]] = {
    "backslash": lambda value, mark: value.replace("\\", "\\\\").replace(mark, "\\" + mark),
    "double": lambda value, mark: value.replace(mark, mark * 2),
    "none": lambda value, mark: value.replace(mark, ""),
    "xml": lambda value, mark: html.escape(value),
}
