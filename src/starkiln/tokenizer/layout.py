"""Layouts: a document's row as token ids, its markers and metadata as sentinel ids (rules §10).

    code       [<reponame>R][<filename>F][<gh_stars>S][newline]code<|endoftext|>
    the rest   (<marker>text)... <|endoftext|>

Every text is encoded by itself, so that the tokens of a code file do not depend on whether
metadata stand before it, and no text can become a sentinel.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from starkiln.code.sentinels import END_OF_TEXT, FILENAME, GH_STARS, ID, REPONAME
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.settings import LayoutSettings
from starkiln.tokenizer.tokenizer import Tokenizer

READS = ("id", "kind", "repo", "path", "stars", "segments")
_ROWS = 256  # rows encoded at once, which bounds the memory that lists of ids take
_BUCKETS = ((0, "0"), (10, "1-10"), (100, "10-100"), (1000, "100-1000"))  # at most, name

Part = tuple[int | None, str]  # a sentinel's id, or none, and the text behind it


class Layout(NamedTuple):
    """A document's ids, end of text included; its metadata are ``ids[:content]``."""

    ids: list[int]
    content: int


class Layouts(NamedTuple):
    """Documents end to end: document i is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: np.ndarray  # uint32 [offsets[-1]]
    offsets: np.ndarray  # uint64 [documents + 1]
    content: np.ndarray  # uint32 [documents], where content begins in each document


def lay_out(
    frame: pl.DataFrame, tokenizer: Tokenizer, settings: LayoutSettings, seed: int
) -> Layouts:
    """The layouts of all rows of ``frame`` (columns ``READS``), in order.

    Each metadata field of a code file is drawn by itself, keyed by (seed, document, field).
    UserError on a segment whose marker is no sentinel.
    """
    tokens, lengths, content = [np.empty(0, np.uint32)], [0], []
    for rows in frame.select(READS).iter_slices(_ROWS):
        for layout in layouts(rows.to_dicts(), tokenizer, settings, seed):
            tokens.append(np.array(layout.ids, np.uint32))
            lengths.append(len(layout.ids))
            content.append(layout.content)
    offsets = np.cumsum(lengths, dtype=np.uint64)
    return Layouts(np.concatenate(tokens), offsets, np.array(content, np.uint32))


def layouts(
    rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, settings: LayoutSettings, seed: int
) -> list[Layout]:
    """The ``Layout`` of each row; as ``lay_out``, for a few."""
    parts = [(_drawn(row, settings, seed), _segments(row)) for row in rows]
    texts = [text for pair in parts for half in pair for _, text in half]
    encoded = iter(tokenizer.encode_batch(texts))
    found = []
    for before, segments in parts:
        ids = _join(before, encoded)
        content = len(ids)
        found.append(Layout([*ids, *_join(segments, encoded), END_OF_TEXT], content))
    return found


def metadata_ids(
    tokenizer: Tokenizer,
    *,
    repo: str | None = None,
    path: str | None = None,
    stars: int | None = None,
) -> list[int]:
    """The ids of the metadata given, with the newline that closes them; [] for none."""
    parts = _metadata(repo, path, None if stars is None else star_bucket(stars))
    return _join(parts, iter(tokenizer.encode_batch([text for _, text in parts])))


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
            "prompt", f"{limit} tokens leave no room for text", "ask for fewer new ones"
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


def _drawn(row: dict[str, Any], settings: LayoutSettings, seed: int) -> list[Part]:
    """The metadata that the draw gives to this row; only code files have any."""
    if row["kind"] != "code":
        return []
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


def _segments(row: dict[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for segment in row["segments"]:
        marker = segment["marker"]
        if marker and marker not in ID:
            raise UserError(
                f"document {row['id']}", f"marker '{marker}' is no sentinel", "see code.sentinels"
            )
        parts.append((ID[marker] if marker else None, segment["text"]))
    return parts


def _join(parts: Sequence[Part], encoded: Iterable[list[int]]) -> list[int]:
    """Sentinels and the next ``encoded`` texts in turn, one for each part."""
    ids: list[int] = []
    for (sentinel, _), text in zip(parts, encoded):
        ids += text if sentinel is None else [sentinel, *text]
    return ids
