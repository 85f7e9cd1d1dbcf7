"""Files that hold a benchmark's problems are dropped (paper §5.2; rules §7)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import polars as pl
from pydantic import AfterValidator, Field

from starkiln.core.settings import File, Place
from starkiln.core.stage import stage
from starkiln.problems import benchmarks as published
from starkiln.problems import own as own_benchmark

if TYPE_CHECKING:
    from starkiln.curate.needles import Index

METHODS = ("exact", "normalised", "ngram", "structure")  # the surest first


def stamp(settings: dict) -> str:
    """Changes when the benchmarks that the settings name are found to hold something else."""
    data = settings["data"]
    return published.stamp(settings["benchmarks"], None if data is None else Path(data))


def ready(settings: dict) -> None:
    """Find or fetch the benchmarks, read the user's own; UserError where one cannot be had."""
    for name in settings["benchmarks"]:
        data = settings["data"]
        published.locate(name, None if data is None else Path(data))
    if settings["own"] is not None:
        own_benchmark.needles(Path(settings["own"]))


def _ordered(methods: list[str]) -> list[str]:
    """Each method once, the surest first: their order changes no row, so it is no setting."""
    return [method for method in METHODS if method in methods]


@stage(
    version=2,
    reads=("text",),
    adds={"contaminated_by": pl.List(pl.String)},
    stamp=stamp,
    ready=ready,
)
def decontaminate(
    frame: pl.DataFrame,
    *,
    benchmarks: Annotated[list[str], Field(description="what to search for")] = [  # noqa: B006
        "humaneval",
        "mbpp",
        "ds1000",
        "gsm8k",
        "multiple",
    ],
    own: Annotated[File | None, Field(description="a benchmark of yours, see problems.own")] = None,
    data: Annotated[Place | None, Field(description="folder of the benchmarks' files")] = None,
    methods: Annotated[
        list[Literal["exact", "normalised", "ngram", "structure"]],
        AfterValidator(_ordered),
        Field(description="what counts as a copy; the paper's is exact", min_length=1),
    ] = ["exact", "normalised", "ngram", "structure"],  # noqa: B006
    ngram: Annotated[int, Field(ge=3, le=50, description="words of an n-gram")] = 5,
    ngram_share: Annotated[
        float, Field(gt=0, le=1, description="of a needle's n-grams that a text must have")
    ] = 0.5,
) -> pl.DataFrame:
    """Drop texts that hold a docstring, question or solution of a benchmark.

    ``exact``       the whole needle as a substring, whatever the case (the paper's only rule)
    ``normalised``  its letters and digits, 20 or more, in the same order: copies that were
                    reformatted, reflowed, made a comment of any language, quoted or escaped;
                    solutions also without their ``#`` comments
    ``ngram``       ``ngram_share`` of its different runs of ``ngram`` words, 8 at least, within
                    twice its length: partial and edited copies. Runs of over 10 problems do not
                    count
    ``structure``   a solution of 24 tokens or more, its names changed one for one, its layout and
                    ``#`` comments as may be. Only names that a file chooses may differ: keywords,
                    built-in names, attributes, numbers and the first words of literals must be
                    the same, in the same order. Out of its reach: statements moved, added or left
                    out, annotations or docstrings put in, another language, shorter solutions

    Reason: ``contaminated:<benchmark>``. ``contaminated_by`` lists what was found, one entry a
    problem, the surest first: ``HumanEval/13:solution:exact``, that is BENCHMARK/PROBLEM:PART:
    METHOD. Where benchmarks share a needle, the one named first has it. Needles of fewer than 8
    letters and digits are not looked for. Raises UserError when a benchmark cannot be found.
    APPS (``apps``) has to be asked for: it is 1.3 GB that nobody wants fetched unasked.
    """
    from starkiln.curate import needles

    index = needles.index(tuple(benchmarks), data, own, frozenset(methods), ngram, ngram_share)
    found = needles.find(frame["text"], index, "normalised" in methods)
    hits = _hits(frame["text"], found, index, methods)
    return pl.DataFrame(
        {
            "reason": [hit and f"contaminated:{hit[0][0]}" for hit in hits],
            "contaminated_by": [hit and [entry for _, entry in hit] for hit in hits],
        },
        schema={"reason": pl.String, "contaminated_by": pl.List(pl.String)},
    )


def _hits(
    texts: pl.Series, found: list[tuple[int, int, str]], index: "Index", methods: Sequence[str]
) -> list[list[tuple[str, str]] | None]:
    """For each text (benchmark, entry) by problem, the surest method of each, or None."""
    best: dict[tuple[int, str], tuple[int, int, str, str]] = {}
    short, lower, last = set(index.short.ids.tolist()), "", -1
    for row, needle, method in found:
        pair = index.spellings[needle][0]
        if method == "copy":
            if row != last:
                lower, last = _lower(texts[row]), row
            same = (p for p in index.spellings[needle] if _lower(p[1].text) in lower)
            exact = next(same, None)
            method, pair = ("exact", exact) if exact else ("normalised", pair)
        if method not in methods or (method == "normalised" and needle in short):
            continue
        benchmark, one = pair
        entry = f"{one.problem}:{one.part}:{method}"
        rank = (METHODS.index(method), needle, benchmark, entry)
        best[row, one.problem] = min(best.get((row, one.problem), rank), rank)
    hits: list[list[tuple[str, str]] | None] = [None] * texts.len()
    for (row, _), (*_, benchmark, entry) in sorted(best.items(), key=lambda b: (b[0][0], b[1])):
        hits[row] = [*(hits[row] or ()), (benchmark, entry)]
    return hits


def _lower(text: str) -> str:
    """Lower case, with line ends as LF."""
    return text.replace("\r\n", "\n").lower()
