"""Personal information in texts: the rules of all classes, each asked where its anchors stand.

A rule is a module with ``ANCHORS`` (lower-case literals, see ``anchors``) and ``find(text, at)``,
which looks a bounded way around each of the places ``at``: so the time is linear in the text.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from types import ModuleType

import polars as pl

from starkiln.code.spans import LABELS, SURE, Span, resolve
from starkiln.curate.pii import anchors

RULES = {
    "KEY": "keys",
    "PASSWORD": "passwords",
    "EMAIL": "emails",
    "IP_ADDRESS": "addresses",
    "NAME": "names",
    "USERNAME": "usernames",
}


def detect(text: str, labels: Collection[str] = LABELS) -> list[Span]:
    """What patterns alone are sure of in ``text``: spans by start, none overlapping."""
    (found,) = candidates([text], labels)
    return resolve(span for span in found if span.confidence >= SURE)


def candidates(texts: Sequence[str], labels: Collection[str] = LABELS) -> list[list[Span]]:
    """The spans of each text by start, of all confidences; they may overlap."""
    found: list[list[Span]] = [[] for _ in texts]
    for number, spans in scan(pl.Series(texts, dtype=pl.String), labels):
        if isinstance(spans, Exception):
            raise spans
        found[number] = spans
    return found


_OWN = re.compile(f"<(?:{'|'.join(LABELS)})>")


def scan(
    texts: pl.Series, labels: Collection[str] = LABELS
) -> Iterator[tuple[int, list[Span] | Exception]]:
    """(number, candidates) of texts where an anchor stands; what was raised where a rule failed.

    ``texts`` is a String column without nulls.
    """
    rules = _rules(tuple(label for label in LABELS if label in labels))
    if not rules:
        return
    for number, places in anchors.places(texts, tuple(tuple(rule.ANCHORS) for rule in rules)):
        try:
            yield number, _found(texts[number], rules, places, labels)
        except Exception as error:  # noqa: BLE001  (bad data is never a crash: it is set aside)
            yield number, error


def _found(
    text: str, rules: Sequence[ModuleType], places: list[list[int]], labels: Collection[str]
) -> list[Span]:
    found: set[Span] = set()
    if "<" in text:  # a placeholder of ours is no name of what stands behind it
        places = [[place for place in at if not _OWN.match(text, place - 1)] for at in places]
    for rule, at in zip(rules, places):
        if at:
            found.update(rule.find(text, at))
    return sorted(span for span in found if span.label in labels)


def _rules(labels: tuple[str, ...]) -> list[ModuleType]:
    return [import_module(f"starkiln.curate.pii.{RULES[label]}") for label in labels]
