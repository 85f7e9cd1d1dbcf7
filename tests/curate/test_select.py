from pathlib import Path

import polars as pl
import pytest

from starkiln.core import recipe, stage
from starkiln.core.errors import UserError
from starkiln.curate import select

COLUMNS = {"language": pl.String, "path": pl.String, "kind": pl.String}


def _languages(rows: list[tuple[str, ...]], **settings: object) -> list[str | None]:
    rows = [(*row, "code")[:3] for row in rows]
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
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
    with pytest.raises(ValueError, match="'pyhton' is no language"):
        stage.settings_model(select.languages)(keep=["pyhton"])


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
    frame = pl.DataFrame(schema=COLUMNS)
    assert select.languages(frame).schema == {"reason": pl.String}


@pytest.mark.parametrize("function", [select.languages, select.licences])
def test_wrong_settings_are_refused(function):
    with pytest.raises(UserError, match="no such key"):
        recipe.check(stage.settings_model(function), {"kep": 1}, "recipe")


def test_notebooks_have_no_extension_of_their_language():
    rows = [
        ("python", "a.ipynb", "notebook"),
        ("julia", "a.ipynb", "notebook-script"),
        ("unknown", "a.ipynb", "notebook-script"),
        ("python", "a.ipynb", "code"),
        ("python", "a.py", "commit"),
        ("python", "a.xyz", "commit"),
    ]
    assert _languages(rows) == [None, None, "language", "extension", None, "extension"]


@pytest.mark.parametrize("function", [select.languages, select.licences])
def test_issues_have_neither_language_nor_licence(function):
    assert stage.spec(function).kinds == ("code", "notebook-script", "notebook", "commit")


def _opt_out(repos: list[str], path: Path) -> list[str | None]:
    return select.opt_out(pl.DataFrame({"repo": repos}), file=str(path))["reason"].to_list()


def test_owners_and_repositories_who_asked_are_left_out(tmp_path):
    names = tmp_path / "opt-out.txt"
    names.write_text("# asked\nAcme\n\njane/Thing  # in July\r\nalone\n", "utf-8")
    repos = ["acme/a", "ACME/b", "acmecorp/a", "Jane/thing", "jane/things", "alone", "x/acme"]
    out = "opted-out"
    assert _opt_out(repos, names) == [out, out, None, out, None, out, None]
    assert stage.spec(select.opt_out).kinds is None  # issues and commits as well


def test_an_empty_list_leaves_nobody_out(tmp_path):
    (tmp_path / "none.txt").write_text("\ufeff# nobody yet\n", "utf-8")
    assert _opt_out(["a/b", "b"], tmp_path / "none.txt") == [None, None]
    empty = pl.DataFrame(schema={"repo": pl.String})
    found = select.opt_out(empty, file=str(tmp_path / "none.txt"))
    assert found.schema == {"reason": pl.String}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"ok\na/b/c\n", ":2: 'a/b/c' is no owner or repository"),
        (b"https://example.org/a\n", ":1: 'https://example.org/a' is no owner"),
        (b"two words\n", ":1: 'two words' is no owner"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, content, fault):
    path = tmp_path / "opt-out.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=fault):
        _opt_out(["a/b"], path)
