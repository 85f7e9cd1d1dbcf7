"""A keyed sample of every stratum of a table, with counters, and what the run decided.

A stratum is what the paper's volunteers looked at together: the files of one (language,
extension), or the documents of another kind in one language. Two passes over the shards: the first
reads names only and says who is drawn; the second reads texts, a few shards at a time, counts, and
puts what will be looked at into a temporary file.
"""

import json
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import polars as pl

from starkiln.code import languages
from starkiln.code.document import FILES
from starkiln.core import keyed, table
from starkiln.curate.inspect.settings import InspectSettings
from starkiln.curate.statistics import statistics

SHOWN = 60_000  # characters kept of one document, some 1,500 lines
MOST = 2_000  # strata; junk extensions have no end
THREADS = min(4, os.cpu_count() or 1)  # shards in memory at once
LIMITS = ("max_line", "mean_line", "alphanumeric", "alphabetic")
ONE_OF_EACH = {"text": ["", "<p>"], "language": ["python", "html"], "path": ["a.py", "a.html"]}

T = TypeVar("T")


@dataclass(frozen=True)
class Stratum:
    """One stratum: ``drawn`` rows of the sample from ``first`` on, the first ``read`` by eye."""

    key: str  # "python/py"; "commit:python" where documents are no files
    files: int
    bytes: int
    reasons: list[tuple[str, str, int]]  # stage, reason, files
    limits: dict[str, float | None] | None  # of the filters; None for what they do not see
    first: int
    drawn: int
    read: int


@dataclass(frozen=True)
class Sample:
    """What the page shows of one table."""

    table: str
    strata: list[Stratum]
    left_out: int  # strata, the smallest
    decided: bool  # whether a run has filtered it
    stale: list[str]  # decisions made from other documents
    rows: pl.DataFrame
    texts: IO[bytes]

    def ids(self, stratum: Stratum) -> list[str]:
        """The documents of one stratum to be read."""
        if not stratum.read:
            return []
        return self.rows["id"].slice(stratum.first, stratum.read).to_list()

    def segments(self, row: int) -> list[dict]:
        """The segments of one row, cut to what is shown."""
        at, size = self.rows.select("at", "size").row(row)
        return json.loads(zlib.decompress(os.pread(self.texts.fileno(), size, at)))


def key(kind: str, language: str, path: str) -> str:
    """The stratum of a document."""
    if kind in FILES:
        return f"{language}/{languages.extension(path)}"
    return f"{kind}:{language}"


def limits(stratum: str) -> dict[str, float | None] | None:
    """The limits of the row filters on a stratum; None for the kinds that they do not see."""
    language, slash, extension = stratum.partition("/")
    if not slash or ":" in language:
        return None
    known = asdict(languages.limits(language, extension))
    return {name: known[name] for name in LIMITS}


@contextmanager
def draw(folder: Path, settings: InspectSettings) -> Iterator[Sample]:
    """Draw the sample of the table at ``folder``: seconds for a few hundred megabytes.

    The lowest keyed priorities of each stratum are drawn, whatever the order of the shards.
    """
    decided, old = table.decision_folders(folder)
    stale = sorted(f"decisions/{one.name}" for one in old)
    names = table.shard_names(folder)
    counts: Counter[tuple] = Counter()
    best = pl.DataFrame()
    for found, lowest in _threaded(partial(_names, folder, decided, settings), names):
        counts.update(found)
        best = _lowest(pl.concat([best, lowest]), settings.files)
    files: Counter[str] = Counter()
    for (stratum, *_), n in counts.items():
        files[stratum] += n
    shown = [stratum for stratum, _ in sorted(files.items(), key=lambda i: (-i[1], i[0]))[:MOST]]
    best = best.filter(pl.col("stratum").is_in(shown)) if best.height else best
    with tempfile.TemporaryFile() as texts:
        rows, volumes = _second(folder, decided, best, names, texts)
        strata = _strata(shown, files, counts, volumes, rows, settings)
        left_out, filtered = len(files) - len(shown), bool(decided) or folder.name != "documents"
        yield Sample(folder.name, strata, left_out, filtered, stale, rows, texts)


def _threaded(function: Callable[..., T], items: Iterable) -> Iterator[T]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(function, items)


def _lowest(rows: pl.DataFrame, files: int) -> pl.DataFrame:
    ordered = rows.sort("stratum", "priority", "shard", "row")
    return ordered.group_by("stratum", maintain_order=True).head(files)


def _names(
    folder: Path, decided: list[Path], settings: InspectSettings, name: str
) -> tuple[dict[tuple, int], pl.DataFrame]:
    """Files of each (stratum, stage, reason) of one shard, and those that may be drawn of it."""
    frame = table.read(folder / name, ["kind", "language", "path", "repo", "id"])
    frame = _with_strata(frame).with_row_index("row").with_columns(shard=pl.lit(name))
    frame = frame.hstack(table.fates([one / name for one in decided], frame.height))
    counts = frame.group_by("stratum", "stage", "reason").len().rows()
    aside = folder / name.replace(".parquet", ".dropped.parquet")
    if not decided and aside.exists() and "stage" in pl.read_parquet_schema(aside):
        dropped = pl.read_parquet(aside)
        kinds = dropped if "kind" in dropped.columns else dropped.with_columns(kind=pl.lit("code"))
        counts += _with_strata(kinds).group_by("stratum", "stage", "reason").len().rows()
    tags = frame.select("id", "repo", "path").iter_rows()  # all three: copies are files too
    priority = [keyed.digest("inspect", settings.seed, *tag)[:8] for tag in tags]
    frame = frame.with_columns(pl.Series("priority", priority, dtype=pl.Binary))
    found = Counter()
    for *group, n in counts:
        found[tuple(group)] += n
    return found, _lowest(frame.drop("kind"), settings.files)


