"""What an expectation in the text of tests becomes, so that it is another one.

Its literals are taken for what they are in most languages: numbers, texts and truth values.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from starkiln.core import keyed

T = TypeVar("T")
STRING = r"""(?s:"(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
_LITERAL = re.compile(
    rf"(?P<text>{STRING})"
    r"|(?<![\w.#])(?P<number>\d+(?![\dxX])(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    r"|(?<![\w#])(?P<truth>true|false|True|False|TRUE|FALSE|\#[tf])\b"
)
_OPPOSITE = {"true": "false", "True": "False", "TRUE": "FALSE", "#t": "#f"}
_OPPOSITE |= {false: true for true, false in _OPPOSITE.items()}
_LETTERS = "bcdghkmpqsvwyz"
_LONGEST = 8  # digits of a number that stays one of its type with one more
_TOLERANCE = 0.01  # relative, and absolute: wider than that of any test


class Claim(NamedTuple):
    """An expectation: where it stands in the tests, and what is compared with it."""

    start: int
    end: int
    about: str


def changes(tests: str, claims: Sequence[Claim], exchange: bool = True) -> Iterator[str]:
    """``tests`` with one expectation changed, another each time.

    Where expectations are alike already, it becomes another of them, if ``exchange``; a literal of
    it is altered elsewhere, to what no other is, and where nothing else is possible.
    """
    texts = [tests[claim.start : claim.end] for claim in claims]

    def exchanged(text: str) -> str | None:
        others = [o for o in texts if exchange and _alike(text, o) and _apart(text, o)]
        return drawn(others, tests, "other") if others else None

    def fresh(text: str) -> str | None:
        new = _altered(text)
        return None if new in texts else new

    repeats = len(set(texts)) < len(texts)
    ways: list[Callable[[str], str | None]] = [exchanged, fresh] if repeats else [fresh, exchanged]
    done: set[Claim] = set()
    for way in (*ways, _altered):
        for claim, text in zip(claims, texts):
            if claim not in done and (new := way(text)) is not None:
                done.add(claim)
                yield tests[: claim.start] + new + tests[claim.end :]


def odd(*key: object) -> str:
    """A drawn text, as Python spells it, that no expectation is."""
    return repr("".join(drawn(_LETTERS, *key, place) for place in range(4)))


def drawn(options: Sequence[T], *key: object) -> T:
    """One of ``options``, by ``key``."""
    return options[int(len(options) * keyed.uniform("counter", *key))]


def _alike(one: str, other: str) -> bool:
    """Whether literals of the same kinds are in two expectations, or none in one of them."""
    mine, yours = ({found.lastgroup for found in _LITERAL.finditer(text)} for text in (one, other))
    return mine == yours or not mine or not yours


def _apart(one: str, other: str) -> bool:
    """Whether two expectations are different by whatever comparison: by what they consist of."""
    mine, yours = _values(one), _values(other)
    if not mine and not yours:  # such as lists of empty lists
        return one.count(",") != other.count(",")
    return _lacks(mine, yours) or _lacks(yours, mine)


def _lacks(some: set[float | str], others: set[float | str]) -> bool:
    return not all(any(_near(one, other) for other in others) for one in some)


def _near(one: float | str, other: float | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return abs(one - other) <= _TOLERANCE * max(1.0, abs(one), abs(other))


def _values(text: str) -> set[float | str]:
    """The literals of an expectation; what some language may take for one another is alike."""
    found: set[float | str] = set()
    for literal in _LITERAL.finditer(text):
        value = literal[0].strip("\"'` \t").lower()
        value = {"": "0", "true": "1", "#t": "1", "false": "0", "#f": "0"}.get(value, value)
        try:
            number = float(value)
        except ValueError:
            number = math.inf
        found.add(number if math.isfinite(number) else value)
    return found


def _altered(text: str) -> str | None:
    """An expectation with one of its literals changed, None if it has none."""
    literals = list(_LITERAL.finditer(text))
    if not literals:
        return None
    chosen = drawn(literals, text, "literal")
    new = _NEW[str(chosen.lastgroup)](chosen[0])
    return text[: chosen.start()] + new + text[chosen.end() :]


def _other_number(text: str) -> str:
    digit = 1 + int(9 * keyed.uniform("counter", text, "digit"))
    whole = re.split("[.eE]", text)[0]
    if "e" in text.lower():
        return f"{digit}7.5"
    if len(whole) > _LONGEST:
        return ("8" if text[0] == "9" else str(int(text[0]) + 1)) + text[1:]
    return f"{digit}{text}"


def _other_text(text: str) -> str:
    letter = drawn(_LETTERS, text, "letter")
    quote, inner = text[0], text[1:-1]
    number = re.search(r"\d+(\.\d+)?", inner)
    character = quote == "'" and len(inner) == 1
    if number and not character and not re.search("[A-Za-z]", inner):  # as a shell's are
        at, end = (1 + place for place in number.span())
        return text[:at] + _other_number(number[0]) + text[end:]
    if character or (quote == "'" and inner[:1] == "\\"):  # in some languages a character
        return f"'{'x' if inner == letter else letter}'"
    return quote + letter + inner + quote


_NEW = {"number": _other_number, "text": _other_text, "truth": _OPPOSITE.__getitem__}
