"""How well decontamination does on files in which benchmarks were planted."""

from pathlib import Path
from typing import Any

import polars as pl

from starkiln.curate import labelled
from starkiln.curate.decontaminate import METHODS, decontaminate

COLUMNS = {
    "id": pl.Int64,
    "content": pl.String,
    "variant": pl.String,
    "benchmark": pl.String,
    "task_id": pl.String,
    "contaminated": pl.Boolean,
}


def ready(files: Path) -> pl.DataFrame:
    """The labelled files, read and checked."""
    return labelled.read(files, COLUMNS)


def contamination(files: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The stage with a recipe's ``settings`` on a labelled Parquet file.

    Columns: ``id``, ``content``, ``variant`` (how it was planted), ``benchmark``, ``task_id`` and
    ``contaminated`` (what a good filter drops). Returns ``files``, ``recall`` and ``precision``
    over all, ``variants`` (benchmark, variant, contaminated, files, found, and how many the surest
    method was each of the four) and, one row each, ``misses`` and ``false_positives``.
    """
    frame = ready(files)
    made = decontaminate(frame.select(text="content"), **settings)
    rows = frame.drop("content").with_columns(
        found=made["reason"].is_not_null(),
        contaminated_by=made["contaminated_by"],
        method=made["contaminated_by"].list.first().str.split(":").list.last(),
    )
    right = rows.filter(pl.col("found") & pl.col("contaminated")).height
    variants = rows.group_by("benchmark", "variant", "contaminated").agg(
        pl.len().alias("files"),
        pl.sum("found"),
        *((pl.col("method") == method).sum().alias(method) for method in METHODS),
    )
    return {
        "files": rows.height,
        "recall": _share(right, rows.filter("contaminated").height),
        "precision": _share(right, rows.filter("found").height),
        "variants": variants.sort("contaminated", "benchmark", "variant").to_dicts(),
        "misses": _named(rows.filter(~pl.col("found") & pl.col("contaminated"))),
        "false_positives": _named(rows.filter(pl.col("found") & ~pl.col("contaminated"))),
    }


def _named(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return rows.select("id", "variant", "benchmark", "task_id", "contaminated_by").to_dicts()


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
