"""What lies in a work folder, counted: every figure of the report is a query over these.

Nothing here changes a file. A missing artefact gives None or an empty frame, never an error.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.core import log, manifest, table
from starkiln.core.manifest import Manifest

Each = Callable[[Callable[..., Any], Iterable[tuple]], Iterable[Any]]
AND = " + "  # between the licences of one document
TALLY = {
    "kind": pl.String,
    "language": pl.String,
    "repo": pl.String,
    "licence": pl.String,
    "stage": pl.String,
    "reason": pl.String,
    "documents": pl.Int64,
    "bytes": pl.Int64,
}
_KEYS = ["kind", "language", "repo", "licence", "stage", "reason"]
_PLACE = pl.concat_str("repo", "path", separator="/").alias("place")


def decision_folders(work: Path) -> list[tuple[Path, Manifest]]:
    """The decision tables that belong to the documents, in the order they were taken.

    Where there is a curated table made from them, those alone that it was made from.
    """
    curated = manifest.current(work, "curated")
    fresh, _ = table.decision_folders(work / "documents")
    found = [(path, made) for path in fresh if (made := manifest.read(path))]
    used = curated.identity.inputs if curated else {f"decisions/{path.name}" for path in fresh}
    return [(path, made) for path, made in found if f"decisions/{path.name}" in used]


def tally(work: Path, each: Each = starmap) -> pl.DataFrame:
    """Documents and bytes of text by kind, language, repository, licence, stage and reason.

    ``stage`` and ``reason`` are null for documents that were kept; ``licence`` joins the SPDX
    ids. The schema is ``TALLY``, the rows are sorted. ``each(function, calls)`` may spread the
    shards over workers.
    """
    parts = each(_tallied, _shards(work))
    return _summed(pl.concat([pl.DataFrame(schema=TALLY), *parts])).sort(_KEYS, nulls_last=True)


def _tallied(documents: Path, decisions: list[Path]) -> pl.DataFrame:
    licence = pl.col("licences").list.sort().list.join(AND)
    frame = table.read(documents, ["kind", "language", "repo", "licences", "segments"]).select(
        "kind",
        "language",
        "repo",
        pl.when(licence != "").then(licence).alias("licence"),
        table.text_bytes(),
        pl.lit(1, pl.Int64).alias("documents"),
    )
    return _summed(frame.hstack(table.fates(decisions, frame.height)))


def _summed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.group_by(_KEYS).agg(pl.sum("documents", "bytes")).select(list(TALLY))


def _shards(work: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each documents shard with its decision shards, in the order of the steps."""
    folders = [path for path, _ in decision_folders(work)]
    for name in table.shard_names(work / "documents"):
        yield work / "documents" / name, [folder / name for folder in folders]


def set_aside(work: Path) -> pl.DataFrame:
    """Files that could not become documents: ``reason``, ``files``, ``bytes``; most first."""
    paths = sorted((work / "documents").glob("[0-9]*.dropped.parquet"))
    frames = [table.read(path, ["reason", "bytes"]) for path in paths]
    empty = pl.DataFrame(schema={"reason": pl.String, "bytes": pl.Int64})
    grouped = pl.concat([empty, *frames]).group_by("reason")
    counted = grouped.agg(pl.len().cast(pl.Int64).alias("files"), pl.sum("bytes"))
    return counted.sort("files", "reason", descending=[True, False])


def stages(work: Path) -> list[dict[str, Any]]:
    """The curate stages in order: name, version, settings."""
    return [stage for _, made in decision_folders(work) for stage in made.identity.stages]


def duplicates(work: Path, clusters: int = 4, members: int = 5) -> list[dict[str, Any]]:
    """The largest near-duplicate clusters: ``kept``, ``count`` of copies, ``copies``, ``diff``.

    ``diff`` shows how the first copy differs from the kept document (lines of a unified diff).
    """
    folders = [path for path, _ in decision_folders(work)]
    with_clusters = [path for path in folders if _has(path, "cluster", "duplicate_of")]
    if not with_clusters:
        return []
    (folder, *_) = with_clusters
    copies = pl.concat(_copies(work, folder, name) for name in table.shard_names(folder))
    grouped = copies.sort("place").group_by("duplicate_of", maintain_order=True)
    largest = grouped.agg(pl.len().alias("count"), pl.col("place").head(members))
    largest = largest.sort("count", "duplicate_of", descending=[True, False]).head(clusters)
    found = [
        {"kept": kept, "count": count, "copies": places}
        for kept, count, places in largest.iter_rows()
    ]
    texts = _texts(work, {p for one in found for p in (one["kept"], one["copies"][0])})
    return [
        one | {"diff": _diff(texts.get(one["kept"], ""), texts.get(one["copies"][0], ""))}
        for one in found
    ]


def clusters(work: Path) -> list[tuple[int, int]]:
    """(size, how many) of the near-duplicate clusters, copies that were kept included."""
    folders = [p for p, _ in decision_folders(work) if _has(p, "cluster", "duplicate_of")]
    sizes = [pl.DataFrame(schema={"cluster": pl.String})]
    for folder in folders[:1]:
        names = table.shard_names(folder)
        sizes += [table.read(folder / name, ["cluster"]).drop_nulls() for name in names]
    counted = pl.concat(sizes).group_by("cluster").len("size").group_by("size").len("clusters")
    return counted.sort("size").rows()


