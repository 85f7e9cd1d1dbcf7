"""Train the tokenizer on a sample of the training documents, the same share of each language."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.settings import PackSettings, TokenizerSettings
from starkiln.tokenizer.tokenizer import fit
from starkiln.train.pack import is_validation

_TEXTS = pl.col("segments").list.eval(pl.element().struct.field("text"))


def fit_tokenizer(
    shards: Sequence[Path],
    out: Path,
    *,
    settings: TokenizerSettings,
    pack: PackSettings,
    seed: int,
) -> dict[str, Any]:
    """Fit on the curated Parquet ``shards`` and save to the folder ``out``.

    Returns ``vocab_size`` and ``sample``: documents and bytes of each language. Held-out
    documents are never read. UserError if no training document is left.
    """
    documents = pl.concat([_measured(path, pack.validation, seed) for path in shards])
    if not documents["bytes"].sum():
        raise UserError(
            "tokenizer", "no training text", "loosen curate.stages or lower pack.validation"
        )
    sample = _sample(documents, settings.sample_bytes)
    limits = dict(sample.group_by("language").agg(pl.col("draw").max()).iter_rows())
    tokenizer = fit(_texts(shards, limits, pack.validation, seed), settings.vocab_size)
    tokenizer.save(out)
    by_language = sample.group_by("language").agg(pl.len().alias("documents"), pl.sum("bytes"))
    return {
        "vocab_size": tokenizer.vocab_size,
        "sample": by_language.sort("language").to_dicts(),
    }


def _measured(path: Path, validation: float, seed: int) -> pl.DataFrame:
    """Language, draw and bytes of each training document of one shard."""
    frame = pl.read_parquet(path, columns=["id", "language", "segments"])
    size = _TEXTS.list.eval(pl.element().str.len_bytes()).list.sum()
    return _training(frame, validation, seed).select(
        pl.col("language").fill_null("unknown"), "draw", size.cast(pl.Int64).alias("bytes")
    )


def _training(frame: pl.DataFrame, validation: float, seed: int) -> pl.DataFrame:
    """The training rows of ``frame``, with a keyed number in [0, 1) as ``draw``."""
    ids = frame["id"].to_list()
    keep = pl.Series([not is_validation(i, validation, seed) for i in ids], dtype=pl.Boolean)
    draw = pl.Series("draw", [keyed.uniform(seed, "tokenizer", i) for i in ids], dtype=pl.Float64)
    return frame.with_columns(draw).filter(keep)


def _sample(documents: pl.DataFrame, sample_bytes: int) -> pl.DataFrame:
    """Of each language the documents of lowest draw, up to the one that fills its quota."""
    share = min(1.0, sample_bytes / documents["bytes"].sum())
    before = pl.col("bytes").cum_sum().over("language") - pl.col("bytes")
    quota = pl.col("bytes").sum().over("language") * share
    return documents.sort("language", "draw").filter(before <= quota)


def _texts(
    shards: Sequence[Path], limits: dict[str, float], validation: float, seed: int
) -> Iterator[str]:
    """The segments of all training documents whose draw is within their language's limit."""
    for path in shards:
        frame = pl.read_parquet(path, columns=["id", "language", "segments"])
        limit = pl.col("language").fill_null("unknown").replace_strict(limits, default=-1.0)
        chosen = _training(frame, validation, seed).filter(pl.col("draw") <= limit)
        yield from chosen.select(_TEXTS.alias("text"))["text"].explode().drop_nulls()
