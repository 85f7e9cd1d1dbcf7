"""One documents shard: the units of a source, read and written beside what was set aside."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.code.document import SCHEMA, SET_ASIDE
from starkiln.code.licences import UNRECOGNISED
from starkiln.core import stage, table


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

    ``licences`` govern the rows in which no known licence was found.
    """
    read = stage.spec(stage.load(use, "source")).read
    assert read is not None
    rows: list[dict] = []
    aside: list[dict] = []
    for unit in units:
        for row in read(unit):
            if "reason" in row:
                aside.append(row)
                continue
            if licences and set(row["licences"]) <= {UNRECOGNISED}:
                row["licences"] = licences
            rows.append(row)
    documents = pl.DataFrame(rows, schema=SCHEMA)
    dropped = pl.DataFrame(aside, schema=SET_ASIDE)
    paths = [folder / f"{name}.parquet", folder / f"{name}.dropped.parquet"]
    for path, frame in zip(paths, (documents, dropped), strict=True):
        table.write(path, frame)
    size = sum(len(s["text"].encode()) for row in rows for s in row["segments"])
    counts = Counter(row["reason"] for row in aside)
    return {
        "files": [str(p) for p in paths],
        "rows": documents.height,
        "bytes": size,
        "drops": dict(sorted(counts.items())),
    }