def contamination(work: Path, examples: int = 3) -> pl.DataFrame:
    """What was hit: ``benchmark``, ``problems``, ``documents``, ``places`` (a few); most first.

    From the column ``contaminated_by``, lists of "benchmark/problem:part:method".
    """
    hit = pl.col("contaminated_by")
    parts = [pl.DataFrame(schema={"contaminated_by": pl.String, "place": pl.String})]
    for folder in [p for p, _ in decision_folders(work) if _has(p, "contaminated_by")]:
        for name in table.shard_names(folder):
            found = table.read(folder / name, ["contaminated_by"])
            if found["contaminated_by"].is_not_null().any():
                places = table.read(work / "documents" / name, ["repo", "path"]).select(_PLACE)
                parts.append(found.hstack(places).explode("contaminated_by").drop_nulls())
    named = pl.concat(parts).with_columns(
        benchmark=hit.str.extract("^([^/:]+)"),
        problem=hit.str.extract("^([^:]+)"),
        method=hit.str.extract("([^:]+)$"),
    )
    grouped = (
        named.sort("place")
        .group_by("benchmark", "method")
        .agg(
            pl.col("problem").n_unique().cast(pl.Int64).alias("problems"),
            pl.len().cast(pl.Int64).alias("documents"),
            pl.concat_str("place", pl.lit(" ("), hit, pl.lit(")")).head(examples).alias("places"),
        )
    )
    order = ["documents", "benchmark", "method"]
    return grouped.sort(order, descending=[True, False, False])


def _has(folder: Path, *columns: str) -> bool:
    names = table.shard_names(folder)
    return bool(names) and set(columns) <= set(table.columns_of(folder / names[0]))


def _copies(work: Path, folder: Path, name: str) -> pl.DataFrame:
    places = table.read(work / "documents" / name, ["repo", "path"]).select(_PLACE)
    copies = table.read(folder / name, ["duplicate_of"])
    return places.hstack(copies).filter(pl.col("duplicate_of").is_not_null())


def _texts(work: Path, places: set[str]) -> dict[str, str]:
    """The texts of the documents at ``repo/path``."""
    found: dict[str, str] = {}
    for name in table.shard_names(work / "documents"):
        path = work / "documents" / name
        hit = table.read(path, ["repo", "path"]).select(_PLACE.is_in(list(places)))["place"]
        if hit.any():
            rows = table.read(path, ["repo", "path", "text"]).filter(hit)
            found.update(rows.select(_PLACE, "text").iter_rows())
    return found


def _diff(kept: str, copy: str, lines: int = 14, longest: int = 2000) -> list[str]:
    before, after = (text.split("\n")[:longest] for text in (kept, copy))
    told = difflib.unified_diff(before, after, n=1, lineterm="")
    return [line[:160] for line in list(told)[2 : 2 + lines]]


def redactions(work: Path) -> pl.DataFrame:
    """What was replaced in kept texts: ``label``, ``spans``, ``documents``; most first."""
    parts = [pl.DataFrame(schema={"label": pl.String, "document": pl.String})]
    for folder, _ in decision_folders(work):
        if not _has(folder, "spans"):
            continue
        for name in table.shard_names(folder):
            frame = table.read(folder / name, ["spans", "reason"]).with_row_index("row")
            spans = frame.filter(pl.col("reason").is_null()).explode("spans").drop_nulls("spans")
            span = pl.col("spans").struct
            label = span.field("label").cast(pl.String)
            document = pl.format("{}/{}", pl.lit(name), "row").alias("document")
            replaced = spans.filter(span.field("replacement").is_not_null())
            parts.append(replaced.select(label, document))
    grouped = pl.concat(parts).group_by("label")
    counted = grouped.agg(
        pl.len().cast(pl.Int64).alias("spans"),
        pl.col("document").n_unique().cast(pl.Int64).alias("documents"),
    )
    return counted.sort("spans", "label", descending=[True, False])


def facts(work: Path, name: str) -> dict[str, Any]:
    """What the manifest of an artefact keeps for the report; empty where there is none."""
    made = manifest.current(work, name)
    return made.facts if made else {}


def tokens(work: Path) -> pl.DataFrame:
    """``source``, ``train``, ``validation`` (tokens), ``documents``, ``bytes``; most first."""
    made = manifest.current(work, "tokens")
    schema = {"split": pl.String, "source": pl.String}
    schema |= dict.fromkeys(("documents", "tokens", "bytes"), pl.Int64)
    counts = pl.DataFrame(made.facts.get("counts", []) if made else [], schema=schema)
    in_split = [
        pl.col("tokens").filter(pl.col("split") == split).sum().alias(split)
        for split in ("train", "validation")
    ]
    found = counts.group_by("source").agg(*in_split, pl.sum("documents", "bytes"))
    return found.sort("train", "source", descending=[True, False])


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line that a crash cut is left out."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, empty when there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else {}


def costs(work: Path) -> list[dict[str, Any]]:
    """Each step's ``name``, ``seconds``, ``cpu_seconds``, ``peak_mb`` and ``fingerprint``."""
    steps = ["documents", *(f"decisions/{path.name}" for path, _ in decision_folders(work))]
    found = []
    rest = ("audit", "curated", "tokenizer", "tokens", "checkpoint", "evaluation")
    for name in [*steps, *rest]:
        made = manifest.current(work, name)
        if made:
            done = log.last_event(work / name, "done")
            label = " · ".join(s["name"] for s in made.identity.stages) if "/" in name else name
            clock = {key: done.get(key) for key in ("seconds", "cpu_seconds", "peak_mb")}
            fingerprint = made.identity.fingerprint
            found.append({"name": name, "label": label, "fingerprint": fingerprint, **clock})
    return found
