import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starkiln.serve.shaping import Shape
from starkiln.tokenizer.context import trim

SUFFIX = "\n    return total\n\n\ndef other(a):\n    pass\n"


def shown(text: str, sizes: list[int], **how: object) -> tuple[list[str], bool]:
    """What is shown of ``text`` as it comes in pieces of ``sizes``, the last with the rest."""
    shape, parts, ended = Shape(**how), [], False
    for size in [*sizes, len(text)]:
        piece, text = text[:size], text[size:]
        part, ended = shape.feed(piece, not text)
        parts.append(part)
        if ended:
            break
    return parts, ended


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "total = 0",
        "total = 0\n    return total\n",
        "total = 0\n    return total\n\n\ndef other(a):\n    pa",
        "total = 0\n    return None\n\n\ndef other(a):\n    pass",
        "total = 0\n    return total + 1\n",
        "total = 0\n\n\n",
        "",
        "\n    return total",
    ],
)
def test_a_repeated_suffix_is_never_shown(text: str, size: int) -> None:
    parts, _ = shown(text, [size] * len(text), prefix="def f():\n    ", suffix=SUFFIX)
    assert "".join(parts) == trim(text, SUFFIX, "def f():\n    ")


WORDS = st.sampled_from(["a", "b", "ab", " ", "  ", "\n", "\n  ", "(", ")", "é", "return"])
TEXTS = st.lists(WORDS, max_size=10).map("".join)


@st.composite
def completions(draw: st.DrawFn) -> tuple[str, str, str]:
    """Prefix, suffix, and a text of which the end often is the suffix's beginning."""
    prefix, suffix, text = draw(TEXTS), draw(TEXTS), draw(TEXTS)
    ends = draw(st.lists(st.integers(0, len(suffix)), max_size=3))
    return prefix, suffix, text + "".join(suffix[:end] for end in ends)


@settings(max_examples=1000)
@given(completions(), st.lists(st.integers(1, 5), max_size=60))
@example(("", "ab\ncd\n", "x\nab\nc"), [1] * 7)
@example(("", "a)\nb\nc", "x = a)\nb\n"), [1] * 10)  # begins within a line, and goes on
@example(("", "a\nb\n", "a\nb\na\nb"), [4, 4])  # twice
@example(("", "\na\nb", "x\na\n\n(\na"), [1] * 9)
def test_the_same_is_shown_however_it_comes(given: tuple[str, str, str], sizes: list[int]) -> None:
    prefix, suffix, text = given
    parts, _ = shown(text, sizes, prefix=prefix, suffix=suffix)
    assert "".join(parts) == trim(text, suffix, prefix)


@given(completions(), st.integers(0, 3), st.lists(st.integers(1, 5), max_size=60))
def test_blocks_are_the_same_however_they_come(
    given: tuple[str, str, str], indent: int, sizes: list[int]
) -> None:
    prefix, suffix, text = given
    how = {"prefix": prefix, "suffix": suffix, "indent": indent}
    assert "".join(shown(text, sizes, **how)[0]) == "".join(shown(text, [], **how)[0])


@pytest.mark.parametrize(
    ("suffix", "told", "seen"),
    [
        (
            "\n    return total\n",
            ["f(1)", "\n", "    ", "ret", "urn t", "(1)", "\n  z", " = 1\n"],
            ["f(1)", "", "", "", "", "\n    return t(1)", "\n  z", " = 1"],
        ),
        (");\n", ["f(x", ")", ")", ";", "a"], ["f(x", ")", "", "", ");a"]),
        ("\n)\n", ["f(x\n", ")", "\n", ")"], ["f(x", "\n)", "", ""]),
        (")", ["g", ")", "\n"], ["g", ")", "\n"]),
        ("\n\n", ["a", "\n", "\n"], ["a", "\n", "\n"]),
    ],
)
def test_no_more_is_held_back_than_may_be_cut(
    suffix: str, told: list[str], seen: list[str]
) -> None:
    shape = Shape(suffix=suffix)
    assert [shape.feed(piece, False)[0] for piece in told] == seen


def test_what_cannot_be_a_repetition_is_shown_at_once() -> None:
    parts, _ = shown("x = compute(1)\ny = 2", [5, 5, 5], suffix=SUFFIX)
    assert parts[:3] == ["x = c", "omput", "e(1)"]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1\n    y\n  z\n", "1\n    y"),
        ("1\n\n    y\n", "1\n\n    y\n"),
        ("1\n}", "1"),
        ("1\n    \n    y\n\n}", "1\n    \n    y\n"),
        ("1\n   ", "1\n   "),
        ("", ""),
    ],
)
def test_a_block_ends_at_its_indent(text: str, kept: str, size: int) -> None:
    parts, ended = shown(text, [size] * len(text), indent=4)
    assert "".join(parts) == kept
    assert ended
