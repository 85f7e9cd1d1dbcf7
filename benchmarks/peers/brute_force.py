"""All pairs of documents whose shingle sets reach a Jaccard similarity, by an exact join.

    python brute_force.py DOCUMENTS PAIRS

DOCUMENTS is a folder of starkiln's documents. Within each kind and language: the sets of 5 runs of
[A-Za-z_0-9] each, and all pairs at or over 0.7 (prefix filter: two such sets share one of their
rarest shingles; then a merge of the two); documents with equal text, however short, have 1.0.
PAIRS is a Parquet file: ``a`` < ``b`` (rows of the table) and ``jaccard``. Tokens, 64-bit hashes
and join are its own, not those of what it judges. Needs Numba, NumPy and Polars.
"""

import sys
import time

import numba
import numpy as np
import polars as pl
from outcome import tell

from starkiln.core import table

NGRAM, THRESHOLD = 5, 0.7
WORD = np.array([chr(b).isascii() and (chr(b).isalnum() or b == 95) for b in range(256)])


@numba.njit(cache=True)
def _stir(h):
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@numba.njit(cache=True)
def shingle_set(data, word):
    """The sorted distinct 64-bit hashes of one text's shingles."""
    tokens = np.empty(len(data) // 2 + 1, np.uint64)
    count, h, inside = 0, np.uint64(0), False
    for byte in data:
        if word[byte]:
            h = _stir(h ^ np.uint64(byte)) + np.uint64(0x9E3779B97F4A7C15)
            inside = True
        elif inside:
            tokens[count] = h
            count, h, inside = count + 1, np.uint64(0), False
    if inside:
        tokens[count] = h
        count += 1
    out = np.empty(max(0, count - 4), np.uint64)
    for at in range(len(out)):
        h = np.uint64(0)
        for j in range(5):
            h = _stir(h + tokens[at + j] + np.uint64(j))
        out[at] = h
    return np.unique(out)


@numba.njit(cache=True)
def rarest_first(values, counts, starts):
    """Each set's members by how many sets hold them, in ``values`` itself."""
    for document in range(len(starts) - 1):
        begin, end = starts[document], starts[document + 1]
        order = np.argsort(counts[begin:end], kind="mergesort")
        values[begin:end] = values[begin:end][order]
        counts[begin:end] = counts[begin:end][order]


@numba.njit(cache=True)
def overlap(values, a, end_a, b, end_b):
    """How many members two sorted sets share."""
    common = 0
    while a < end_a and b < end_b:
        x, y = values[a], values[b]
        common += x == y
        a += x <= y
        b += y <= x
    return common


@numba.njit(cache=True)
def pairs_of(documents, groups, entries, ends, values, starts, threshold):
    """All pairs (a < b) at or over ``threshold``, and their similarity.

    ``documents`` holds the owners of the prefixes' shingles, sorted by (shingle, owner), and
    ``groups`` where the run of a shingle begins; ``entries`` the places of each document's own.
    """
    out_a, out_b = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)]
    out_j = [0.0 for _ in range(0)]
    met = np.full(len(ends), -1, np.int64)
    for b in range(len(ends)):
        size_b = starts[b + 1] - starts[b]
        for k in range(ends[b - 1] if b else 0, ends[b]):
            for q in range(groups[entries[k]], entries[k]):
                a = documents[q]
                if met[a] == b:
                    continue
                met[a] = b
                size_a = starts[a + 1] - starts[a]
                if min(size_a, size_b) < threshold * max(size_a, size_b):
                    continue
                common = overlap(values, starts[a], starts[a + 1], starts[b], starts[b + 1])
                similar = common / (size_a + size_b - common)
                if similar >= threshold:
                    out_a.append(np.int64(a))
                    out_b.append(np.int64(b))
                    out_j.append(similar)
    return np.array(out_a, np.int64), np.array(out_b, np.int64), np.array(out_j, np.float64)


def join(texts: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs (a < b, places in ``texts``) at or over the threshold, and their similarity."""
    arrays = [shingle_set(np.frombuffer(text.encode(), np.uint8), WORD) for text in texts]
    starts = np.cumsum([0, *map(len, arrays)])
    values = np.concatenate([np.zeros(0, np.uint64), *arrays])
    sizes = np.diff(starts)
    del arrays
    _, inverse, held = np.unique(values, return_inverse=True, return_counts=True)
    counts = held[inverse].astype(np.int32)
    del inverse, held
    ordered = values.copy()
    rarest_first(ordered, counts, starts)
    owner = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    place = np.arange(len(values)) - starts[owner]
    # Sets that reach the threshold share a member among the first |x| - ceil(t |x|) + 1 of each.
    prefix = sizes - np.ceil(THRESHOLD * sizes - 1e-9).astype(np.int64) + 1
    wanted = (place < prefix[owner]) & (counts > 1)
    shingle, holder = ordered[wanted], owner[wanted]
    del ordered, owner, place, counts, wanted
    order = np.lexsort((holder, shingle))
    shingle, holder = shingle[order], holder[order]
    fresh = np.r_[True, shingle[1:] != shingle[:-1]][: len(shingle)]
    groups = np.maximum.accumulate(np.where(fresh, np.arange(len(shingle)), 0))
    entries = np.argsort(holder, kind="stable")
    ends = np.cumsum(np.bincount(holder, minlength=len(sizes)))
    return pairs_of(holder, groups, entries, ends, values, starts, THRESHOLD)


def copies(rows: np.ndarray, ids: pl.Series) -> pl.DataFrame:
    """Documents with equal text: each with the first of them."""
    frame = pl.DataFrame({"b": rows, "id": ids}).with_columns(a=pl.col("b").first().over("id"))
    return frame.filter(pl.col("a") != pl.col("b")).select("a", "b", jaccard=pl.lit(1.0))


def main() -> None:
    from pathlib import Path

    begin = time.process_time()
    shards = [Path(sys.argv[1]) / name for name in table.shard_names(Path(sys.argv[1]))]
    told = pl.concat([table.read(shard, ["kind", "language", "id"]) for shard in shards])
    found = [pl.DataFrame(schema={"a": pl.Int64, "b": pl.Int64, "jaccard": pl.Float64})]
    for kind, language in sorted(set(told.select("kind", "language").iter_rows())):
        mine = (pl.col("kind") == kind) & (pl.col("language") == language)
        parts = [table.read(s, ["kind", "language", "text"]).filter(mine)["text"] for s in shards]
        rows = np.flatnonzero(told.select(mine).to_series().to_numpy())
        a, b, jaccard = join(pl.concat(parts))
        found.append(pl.DataFrame({"a": rows[a], "b": rows[b], "jaccard": jaccard}))
        found.append(copies(rows, told["id"].gather(rows)))
    pairs = pl.concat(found).unique(["a", "b"]).sort("a", "b")
    pairs.write_parquet(sys.argv[2])
    tell(told.height, pairs["b"].n_unique(), pairs=pairs.height, own_s=time.process_time() - begin)


if __name__ == "__main__":
    main()
