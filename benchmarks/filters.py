"""Row filters: ours against Polars expressions with the same keep set, by CPU seconds.

Longest and mean line, share of alphanumeric characters, XML declaration: the figures of all rows
are wanted, not the drops alone. Ours looks for HTML, JSON and YAML as well; there is none here.
"""

import time

import polars as pl

from corpus import python_files
from starkiln.curate import filters

STAGES = (
    filters.long_lines,
    filters.alphanumeric,
    filters.alphabetic,
    filters.xml,
    filters.html,
    filters.size,
)


def ours(frame):
    reasons = [stage(frame)["reason"] for stage in STAGES]
    return pl.select(kept=pl.coalesce(reasons).is_null()).to_series()


def polars(frame):
    text = pl.col("text")
    lengths = text.str.split("\n").list.eval(pl.element().str.len_chars())
    letters = text.str.replace_all(r"[^\p{Alphabetic}\p{N}]", "").str.len_chars()
    figures = frame.select(
        longest=lengths.list.max(),
        mean=lengths.list.mean(),
        share=letters / text.str.len_chars(),
        xml=text.str.head(100).str.contains("<?xml version=", literal=True),
    )
    return figures.select(
        ~(
            (pl.col("longest") > 1000)
            | (pl.col("mean") > 100)
            | (pl.col("share").fill_nan(0) < 0.25)
            | pl.col("xml")
        )
    ).to_series()


def clock(function, frame):
    begin = time.process_time()
    kept = function(frame)
    return time.process_time() - begin, kept


def main():
    frame = python_files()
    size = frame["text"].str.len_bytes().sum() / 1e6
    ours(frame.head(50))
    runs = {f: [clock(f, frame) for _ in range(3)] for f in (ours, polars)}
    same = runs[ours][0][1].equals(runs[polars][0][1], check_names=False)
    mine, theirs = (min(seconds for seconds, _ in runs[f]) for f in (ours, polars))
    print(f"{frame.height} files, {size:.1f} MB; same keep set: {same}")
    print(f"Polars expressions  {theirs:6.3f} CPU-s  {size / theirs:6.0f} MB/CPU-s")
    print(
        f"ours                {mine:6.3f} CPU-s  {size / mine:6.0f} MB/CPU-s  {theirs / mine:.1f} x"
    )
    if not same:
        raise SystemExit("the two keep different rows")


if __name__ == "__main__":
    main()
