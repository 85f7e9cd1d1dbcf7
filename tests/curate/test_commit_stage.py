"""Each rule by itself, then the shares on real subjects."""

import math
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, document
from starkiln.core.stage import settings_model, spec
from starkiln.curate.commits import CONTAINS, DATA, EQUALS, commits

SAYS = "Say what this change is for"
BEFORE = "".join(f"line {k}\n" for k in range(40))
AFTER = BEFORE.replace("line 10\n", "new\nand more\nlines here\n")


def commit(subject=SAYS, before=BEFORE, after=AFTER, path="src/a.py"):
    segments = [("<commit_before>", before), ("<commit_msg>", subject), ("<commit_after>", after)]
    return document("commit", segments, repo="r", path=path, language="python", licences=[])


def frame(*rows):
    return pl.DataFrame(rows, schema=SCHEMA)


def reasons(*rows, **settings):
    return commits(frame(*rows), **settings)["reason"].to_list()


def reason(row=None, **settings):
    return reasons(row or commit(), **settings)[0]


def edit(lines: int) -> dict:
    new = "".join(f"new {k}\n" for k in range(lines))
    return commit(after=BEFORE.replace("line 10\n", new))


def test_a_commit_that_breaks_no_rule_is_kept():
    assert reason() is None


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (commit(after=""), None),
        (commit(before="gone\n", after=" \n"), None),
        (commit(before=" ", after=" \n"), "empty-change"),
        (commit(before="", after=""), "empty-change"),
        (commit(subject=""), "empty-subject"),
        (commit(subject="  "), "empty-subject"),
        (commit(subject="An Auto Commit of the nightly run"), "subject-phrase"),
        (commit(subject="Please update CONTRIBUTING for new people"), "subject-phrase"),
        (commit(subject="<?xml version is now in the header"), "subject-phrase"),
        (commit(subject="Update README.md"), "subject-word"),
        (commit(subject="DEBUG"), "subject-word"),
        (commit(subject="Update the readme of all parts"), None),
        (commit(subject="1.2.3"), "version-subject"),
        (commit(subject="V1.2.3-x is out for all to try"), "version-subject"),
        (commit(subject="v1.20.3-rc1 is out for all to try"), "version-subject"),
        (commit(subject="v1.20.34 is out for all to try"), None),
        (commit(subject="1.2 is out for all to try"), None),
        (commit(subject="Release 1.2.3: is out for all"), None),
        (commit(subject="0123456789abcdef01234"), "hash-subject"),
        (commit(subject="0123456789abcdef0123"), None),
    ],
)
def test_rules_without_a_draw(row, wanted):
    assert reason(row, short_keep=1.0, small_keep=1.0, large_keep=1.0) == wanted


@pytest.mark.parametrize(
    ("row", "setting", "wanted"),
    [
        (edit(2), "small_keep", "small-change"),
        (edit(3), "small_keep", None),
        (edit(199), "large_keep", None),
        (edit(200), "large_keep", "large-change"),
        (commit(before=""), "small_keep", None),
        (commit(subject="only four words here"), "short_keep", "short-subject"),
        (commit(subject="here are five short words"), "short_keep", None),
        (commit(path="a/b.JSON"), "data_keep", "data-file"),
        (commit(path="a/b.yaml"), "data_keep", "data-file"),
        (commit(path="a/b.yamls"), "data_keep", None),
        (commit(), "sample", "sample"),
    ],
)
def test_rules_with_a_draw(row, setting, wanted):
    assert reason(row, **{setting: 0.0}) == wanted
    assert reason(row, **{setting: 1.0}) is None


def test_every_phrase_word_and_extension_of_the_tables_is_dropped():
    assert set(reasons(*(commit(f"Now {one} in all") for one in CONTAINS))) == {"subject-phrase"}
    assert set(reasons(*(commit(one.title()) for one in EQUALS))) == {"subject-word"}
    found = reasons(*(commit(path=f"a.{one}") for one in DATA), data_keep=0.0)
    assert found == ["data-file"] * 5


