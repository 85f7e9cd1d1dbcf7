"""Golden rows, and a plain Python twin that must agree bit for bit."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.curate import filters, kernels

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=8)


def _frame(*rows: tuple[str, str, str]) -> pl.DataFrame:
    schema = {"text": pl.String, "language": pl.String, "path": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _reasons(function, *rows):
    return function(_frame(*rows))["reason"].to_list()


GOLDEN = [  # text, longest line, mean line, share of letters and digits
    ("", 0, 0.0, 0.0),
    ("\n", 0, 0.0, 0.0),
    ("ab\n", 2, 1.0, 2 / 3),
    ("ab\r\ncd", 3, 2.5, 4 / 6),  # CR belongs to its line
    ("é日本\n𝔘x", 3, 2.5, 5 / 6),  # code points, whatever their width
    ("a\u2028b\x0cc", 5, 5.0, 3 / 5),  # only LF ends a line
    ("²½Ⅷ_", 4, 4.0, 3 / 4),  # numeric is alphanumeric, the underscore is not
    ("x" * 7 + "\n" + "y" * 3, 7, 5.0, 10 / 11),
]


@pytest.mark.parametrize(("text", "longest", "mean", "share"), GOLDEN)
def test_golden(text, longest, mean, share):
    rows = _frame((text, "python", "a.py"))
    found = filters.long_lines(rows)
    assert (found["max_line"][0], found["mean_line"][0]) == (longest, mean)
    assert filters.alphanumeric(rows)["alphanumeric_fraction"][0] == share


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_kernels_agree_with_python(texts):
    data, offsets = kernels.buffers(pl.Series(texts, dtype=pl.String))
    longest, lines, characters = kernels.lines(data, offsets)
    assert longest.tolist() == [max(map(len, t.split("\n"))) for t in texts]
    assert lines.tolist() == [len(t.split("\n")) for t in texts]
    assert characters.tolist() == [len(t) for t in texts]
    counts = kernels.letters(data, offsets, kernels.classes())
    assert counts[0].tolist() == [len(t) for t in texts]
    assert counts[1].tolist() == [sum(map(str.isalnum, t)) for t in texts]
    assert counts[2].tolist() == [sum(map(str.isalpha, t)) for t in texts]


def test_every_code_point_is_classed_as_python_does():
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    data, offsets = kernels.buffers(pl.Series(["".join(map(chr, points))]))
    count, alnum, alpha = kernels.letters(data, offsets, kernels.classes())[:, 0]
    assert count == len(points)
    assert alnum == sum(chr(c).isalnum() for c in points)
    assert alpha == sum(chr(c).isalpha() for c in points)


def test_long_lines_by_language_and_extension():
    long, wide, usual = "x" * 1001, "x" * 101, "x" * 1000 + "\n" * 9
    rows = [
        (usual, "python", "a.py"),
        (long, "python", "a.py"),
        (wide, "python", "a.py"),
        ("x" * 100, "python", "a.py"),
        (long, "markdown", "a.md"),
        (long, "json", "a.json"),
        (long, "an-unheard-of-language", "a.q"),
    ]
    bad = "long-line"
    assert _reasons(filters.long_lines, *rows) == [None, bad, bad, None, None, None, bad]


def test_alphanumeric_by_language():
    rows = [("a---", "python", "a.py"), ("a----", "python", "a.py"), ("a----", "sas", "a.sas")]
    assert _reasons(filters.alphanumeric, *rows) == [None, "alphanumeric", None]


def test_alphabetic_only_where_it_is_asked_for():
    rows = [
        ("1234a", "python", "a.py"),
        ("1234a", "json", "a.json"),
        ("12ab", "json", "a.json"),
        ("1234a", "yaml", "a.yml"),
        ("1234a", "ada", "a.ads"),
        ("1234a", "ada", "a.adb"),
        ("", "json", "a.json"),
    ]
    bad = "alphabetic"
    assert _reasons(filters.alphabetic, *rows) == [None, bad, None, bad, bad, None, bad]


def test_xml_in_the_first_100_characters():
    mark = '<?xml version="1.0"?>'
    rows = [
        (mark, "python", "a.py"),
        ("é" * 86 + mark, "python", "a.py"),
        ("é" * 87 + mark, "python", "a.py"),
        (mark, "xslt", "a.xsl"),
    ]
    assert _reasons(filters.xml, *rows) == ["xml", "xml", None, None]


@pytest.mark.parametrize(
    "function", [filters.long_lines, filters.alphanumeric, filters.alphabetic, filters.xml]
)
def test_empty_frames(function):
    found = function(_frame())
    assert found.height == 0
    assert found.schema["reason"] == pl.String


def test_a_kernel_without_a_cache_folder_still_runs():
    space: dict = {}
    exec("def double(x):\n    return 2 * x\n", space)  # no file, so no cache
    assert kernels.kernel(space["double"])(21) == 42
