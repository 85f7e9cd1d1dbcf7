"""Exact and near-duplicates: of each cluster the copy with the best provenance is kept.

Near-duplicates are the connected components of the pairs whose sets of token n-grams have a
Jaccard similarity of at least the threshold. MinHash bands find the candidate pairs; with
``verify`` each is confirmed on the exact sets, without it every collision counts, as in StarCoder
(preset: 25 bands of 10 rows, unverified, empty tokens kept). The result is the same for any order
of documents, layout of shards and number of workers.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from starkiln.core.errors import UserError
from starkiln.core.stage import global_stage
from starkiln.curate import minhash

PLACE = pl.concat_str("repo", "path", separator="/")
KINDS = ["code", "notebook-script", "notebook"]  # no commits and no issues: rules §7


@global_stage(version=1, reads=("id", "repo", "path", "stars"), adds={"duplicate_of": pl.String})
def exact_dedup(view: Any) -> Iterator[pl.DataFrame]:
    """Drop files with the very bytes of a file with better provenance (paper §3.5; rules §1).

    ``duplicate_of`` is ``repo/path`` of the copy that is kept.
    """
    found, heights = _best_first(view, ["id", "repo", "path", "stars"])
    first = pl.col("rank").min().over("id")
    yield from _decisions(found.with_columns(root=first), heights, "exact-duplicate", cluster=False)


@global_stage(
    version=1,
    reads=("id", "kind", "language", "repo", "path", "stars", "text"),
    adds={"cluster": pl.String, "duplicate_of": pl.String},
)
def near_dedup(
    view: Any,
    *,
    threshold: Annotated[float, Field(gt=0, le=1, description="Jaccard similarity")] = 0.7,
    ngram: Annotated[int, Field(gt=0, description="tokens in a shingle")] = 5,
    permutations: Annotated[int, Field(gt=0, description="MinHash permutations drawn")] = 256,
    bands: Annotated[int, Field(gt=0, description="bands of the signature")] = 42,
    rows: Annotated[int, Field(gt=0, description="rows in a band")] = 6,
    verify: Annotated[bool, Field(description="confirm candidates on the exact sets")] = True,
    keep_empty: Annotated[
        bool, Field(description="split at each of [^A-Za-z_0-9] and keep the empty tokens")
    ] = False,
    min_tokens: Annotated[int, Field(ge=0, description="shorter files: exact copies only")] = 5,
    kinds: Annotated[list[str], Field(description="kinds of document compared")] = KINDS,
) -> Iterator[pl.DataFrame]:
    """Drop near-duplicates within each kind and language (paper §3.5; rules §7).

    Tokens are the runs of ``[A-Za-z_0-9]`` ("clean"), or with ``keep_empty`` the pieces between
    single other characters ("upstream"). ``cluster`` is the id of the copy that is kept, for each
    member of a cluster of two or more; ``duplicate_of`` is its ``repo/path``.
    """
    if bands * rows > permutations:
        what = f"{bands} bands of {rows} rows need {bands * rows} of {permutations} permutations"
        raise UserError("near_dedup", what, "raise permutations, or lower bands or rows")
    found, heights = _best_first(view, ["id", "kind", "language", "repo", "path", "stars"])
    compared = pl.col("kind").is_in(kinds)
    copies = pl.col("rank").min().over("kind", "language", "id")
    parent = found.select(pl.when(compared).then(copies).otherwise("rank")).to_series().to_numpy()
    parent = parent.astype(np.int64)
    rule = minhash.Rule(ngram, keep_empty, bands, rows, permutations)
    counts, keys = minhash.sketches(view, rule, found["row"].to_numpy())
    able = found.select(compared).to_series().to_numpy() & (counts >= max(min_tokens, ngram))
    members = minhash.colliding(keys, np.flatnonzero(able & (parent == np.arange(len(parent)))))
    sets = minhash.sets(view, rule, found, heights, members) if verify else minhash.NO_SETS
    root = minhash.unite(parent, keys, members, sets, threshold, verify)
    yield from _decisions(found.with_columns(root=root), heights, "near-duplicate", cluster=True)


def _best_first(view: Any, columns: list[str]) -> tuple[pl.DataFrame, list[int]]:
    """All rows by provenance (most stars, then repository, path, id) and the shards' heights.

    ``row`` (Int64) is a row's place in the table, ``rank`` (Int64) its place in this order.
    """
    shards = [view.read(i, columns) for i in range(len(view))]
    empty = pl.DataFrame(schema={c: pl.Int64 if c == "stars" else pl.String for c in columns})
    rows = pl.concat([empty, *shards]).with_row_index("row")
    rows = rows.sort(
        "stars", "repo", "path", "id", descending=[True, False, False, False], nulls_last=True
    )
    rows = rows.with_row_index("rank").cast({"rank": pl.Int64, "row": pl.Int64})
    return rows, [shard.height for shard in shards]


def _decisions(
    found: pl.DataFrame, heights: list[int], reason: str, *, cluster: bool
) -> Iterator[pl.DataFrame]:
    """A decision frame a shard, from the rank of the copy (``root``) that is kept for each row."""
    dropped, root = pl.col("root") != pl.col("rank"), pl.col("root")
    columns = [
        pl.when(dropped).then(pl.lit(reason)).alias("reason"),
        pl.when(dropped).then(PLACE.gather(root)).alias("duplicate_of"),
    ]
    if cluster:
        several = pl.len().over("root") > 1
        columns.append(pl.when(several).then(pl.col("id").gather(root)).alias("cluster"))
    table = found.select("row", *columns).sort("row").drop("row")
    for height in heights:
        yield table.head(height)
        table = table.slice(height)
