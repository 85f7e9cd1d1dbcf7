import json

import polars as pl
import pytest

from starkiln.code.document import FILES
from starkiln.core import stage
from starkiln.core.errors import UserError
from starkiln.curate.verdicts import read, verdicts

STRATA = {
    "python/py": {
        "include": True,
        "limits": {"max_line": 20, "mean_line": 10, "alphanumeric": 0.25, "alphabetic": None},
        "note": "fine",
    },
    "perl/al": {"include": False},
    "makefile/": {"include": False, "note": "no extension"},
    "json/json": {"limits": {"alphabetic": 0.5}},
}
FILE_VERDICTS = {
    "bad": {"verdict": "drop"},
    "good": {"verdict": "keep", "note": "kept by hand"},
    "else": {"note": "ask somebody"},  # no verdict
}


def _write(path, strata=STRATA, files=FILE_VERDICTS, **more):
    told = {"format": 1, "table": "documents", "strata": strata, "files": files} | more
    path.write_text(json.dumps(told))
    return str(path)


def _reasons(file, *rows):
    schema = {"id": pl.String, "text": pl.String, "language": pl.String, "path": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    found = verdicts(frame, file=file)
    assert found.schema == {"reason": pl.String}
    return found["reason"].to_list()


def test_verdicts_on_strata_and_their_limits(tmp_path):
    rows = [
        ("1", "short\n", "python", "a.py"),
        ("2", "x" * 21 + "\n" * 30, "python", "a.py"),
        ("3", "x" * 11, "python", "a.py"),
        ("4", "a----", "python", "a.py"),
        ("5", "a----" * 99, "python", "a.pyi"),  # a stratum of which nothing was said
        ("6", "sub f {}", "perl", "b/AutoLoader.al"),
        ("7", "sub f {}", "perl", "a.pl"),
        ("8", "all:", "makefile", "Makefile"),
        ("9", "all:", "makefile", "a.mk"),
        ("10", "1234a", "json", "a.json"),
        ("11", "x" * 999 + "\n", "json", "a.json"),
        ("12", "", "json", "a.json"),
    ]
    line, low = "verdict-long-line", "verdict-alphabetic"
    expected = [None, line, line, "verdict-alphanumeric", None, "verdict-stratum", None,
                "verdict-stratum", None, low, None, low]  # fmt: skip
    assert _reasons(_write(tmp_path / "v.json"), *rows) == expected


def test_verdicts_on_files_count_for_more(tmp_path):
    rows = [
        ("bad", "short\n", "python", "a.py"),
        ("good", "x" * 99, "python", "a.py"),
        ("good", "sub f {}", "perl", "a.al"),
        ("bad", "sub f {}", "perl", "a.al"),
        ("else", "sub f {}", "perl", "a.al"),
    ]
    expected = ["verdict-file", None, None, "verdict-file", "verdict-stratum"]
    assert _reasons(_write(tmp_path / "v.json"), *rows) == expected


def test_no_verdicts_and_no_rows(tmp_path):
    file = _write(tmp_path / "v.json", {}, {})
    assert _reasons(file, ("1", "x" * 9999, "python", "a.py")) == [None]
    assert _reasons(_write(tmp_path / "v.json")) == []
    assert stage.spec(verdicts).kinds == FILES


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"format": 2}, "format"),
        ({"strata": {"pyton/py": {}}}, "'pyton/py' names no stratum"),
        ({"strata": {"python": {}}}, "'python' names no stratum"),
        ({"strata": {"python/py": {"inclde": True}}}, "inclde"),
        ({"strata": {"python/py": {"include": "yes"}}}, "include"),
        ({"strata": {"python/py": {"limits": {"max_line": -5}}}}, "max_line"),
        ({"strata": {"python/py": {"limits": {"alphabetic": 25}}}}, "alphabetic"),
        ({"files": {"1": {"verdict": "maybe"}}}, "verdict"),
        ({"files": []}, "files"),
        ({"stratum": {}}, "no such key"),
    ],
)
def test_a_damaged_verdicts_file_is_refused(tmp_path, more, fault):
    with pytest.raises(UserError, match=fault) as caught:
        _reasons(_write(tmp_path / "v.json", **more), ("1", "x", "python", "a.py"))
    assert "v.json" in caught.value.where


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"NaN"]
)
def test_what_is_no_verdicts_file_is_refused(tmp_path, content):
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(UserError, match=r"v\.json: (not JSON|holds no verdicts)"):
        read(tmp_path / "v.json")


def test_a_verdicts_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "v.json")
