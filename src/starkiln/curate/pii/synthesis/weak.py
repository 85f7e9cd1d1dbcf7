"""Weak labels: what patterns found in real code, which of it is believed, and what replaces it.

A finding is a label where its rule is sure and no other sure rule says otherwise; it carries no
loss where they doubt or differ; below that it is no entity. Most labels' values are replaced by
fresh ones, so that nobody's own is learnt: the context is.
"""

import re
import string
from collections.abc import Sequence

from starkiln.code.spans import SURE, Span, overlap, resolve
from starkiln.curate.pii.synthesis.formats import UNSURE, Formats
from starkiln.curate.pii.synthesis.makers import Scene

_SLOTS = {"EMAIL": "email", "IP_ADDRESS": "ip", "NAME": "name", "USERNAME": "username"}
_TRIVIAL = re.compile(
    r"(?:my|new|old|test|the)?[_-]?(?:pass(?:word|wd|phrase)?|secret|test|admin|foo|bar|user|guest|"
    r"root|changeme|letmein|qwerty|abc|default|demo|dummy|example|none|x+|\*+)[_-]?\d{0,6}!?|\d{1,8}",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"[A-Za-z]{2,8}[_-](?=.{12})|eyJ|AKIA|AIza|MII[A-Z]")
_TRIES = 16


def votes(text: str, found: Sequence[Span], *, sure: float, doubt: float) -> list[Span]:
    """What is believed of ``found``: spans that do not overlap, with their label or "unsure"."""
    strong = resolve(span for span in found if span.confidence >= sure)
    believed = [
        span._replace(label=UNSURE) if _doubted(text, span, found) else span for span in strong
    ]
    weak = [span for span in found if doubt <= span.confidence < sure]
    for span in sorted(weak, key=lambda s: (-s.confidence, s.start, -s.end)):
        if not any(overlap(span, other) for other in believed):
            believed.append(span._replace(label=UNSURE))
    return sorted(believed)


def _doubted(text: str, span: Span, found: Sequence[Span]) -> bool:
    value = text[span.start : span.end]
    if span.label == "PASSWORD" and _TRIVIAL.fullmatch(value):
        return True
    others = (o for o in found if o.label != span.label and o.confidence >= SURE)
    return any(o.start < span.end and span.start < o.end and not _inside(o, span) for o in others)


def _inside(one: Span, other: Span) -> bool:
    """Whether ``one`` is a true part of ``other``: a name in a mailbox is no second vote."""
    return other.start <= one.start and one.end <= other.end and one[:2] != other[:2]


def fresh(value: str, label: str, scene: Scene, formats: Formats) -> str:
    """A made value in the place of a real one of ``label``: of the same kind, or the same shape.

    Names, mailboxes and handles are those of the scene's person.
    """
    if label not in _SLOTS:
        return same_shape(value, scene)
    scene.wrap = " "
    for _ in range(_TRIES):
        made = formats.real[_SLOTS[label]].draw(scene).draw(scene)
        quotes = "'" in made or '"' in made or "\n" in made
        if not quotes and (label != "IP_ADDRESS" or (":" in made) == (":" in value)):
            return made
    return value


def same_shape(value: str, scene: Scene) -> str:
    """``value`` with other digits for its digits and other letters for its letters.

    A prefix that tells the kind, marks, escapes and line breaks stay.
    """
    prefix = _PREFIX.match(value)
    start = prefix.end() if prefix else 0
    made, escaped = [value[:start]], False
    for character in value[start:]:
        made.append(character if escaped else _other(character, scene))
        escaped = character == "\\" and not escaped
    return "".join(made)


def _other(character: str, scene: Scene) -> str:
    for alphabet in (string.digits, string.ascii_lowercase, string.ascii_uppercase):
        if character in alphabet:
            return scene.draws.pick(alphabet)
    return character
