import math
import os
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.evaluate.inside import carry

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=12,
)


def through(value):
    """``value`` sent through a real pipe."""
    read, write = os.pipe()
    try:
        carry.send(write, carry.dump(value))
        return carry.load(carry.receive(read))
    finally:
        os.close(read)
        os.close(write)


def _same(a, b):
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, list | tuple):
        return all(map(_same, a, b))
    return repr(a) == repr(b) if isinstance(a, float) else True


@given(PLAIN)
def test_plain_values_come_out_as_they_went_in(value):
    assert _same(through(value), value)


def test_values_that_text_formats_lose():
    for value in (2**40_000, -(2**40_000), math.inf, -0.0, "\ud800", range(5, 0, -2), True, 1):
        assert _same(through(value), value)
    assert math.isnan(through(math.nan))


def test_subclasses_become_plain():
    point = namedtuple("point", "x y")
    for value, plain in (
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (point(1, 2), (1, 2)),
        (type("Text", (str,), {"__eq__": lambda *_: True, "__hash__": str.__hash__})("x"), "x"),
    ):
        assert _same(through(value), plain)


def test_iterators_are_no_lists_but_list_alike():
    for value in ((i for i in range(3)), map(int, "012"), {0: 1, 1: 1, 2: 1}.keys()):
        out = through(value)
        assert out != [0, 1, 2]
        assert list(out) == [0, 1, 2]


@pytest.mark.parametrize("value", [object(), print, lambda: 0, type, iter(int, 1), [{1: object()}]])
def test_objects_are_not_carried(value):
    with pytest.raises(carry.Uncarried):
        carry.dump(value)


def test_exact_numbers_keep_their_kind():
    assert through([Decimal("1.10"), Fraction(1, 3)]) == [Decimal("1.10"), Fraction(1, 3)]
    assert repr(through(Decimal("1.10"))) == "Decimal('1.10')"


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\2[", b"\0\0\0\2{]", b"\xff" * 9])
def test_what_is_no_frame_is_the_end(data):
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    with pytest.raises(carry.Closed):
        carry.receive(read)
    os.close(read)


def test_too_deep_or_too_long_is_no_crash():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        carry.dump(deep)
    with pytest.raises(carry.Uncarried):
        carry.send(1, "x" * (carry.FRAME_LIMIT + 1))
