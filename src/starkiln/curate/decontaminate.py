"""Files that hold a benchmark's problems are dropped (paper §5.2; rules §7)."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

import polars as pl
from pydantic import Field

from starkiln.core.stage import stage
from starkiln.problems import benchmarks as published

SHORTEST = 24  # letters and digits that a needle must have to be searched in normalised text


class Needle(NamedTuple):
    """What to look for: lower-case text, its letters and digits, and where it comes from."""

    benchmark: str
    source: str  # "HumanEval/13:solution"
    exact: str
    normal: str


@stage(version=1, reads=("text",), adds={"contaminated_by": pl.String})
def decontaminate(
    frame: pl.DataFrame,
    *,
    benchmarks: Annotated[list[str], Field(description="what to search for")] = [  # noqa: B006
        "humaneval",
        "mbpp",
    ],
    data: Annotated[str | None, Field(description="folder of the benchmarks' files")] = None,
    normalised: Annotated[
        bool, Field(description="also ignore case, layout, punctuation and escapes")
    ] = True,
) -> pl.DataFrame:
    """Drop texts that hold a docstring, question or solution of a benchmark.

    The paper's rule is an exact substring, whatever the case. ``normalised`` compares letters and
    digits alone, for needles of 24 or more: so reflowed, commented, re-quoted and JSON-escaped
    copies are found too. Reason: ``contaminated:<benchmark>``; ``contaminated_by`` names the
    problem and the part. Raises UserError when a benchmark cannot be found.
    """
    needles = _needles(tuple(benchmarks), data)
    lower = _lower(frame["text"])
    found = _holds(lower, [n.exact for n in needles])
    normal = (
        _normal(frame["text"]) if normalised else pl.Series([""] * frame.height, dtype=pl.String)
    )
    if normalised:
        found |= _holds(normal, [n.normal for n in needles if len(n.normal) >= SHORTEST])
    hits: list[Needle | None] = [None] * frame.height
    for row in found.arg_true():
        hits[row] = _first(needles, lower[row], normal[row])
    return pl.DataFrame(
        {
            "reason": [hit and f"contaminated:{hit.benchmark}" for hit in hits],
            "contaminated_by": [hit and hit.source for hit in hits],
        },
        schema={"reason": pl.String, "contaminated_by": pl.String},
    )


@lru_cache(maxsize=4)
def _needles(names: tuple[str, ...], data: str | None) -> list[Needle]:
    folder = None if data is None else Path(data)
    raw = [
        (name, f"{needle.problem}:{needle.part}", needle.text)
        for name in names
        for needle in published.contaminants(name, published.locate(name, folder))
    ]
    texts = pl.Series([text for *_, text in raw], dtype=pl.String)
    forms = zip(raw, _lower(texts), _normal(texts))
    return [
        Needle(name, source, exact, normal) for (name, source, _), exact, normal in forms if exact
    ]


def _lower(texts: pl.Series) -> pl.Series:
    """Lower case, with line ends as LF."""
    return texts.str.replace_all("\r\n", "\n", literal=True).str.to_lowercase()


def _normal(texts: pl.Series) -> pl.Series:
    """The ASCII letters and digits alone, in lower case; escapes are none."""
    bare = texts.str.replace_all(r"(?i:\\+(?:[nrt]|u[0-9a-f]{4}))", "").str.replace_all(
        "[^A-Za-z0-9]+", ""
    )
    return bare.str.to_lowercase()


def _holds(texts: pl.Series, needles: list[str]) -> pl.Series:
    if not needles or texts.is_empty():
        return pl.Series([False] * texts.len(), dtype=pl.Boolean)
    return texts.str.contains_any(needles)


def _first(needles: list[Needle], lower: str, normal: str) -> Needle | None:
    """The first needle in the recipe's order that a text holds."""
    for needle in needles:
        if needle.exact in lower or (len(needle.normal) >= SHORTEST and needle.normal in normal):
            return needle
    return None
