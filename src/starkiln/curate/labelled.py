"""Labelled sets: users' own Parquet files, on which the stages are scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.core.errors import UserError


def read(
    path: Path, columns: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """The ``columns`` (name -> type) of a Parquet file, and those of ``optional`` that it has.

    UserError where it is no Parquet file, is empty, lacks a column, or holds another type or null.
    """
    mend = f"a labelled set is a Parquet file with {', '.join(columns)}"
    try:
        known = pl.read_parquet_schema(path)
        missing = [name for name in columns if name not in known]
        if missing:
            raise UserError(path, f"no column '{missing[0]}'", mend)
        wanted = {**columns, **{k: v for k, v in (optional or {}).items() if k in known}}
        frame = pl.read_parquet(path, columns=list(wanted))
    except (pl.exceptions.PolarsError, OSError) as error:
        fault = str(error).partition("\n")[0]
        raise UserError(path, f"unreadable ({fault})", mend) from error
    return _checked(path, frame, wanted, mend)


def _checked(path: Path, frame: pl.DataFrame, wanted: dict, mend: str) -> pl.DataFrame:
    if frame.is_empty():
        raise UserError(path, "holds no row", mend)
    for name, kind in wanted.items():
        column = frame[name]
        same = column.dtype == kind or (column.dtype.is_numeric() and kind().is_numeric())
        if not same:
            raise UserError(path, f"column '{name}' is {column.dtype}, not {kind}", mend)
        if column.null_count():
            raise UserError(path, f"column '{name}' holds null", mend)
    return frame.cast({name: kind for name, kind in wanted.items() if kind().is_numeric()})
