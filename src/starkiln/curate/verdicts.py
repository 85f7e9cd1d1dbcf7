"""What people decided on the inspection page, as a filter (paper §3.1).

The file is JSON: by stratum (``python/py``: language and extension) whether its files are taken
in and under what limits, and by document id what was said of one file.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from starkiln.code.document import FILES
from starkiln.code.languages import LANGUAGES, UNKNOWN
from starkiln.core import recipe
from starkiln.core.errors import UserError
from starkiln.core.settings import File, Settings
from starkiln.core.stage import stage
from starkiln.curate import statistics


class StratumLimits(Settings):
    """Limits of a stratum's files, as in ``languages.Limits``; none: no such limit."""

    max_line: Annotated[int, Field(ge=0)] | None = None
    mean_line: Annotated[float, Field(ge=0)] | None = None
    alphanumeric: Annotated[float, Field(ge=0, le=1)] | None = None
    alphabetic: Annotated[float, Field(ge=0, le=1)] | None = None


class StratumVerdict(Settings):
    """What was decided of one extension of one language."""

    include: bool = True
    limits: StratumLimits = StratumLimits()
    note: str = ""


class Verdict(Settings):
    """What was said of one file; a verdict counts for more than what was decided of its stratum."""

    verdict: Literal["keep", "drop"] | None = None  # none: there is a note alone
    note: str = ""


class Verdicts(Settings):
    """A verdicts file."""

    format: Literal[1]
    table: str = ""  # that was looked at
    strata: dict[str, StratumVerdict] = Field(default_factory=dict)
    files: dict[str, Verdict] = Field(default_factory=dict)  # by document id

    @field_validator("strata")
    @classmethod
    def _known(cls, strata: dict[str, StratumVerdict]) -> dict[str, StratumVerdict]:
        for place in strata:
            language, slash, _ = place.partition("/")
            if not slash or language not in {*LANGUAGES, UNKNOWN}:
                raise ValueError(f"'{place}' names no stratum, as python/py does")
        return strata


def read(path: Path) -> Verdicts:
    """The verdicts of a file; UserError if it is not there or holds anything else."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        fault = error.strerror or "unreadable"
        raise UserError(path, fault, "save verdicts with 'starkiln inspect'") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            path, f"not JSON: {error}", "mend it, or move it away and save anew"
        ) from error
    if not isinstance(raw, dict):
        raise UserError(path, "holds no verdicts", "save verdicts with 'starkiln inspect'")
    return recipe.check(Verdicts, raw, path)


@stage(
    version=1,
    reads=("id", "text", "language", "path"),
    kinds=FILES,
    ready=lambda settings: read(Path(settings["file"])),
)
def verdicts(
    frame: pl.DataFrame,
    *,
    file: Annotated[File, Field(description="what the inspection page saved")],
) -> pl.DataFrame:
    """Drop what people found unfit on the inspection page; a file they keep stays.

    Files and strata that the verdicts do not name are kept. Reasons: ``verdict-file``,
    ``verdict-stratum``, ``verdict-long-line``, ``verdict-alphanumeric``, ``verdict-alphabetic``.
    """
    told = read(Path(file))
    said = [told.files.get(i, Verdict()).verdict for i in frame["id"]]
    keys = [f"{language}/{extension}" for language, extension in statistics.strata(frame)]
    refused = {key for key, stratum in told.strata.items() if not stratum.include}
    limits = {key: stratum.limits.model_dump() for key, stratum in told.strata.items()}
    bounds = statistics.resolved(frame, dict.fromkeys(StratumLimits.model_fields, False), limits)
    failed = _failed(frame["text"], bounds)
    tests = {
        "verdict-file": np.array([one == "drop" for one in said], bool),
        "verdict-stratum": np.array([key in refused for key in keys], bool),
        **dict(zip(("verdict-long-line", "verdict-alphanumeric", "verdict-alphabetic"), failed)),
    }
    stay = np.array([one == "keep" for one in said], bool)
    reasons = [pl.when(pl.Series(test & ~stay)).then(pl.lit(why)) for why, test in tests.items()]
    return pl.select(reason=pl.coalesce(reasons))


def _failed(texts: pl.Series, bounds: np.ndarray) -> np.ndarray:
    """Which texts fail by their lines, alphanumeric or alphabetic share (bool [3, n]).

    ``bounds`` is float64 [4, n]; texts without any are not read.
    """
    failed = np.zeros((3, len(texts)), bool)
    limited = np.flatnonzero(~np.isnan(bounds).all(axis=0))
    if not len(limited):
        return failed
    most, usual, numbers, letters = bounds[:, limited]
    found = texts.gather(limited)
    longest, lines, characters = statistics.line_figures(found)
    alphanumeric, alphabetic = statistics.shares(found)
    over = (longest > most) | (statistics.mean_line(lines, characters) > usual)
    failed[:, limited] = over, alphanumeric < numbers, alphabetic < letters
    return failed