def test_a_change_seen_as_a_whole_file_is_measured_as_a_change():
    """Upstream's span was the last changed line's number, so edits far down were all large."""
    long = "".join(f"line {k}\n" for k in range(900))
    low = commit(before=long, after=long.replace("line 800\n", "a\nb\nc\n"))
    assert reason(low, large_keep=0.0) is None


def test_a_frame_without_commits_markers_is_no_crash():
    row = document("code", [("", "x = 1\n")], repo="r", path="a", language="python", licences=[])
    assert reason(row) == "empty-change"
    assert commits(frame()).height == 0


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_subject_gets_an_answer(subject, path):
    found = reason(commit(subject=subject.encode("utf-8", "replace").decode(), path=path))
    assert found is None or re.fullmatch("[a-z]+(-[a-z]+)?", found)


# ---- shares


@pytest.fixture(scope="module")
def real(shared):
    """Commits that differ in size and kind of file, under real subjects."""
    told = pl.read_parquet(shared("corpora/git/commit_messages.parquet"))["subject"]
    sizes, paths = [1, 2, 5, 200], ["a.py", "b.json", "c.go"]
    rows = []
    for k, subject in enumerate(told):
        size, path = sizes[k % len(sizes)], paths[k % len(paths)]
        after = "head\n" + "".join(f"{k} {n}\n" for n in range(size)) + "tail\n"
        rows.append(commit(subject, "head\ntail\n", after, path))
    return frame(*rows)


def close(kept: int, of: int, share: float) -> bool:
    """Within four standard deviations of a binomial draw."""
    return of > 500 and abs(kept - share * of) < 4 * math.sqrt(of * share * (1 - share))


OFF = {"sample": 1.0, "small_keep": 1.0, "large_keep": 1.0, "short_keep": 1.0, "data_keep": 1.0}


@pytest.mark.parametrize(
    ("setting", "name", "share"),
    [
        ("sample", "sample", 0.5),
        ("small_keep", "small-change", 0.1),
        ("large_keep", "large-change", 0.1),
        ("short_keep", "short-subject", 0.5),
        ("data_keep", "data-file", 0.5),
    ],
)
def test_each_share_is_kept(real, setting, name, share):
    falls = commits(real, **(OFF | {setting: 0.0}))["reason"] == name
    dropped = commits(real, **(OFF | {setting: share}))["reason"] == name
    assert not (dropped & ~falls).any()
    assert close(falls.sum() - dropped.sum(), falls.sum(), share)
    other = commits(real, **(OFF | {setting: share, "seed": 1}))["reason"] == name
    assert not dropped.equals(other)
    assert close(other.sum(), falls.sum(), 1 - share)


def test_draws_are_independent_of_each_other(real):
    """Of what the one rule keeps, the other keeps its own share: no draw is used twice."""
    short = commits(real, **(OFF | {"short_keep": 0.0}))["reason"] == "short-subject"
    data = real["path"] == "b.json"
    first = commits(real, **(OFF | {"short_keep": 0.5}))["reason"].is_null() & short & data
    both = commits(real, **(OFF | {"short_keep": 0.5, "data_keep": 0.5}))["reason"].is_null()
    assert close((first & both).sum(), first.sum(), 0.5)


def test_order_of_rows_and_neighbours_have_no_effect(real):
    some = real.head(3000)
    whole = commits(some)["reason"]
    assert commits(some.reverse())["reason"].reverse().equals(whole)
    halves = [commits(some.slice(k, 1500))["reason"] for k in (0, 1500)]
    assert pl.concat(halves).equals(whole)


def test_real_subjects_meet_every_rule_on_subjects(real):
    found = set(commits(real, **OFF)["reason"].unique())
    assert found >= {
        None,
        "empty-subject",
        "subject-word",
        "version-subject",
        "hash-subject",
    }


def test_the_stage_sees_commits_alone():
    assert spec(commits).kinds == ("commit",)
    assert settings_model(commits)().sample == 1.0
    assert settings_model(commits)(sample=0.5, data_extensions=["csv"]).data_extensions == ["csv"]
