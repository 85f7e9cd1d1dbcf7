import difflib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.change import change, window

LINES = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=8)
ENDS = st.sampled_from(["\n", "\r\n"])
LAST = st.sampled_from(["", "\n", "\r\n"])


@st.composite
def texts(draw):
    lines = draw(LINES)
    return draw(ENDS).join(lines) + (draw(LAST) if lines else "")


@st.composite
def edited(draw):
    """A text and the same with some lines changed, as an edit is: most of it is shared."""
    head, tail, end = draw(LINES), draw(LINES), draw(ENDS)
    sides = (head + draw(LINES) + tail for _ in range(2))
    return tuple("".join(line + end for line in side) for side in sides)


def body(found):
    start = found.above
    return tuple(
        [line.rstrip("\r\n") for line in side[start : len(side) - found.below]]
        for side in (found.before, found.after)
    )


@given(st.one_of(edited(), st.tuples(texts(), texts())), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=500, deadline=None)
def test_a_window_holds_the_very_same_change(pair, above, below):
    whole = change(*pair)
    shown = window(whole, above, below)
    again = change(*shown)
    assert body(again) == body(whole)
    assert (again.above, again.below) == (min(above, whole.above), min(below, whole.below))
    assert again.span == whole.span
    for side, text in zip(shown, pair, strict=True):
        assert side in text


@given(st.one_of(edited(), st.tuples(texts(), texts())))
@settings(max_examples=300, deadline=None)
def test_the_span_holds_all_that_a_diff_finds(pair):
    found = change(*pair)
    old, new = ([line.rstrip("\r\n") for line in side] for side in found[:2])
    changes = difflib.unified_diff(old, new, n=0, lineterm="")
    assert (found.span == 0) == (not list(changes))
    assert old[: found.above] == new[: found.above]
    assert old[len(old) - found.below :] == new[len(new) - found.below :]
    shorter = min(len(old), len(new))
    assert found.above + found.below <= shorter
    if found.above < shorter:  # neither end could be longer
        assert old[found.above] != new[found.above]
        if found.above + found.below < shorter:
            assert old[-found.below - 1] != new[-found.below - 1]


GOLDEN = [  # before, after, above, below, span
    ("a\nb\nc\n", "a\nX\nc\n", 1, 1, 1),
    ("a\nb\nc", "a\nb\nc\nd\n", 3, 0, 1),  # the missing last LF is no change of "c"
    ("a\r\nb\r\nc\r\n", "a\nX\nc\n", 1, 1, 1),  # nor is every line's CR
    ("a\nb\n", "a\r\nb\r\n", 2, 0, 0),
    ("", "a\nb\n", 0, 0, 2),
    ("a\na\n", "a\na\na\n", 2, 0, 1),
    ("a\x0cb\u2028c\rd\n", "a\x0cb\u2028c\rX\n", 0, 0, 1),  # only LF ends a line
    ("\n\nx\n", "x\n", 0, 1, 2),
]


@pytest.mark.parametrize(("before", "after", "above", "below", "span"), GOLDEN)
def test_golden(before, after, above, below, span):
    found = change(before, after)
    assert (found.above, found.below, found.span) == (above, below, span)


def test_a_change_far_down_is_not_shown_from_the_top():
    """The published code's window began at the first line, whatever had changed (rules §6)."""
    lines = [f"{k}\n" for k in range(400)]
    after = [*lines[:200], "new\n", *lines[201:]]
    found = change("".join(lines), "".join(after))
    assert found.span == 1
    assert window(found, 2, 1) == ("198\n199\n200\n201\n", "198\n199\nnew\n201\n")
