"""Pack curated documents into token shards: one curated shard is one unit of work.

Files are ``<split>/<source>/<shard>.bin`` and ``.idx``. The source of a code file is its
language; the other kinds (issue, commit, notebook, notebook-script) are sources of their own, as
in StarCoder's data. A document's split and place depend on its id and the seed alone.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import polars as pl

from starkiln.code.document import SOURCE
from starkiln.core import keyed, table
from starkiln.tokenizer import shards
from starkiln.tokenizer.bulk import encoder
from starkiln.tokenizer.layout import READS, lay_out
from starkiln.tokenizer.settings import LayoutSettings, PackSettings
from starkiln.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "validation")
_SAMPLE = 20  # documents of a shard on which a faster encoder must prove itself


def is_validation(document: str, share: float, seed: int) -> bool:
    """Whether the document of this id is held out; the same everywhere for one seed."""
    return keyed.uniform(seed, "split", document) < share


def folder_name(source: str) -> str:
    """A source's name as the name of a folder: ``PL/SQL`` is ``PL%2FSQL``."""
    return quote(source, safe=" +#()',").replace(".", "%2E")


def source_name(folder: str) -> str:
    """The inverse of ``folder_name``."""
    return unquote(folder)


def pack_shard(
    curated: Path,
    folder: Path,
    tokenizer: Path,
    layout: LayoutSettings,
    pack: PackSettings,
    seed: int,
) -> dict[str, Any]:
    """Tokenise one curated Parquet shard into ``folder``; picklable, made for ``units.run``.

    Returns ``files`` (paths written), ``rows`` (documents), ``bytes`` (of text), ``tokens``,
    ``counts``: for each split and source its documents, tokens (sentinels included) and bytes;
    ``encoder`` names the library that encoded, which changes no id.
    """
    loaded = Tokenizer.load(tokenizer)
    frame = _placed(pl.read_parquet(curated, columns=[*READS, "language"]), pack.validation, seed)
    encode, name = encoder(loaded, _sample(frame))
    words = shards.vocabulary(loaded)
    files: list[Path] = []
    counts: list[dict[str, Any]] = []
    for (split, source), rows in frame.group_by("split", "source", maintain_order=True):
        laid = lay_out(rows, encode, layout, seed)
        stem = folder / str(split) / folder_name(str(source)) / curated.stem
        stem.parent.mkdir(parents=True, exist_ok=True)
        files += shards.write(stem, laid, words)
        one = {"documents": rows.height, "tokens": len(laid.tokens), "bytes": rows["bytes"].sum()}
        counts.append({"split": split, "source": source, **one})
    total = {key: sum(c[key] for c in counts) for key in ("tokens", "bytes")}
    return {"files": files, "rows": frame.height, **total, "counts": counts, "encoder": name}


def _sample(frame: pl.DataFrame) -> pl.Series:
    """The texts of the first few documents in keyed order, whatever their source."""
    texts = pl.col("segments").list.eval(pl.element().struct.field("text")).list.join("\n")
    return frame.bottom_k(_SAMPLE, by="place").select(texts.alias("text"))["text"]


def _placed(frame: pl.DataFrame, validation: float, seed: int) -> pl.DataFrame:
    """Rows with ``split``, ``source`` and ``bytes``, by split and source in keyed order."""
    ids = frame["id"].to_list()
    return frame.with_columns(
        pl.Series("split", [SPLITS[is_validation(i, validation, seed)] for i in ids], pl.String),
        pl.Series("place", [keyed.digest(seed, "order", i) for i in ids], pl.Binary),
        SOURCE,
        table.text_bytes(),
    ).sort("split", "source", "place", maintain_order=True)
