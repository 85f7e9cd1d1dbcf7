import polars as pl
import pytest

from starkiln.core import recipe, stage
from starkiln.core.errors import UserError
from starkiln.curate import select


def _languages(rows: list[tuple[str, str]], **settings: object) -> list[str | None]:
    frame = pl.DataFrame(rows, schema={"language": pl.String, "path": pl.String}, orient="row")
    return select.languages(frame, **settings)["reason"].to_list()


def _licences(rows: list[list[str] | None], **settings: object) -> list[str | None]:
    frame = pl.DataFrame({"licences": pl.Series(rows, dtype=pl.List(pl.String))})
    return select.licences(frame, **settings)["reason"].to_list()


def test_languages_and_extensions_of_the_paper_are_kept():
    rows = [
        ("python", "a/b.py"),
        ("python", "a/b.PY"),
        ("unknown", "a/b.qqq"),
        ("python", "a/b.xyz"),
        ("racket", "x.rkt"),  # the original's table never held it
        ("dockerfile", "deploy/Dockerfile"),
    ]
    assert _languages(rows) == [None, None, "language", "extension", None, None]


def test_only_the_languages_asked_for_are_kept():
    assert _languages([("python", "a.py"), ("rust", "a.rs")], keep=["rust"]) == ["language", None]
    with pytest.raises(UserError, match="'pyhton' is no language"):
        _languages([], keep=["pyhton"])


def test_licences_must_all_be_permissive():
    rows = [["MIT"], [], None, ["MIT", "GPL-3.0-only"], ["GPL-3.0-only"], ["Apache-2.0", "MIT"]]
    missing, no = "licence-missing", "licence-not-permissive"
    assert _licences(rows) == [None, missing, missing, no, no, None]


def test_licences_can_be_allowed_or_all_taken():
    rows = [["MIT", "GPL-3.0-only"], ["GPL-3.0-only"], ["AGPL-3.0-only"], []]
    kept = _licences(rows, allow=["GPL-3.0-only"])
    assert kept == [None, None, "licence-not-permissive", "licence-missing"]
    assert _licences(rows, permissive_only=False) == [None] * 4


def test_empty_frames_have_the_right_type():
    frame = pl.DataFrame(schema={"language": pl.String, "path": pl.String})
    assert select.languages(frame).schema == {"reason": pl.String}


@pytest.mark.parametrize("function", [select.languages, select.licences])
def test_wrong_settings_are_refused(function):
    with pytest.raises(UserError, match="no such key"):
        recipe.check(stage.settings_model(function), {"kep": 1}, "recipe")
