"""Layouts: a document's row as token ids, its markers and metadata as sentinel ids (FACTS §10).

    code       [<reponame>R][<filename>F][<gh_stars>S][newline]code<|endoftext|>
    the rest   (<marker>text)... <|endoftext|>

Every text is encoded by itself, so that the tokens of a code file do not depend on whether
metadata stand before it, and no text can become a sentinel.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from starkiln.code.sentinels import END_OF_TEXT, FILENAME, GH_STARS, ID, REPONAME
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.settings import LayoutSettings
from starkiln.tokenizer.tokenizer import Tokenizer

READS = ("id", "kind", "repo", "path", "stars", "segments")
_ROWS = 256  # rows encoded at once, which bounds the memory of their ids
_STARS = ((0, "0"), (10, "1-10"), (100, "10-100"), (1000, "100-1000"))  # at most, bucket


class Layout(NamedTuple):
    """A document's ids, end of text included; its metadata are ``ids[:content]``."""

    ids: list[int]
    content: int


class Layouts(NamedTuple):
    """Documents end to end: document i is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: np.ndarray  # uint32 [offsets[-1]]
    offsets: np.ndarray  # uint64 [documents + 1]
    content: np.ndarray  # uint32 [documents], where content begins in each document


Part = tuple[int | None, str]  # a sentinel's id, if any, and the text behind it


def star_bucket(stars: int | None) -> str:
    """The text behind ``<gh_stars>``; unknown counts as 0 (FACTS §10)."""
    return next((name for most, name in _STARS if (stars or 0) <= most), "1000+")


def lay_out(frame: pl.DataFrame, tokenizer: Tokenizer, settings: LayoutSettings, seed: int):
    """The ``Layout`` of each row of ``frame`` (columns ``READS``), in order.

    Each metadata field of a code file is drawn by itself, keyed by (seed, field, document).
    """
    for rows in frame.select(READS).iter_slices(_ROWS):
        yield from _encoded([_parts(row, settings, seed) for row in rows.to_dicts()], tokenizer)


def pack(layouts: Sequence[Layout]) -> Layouts:
    """Layouts end to end."""
    lengths = [len(layout.ids) for layout in layouts]
    flat = (np.array(layout.ids, np.uint32) for layout in layouts)
    return Layouts(
        np.concatenate([np.empty(0, np.uint32), *flat]),
        np.cumsum([0, *lengths], dtype=np.uint64),
        np.array([layout.content for layout in layouts], np.uint32),
    )


def metadata_ids(
    tokenizer: Tokenizer,
    repo: str | None = None,
    path: str | None = None,
    stars: int | None = None,
) -> list[int]:
    """The ids of the metadata that are given, with their newline; none for none."""
    fields: list[Part] = []
    if repo:
        fields.append((REPONAME, repo))
    if path:
        fields.append((FILENAME, path))
    if stars is not None:
        fields.append((GH_STARS, star_bucket(stars)))
    return _ids(_closed(fields), map(tokenizer.encode, (text for _, text in _closed(fields))))


def prompt(
    text: str, tokenizer: Tokenizer, *, metadata: Sequence[int] = (), limit: int | None = None
) -> list[int]:
    """A left-to-right prompt of at most ``limit`` ids: metadata, then the last lines of text."""
    room = None if limit is None else _room(limit - len(metadata))
    return [*metadata, *last_lines(text, tokenizer, room)]


def last_lines(text: str, tokenizer: Tokenizer, room: int | None) -> list[int]:
    """The ids of the longest end of ``text`` that fits ``room`` ids and begins with a line.

    Where not even one line fits, the end of that line.
    """
    ids = tokenizer.encode(text)
    if room is None or len(ids) <= room:
        return ids
    tail = tokenizer.decode_bytes(ids[len(ids) - room :]).decode(errors="ignore")
    while tail:
        tail = tail.partition("\n")[2]
        ids = tokenizer.encode(tail)
        if ids and len(ids) <= room:
            return ids
    return ids[len(ids) - room :]
