"""One documents shard: the units of a source, read and written beside what was set aside."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.code.document import SCHEMA, SET_ASIDE
from starkiln.code.licences import UNRECOGNISED
from starkiln.core import stage, table
from starkiln.core.errors import UserError


def group(units: list[dict], shard_bytes: int) -> list[list[dict]]:
    """Consecutive units, put together until a shard holds about ``shard_bytes`` of files."""
    groups: list[list[dict]] = []
    filled = shard_bytes
    for unit in units:
        if filled >= shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(unit)
        filled += unit["bytes"]
    return groups


def read_shard(
    folder: Path, name: str, use: str, units: list[dict], licences: list[str]
) -> dict[str, Any]:
    """Write ``name.parquet`` and ``name.dropped.parquet``; returns files, rows, bytes, drops.

    ``licences`` govern the rows in which no known licence was found. A source that raises, or
    yields a row that is none, gives a ``UserError`` with its name and the unit's.
    """
    documents, dropped = [], []
    for unit in units:
        kept, aside = _read_unit(use, unit, licences)
        documents.append(kept)
        dropped.append(aside)
    found = pl.concat(documents or [pl.DataFrame(schema=SCHEMA)], rechunk=True)
    aside = pl.concat(dropped or [pl.DataFrame(schema=SET_ASIDE)], rechunk=True)
    paths = [folder / f"{name}.parquet", folder / f"{name}.dropped.parquet"]
    for path, frame in zip(paths, (found, aside), strict=True):
        table.write(path, frame)
    texts = pl.element().struct.field("text").str.len_bytes()
    counts = Counter(aside["reason"])
    return {
        "files": [str(p) for p in paths],
        "rows": found.height,
        "bytes": found["segments"].list.eval(texts).list.sum().sum(),
        "drops": dict(sorted(counts.items())),
    }


def _read_unit(use: str, unit: dict, licences: list[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents of one unit and what is set aside; a source's fault is a ``UserError``."""
    read = stage.spec(stage.load(use, "source")).read
    assert read is not None
    rows: list[dict] = []
    aside: list[dict] = []
    try:
        for row in read(unit):
            if "reason" in row:
                aside.append(row)
                continue
            if licences and set(row["licences"]) <= {UNRECOGNISED}:
                row["licences"] = licences
            rows.append(row)
        return _frame(rows, SCHEMA, ("stars",)), _frame(aside, SET_ASIDE)
    except (UserError, MemoryError, OSError):
        raise
    except Exception as fault:
        what = f"unit '{unit['name']}': {type(fault).__name__}: {fault}"
        raise UserError(use, what, "mend the source") from fault


def _frame(rows: list[dict], schema: dict[str, Any], optional: Sequence[str] = ()) -> pl.DataFrame:
    """Rows as a table; ``ValueError`` for one in which a column of ``schema`` is not its type."""
    for row in rows:
        for column, kind in schema.items():
            value = row.get(column)
            if not _fits(value, kind) and not (value is None and column in optional):
                state = f"'{column}' is not a {kind}" if column in row else f"no '{column}'"
                raise ValueError(f"row {row.get('path')!r}: {state}")
    return pl.DataFrame(rows, schema=schema)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, pl.List):
        return isinstance(value, list) and all(_fits(one, kind.inner) for one in value)
    if isinstance(kind, pl.Struct):
        fields = kind.fields
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.dtype) for f in fields)
    return isinstance(value, str if kind == pl.String else int)