def _with_strata(frame: pl.DataFrame) -> pl.DataFrame:
    keys = [key(*row) for row in frame.select("kind", "language", "path").iter_rows()]
    return frame.with_columns(pl.Series("stratum", keys, dtype=pl.String))


def _second(
    folder: Path, decided: list[Path], best: pl.DataFrame, names: list[str], texts: IO[bytes]
) -> tuple[pl.DataFrame, Counter[str]]:
    """The rows of the sample, with counters, and the bytes of every stratum."""
    _counted(pl.DataFrame(ONE_OF_EACH))  # compiles what threads would compile at the same time
    drawn = best.partition_by("shard", as_dict=True) if best.height else {}
    calls = [(name, drawn.get((name,), best.clear())) for name in names]
    volumes: Counter[str] = Counter()
    parts: list[pl.DataFrame] = []
    at = 0
    for sizes, rows, blobs in _threaded(partial(_texts, folder, decided), calls):
        volumes.update(sizes)
        lengths = pl.Series("size", [len(blob) for blob in blobs], dtype=pl.Int64)
        parts.append(rows.with_columns(lengths, at=at + lengths.cum_sum() - lengths))
        at += sum(lengths)
        texts.writelines(blobs)
    texts.flush()
    if not best.height:
        return best, volumes
    order = ["stratum", "priority", "shard", "row"]
    return pl.concat(parts, how="diagonal").sort(order), volumes


def _texts(
    folder: Path, decided: list[Path], call: tuple[str, pl.DataFrame]
) -> tuple[dict[str, int], pl.DataFrame, list[bytes]]:
    """Bytes of each stratum of one shard; its drawn rows with counters; what is shown of them."""
    name, drawn = call
    frame = table.read(folder / name)
    sizes = pl.element().struct.field("text").str.len_bytes()
    bytes_ = frame["segments"].list.eval(sizes).list.sum().alias("bytes")
    volumes = _with_strata(frame).with_columns(bytes_).group_by("stratum").agg(pl.sum("bytes"))
    more = [
        c for c in ("licences", "stars", "kind", "redactions", "segments") if c in frame.columns
    ]
    rows = drawn.with_columns(frame[more][drawn["row"].to_list()])
    rows = _counted(rows.with_columns(table.text()))
    blobs = [zlib.compress(json.dumps(_cut(one)).encode(), 1) for one in rows["segments"].to_list()]
    told = [_told(table.read(one / name)[drawn["row"].to_list()]) for one in decided]
    facts = [{k: v for one in row for k, v in one.items()} for row in zip(*told)]
    rows = rows.drop("segments", "text").with_columns(
        pl.Series("facts", [json.dumps(f) for f in facts or [{}] * rows.height], dtype=pl.String)
    )
    return dict(volumes.rows()), rows, blobs


def _counted(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.hstack(statistics(rows).drop("limits"))


def _told(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """What the stages wrote beside each row, other than the reason; of a list, its length."""
    found = frame.drop("stage", "reason")
    lists = [name for name, dtype in found.schema.items() if isinstance(dtype, pl.List)]
    found = found.with_columns(pl.col(lists).list.len())
    return [
        {name: value for name, value in row.items() if value is not None and value != 0}
        for row in found.iter_rows(named=True)
    ] or [{}] * frame.height


def _cut(segments: list[dict]) -> list[dict]:
    room, shown = SHOWN, []
    for one in segments:
        if room > 0:
            shown.append({**one, "text": one["text"][:room]})
        room -= len(one["text"]) + 1  # an empty one takes its place too
    return shown


def _strata(
    shown: list[str],
    files: Counter[str],
    counts: Counter[tuple],
    volumes: Counter[str],
    rows: pl.DataFrame,
    settings: InspectSettings,
) -> list[Stratum]:
    spans: dict[str, list[int]] = {}
    for i, stratum in enumerate(rows["stratum"] if rows.height else ()):
        spans.setdefault(stratum, [i, 0])[1] += 1
    reasons: dict[str, list[tuple[str, str, int]]] = {}
    lost = [(n, *group) for group, n in counts.items() if group[2] is not None]
    for n, stratum, stage, reason in sorted(lost, key=lambda row: (-row[0], *row[1:])):
        reasons.setdefault(stratum, []).append((stage, reason, n))
    found = []
    for one in shown:
        first, drawn = spans.get(one, (0, 0))
        volume, why, read = volumes[one], reasons.get(one, []), min(drawn, settings.read)
        found.append(Stratum(one, files[one], volume, why, limits(one), first, drawn, read))
    return found
