"""Near-dedup with Daft's own expressions on its local runner.

    python daft_dedup.py FOLDER [LABELS]

Every character outside [A-Za-z_0-9] becomes a space, ``minhash`` (5-grams of the words between
single spaces, 250 permutations), 25 bands of 10 values exploded, grouped by band and value; the
groups' members are united. Needs daft.
"""

import sys
from itertools import pairwise

import daft
from daft import col
from outcome import components, tell

NGRAM, BANDS, ROWS = 5, 25, 10


def main() -> None:
    texts = daft.read_parquet(f"{sys.argv[1]}/*.parquet").select("row", "content")
    words = col("content").regexp_replace("[^A-Za-z_0-9]", " ")
    minhash = words.minhash(num_hashes=BANDS * ROWS, ngram_size=NGRAM, seed=42)
    sketches = texts.select(col("row"), minhash.alias("hashes"))
    bands, keys = daft.lit(list(range(BANDS))), col("hashes").chunk(ROWS)
    banded = sketches.select(col("row"), keys.alias("key"), bands.alias("band"))
    buckets = banded.explode("key", "band").groupby("band", "key")
    groups = buckets.agg(col("row").list_agg().alias("rows"))
    found = groups.where(col("rows").list_count() > 1).select("rows").to_pydict()["rows"]
    count = texts.count_rows()
    labels = components(count, (edge for rows in found for edge in pairwise(rows)))
    tell(count, sum(label != row for row, label in enumerate(labels)), labels)


if __name__ == "__main__":
    main()
