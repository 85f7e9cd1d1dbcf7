"""The page's part on the data: what came in, what was dropped and why, what is left."""

from pathlib import Path
from typing import Any

import polars as pl

from starkiln.code.document import SOURCE
from starkiln.evaluate import account

COLOURS = 10  # --c0 to --c9 in report.css


def data(work: Path, each: account.Each) -> dict[str, Any]:
    """What the page shows of the sources, of what was dropped and of what is left."""
    counts = account.tally(work, each)
    aside = account.set_aside(work)
    stages = account.stages(work)
    kept = counts.filter(pl.col("stage").is_null())
    return {
        "read": _sum(counts) | _variety(counts) if counts.height else None,
        "kept": _sum(kept) | _variety(kept),
        "aside": aside.to_dicts(),
        "kinds": _top(counts, "kind", 5),
        "languages": _top(counts.with_columns(SOURCE), "source", 12),
        "repositories": _top(counts, "repo", 10),
        "licences": _top(_each_licence(counts), "licence", 10),
        "funnel": _funnel(counts, stages),
        "fates": _fates(counts, [stage["name"] for stage in stages]),
        "ledger": _ledger(counts, [stage["name"] for stage in stages]),
        "duplicates": account.duplicates(work),
        "clusters": account.clusters(work),
        "contamination": account.contamination(work).to_dicts(),
        "audit": account.facts(work, "audit"),
        "redactions": account.redactions(work).to_dicts(),
    }


def _each_licence(counts: pl.DataFrame) -> pl.DataFrame:
    """``counts`` with a row for each of a document's licences, so that sums grow."""
    return counts.with_columns(pl.col("licence").str.split(account.AND)).explode("licence")


def _sum(counts: pl.DataFrame) -> dict[str, int]:
    return counts.select(pl.sum("documents", "bytes")).row(0, named=True)


def _variety(counts: pl.DataFrame) -> dict[str, int]:
    names = {"languages": "language", "repositories": "repo"}
    return {plural: counts[name].drop_nulls().n_unique() for plural, name in names.items()}


def _top(counts: pl.DataFrame, column: str, most: int) -> list[dict[str, Any]]:
    """The ``most`` largest groups by bytes with their shares; the rest as one row."""
    kept = pl.col("bytes").filter(pl.col("stage").is_null()).sum().alias("kept")
    groups = counts.group_by(column).agg(pl.sum("documents", "bytes"), kept)
    groups = groups.sort("bytes", column, descending=[True, False], nulls_last=True)
    rows: list[dict[str, Any]] = groups.rename({column: "name"}).to_dicts()
    if len(rows) > most + 1:
        rest = rows[most:]
        total = {key: sum(row[key] for row in rest) for key in ("documents", "bytes", "kept")}
        rows = [*rows[:most], {"name": f"{len(rest)} others", "rest": True, **total}]
    largest = max((row["bytes"] for row in rows), default=0) or 1
    return [
        row
        | {
            "kept_width": row["kept"] / largest,
            "lost_width": (row["bytes"] - row["kept"]) / largest,
            "kept_share": row["kept"] / (row["bytes"] or 1),
        }
        for row in rows
    ]


def _funnel(counts: pl.DataFrame, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each stage with what was left before it, what it dropped and for which reasons."""
    total = _sum(counts)
    left, rows = dict(total), []
    for i, stage in enumerate(stages):
        mine = counts.filter(pl.col("stage") == stage["name"])
        dropped = _sum(mine)
        reasons = mine.group_by("reason").agg(pl.sum("documents"))
        reasons = reasons.sort("documents", "reason", descending=[True, False])
        left = {key: left[key] - dropped[key] for key in left}
        rows.append(
            {
                "name": stage["name"],
                "colour": i % COLOURS,
                "dropped": dropped,
                "left": left,
                "reasons": reasons.rows(),
                "lost_share": dropped["bytes"] / (total["bytes"] or 1),
                "left_share": left["bytes"] / (total["bytes"] or 1),
            }
        )
    return rows


def _fates(counts: pl.DataFrame, stages: list[str]) -> list[dict[str, Any]]:
    """What became of each of the largest sources: shares of its bytes kept and dropped."""
    rows = []
    for row in _top(counts.with_columns(SOURCE), "source", 12):
        if row.get("rest"):
            continue
        mine = counts.filter(row["name"] == SOURCE)
        lost = dict(mine.group_by("stage").agg(pl.sum("bytes")).iter_rows())
        parts = [
            {"stage": name, "colour": i % COLOURS, "share": lost[name] / (row["bytes"] or 1)}
            for i, name in enumerate(stages)
            if lost.get(name)
        ]
        rows.append(row | {"parts": parts})
    return rows


def _ledger(counts: pl.DataFrame, stages: list[str]) -> list[dict[str, Any]]:
    """The whole funnel: for each kind and language, documents read, dropped by stage, and kept."""
    rows = []
    for (kind, language), mine in counts.group_by("kind", "language"):
        lost = dict(mine.group_by("stage").agg(pl.sum("documents")).iter_rows())
        read, kept = mine["documents"].sum(), lost.pop(None, 0)
        by_stage = [(name, lost[name]) for name in stages if lost.get(name)]
        size, left = mine["bytes"].sum(), mine.filter(pl.col("stage").is_null())["bytes"].sum()
        row = {"kind": kind, "language": language, "read": read, "kept": kept, "lost": by_stage}
        rows.append(row | {"bytes": size, "left": left})
    return sorted(rows, key=lambda row: (row["kind"], -row["bytes"], row["language"]))
