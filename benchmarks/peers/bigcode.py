"""BigCode's published near-dedup, written anew from its description (rules §7).

    python bigcode.py FOLDER [LABELS]

Tokens by a regular expression, empty ones kept; the set of their 5-grams; SHA-1 to 32 bits; 256
permutations modulo 2^61 - 1; 25 bands of 10 rows, a dictionary a band; union-find; no check.
One process, so nothing is spent on talking. Needs NumPy and Polars.
"""

import hashlib
import re
import struct
import sys
from itertools import pairwise

import numpy as np
import polars as pl
from outcome import components, tell

NGRAM, PERMUTATIONS, BANDS, ROWS = 5, 256, 25, 10
PRIME, MASK = np.uint64(2**61 - 1), np.uint64(2**32 - 1)
SPLIT = re.compile("[^A-Za-z_0-9]")


def coefficients() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(42)
    draws = [
        (rng.randint(1, PRIME, dtype=np.uint64), rng.randint(0, PRIME, dtype=np.uint64))
        for _ in range(PERMUTATIONS)
    ]
    a, b = np.array(draws, dtype=np.uint64).T
    return a, b


def signature(text: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    tokens = SPLIT.split(text)
    grams = {" ".join(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}
    lowest = np.full(PERMUTATIONS, MASK, np.uint64)
    if grams:
        sums = (hashlib.sha1(gram.encode()).digest()[:4] for gram in grams)
        hashes = np.array([struct.unpack("<I", one)[0] for one in sums], np.uint64)
        mixed = ((hashes[:, None] * a + b) % PRIME) & MASK
        lowest = np.minimum(lowest, mixed.min(axis=0))
    return lowest


def main() -> None:
    texts = pl.read_parquet(f"{sys.argv[1]}/*.parquet", columns=["content"])["content"]
    a, b = coefficients()
    tables: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
    for row, text in enumerate(texts):
        lowest = signature(text, a, b)
        for band, known in enumerate(tables):
            key = lowest[band * ROWS : band * ROWS + ROWS].byteswap().tobytes()
            known.setdefault(key, []).append(row)
    edges = (edge for known in tables for bucket in known.values() for edge in pairwise(bucket))
    labels = components(len(texts), edges)
    tell(len(texts), sum(label != row for row, label in enumerate(labels)), labels)


if __name__ == "__main__":
    main()
