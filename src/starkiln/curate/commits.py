"""Which commits are kept: the paper's rules with their probabilities (paper §3.1; rules §6)."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import polars as pl
from pydantic import Field

from starkiln.code.change import change
from starkiln.code.languages import extension
from starkiln.core.keyed import uniform
from starkiln.core.stage import stage

CONTAINS = ["auto commit", "update contributing", "<?xml"]
EQUALS = ["readme", "update", "dummy", "updated", "debug", "test", "update readme",
          "update readme.md", "updated readme.md", "updated readme"]  # fmt: skip
DATA = ["json", "yml", "xml", "html", "yaml"]
VERSION = re.compile(r"v?\d+\.\d+\.\d+(?![\s\d])")
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]


class Commit(NamedTuple):
    """What the rules look at."""

    id: str
    path: str
    before: str
    subject: str
    after: str


@stage(version=1, reads=("id", "path", "segments"), kinds=("commit",))
def commits(
    frame: pl.DataFrame,
    *,
    sample: Annotated[Share, Field(description="share looked at; the paper's: 0.5")] = 1.0,
    longest: Annotated[Number, Field(description="characters before the change")] = 100_000,
    small: Annotated[Number, Field(description="lines of a change that is small")] = 2,
    small_keep: Annotated[Share, Field(description="share of small changes kept")] = 0.1,
    large: Annotated[Number, Field(description="lines of a change that is large")] = 200,
    large_keep: Annotated[Share, Field(description="share of large changes kept")] = 0.1,
    contains: Annotated[
        list[str], Field(description="what drops a subject that holds it, in lower case")
    ] = CONTAINS,
    equals: Annotated[
        list[str], Field(description="subjects that are dropped, in lower case")
    ] = EQUALS,
    short: Annotated[Number, Field(description="subjects of fewer words are short")] = 5,
    short_keep: Annotated[Share, Field(description="share of short subjects kept")] = 0.5,
    word: Annotated[Number, Field(description="characters a word, on average, at most")] = 20,
    data: Annotated[list[str], Field(description="extensions of data files")] = DATA,
    data_keep: Annotated[Share, Field(description="share of data files kept")] = 0.5,
    seed: int = 0,
) -> pl.DataFrame:
    """Keep commits that teach: a change of some size, and a subject that says something.

    A change's size is the lines from its first to its last, on its longer side. Each draw is made
    by (seed, rule, id). Reasons, the first that holds: ``sample``, ``long``, ``empty-after``,
    ``empty-subject``, ``small-change``, ``large-change``, ``subject-phrase``, ``subject-word``,
    ``short-subject``, ``version-subject``, ``hash-subject``, ``data-file``.
    """
    figures = {"sample": sample, "longest": longest, "small": small, "small_keep": small_keep,
               "large": large, "large_keep": large_keep, "contains": contains,
               "equals": set(equals), "short": short, "short_keep": short_keep, "word": word,
               "data": set(data), "data_keep": data_keep}  # fmt: skip
    return pl.DataFrame(
        {
            "reason": pl.Series(
                [_reason(one, figures, seed) for one in _rows(frame)], dtype=pl.String
            )
        }
    )


def _rows(frame: pl.DataFrame) -> Iterator[Commit]:
    for name, path, segments in frame.select("id", "path", "segments").iter_rows():
        texts = {one["marker"]: one["text"] for one in segments}
        sides = (texts.get(f"<commit_{side}>", "") for side in ("before", "msg", "after"))
        yield Commit(name, path, *sides)


def _reason(commit: Commit, figures: dict[str, Any], seed: int) -> str | None:
    for rule, keep in _held(commit, figures):
        if keep < 1 and uniform(seed, f"commits-{rule}", commit.id) >= keep:
            return rule
    return None


def _held(commit: Commit, figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The rules that a commit falls under, each with the share that is kept all the same."""
    subject, words = commit.subject.lower().strip(), len(commit.subject.split())
    yield "sample", figures["sample"]
    if len(commit.before) >= figures["longest"]:
        yield "long", 0
    if not commit.after.strip():
        yield "empty-after", 0
    if not subject:
        yield "empty-subject", 0
    span = change(commit.before, commit.after).span
    if span <= figures["small"]:
        yield "small-change", figures["small_keep"]
    if span >= figures["large"]:
        yield "large-change", figures["large_keep"]
    if any(phrase in subject for phrase in figures["contains"]):
        yield "subject-phrase", 0
    if subject in figures["equals"]:
        yield "subject-word", 0
    if words < figures["short"]:
        yield "short-subject", figures["short_keep"]
    if VERSION.match(commit.subject):
        yield "version-subject", 0
    if len(commit.subject) > figures["word"] * words or _lone(commit.subject, words):
        yield "hash-subject", 0
    if extension(commit.path) in figures["data"]:
        yield "data-file", figures["data_keep"]


def _lone(subject: str, words: int) -> bool:
    return words == 1 and subject.startswith(" ")
