"""The paper's row filters as Polars expressions, on its streaming engine.

    python polars_filters.py FOLDER [KEPT]

Longest and mean line, shares of alphanumeric characters and of letters, XML declaration. The limits
of each row lie in its columns ``max_line``, ``mean_line``, ``alphanumeric``, ``alphabetic`` (0:
none) and ``xml``, so nothing is spent on looking them up. Needs Polars.
"""

import sys

import polars as pl
from outcome import tell


def share(kept: str) -> pl.Expr:
    text = pl.col("content")
    return text.str.replace_all(f"[^{kept}]", "").str.len_chars() / text.str.len_chars()


def main() -> None:
    text = pl.col("content")
    lengths = text.str.split("\n").list.eval(pl.element().str.len_chars())
    letters = pl.when(pl.col("alphabetic") > 0).then(share(r"\p{L}"))
    figures = pl.scan_parquet(f"{sys.argv[1]}/*.parquet").select(
        "row",
        (lengths.list.max() > pl.col("max_line")).alias("longest"),
        (lengths.list.mean() > pl.col("mean_line")).alias("mean"),
        (share(r"\p{L}\p{N}") < pl.col("alphanumeric")).alias("alphanumeric"),
        (letters < pl.col("alphabetic")).alias("alphabetic"),
        (pl.col("xml") & text.str.head(100).str.contains("<?xml version=", literal=True)),
    )
    dropped = pl.any_horizontal(pl.exclude("row").fill_null(False)).alias("dropped")
    found = figures.select("row", dropped).collect(engine="streaming").sort("row")
    tell(found.height, found["dropped"].sum(), found["dropped"].cast(pl.Int8).to_list())


if __name__ == "__main__":
    main()
