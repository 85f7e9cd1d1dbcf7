"""Exact and near-duplicates: of each group the copy with the best provenance is kept.

Near-duplicates are the connected components of the pairs whose sets of token n-grams have a
Jaccard similarity of at least the threshold. MinHash bands find the candidate pairs; with
``verify`` each is confirmed on the exact sets, without it every collision counts, as in StarCoder
(preset: 25 bands of 10 rows, unverified, empty tokens kept). The result is the same for any order
of documents, layout of shards and number of workers. All keys and sets lie on the disk; the driver
holds 8 to 16 bytes a document.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from starkiln.core import atomic, keyed
from starkiln.core.stage import global_stage
from starkiln.curate import bands, election, forest, join, minhash, sets

KINDS = ("code", "notebook-script", "notebook")  # no commits and no issues: rules §7
COPIES = (*KINDS, "issue")  # a thread that two archives hold is one thread


@global_stage(
    version=3,
    reads=("id", "repo", "path", "stars"),
    adds={"duplicate_of": pl.String},
    kinds=COPIES,
)
def exact_dedup(view: Any) -> Iterator[pl.DataFrame]:
    """Drop files with the very bytes of a file with better provenance (paper §3.5; rules §1).

    ``duplicate_of`` is ``repo/path`` of the copy that is kept.
    """
    places, root = bands.alike(view, "copies", ["id"], id_keys)
    for frame in election.elect(view, places, root, "exact-duplicate", same=["id"]):
        yield frame.drop("cluster")


@global_stage(
    version=1,
    reads=("id", "repo", "path", "stars"),
    adds={"cluster": pl.String},
    kinds=("commit",),
)
def one_commit_per_file(view: Any, *, seed: int = 0) -> Iterator[pl.DataFrame]:
    """Keep one commit, drawn by lot, of each file of a repository (rules §6).

    ``cluster`` is the id of the commit that is kept, for each of a file with two or more.
    """
    places, root = bands.alike(view, "files", ["repo", "path"], file_keys)
    told = election.elect(view, places, root, "same-file", same=["repo", "path"], lot=seed)
    for frame in told:
        yield frame.drop("duplicate_of")


def ready(settings: dict) -> None:
    """UserError where the bands need more permutations than are drawn."""
    minhash.Rule(**{name: value for name, value in settings.items() if name != "verify"})


@global_stage(
    version=2,
    reads=("id", "kind", "language", "repo", "path", "stars", "text"),
    adds={"cluster": pl.String, "duplicate_of": pl.String},
    kinds=KINDS,
    ready=ready,
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
    by_extension: Annotated[
        bool, Field(description="other shingles or threshold for a few extensions")
    ] = True,
) -> Iterator[pl.DataFrame]:
    """Drop near-duplicates within each kind and language (paper §3.5; rules §3, §7).

    Tokens are the runs of ``[A-Za-z_0-9]`` ("clean"), or with ``keep_empty`` the pieces between
    single other characters ("upstream"). ``cluster`` is the id of the copy that is kept, for each
    member of a cluster of two or more; ``duplicate_of`` is its ``repo/path``.
    """
    rule = minhash.Rule(
        threshold=threshold,
        ngram=ngram,
        permutations=permutations,
        bands=bands,
        rows=rows,
        keep_empty=keep_empty,
        min_tokens=min_tokens,
        by_extension=by_extension,
    )
    places, root = clusters(view, rule, verify=verify)
    yield from election.elect(view, places, root, "near-duplicate")


def clusters(view: Any, rule: minhash.Rule, *, verify: bool) -> tuple[bands.Places, np.ndarray]:
    """Where all documents lie, and the root of each one's cluster (int64), its first member."""
    from starkiln.curate import join_kernels

    places, root = bands.alike(view, "copies", minhash.IDS, minhash.copy_keys, rule)
    first = view.scratch / "first"
    atomic.write(first, root.tofile)
    spilled = minhash.sketches(view, rule, places, first)
    buckets = bands.collisions(view, "buckets", spilled, places, rule.bands)
    if verify:
        candidates = np.zeros(places.documents, bool)
        for one in buckets:
            candidates[forest.plain(one.flat())] = True
        wanted = view.scratch / "candidates"
        atomic.write(wanted, candidates.tofile)
        join.components(view, root, buckets, sets.store(view, rule, places, wanted), rule.bands)
    else:
        for one in buckets:
            join_kernels.join_buckets(root, one.flat())
        join_kernels.flatten(root)
    return places, root


def id_keys(frame: pl.DataFrame) -> np.ndarray:
    """Keys (uint64) that are equal for equal ids."""
    return bands.keys(keyed.digest(one) for one in frame["id"])


def file_keys(frame: pl.DataFrame) -> np.ndarray:
    """Keys (uint64) that are equal for the same path of the same repository."""
    return bands.keys(keyed.digest(*row) for row in frame.select("repo", "path").iter_rows())
