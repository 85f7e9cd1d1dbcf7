"""Peak memory of our near-dedup and of the code chain as the corpus grows: 1, 4 and 16 times.

    python benchmarks/memory.py [--small]

The base is the subset of ``corpus.py`` (``--small``: half of it, at most 4 times). What is added
are copies of its files in which three identifiers in ten are others, drawn for each copy: sizes,
lines and duplicates within a copy stay as they are, and copies are no duplicates of one another.
Bar: the driver's peak and the largest worker's together grow by no more than ``GROWTH``. (What all
processes take at once depends on how their peaks meet; it is printed too.)
"""

import hashlib
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import polars as pl

import corpus
from sets import Set

FACTORS = (1, 4, 16)
GROWTH = 1.5  # from the first to the last
RENAMED = 0.3
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]{3,}")
SHARD_MB = 16  # so that the base alone has a shard for every worker


def renamed(texts: pl.Series, copy: int) -> list[str]:
    """The texts with some names spelt backwards and marked, the same ones in all texts."""

    @cache
    def spelt(name: str) -> str:
        drawn = hashlib.blake2b(f"{copy} {name}".encode(), digest_size=2).digest()
        return f"{name[::-1]}{copy}" if int.from_bytes(drawn) < RENAMED * (1 << 16) else name

    return [NAME.sub(lambda match: spelt(match[0]), text) for text in texts]


def varied(shard: Path, copy: int, folder: Path) -> Path:
    """One copy of a shard; made once."""
    path = folder / f"{copy:02d}-{shard.name}"
    if not path.exists():
        frame = pl.read_parquet(shard)
        frame = frame.with_columns(
            pl.col("max_stars_repo_name") + f"-{copy}",
            content=pl.Series(renamed(frame["content"], copy)),
        )
        partial = path.with_suffix(".partial")
        frame.write_parquet(partial, row_group_size=1024)
        partial.rename(path)
    return path


def peak(name: str, row: str, of: Set) -> float:
    """Build what ``row`` is about and print its costs; megabytes of driver and largest worker."""
    cost = of.ours(row, 1)
    print(
        f"  {name:<11} {of.name:<11} {of.size:6.0f} MB {cost.cpu_s:8.1f} CPU-s; peak MB: "
        f"driver {cost.driver_mb:5.0f}, largest worker {cost.worker_mb:5.0f}, "
        f"all {cost.peak_mb:5.0f}",
        flush=True,
    )
    return cost.driver_mb + cost.worker_mb


def main() -> None:
    small = "--small" in sys.argv
    base = corpus.whole()[: 1 if small else corpus.SUBSET]
    factors = FACTORS[:2] if small else FACTORS
    folder = corpus.home() / "varied"
    folder.mkdir(exist_ok=True)
    missed = []
    peaks: dict[str, list[float]] = {"near-dedup": [], "code chain": []}
    for factor in factors:
        copies = [varied(shard, copy, folder) for copy in range(1, factor) for shard in base]
        of = Set(f"{factor} times", [*base, *copies], SHARD_MB)
        of.size = (
            sum(pl.read_parquet(path, columns=["size"])["size"].sum() for path in of.shards) / 1e6
        )
        for name, row in (("near-dedup", "exact"), ("code chain", "chain")):
            peaks[name].append(peak(name, row, of))
        shutil.rmtree(of.work)
    for name, found in peaks.items():
        growth = found[-1] / found[0]
        verdict = "PASS" if growth <= GROWTH else "miss"
        print(f"  {verdict}  {name}: {factors[-1]} times the corpus, {growth:.2f} times the memory")
        missed += [name] if verdict == "miss" else []
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
