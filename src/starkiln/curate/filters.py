"""The paper's row filters, with limits by language and extension (paper §3.1; rules §3).

A line is what ``text.split("\\n")`` gives, so CR counts as a character of its line; lengths and
shares are of code points; alphanumeric and alphabetic are ``str.isalnum`` and ``str.isalpha``.
Shares of an empty text are 0.
"""

import numpy as np
import polars as pl

from starkiln.code import languages
from starkiln.core.stage import stage

READS = ("text", "language", "path")


@stage(version=1, reads=READS, adds={"max_line": pl.UInt32, "mean_line": pl.Float64})
def long_lines(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop a text with a longer line, or longer lines on average, than its kind of file may have.

    ``max_line`` and ``mean_line`` are in code points. Reason: ``long-line``.
    """
    from starkiln.curate import kernels

    longest, lines, characters = kernels.lines(*kernels.buffers(frame["text"]))
    mean = (characters - (lines - 1)) / lines
    most, usual = _limits(frame, "max_line", "mean_line")
    over = (longest > most) | (mean > usual)
    return pl.DataFrame(
        {"reason": _reason(over, "long-line"), "max_line": longest, "mean_line": mean}
    )


@stage(version=1, reads=READS, adds={"alphanumeric_fraction": pl.Float64})
def alphanumeric(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop a text with too small a share of letters and digits. Reason: ``alphanumeric``."""
    share = _share(frame["text"], 1)
    under = share < _limits(frame, "alphanumeric")[0]
    return pl.DataFrame({"reason": _reason(under, "alphanumeric"), "alphanumeric_fraction": share})


@stage(version=1, reads=READS)
def alphabetic(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop a text with too small a share of letters, for the files that are so limited.

    Those are mostly data; the other files are not even read. Reason: ``alphabetic``.
    """
    limit = _limits(frame, "alphabetic")[0]
    under = np.zeros(frame.height, bool)
    limited = np.flatnonzero(~np.isnan(limit))
    under[limited] = _share(frame["text"].gather(limited), 2) < limit[limited]
    return pl.DataFrame({"reason": _reason(under, "alphabetic")})


@stage(version=1, reads=READS)
def xml(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop a text with ``<?xml version=`` in its first 100 characters. Reason: ``xml``."""
    marked = frame["text"].str.head(100).str.contains("<?xml version=", literal=True)
    return pl.DataFrame(
        {"reason": _reason(marked.to_numpy() & (_limits(frame, "xml")[0] > 0), "xml")}
    )


def _share(texts: pl.Series, row: int) -> np.ndarray:
    from starkiln.curate import kernels

    counts = kernels.letters(*kernels.buffers(texts), kernels.classes())
    return counts[row] / np.maximum(counts[0], 1)


def _limits(frame: pl.DataFrame, *names: str) -> np.ndarray:
    """Limits of each row (float64 [names, n]); NaN, which no comparison reaches, for none."""
    paths = zip(frame["language"], frame["path"])
    pairs = [(language, languages.extension(path)) for language, path in paths]
    found = {pair: languages.limits(*pair) for pair in set(pairs)}
    rows = {pair: [getattr(limits, name) for name in names] for pair, limits in found.items()}
    return np.array([rows[pair] for pair in pairs], np.float64).reshape(-1, len(names)).T


def _reason(drop: np.ndarray, reason: str) -> pl.Series:
    return pl.select(pl.when(pl.Series(drop)).then(pl.lit(reason))).to_series()
