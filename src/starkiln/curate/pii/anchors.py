"""Where a text is worth a look: the literal anchors of all rules, found in one pass.

The rules' anchors become one finite automaton over UTF-8 bytes, which a Numba kernel runs, so the
time is the same for ten anchors as for a thousand. Letters match in either case. An anchor may
hold the characters ``DIGIT``, ``HEX`` and ``GAP``, each of which stands for a class.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

DIGIT, HEX = "\x01", "\x02"
GAP = "\x03"  # what is no letter, digit, underscore nor full stop, or the start of the text
_CLASSES = {
    DIGIT: frozenset(b"0123456789"),
    HEX: frozenset(b"0123456789abcdefABCDEF"),
    GAP: frozenset(range(256)) - frozenset(b"_.") - {b for b in range(128) if chr(b).isalnum()},
}
_BLOCK = 1 << 22  # bytes of texts that are looked at together
_START = 10  # the byte that is thought to stand before a text

Anchors = tuple[tuple[str, ...], ...]  # of each rule


class Automaton(NamedTuple):
    """A state is the place of its row in ``table``; from ``accepting`` on, it ends an anchor."""

    kinds: np.ndarray  # uint8 [256]: byte -> column
    table: np.ndarray  # uint32 [states * width]: the state after a state and a column
    width: int
    start: np.uint32  # the state at the start of a text
    accepting: np.uint32
    first: np.ndarray  # int64 [accepting states + 1]: where an accepting state's ends begin
    rules: np.ndarray  # int64 [ends]: whose anchor it is
    lengths: np.ndarray  # int64 [ends]: its bytes


def places(texts: pl.Series, anchors: Anchors) -> Iterator[tuple[int, list[list[int]]]]:
    """(number, ascending code points where an anchor of each rule begins) of texts that have any.

    ``texts`` is a String column without nulls.
    """
    from starkiln.curate.kernels import buffers
    from starkiln.curate.pii.anchor_kernel import scan

    made, ends = automaton(anchors), np.cumsum(texts.str.len_bytes().to_numpy())
    first = 0
    while first < texts.len():
        stop = max(first + 1, int(np.searchsorted(ends, ends[first] + _BLOCK)))
        hits = _distinct(np.sort(scan(*buffers(texts[first:stop]), *made)))
        yield from ((first + number, own) for number, own in _by_text(hits, len(anchors)))
        first = stop


def _by_text(hits: np.ndarray, rules: int) -> Iterator[tuple[int, list[list[int]]]]:
    """``places`` of what the kernel found, in order."""
    from starkiln.curate.pii.anchor_kernel import PLACES, RULES

    numbers = _distinct(hits >> (PLACES + RULES))
    wanted = (numbers[:, None] << RULES) + np.arange(rules + 1)
    edges = np.searchsorted(hits, wanted << PLACES).tolist()
    at = (hits & ((1 << PLACES) - 1)).tolist()
    for number, cuts in zip(numbers.tolist(), edges):
        yield number, [at[a:b] for a, b in pairwise(cuts)]


def _distinct(ascending: np.ndarray) -> np.ndarray:
    fresh = np.ones(len(ascending), bool)
    fresh[1:] = ascending[1:] != ascending[:-1]
    return ascending[fresh]


@lru_cache(maxsize=8)
def automaton(anchors: Anchors) -> Automaton:
    """The automaton of the ``anchors`` of each rule (subset construction, a minute share of a run).

    A state is the set of the anchors that are begun, with how many bytes of each were seen.
    """
    words = [(rule, _steps(one)) for rule, own in enumerate(anchors) for one in own]
    kinds, members = _columns([step for _, steps in words for step in steps])
    opened: dict[int, list[int]] = {}  # column -> the words that a byte of it begins
    for word, (_, steps) in enumerate(words):
        for column, byte in members.items():
            if byte in steps[0]:
                opened.setdefault(column, []).append(word)
    Items = tuple[frozenset, tuple]  # begun (word, bytes seen); words that end here
    nothing: Items = (frozenset(), ())

    def after(items: Items, column: int) -> Items:
        byte = members[column]
        begun = [(w, n + 1) for w, n in items[0] if byte in words[w][1][n]]
        begun += [(w, 1) for w in opened.get(column, ())]
        over = tuple(sorted(w for w, n in begun if n == len(words[w][1])))
        return frozenset((w, n) for w, n in begun if n < len(words[w][1])), over

    numbers: dict[Items, int] = {nothing: 0}
    rows: list[list[int]] = []
    queue = [nothing]
    for items in queue:
        row = []
        for column in members:
            state = after(items, column)
            if state not in numbers:
                numbers[state] = len(numbers)
                queue.append(state)
            row.append(numbers[state])
        rows.append(row)
    return _numbered(rows, queue, kinds, words)


def _steps(anchor: str) -> list[frozenset[int]]:
    """The bytes that each byte of an anchor stands for."""
    found = []
    for character in anchor:
        if character in _CLASSES:
            found.append(_CLASSES[character])
        else:
            found += [frozenset({b, *chr(b).upper().encode()} if b < 128 else {b})
                      for b in character.encode()]  # fmt: skip
    return found


def _columns(steps: list[frozenset[int]]) -> tuple[np.ndarray, dict[int, int]]:
    """Bytes that no step tells apart have one column; column -> one of its bytes."""
    distinct = sorted(set(steps), key=sorted)
    kinds, known = np.zeros(256, np.uint8), {}
    for byte in range(256):
        known.setdefault(tuple(byte in step for step in distinct), []).append(byte)
    for column, bytes_ in enumerate(known.values()):
        kinds[bytes_] = column
    return kinds, {column: bytes_[0] for column, bytes_ in enumerate(known.values())}


def _numbered(rows: list, states: list, kinds: np.ndarray, words: list) -> Automaton:
    """The automaton with its accepting states last."""
    order = sorted(range(len(states)), key=lambda one: bool(states[one][1]))
    new = np.empty(len(order), np.int64)
    new[order] = np.arange(len(order))
    table = new[np.array(rows)][order]
    width = table.shape[1]
    ends = [states[one][1] for one in order if states[one][1]]
    return Automaton(
        kinds,
        (table.ravel() * width).astype(np.uint32),
        width,
        np.uint32(table[new[0], kinds[_START]] * width),
        np.uint32((len(order) - len(ends)) * width),
        np.cumsum([0, *map(len, ends)]),
        np.array([words[w][0] for over in ends for w in over], np.int64),
        np.array([len(words[w][1]) for over in ends for w in over], np.int64),
    )
