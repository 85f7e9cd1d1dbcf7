"""Sets of shards to curate: recipes for them, starkiln's documents of them, and the peers' copy."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl

import corpus
import measure
from measure import Cost

os.environ.setdefault("STARKILN_DATA", str(corpus.shared("")))  # where the benchmarks lie
PEERS = Path(__file__).parent / "peers"
TIMEOUT = 1500  # seconds
BENCHMARKS = ["humaneval", "mbpp"]
FILTERS = ["long_lines", "alphanumeric", "alphabetic", "xml"]
CHAIN = [*FILTERS, "exact_dedup", "near_dedup", "decontaminate", "redact"]
PUBLISHED = "[curate.near_dedup]\nbands = 25\nrows = 10\nverify = false\nkeep_empty = true"
HARMFUL = f"[curate.decontaminate]\nbenchmarks = {json.dumps(BENCHMARKS)}"
ROWS = {  # what is measured: the stages of its recipe, their settings, the step that makes it
    "near": (["near_dedup"], PUBLISHED, "decisions/near_dedup"),
    "exact": (["near_dedup"], "", "decisions/near_dedup"),
    "filters": (FILTERS, "", "decisions/long_lines"),
    "chain": (CHAIN, HARMFUL, "curated"),
}


def run(command: list, log: str) -> Cost:
    """Run a command with its messages in ``logs``."""
    folder = corpus.home() / "logs"
    folder.mkdir(exist_ok=True)
    return measure.run(command, folder / f"{log}.log", TIMEOUT)


class Set:
    """One set of shards; the recipes of all rows share its documents."""

    def __init__(self, name: str, shards: list[Path], shard_mb: int = 64) -> None:
        self.name, self.shards, self.shard_mb = name, shards, shard_mb
        self.work = corpus.home() / "work" / name
        self.flat = self.work / "flat"  # Parquet with row, repo, path, language, content, limits
        self.size = 0.0  # megabytes of text

    def recipe(self, row: str) -> Path:
        """The recipe file of one of ``ROWS``."""
        stages, settings, _ = ROWS[row]
        paths = json.dumps([str(path) for path in self.shards])
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / f"{row}.toml"
        path.write_text(
            f'[[source]]\nuse = "parquet"\npaths = {paths}\n'
            f"unit_bytes = {min(32, self.shard_mb) << 20}\n"
            f"[ingest]\nshard_mb = {self.shard_mb}\n"
            f"[curate]\nstages = {json.dumps(stages)}\n{settings}\n"
        )
        return path

    def build(self, row: str, step: str) -> Cost:
        """Our steps up to ``step``, as far as they are not made yet."""
        command = [sys.executable, PEERS / "ours.py", self.recipe(row), step]
        return run(command, f"ours-{row}-{self.name}")

    def ours(self, row: str, rounds: int) -> Cost:
        """The step that ``row`` is about made anew so often; the least of them.

        The chain begins at the Parquet files, the others at the documents.
        """
        costs = []
        for _ in range(rounds):
            for name in ("decisions", "curated", *(["documents"] if row == "chain" else [])):
                shutil.rmtree(self.work / name, ignore_errors=True)
            if row != "chain":
                self.build(row, "documents")
            costs.append(self.build(row, ROWS[row][2]))
        return min(costs, key=lambda cost: cost.cpu_s)

    def make(self, path: Path, maker: Callable[[Path, Path], object]) -> Path:
        """``path``, by ``maker(documents, path)`` unless it is of these very documents."""
        documents = self.work / "documents"
        known = path.with_name(f"{path.name}.made_from.json")
        manifest = (documents / "manifest.json").read_text()
        if not (path.exists() and known.exists() and known.read_text() == manifest):
            known.unlink(missing_ok=True)
            maker(documents, path)
            known.write_text(manifest)
        return path

    def prepare(self) -> None:
        """Make the documents and what the peers read."""
        self.build("near", "documents")
        self.make(self.flat, _flatten)
        sizes = pl.scan_parquet(self.flat / "*.parquet").select(pl.col("content").str.len_bytes())
        self.size = sizes.sum().collect().item() / 1e6
        _needles(self.work / "needles.jsonl")


def _flatten(documents: Path, flat: Path) -> None:
    """The documents as plain Parquet, with the limits that the row filters have for each."""
    from starkiln.code import languages
    from starkiln.core import table

    shutil.rmtree(flat, ignore_errors=True)
    flat.mkdir()
    free = {"max_line": math.inf, "mean_line": math.inf, "alphanumeric": 0.0, "alphabetic": 0.0}
    offset = 0
    for name in table.shard_names(documents):
        frame = table.read(documents / name, ["repo", "path", "language", "text"])
        pairs = zip(frame["language"], frame["path"])
        limits = [languages.limits(one, languages.extension(path)) for one, path in pairs]
        columns = {
            limit: pl.Series([float(getattr(one, limit) or none) for one in limits])
            for limit, none in free.items()
        }
        columns["xml"] = pl.Series([one.xml for one in limits])
        frame = frame.rename({"text": "content"}).with_row_index("row", offset)
        frame = frame.cast({"row": pl.Int64}).with_columns(**columns)
        frame.write_parquet(flat / name, row_group_size=1024)
        offset += frame.height


def _needles(path: Path) -> None:
    from starkiln.problems import benchmarks

    texts = [needle.text for name in BENCHMARKS for needle in benchmarks.contaminants(name)]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
