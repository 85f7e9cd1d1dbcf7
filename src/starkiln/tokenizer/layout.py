"""Layouts: a document's row as token ids, its markers and metadata as sentinel ids (rules §10).

    code       [<reponame>R][<filename>F][<gh_stars>S][newline]code<|endoftext|>
    the rest   (<marker>text)... <|endoftext|>

Every text is encoded by itself, so that the tokens of a code file do not depend on whether
metadata stand before it, and no text can become a sentinel.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from starkiln.code.sentinels import END_OF_TEXT, FILENAME, GH_STARS, ID, REPONAME
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.bulk import Encode
from starkiln.tokenizer.settings import LayoutSettings
from starkiln.tokenizer.tokenizer import Tokenizer

READS = ("id", "kind", "repo", "path", "stars", "segments")
_PLACES = ("metadata", "segments", "end")
_PART = {"row": pl.UInt32, "sentinel": pl.UInt32, "text": pl.String}
_BUCKETS = ((0, "0"), (10, "1-10"), (100, "10-100"), (1000, "100-1000"))  # at most, name

Part = tuple[int | None, str]  # a sentinel's id, or none, and the text behind it


class Layouts(NamedTuple):
    """Documents end to end: document i is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: np.ndarray  # uint32 [offsets[-1]], end of text included
    offsets: np.ndarray  # int64 [documents + 1]
    content: np.ndarray  # int64 [documents], ids of metadata that stand before the content


def lay_out(frame: pl.DataFrame, encode: Encode, settings: LayoutSettings, seed: int) -> Layouts:
    """The layouts of all rows of ``frame`` (columns ``READS``), in order.

    Each metadata field of a code file is drawn by itself, keyed by (seed, document, field).
    ``encode`` comes from ``bulk.encoder``. UserError on a segment whose marker is no sentinel.
    """
    parts = _parts(frame.select(READS), settings, seed)
    encoded = encode(parts["text"])
    marked = parts["sentinel"].is_not_null().to_numpy()
    sentinels = parts["sentinel"].drop_nulls().to_numpy()
    tokens = np.insert(encoded.tokens, encoded.offsets[:-1][marked], sentinels)
    begins = encoded.offsets + np.cumsum([0, *marked])
    place = parts["row"].to_numpy() * len(_PLACES) + parts["place"].to_numpy()
    first = place.searchsorted(np.arange(frame.height + 1) * len(_PLACES))
    content = place.searchsorted(np.arange(frame.height) * len(_PLACES) + 1)
    offsets = begins[first]
    return Layouts(tokens, offsets, begins[content] - offsets[:-1])


def metadata_ids(
    tokenizer: Tokenizer,
    *,
    repo: str | None = None,
    path: str | None = None,
    stars: int | None = None,
) -> list[int]:
    """The ids of the metadata given, with the newline that closes them; [] for none."""
    ids: list[int] = []
    for sentinel, text in _metadata(repo, path, None if stars is None else star_bucket(stars)):
        ids += [] if sentinel is None else [sentinel]
        ids += tokenizer.encode(text)
    return ids


def star_bucket(stars: int | None) -> str:
    """The text behind ``<gh_stars>``; not known counts as 0 (rules §10)."""
    return next((name for most, name in _BUCKETS if (stars or 0) <= most), "1000+")


def prompt(
    text: str, tokenizer: Tokenizer, *, metadata: Sequence[int] = (), limit: int | None = None
) -> list[int]:
    """A left-to-right prompt of at most ``limit`` ids: ``metadata``, then the end of ``text``."""
    return [*metadata, *last_lines(text, tokenizer, room(limit, len(metadata)))]


def room(limit: int | None, taken: int) -> int | None:
    """What ``limit`` leaves beside ``taken`` ids; UserError if that is nothing."""
    if limit is not None and limit <= taken:
        raise UserError(
            "prompt",
            f"{limit} tokens leave no room for text",
            "ask for fewer new ones, or truncate less",
        )
    return None if limit is None else limit - taken


def last_lines(text: str, tokenizer: Tokenizer, room: int | None) -> list[int]:
    """Ids of the longest end of ``text`` that begins with a line and takes at most ``room`` ids.

    Where the last line alone is too long: its end, cut between tokens.
    """
    ids = tokenizer.encode(text)
    if room is None or len(ids) <= room:
        return ids
    rest = tokenizer.decode_bytes(ids[len(ids) - room :])
    while b"\n" in rest:
        rest = rest.partition(b"\n")[2]
        kept = tokenizer.encode_bytes(rest)
        if 0 < len(kept) <= room:
            return kept
    return ids[len(ids) - room :]


def first_lines(text: str, tokenizer: Tokenizer, room: int | None) -> list[int]:
    """Ids of the longest beginning of ``text`` that ends a line and takes at most ``room`` ids.

    Where the first line alone is too long: its beginning, cut between tokens.
    """
    ids = tokenizer.encode(text)
    if room is None or len(ids) <= room:
        return ids
    rest = tokenizer.decode_bytes(ids[:room])
    while b"\n" in rest:
        rest = rest.rpartition(b"\n")[0]
        kept = tokenizer.encode_bytes(rest + b"\n")
        if len(kept) <= room:
            return kept
    return ids[:room]


def _parts(frame: pl.DataFrame, settings: LayoutSettings, seed: int) -> pl.DataFrame:
    """Every text with its row, its place in ``_PLACES`` and the sentinel before it, in order."""
    frame = frame.with_row_index("row")
    code = frame.filter(pl.col("kind") == "code").select("row", "id", "repo", "path", "stars")
    rows = code.iter_rows(named=True)
    drawn = [(row["row"], *part) for row in rows for part in _drawn(row, settings, seed)]
    metadata = pl.DataFrame(drawn, _PART, orient="row")
    ends = frame.select("row", sentinel=pl.lit(END_OF_TEXT, pl.UInt32), text=pl.lit(""))
    places = (metadata, _segments(frame), ends)
    return pl.concat(
        part.with_columns(place=pl.lit(place, pl.Int64)) for place, part in enumerate(places)
    ).sort("row", "place", maintain_order=True)


def _drawn(row: dict[str, Any], settings: LayoutSettings, seed: int) -> list[Part]:
    """The metadata that the draw gives to a code file."""
    chance = {"repo": settings.repo_p, "path": settings.path_p, "stars": settings.stars_p}
    has = {f: keyed.uniform(seed, "layout", row["id"], f) < p for f, p in chance.items()}
    return _metadata(
        row["repo"] if has["repo"] else None,
        row["path"] if has["path"] else None,
        star_bucket(row["stars"]) if has["stars"] else None,
    )


def _metadata(repo: str | None, path: str | None, bucket: str | None) -> list[Part]:
    """Fields in their fixed order; the newline stands only behind metadata."""
    fields: list[Part] = [
        (sentinel, text)
        for sentinel, text in ((REPONAME, repo), (FILENAME, path), (GH_STARS, bucket))
        if text
    ]
    return [*fields, (None, "\n")] if fields else []


def _segments(frame: pl.DataFrame) -> pl.DataFrame:
    segments = frame.select("row", "id", "segments").explode("segments", empty_as_null=False)
    parts = segments.unnest("segments")
    for row in parts.filter(~pl.col("marker").is_in(["", *ID])).head(1).iter_rows(named=True):
        where, what = f"document {row['id']}", f"marker '{row['marker']}' is no sentinel"
        raise UserError(where, what, "see code.sentinels")
    sentinel = pl.col("marker").replace_strict(ID, default=None, return_dtype=pl.UInt32)
    return parts.select("row", sentinel.alias("sentinel"), "text")
