import polars as pl
import pytest

from starkiln.code.languages import limits
from starkiln.curate import filters
from starkiln.curate.statistics import statistics


def _frame(*rows: tuple[str, str, str]) -> pl.DataFrame:
    schema = {"text": pl.String, "language": pl.String, "path": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


ROWS = [
    ("import os\r\nprint(1)\n", "python", "a.py"),
    ("<p>" + "é" * 150 + "</p>", "html", "b/a.html"),
    ("", "unknown", "a.q"),
    ('<?xml version="1.0"?><a/>', "json", "a.json"),
]


def test_figures_and_limits_of_each_row():
    found = statistics(_frame(*ROWS)).to_dicts()
    assert [row["characters"] for row in found] == [len(text) for text, _, _ in ROWS]
    assert [row["lines"] for row in found] == [len(text.split("\n")) for text, _, _ in ROWS]
    assert [row["max_line"] for row in found] == [10, 157, 0, 25]
    assert [row["mean_line"] for row in found] == [6.0, 157.0, 0.0, 25.0]
    assert found[0]["alphanumeric"] == 14 / 20
    assert found[0]["alphabetic"] == 13 / 20
    assert [row["xml"] for row in found] == [False, False, False, True]
    assert [row["visible"] for row in found] == [None, 150 / 157, None, None]
    assert found[3]["limits"]["max_characters"] == 5000
    assert found[3]["limits"]["max_line"] is None
    for row, (_, language, path) in zip(found, ROWS):
        own = limits(language, path.rpartition(".")[2])
        assert row["limits"] == own.__dict__


def test_the_filters_see_the_same_figures():
    frame = _frame(*ROWS)
    figures, lines = statistics(frame), filters.long_lines(frame)
    assert figures["max_line"].to_list() == lines["max_line"].to_list()
    assert figures["mean_line"].to_list() == lines["mean_line"].to_list()
    share = filters.alphanumeric(frame)["alphanumeric_fraction"]
    assert figures["alphanumeric"].to_list() == share.to_list()
    assert figures["visible"].to_list() == filters.html(frame)["visible_fraction"].to_list()


@pytest.mark.parametrize("rows", [[], ROWS])
def test_the_types_are_the_same_for_any_rows(rows):
    schema = statistics(_frame(*rows)).schema
    assert [schema[name] for name in ("characters", "lines", "max_line")] == [pl.UInt32] * 3
    assert [schema[n] for n in ("mean_line", "alphanumeric", "visible")] == [pl.Float64] * 3
    assert schema["xml"] == pl.Boolean
    assert {one.name for one in schema["limits"].fields} >= {"max_line", "alphabetic", "xml"}
