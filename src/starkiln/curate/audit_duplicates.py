"""Near-dedup on a labelled set: what it finds of the pairs that are truly alike, and what else.

``documents`` is a Parquet file of ``doc_id`` (int), ``content`` (str) and, if there are any,
``language`` and ``path``. ``pairs`` lists ``a``, ``b`` and the true Jaccard similarity of their
5-gram sets, ``jaccard_clean`` and ``jaccard_upstream`` (with empty tokens); pairs that are not
listed are far below any threshold. The stage compares within a language, so pairs across two
languages are only counted.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from starkiln.code.document import SCHEMA, code_document
from starkiln.core import table
from starkiln.core.errors import UserError
from starkiln.core.log import Sink
from starkiln.core.pool import Pool
from starkiln.curate import labelled
from starkiln.curate.dedup import near_dedup

ROWS = 2000  # of a shard
LABELLED = 5  # tokens in the labels' shingles
NAMED = {"language": pl.String, "path": pl.String}
USUAL = {"threshold": 0.7, "ngram": LABELLED, "keep_empty": False}


def ready(documents: Path, pairs: Path, settings: Mapping[str, Any]) -> tuple:
    """The labelled documents and pairs, read and checked: what ``near_duplicates`` starts from."""
    used = USUAL | dict(settings)
    if used["ngram"] != LABELLED:
        what = f"labels are of {LABELLED}-grams, the stage has ngram = {used['ngram']}"
        raise UserError(pairs, what, f"score with ngram = {LABELLED}")
    column = "jaccard_upstream" if used["keep_empty"] else "jaccard_clean"
    docs = labelled.read(documents, {"doc_id": pl.Int64, "content": pl.String}, NAMED)
    labels = labelled.read(pairs, {"a": pl.Int64, "b": pl.Int64, column: pl.Float64})
    return docs, labels, column, used["threshold"]


def near_duplicates(
    documents: Path,
    pairs: Path,
    settings: Mapping[str, Any],
    scratch: Path,
    pool: Pool,
    sink: Sink,
) -> dict[str, Any]:
    """Run ``near_dedup`` with the recipe's ``settings`` on labelled documents and score it.

    ``recall``: of the pairs at or over the threshold, those in one cluster. ``precision``: of all
    pairs in one cluster, those that truly are. ``agreement``: of the documents, those whose cluster
    is the true one to the last member. ``wrong_removals``: dropped documents that are alone in the
    truth. ``scratch`` is emptied.
    """
    docs, labels, column, threshold = ready(documents, pairs, settings)
    settings = dict(settings) | {"by_extension": False}  # the labels know one rule
    found = _clustered(_documents(docs), settings, scratch, pool, sink)
    ends = _ends(docs, labels.filter(pl.col(column) >= threshold))
    inside = ends.filter(pl.col("language") == pl.col("language_b"))
    true = _components(docs.height, inside.select("row", "row_b").iter_rows())
    return _scores(found, true, inside) | {
        "threshold": threshold,
        "tokens": column.removeprefix("jaccard_"),
        "across_languages": ends.height - inside.height,
    }


def _documents(docs: pl.DataFrame) -> pl.DataFrame:
    rows = docs.with_columns(
        language=pl.col("language") if "language" in docs.columns else pl.lit("unknown"),
        path=pl.col("path") if "path" in docs.columns else pl.col("doc_id").cast(pl.String),
    ).select("doc_id", "content", "language", "path")
    built = [
        code_document(text, repo=f"{number}", path=path, language=language, licences=[])
        for number, text, language, path in rows.iter_rows()
    ]
    return pl.DataFrame(built, schema=SCHEMA)


def _clustered(
    frame: pl.DataFrame, settings: Mapping[str, Any], scratch: Path, pool: Pool, sink: Sink
) -> pl.DataFrame:
    """The stage's decisions, and ``root``: the first row of each row's cluster."""
    shutil.rmtree(scratch, ignore_errors=True)
    folder = scratch / "documents"
    folder.mkdir(parents=True)
    (scratch / "stage").mkdir()
    for number, begin in enumerate(range(0, frame.height, ROWS)):
        table.write(folder / f"{number:05d}.parquet", frame.slice(begin, ROWS))
    view = table.View(folder, [], scratch / "stage", pool, sink)
    found = pl.concat(near_dedup(view, **settings)).with_row_index("row")
    shutil.rmtree(scratch)
    own = pl.coalesce("duplicate_of", pl.concat_str(frame["repo"], frame["path"], separator="/"))
    return found.with_columns(root=pl.col("row").min().over(own))


def _ends(docs: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rows and languages of both documents of each pair."""
    language = docs["language"] if "language" in docs.columns else pl.lit("unknown")
    told = docs.select("doc_id", language=language).with_row_index("row")
    ends = pairs.join(told, left_on="a", right_on="doc_id")
    return ends.join(told, left_on="b", right_on="doc_id", suffix="_b")


def _components(rows: int, edges: Iterable[tuple[int, int]]) -> np.ndarray:
    from starkiln.curate import join_kernels

    root = np.arange(rows)
    join_kernels.join_edges(root, np.array([*edges], np.int64).reshape(-1, 2))
    join_kernels.flatten(root)
    return root


def _scores(found: pl.DataFrame, true: np.ndarray, pairs: pl.DataFrame) -> dict[str, Any]:
    mine = found["root"].to_numpy()
    hits = int((mine[pairs["row"].to_numpy()] == mine[pairs["row_b"].to_numpy()]).sum())
    both, made, wanted = _within(mine, true), _within(mine), _within(true)
    sizes, same = Counter(true.tolist()), Counter(zip(mine.tolist(), true.tolist()))
    own = Counter(mine.tolist())
    exact = sum(n for (a, b), n in same.items() if n == own[a] == sizes[b])
    dropped = np.flatnonzero(found["reason"].is_not_null().to_numpy())
    return {
        "documents": len(true),
        "pairs": pairs.height,
        "recall": hits / pairs.height if pairs.height else 1.0,
        "precision": both / made if made else 1.0,
        "cluster_recall": both / wanted if wanted else 1.0,
        "agreement": exact / len(true) if len(true) else 1.0,
        "removed": len(dropped),
        "wrong_removals": sum(sizes[true[row]] == 1 for row in dropped.tolist()),
    }


def _within(*labels: np.ndarray) -> int:
    """Pairs of documents that agree in all labels."""
    groups = Counter(zip(*(one.tolist() for one in labels)))
    return sum(n * (n - 1) // 2 for n in groups.values())
