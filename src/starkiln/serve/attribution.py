"""Where a text comes from: spans that it shares with the indexed documents, and which those are.

``member`` asks the filter alone: fast, and wrong with a chance that the recipe sets. ``search``
verifies each match in the documents' texts. Positions in texts are code points.
"""

import re
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from starkiln.core import manifest
from starkiln.core.errors import UserError
from starkiln.serve import portrait

LEAST = 50  # characters of a normal form: an n-gram
PLACES = 256  # of one n-gram that are looked at; what is in more files than that is common
RARE, HITS = 8, 1 << 11  # places of each that are looked at anyway; and in all, or it is fewer
GROUPS = 64  # of documents that stay in memory
SHOWN = 5  # documents of one match
_KNOWN = 1 << 12  # bytes that hold an n-gram, if they begin with one
_URL = re.compile(r"(https?://)?(([\w-]+\.)+[a-z]{2,}(:\d+)?/[\w.~/@-]+)", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A document that has the text of a match, or a part of it."""

    id: str
    repo: str
    path: str
    licences: list[str]
    language: str
    kind: str
    start: int  # code points of the document's text
    end: int
    characters: int  # of the normal form


@dataclass(frozen=True)
class Match:
    """A span of the text asked about, with the documents that share it, the longest first."""

    start: int  # code points of the text
    end: int
    characters: int  # of the normal form
    documents: list[Source]  # at most SHOWN
    count: int  # documents; PLACES places of an n-gram at most are counted
    exact: bool = True  # verified, character by character of the normal form


class Form(NamedTuple):
    """A text in its normal form."""

    codes: np.ndarray  # uint32 [n]
    points: np.ndarray  # int64 [n]: the code point of the text where each stands
    hashes: np.ndarray  # uint64 [n - 49]

    def span(self, low: int, high: int) -> tuple[int, int]:
        """Code points of the text from character ``low`` to ``high`` of the normal form."""
        return int(self.points[low]), int(self.points[high - 1]) + 1


@dataclass(frozen=True)
class Attribution:
    """An index opened for questions; any number of threads may ask at once."""

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)
    documents: "Documents"
    minimum: int  # characters of the normal form that a match has at least

    @classmethod
    def open(cls, folder: Path, minimum: int = LEAST) -> "Attribution":
        """The index that the step ``lookup`` made in ``folder``; UserError if it is not whole.

        Takes seconds the first time on a machine, in which its kernels are compiled.
        """
        made = manifest.read(folder)
        if made is None or made.identity.kind != "lookup":
            mend = "name the folder that a recipe with a [lookup] section has made"
            raise UserError(folder, "is no index for attribution", mend)
        if made.facts.get("format") != portrait.FORMAT:
            raise UserError(folder, "has another format", "make it anew with this release")
        arrays = portrait.opened(folder, made.facts)
        found = cls(made.facts, arrays, Documents(folder / portrait.DOCUMENTS), minimum)
        found.search(found._known())
        return found

    def member(self, text: str) -> list[tuple[int, int]]:
        """Spans of ``text`` of which the filter knows every n-gram that is needed to cover them."""
        form = _form(text)
        spans: list[list[int]] = []
        for low in self._held(form).tolist():
            if spans and low <= spans[-1][1]:
                spans[-1][1] = low + LEAST
            else:
                spans.append([low, low + LEAST])
        return [form.span(low, high) for low, high in spans if high - low >= self.minimum]

    def search(self, text: str) -> list[Match]:
        """Spans that ``text`` shares with documents, by their place; none lies within another."""
        form = _form(text)
        copies = self._copies(form)
        groups = grouped(copies[copies[:, 1] - copies[:, 0] >= self.minimum])
        return [self._match(form, group, count) for group, count in groups]

    def report(self, text: str) -> list[dict[str, Any]]:
        """``search`` for the wire: of each match the span, and the likeliest document."""
        return [
            {
                "span": [match.start, match.end],
                "repo": match.documents[0].repo,
                "path": match.documents[0].path,
                "licences": match.documents[0].licences,
                "url": _url(match.documents[0].repo),
                "characters": match.characters,
                "files": match.count,
            }
            for match in self.search(text)
        ]

    def _known(self) -> str:
        """A text of which an n-gram is indexed, if any is: to search it calls every kernel."""
        begin = int(self.arrays["places"][0]) if len(self.arrays["places"]) else 0
        some = self.arrays["texts"][begin : begin + _KNOWN].tobytes()
        return some.decode(errors="ignore").ljust(LEAST, "x")

    def _held(self, form: Form) -> np.ndarray:
        """Offsets (int64) in a normal form of the n-grams that the filter knows."""
        from starkiln.serve import gram_kernels

        how = self.facts["part_bits"], portrait.probes(self.facts["false_positives"])
        held = gram_kernels.held(self.arrays["filter"], self.arrays["parts"], *how, form.hashes)
        return np.flatnonzero(held)

    def _copies(self, form: Form) -> np.ndarray:
        """As ``gram_kernels.extend`` has them."""
        from starkiln.serve import gram_kernels

        offsets = self._held(form)
        limit = max(RARE, min(PLACES, HITS // max(1, len(offsets))))
        directory, keys, places = (self.arrays[n] for n in ("directory", "keys", "places"))
        asked, found = gram_kernels.occurrences(
            directory, self.facts["bits"], keys, places, form.hashes, offsets, limit
        )
        order = np.lexsort((asked, found))
        texts, starts = self.arrays["texts"], self.arrays["starts"]
        return gram_kernels.extend(texts, starts, form.codes, asked[order], found[order])

    def _match(self, form: Form, group: np.ndarray, count: int) -> Match:
        low, high = group[0, :2].tolist()
        shown = [self._source(*one) for one in group.tolist()]
        return Match(*form.span(low, high), high - low, shown, count)

    def _source(self, low: int, high: int, document: int, first: int, last: int) -> Source:
        begin = int(self.arrays["starts"][document])
        start = _points(self.arrays["texts"][begin:first])
        end = start + _points(self.arrays["texts"][first:last])
        told = self.documents.row(document)
        return Source(**told, start=start, end=end, characters=high - low)


class Documents:
    """The rows of ``documents.parquet``, of which a few groups are in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file, self._lock = pq.ParquetFile(path), threading.Lock()
        self._group = lru_cache(GROUPS)(self._read)

    def _read(self, group: int) -> Any:
        return self._file.read_row_group(group, use_threads=False)

    def row(self, number: int) -> dict[str, Any]:
        """The columns ``portrait.TOLD`` of one document."""
        group, place = divmod(number, portrait.GROUP)
        with self._lock:
            return self._group(group).slice(place, 1).to_pylist()[0]


def _form(text: str) -> Form:
    from starkiln.serve import gram_kernels

    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    codes, places = gram_kernels.normal(data)
    points = places if text.isascii() else (np.cumsum(_leads(data)) - 1)[places]
    return Form(codes, points, gram_kernels.rolled(codes))


def _leads(data: np.ndarray) -> np.ndarray:
    """Which bytes begin a code point (Boolean)."""
    return data & 0xC0 != 0x80


def _points(data: np.ndarray) -> int:
    return int(np.count_nonzero(_leads(data)))


def grouped(copies: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Copies (int64 [m, 5], ``gram_kernels.extend``) by spans that lie in no other, in order.

    Of each its first copies, the longest first and one of each document, at most ``SHOWN``; and
    how many documents there are. All of it in arrays: others must not wait for the interpreter.
    """
    copies = copies[np.lexsort((-copies[:, 1], copies[:, 0]))]
    lows, highs = copies[:, 0], copies[:, 1]
    before = np.concatenate(([-1], np.maximum.accumulate(highs)[:-1])) if len(copies) else highs
    group = np.searchsorted(lows[highs > before], lows, "right") - 1  # both ends of these ascend
    order = np.lexsort((copies[:, 3], copies[:, 2], lows, lows - highs, group))
    copies, group = copies[order], group[order]
    pairs = group * (1 + copies[:, 2].max(initial=0)) + copies[:, 2]
    once = np.sort(np.unique(pairs, return_index=True)[1])
    copies, group = copies[once], group[once]
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    counts = np.diff(begins, append=len(group))
    return [
        (copies[at : at + min(SHOWN, count)], count)
        for at, count in zip(begins.tolist(), counts.tolist(), strict=True)
    ]


def _url(repo: str) -> str | None:
    """The address of a repository whose name is one; nothing but https and http."""
    found = _URL.fullmatch(repo)
    return f"{found[1] or 'https://'}{found[2]}" if found else None
