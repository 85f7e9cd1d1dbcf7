"""Rows of equal band keys, out of core: ours against DuckDB, by CPU seconds and peak memory.

    python benchmarks/groupby.py [ROWS] [--duckdb PYTHON]

One Parquet file of ROWS (default 20 million) pairs of a key (uint64) and a document (uint32), 42 a
document, one key in 20 shared, gives the edges between each row and the first one of its key. Ours
is what near-dedup does: ``bands.spill``, then ``bands.equal`` part by part. DuckDB has a limit of
1 GB and may use its threads. Each runs in a process of its own; CPU seconds are those of the work,
after a start on a small file; memory is that of the whole process. The edges must be the same.
DuckDB needs the package ``duckdb``, in this Python or in the one named.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

BANDS = 42
BATCH = 1 << 20  # rows


def make(path: Path, rows: int) -> None:
    """Most keys occur once, some a few times, two very often."""
    import numpy as np
    import polars as pl

    draws = np.random.default_rng(42)
    keys = draws.integers(0, 2**64, rows, np.uint64)
    shared = draws.random(rows) < 0.05
    keys[shared] = draws.integers(0, rows // 40, shared.sum()).astype(np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    keys[draws.integers(0, rows, rows // 1000)] = np.uint64(12345678901234567890)
    documents = np.arange(rows) // BANDS
    frame = pl.DataFrame({"key": keys, "id": documents.astype(np.uint32)})
    frame[draws.permutation(rows)].write_parquet(path, row_group_size=BATCH)


def ours(path: Path, scratch: Path, out: Path) -> int:
    """Edges (int64 pairs) into ``out``; how many."""
    import numpy as np
    import polars as pl

    from starkiln.core import atomic
    from starkiln.curate import bands, forest

    rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    parts, spilled = 1 + rows // bands.PART, []
    for number, begin in enumerate(range(0, rows, BATCH)):
        batch = pl.scan_parquet(path).slice(begin, BATCH).collect()
        spilled.append(scratch / f"{number:05d}")
        keys = batch["key"].to_numpy().reshape(-1, 1)
        bands.spill(spilled[-1], keys, batch["id"].to_numpy(), parts)
    starts, count = np.zeros(len(spilled), np.int64), 0

    def fill(temporary: Path) -> None:
        nonlocal count
        with temporary.open("wb") as file:
            for part in range(parts):
                edges = _edges(bands.equal(spilled, starts, part), forest)
                file.write(edges.tobytes())
                count += len(edges)

    atomic.write(out, fill)
    return count


def _edges(flat, forest):
    import numpy as np

    begins, rows = forest.bounds(flat), forest.plain(flat)
    first = np.minimum.reduceat(rows, begins[:-1]) if len(rows) else rows
    edges = np.stack([np.repeat(first, np.diff(begins)), rows], axis=1)
    return edges[edges[:, 0] != edges[:, 1]]


def duckdb(path: Path, scratch: Path, out: Path) -> int:
    """The same with DuckDB; of the ways to say it the quickest (``list(id)`` takes three times)."""
    import duckdb

    base = duckdb.connect(str(scratch / "base"))
    base.execute(f"SET memory_limit='1GB'; SET temp_directory='{scratch}'")
    base.execute("SET preserve_insertion_order=false")
    return base.execute(
        f"""COPY (
            WITH held AS (
                SELECT key, min(id) AS a FROM '{path}' GROUP BY key HAVING count(*) > 1
            )
            SELECT a::BIGINT AS a, id::BIGINT AS b FROM '{path}' JOIN held USING (key) WHERE a <> id
        ) TO '{out}' (FORMAT parquet)"""
    ).fetchone()[0]


def worker(name: str, path: Path, small: Path) -> None:
    """Work off ``small`` for the start's sake, then ``path`` on the clock."""
    work = {"ours": ours, "duckdb": duckdb}[name]
    for one in (small, path):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            begin = time.process_time()
            edges = work(one, Path(folder), one.with_suffix(f".{name}"))
    print(json.dumps({"edges": edges, "cpu_s": time.process_time() - begin}))


def same(path: Path) -> bool:
    """Whether both wrote the same set of edges."""
    import numpy as np
    import polars as pl

    mine = np.fromfile(path.with_suffix(".ours"), np.int64).reshape(-1, 2)
    theirs = pl.read_parquet(path.with_suffix(".duckdb")).to_numpy()
    one, two = (np.sort((e[:, 0] << 32) | e[:, 1]) for e in (mine, theirs))
    return np.array_equal(one, two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=20_000_000)
    parser.add_argument("--duckdb", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.worker:
        worker(told.worker[0], *map(Path, told.worker[1:]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.parquet"
        make(path, told.rows)
        small = Path(folder) / "small.parquet"
        make(small, 1000)
        worker("ours", small, small)  # compiles
        print(f"{told.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB of Parquet")
        found = subprocess.run([told.duckdb, "-c", "import duckdb"], capture_output=True)
        costs = {}
        for name, python in (("ours", sys.executable), ("duckdb", told.duckdb)):
            if name == "duckdb" and found.returncode:
                sys.exit(f"left out: {told.duckdb} has no duckdb; name one that has with --duckdb")
            command = [python, __file__, "--worker", name, path, small]
            cost = costs[name] = measure.run(command, Path(folder) / f"{name}.log")
            edges, work = cost.told["edges"], cost.told["cpu_s"]
            print(
                f"{name:<7} {work:7.2f} CPU-s, with its start {cost.cpu_s:.2f}"
                f"  {cost.peak_mb:6,.0f} MB  {edges:,} edges"
            )
        ratio = costs["duckdb"].told["cpu_s"] / costs["ours"].told["cpu_s"]
        peak = costs["ours"].peak_mb
        print(f"{ratio:.1f} x less CPU (bar 2), peak {peak:,.0f} MB (bar 512)")
        reached = ratio >= 2 and peak <= 512
        sys.exit(0 if same(path) and reached else "the bars are missed, or the edges differ")


if __name__ == "__main__":
    main()
