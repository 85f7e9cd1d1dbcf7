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
VERSION = re.compile(r"[vV]?\d+\.\d+\.\d+(?![\s\d])")
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]


class Edit(NamedTuple):
    """What the rules look at."""

    id: str
    path: str
    before: str
    subject: str
    after: str


@stage(version=2, reads=("id", "path", "segments"), kinds=("commit",))
def commits(
    frame: pl.DataFrame,
    *,
    sample: Annotated[Share, Field(description="share looked at; the paper's: 0.5")] = 1.0,
    small_lines: Annotated[Number, Field(description="lines of a change that is small")] = 2,
    small_keep: Annotated[Share, Field(description="share of small changes kept")] = 0.1,
    large_lines: Annotated[Number, Field(description="lines of a change that is large")] = 200,
    large_keep: Annotated[Share, Field(description="share of large changes kept")] = 0.1,
    contains: Annotated[
        list[str], Field(description="what drops a subject that holds it, in lower case")
    ] = CONTAINS,
    equals: Annotated[
        list[str], Field(description="subjects that are dropped, in lower case")
    ] = EQUALS,
    short_words: Annotated[Number, Field(description="subjects of fewer words are short")] = 5,
    short_keep: Annotated[Share, Field(description="share of short subjects kept")] = 0.5,
    word_characters: Annotated[
        Number, Field(description="of a subject's words, on average, at most")
    ] = 20,
    data_extensions: Annotated[list[str], Field(description="of data files")] = DATA,
    data_keep: Annotated[Share, Field(description="share of data files kept")] = 0.5,
    seed: int = 0,
) -> pl.DataFrame:
    """Keep commits that teach: a change of some size, and a subject that says something.

    A change's size is the lines from its first to its last, on its longer side. Each draw is made
    by (seed, rule, id). Reasons, the first that holds: ``sample``, ``empty-change``
    (neither side shows anything), ``empty-subject``, ``small-change``, ``large-change``,
    ``subject-phrase``, ``subject-word``, ``short-subject``, ``version-subject``, ``hash-subject``,
    ``data-file``. Files that are too long or were emptied never come here: the source sees them
    whole. The paper's code also drops a subject that is one word behind a space; subjects come
    here without outer spaces.
    """
    figures = {"sample": sample, "small_lines": small_lines, "small_keep": small_keep,
               "large_lines": large_lines, "large_keep": large_keep, "contains": contains,
               "equals": set(equals), "short_words": short_words, "short_keep": short_keep,
               "word_characters": word_characters, "data_extensions": set(data_extensions),
               "data_keep": data_keep}  # fmt: skip
    return pl.DataFrame(
        {
            "reason": pl.Series(
                [_reason(one, figures, seed) for one in _rows(frame)], dtype=pl.String
            )
        }
    )


def _rows(frame: pl.DataFrame) -> Iterator[Edit]:
    for name, path, segments in frame.select("id", "path", "segments").iter_rows():
        texts = {one["marker"]: one["text"] for one in segments}
        sides = (texts.get(f"<commit_{side}>", "") for side in ("before", "msg", "after"))
        yield Edit(name, path, *sides)


def _reason(edit: Edit, figures: dict[str, Any], seed: int) -> str | None:
    for rule, keep in _held(edit, figures):
        if keep < 1 and uniform(seed, f"commits-{rule}", edit.id) >= keep:
            return rule
    return None


def _held(edit: Edit, figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The rules that a commit falls under, each with the share that is kept all the same."""
    subject, words = edit.subject.lower().strip(), len(edit.subject.split())
    yield "sample", figures["sample"]
    if not (edit.before.strip() or edit.after.strip()):
        yield "empty-change", 0
    if not subject:
        yield "empty-subject", 0
    span = change(edit.before, edit.after).span
    if span <= figures["small_lines"]:
        yield "small-change", figures["small_keep"]
    if span >= figures["large_lines"]:
        yield "large-change", figures["large_keep"]
    if any(phrase in subject for phrase in figures["contains"]):
        yield "subject-phrase", 0
    if subject in figures["equals"]:
        yield "subject-word", 0
    if words < figures["short_words"]:
        yield "short-subject", figures["short_keep"]
    if VERSION.match(edit.subject):
        yield "version-subject", 0
    if len(edit.subject) > figures["word_characters"] * words:
        yield "hash-subject", 0
    if extension(edit.path) in figures["data_extensions"]:
        yield "data-file", figures["data_keep"]
