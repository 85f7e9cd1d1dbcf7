"""What the row filters look at: the figures of each text, and the limits that it must meet.

A line is what ``text.split("\\n")`` gives, so CR counts as a character of its line; lengths and
shares are of code points; alphanumeric and alphabetic are ``str.isalnum`` and ``str.isalpha``.
Shares of an empty text are 0.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, get_args

import numpy as np
import polars as pl

from starkiln.code import languages

HEAD = 100  # characters in which an XML declaration counts
DECLARATION = "<?xml version="
Own = Mapping[
    str, float | bool | None
]  # a limit's name -> what stands for the table's; False: none
_TYPES: dict[Any, Any] = {int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
_LIMITS = pl.Struct(
    {one.name: _TYPES[(get_args(one.type) or (one.type,))[0]] for one in fields(languages.Limits)}
)


def statistics(frame: pl.DataFrame) -> pl.DataFrame:
    """The figures of each row of ``text``, ``language``, ``path`` (paper §3.1; rules §3).

    ``characters``, ``lines``, ``max_line`` (UInt32), ``mean_line`` (Float64, code points),
    ``alphanumeric``, ``alphabetic`` (Float64, shares), ``xml`` (Boolean), ``visible`` (Float64,
    share of an HTML file's characters; null for other files) and ``limits``: a struct of
    ``languages.Limits`` that apply.
    """
    texts = frame["text"]
    longest, lines, characters = line_figures(texts)
    alphanumeric, alphabetic = shares(texts)
    limits = [languages.limits(*pair) for pair in strata(frame)]
    html = np.flatnonzero([one.visible_share is not None for one in limits])
    seen = np.full(len(limits), np.nan)
    seen[html] = visible(texts.gather(html))[0]
    schema = {"characters": pl.UInt32, "lines": pl.UInt32, "max_line": pl.UInt32}
    return pl.DataFrame(
        {
            "characters": characters,
            "lines": lines,
            "max_line": longest,
            "mean_line": mean_line(lines, characters),
            "alphanumeric": alphanumeric,
            "alphabetic": alphabetic,
            "xml": declared(texts),
            "visible": pl.Series(seen).fill_nan(None),
            "limits": pl.Series([asdict(one) for one in limits], dtype=_LIMITS),
        },
        schema_overrides=schema,
    )


def strata(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """(language, extension) of each row."""
    rows = zip(frame["language"], frame["path"])
    return [(language, languages.extension(path)) for language, path in rows]


def line_figures(texts: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Longest line, number of lines, characters of each text (int64 [n])."""
    from starkiln.curate import kernels

    return kernels.lines(*kernels.buffers(texts))


def mean_line(lines: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """Mean length of the lines, without the LF between them (float64 [n])."""
    return (characters - (lines - 1)) / lines


def shares(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Shares of alphanumeric and of alphabetic characters (float64 [n] both)."""
    from starkiln.curate import kernels

    count, *letters = kernels.letters(*kernels.buffers(texts), kernels.classes())
    alphanumeric, alphabetic = (one / np.maximum(count, 1) for one in letters)
    return alphanumeric, alphabetic


def visible(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Share and number of characters that are text outside of HTML's markup ([n] both).

    Scripts, styles and comments are no text; white space counts as it stands, as in the paper's
    code; a character reference is one character.
    """
    from starkiln.curate import kernels, scan_kernels

    if texts.is_empty():  # most shards: their kernel need not be loaded
        return np.zeros(0), np.zeros(0, np.int64)
    seen = scan_kernels.visible(*kernels.buffers(texts))
    return seen / np.maximum(texts.str.len_chars().to_numpy(), 1), seen


def declared(texts: pl.Series) -> pl.Series:
    """Whether an XML declaration stands in the first 100 characters (Boolean [n])."""
    return texts.str.head(HEAD).str.contains(DECLARATION, literal=True)


def resolved(frame: pl.DataFrame, own: Own, by: Mapping[str, Own]) -> np.ndarray:
    """The limits named in ``own`` for each row (float64 [names, n]); NaN, met by all, for none.

    For a row of ``python`` with extension ``pyi`` the first of these that says anything counts:
    ``by["python/pyi"]``, ``by["python"]``, ``own``, ``languages.toml``.
    """
    pairs = strata(frame)
    rows = {pair: _row(*pair, own, by) for pair in set(pairs)}
    return np.array([rows[pair] for pair in pairs], np.float64).reshape(-1, len(own)).T


def _row(language: str, extension: str, own: Own, by: Mapping[str, Own]) -> list[float]:
    known = languages.limits(language, extension)
    found = {name: getattr(known, name) if mine is None else mine for name, mine in own.items()}
    found |= by.get(language, {})
    found |= by.get(f"{language}/{extension}", {})
    return [math.nan if one is None or one is False else float(one) for one in found.values()]
