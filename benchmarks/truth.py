"""What found clusters are worth: against all true pairs, found by brute force."""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from sets import PEERS, Set, run


def pairs(of: Set) -> pl.DataFrame:
    """All true pairs of a set (``a`` < ``b``, ``jaccard``), found once for its documents."""
    return pl.read_parquet(of.make(of.work / "pairs.parquet", _brute_force))


def _brute_force(documents: Path, path: Path) -> None:
    run([sys.executable, PEERS / "brute_force.py", documents, path], "brute_force")


def worth(found: np.ndarray, of: Set) -> tuple[float, int]:
    """(share of the true pairs that lie in one cluster, removed rows without a true partner).

    ``found`` holds for each row the row that stands for its cluster.
    """
    true = pairs(of)
    a, b = true["a"].to_numpy(), true["b"].to_numpy()
    partnered = np.zeros(len(found), bool)
    partnered[a] = partnered[b] = True
    recall = float((found[a] == found[b]).mean()) if len(a) else 1.0
    return recall, int(((found != np.arange(len(found))) & ~partnered).sum())


def quality(found: np.ndarray, of: Set) -> str:
    """The same in words."""
    recall, wrong = worth(found, of)
    removed = int((found != np.arange(len(found))).sum())
    return f"recall {recall:.4f}, {wrong / max(1, removed):.0%} of what is out without true partner"


def ours(of: Set) -> np.ndarray:
    """For each row of the documents the row of the copy that our near-dedup keeps."""
    from starkiln.core import table

    documents, decisions = of.work / "documents", of.work / "decisions" / "near_dedup"
    frames = [
        table.read(documents / name, ["repo", "path"]).hstack(
            table.read(decisions / name, ["reason", "duplicate_of"])
        )
        for name in table.shard_names(documents)
    ]
    frame = pl.concat(frames).with_row_index("row")
    place = pl.concat_str("repo", "path", separator="/").alias("duplicate_of")
    kept = frame.filter(pl.col("reason").is_null()).select(place, root="row")
    rows = frame.join(kept.unique("duplicate_of", keep="first"), on="duplicate_of", how="left")
    return rows.sort("row").select(pl.coalesce("root", "row")).to_series().to_numpy()
