"""Near-dedup with rensa as its README shows it: sets of Python strings, the library's LSH.

    python rensa_readme.py FOLDER [LABELS]

The tokens of BigCode's rule as 5-gram strings; ``RMinHash`` of each set; ``RMinHashLSH`` with 25
bands over 250 permutations; its candidates of each document are united. Needs rensa and Polars.
"""

import re
import sys

import polars as pl
import rensa
from outcome import components, tell

NGRAM, BANDS, ROWS = 5, 25, 10
SPLIT = re.compile("[^A-Za-z_0-9]")
BATCH = 512


def grams(text: str) -> set[str]:
    tokens = SPLIT.split(text)
    return {" ".join(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}


def main() -> None:
    texts = pl.read_parquet(f"{sys.argv[1]}/*.parquet", columns=["content"])["content"]
    lsh = rensa.RMinHashLSH(threshold=0.7, num_perm=BANDS * ROWS, num_bands=BANDS)
    edges = []
    for begin in range(0, len(texts), BATCH):
        sets = [grams(text) for text in texts[begin : begin + BATCH]]
        sketches = rensa.RMinHash.from_token_sets(sets, num_perm=BANDS * ROWS, seed=42)
        for row, sketch in enumerate(sketches, begin):
            edges += [(row, other) for other in lsh.query(sketch)]
            lsh.insert(row, sketch)
    labels = components(len(texts), edges)
    tell(len(texts), sum(label != row for row, label in enumerate(labels)), labels)


if __name__ == "__main__":
    main()
