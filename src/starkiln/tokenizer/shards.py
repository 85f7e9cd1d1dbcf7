"""Token shards: flat ids in ``.bin``, documents in ``.idx``, both memory-mapped.

``.bin`` is ids, uint16, or uint32 for a vocabulary above 65,536; each document closes with
``<|endoftext|>``. ``.idx`` is a head of 56 bytes (magic, bytes an id, documents, tokens, entries
of the vocabulary, all uint64; then 16 bytes that identify that vocabulary), then documents + 1
offsets into the ids (uint64), then where content begins in each document (uint32). All
little-endian.
"""

import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from starkiln.code.sentinels import END_OF_TEXT
from starkiln.core import atomic, keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.fim import Piece
from starkiln.tokenizer.layout import Layouts
from starkiln.tokenizer.tokenizer import Tokenizer

_HEAD = struct.Struct("<8s4Q16s")
_MAGIC = b"starkil2"
_WIDTHS = {2: "<u2", 4: "<u4"}
_OPEN = 128  # shards mapped at a time: two descriptors each
_AGAIN = "copy it anew, or remove the tokens folder and run again"


class Vocabulary(NamedTuple):
    """What the ids of a shard mean, by a fingerprint."""

    size: int
    digest: bytes  # 16 bytes, of the bytes or the name of every id

    def __str__(self) -> str:
        return f"{self.size:,} entries, {self.digest.hex()[:8]}"


class Head(NamedTuple):
    """What is known of a shard before it is read."""

    path: Path  # of the .bin
    width: int
    documents: int
    tokens: int
    vocabulary: Vocabulary
    modified: int  # nanoseconds


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of ``tokenizer``; equal ones give the same ids the same meaning."""
    pieces = (piece.hex() for piece in tokenizer.token_bytes)
    names = (f"{i} {name}" for i, name in sorted(tokenizer.added.items()))
    return Vocabulary(tokenizer.vocab_size, keyed.digest("vocabulary", *pieces, *names))


def write(stem: Path, layouts: Layouts, words: Vocabulary) -> list[Path]:
    """Write ``stem``.bin and .idx atomically, at least one document; returns both paths."""
    width = _width(words.size)
    head = (_MAGIC, width, len(layouts.content), len(layouts.tokens), *words)
    index = b"".join(
        [
            _HEAD.pack(*head),
            layouts.offsets.astype("<u8").tobytes(),
            layouts.content.astype("<u4").tobytes(),
        ]
    )
    bin_path, idx_path = Path(f"{stem}.bin"), Path(f"{stem}.idx")
    atomic.write_bytes(bin_path, layouts.tokens.astype(_WIDTHS[width]).tobytes())
    atomic.write_bytes(idx_path, index)
    return [bin_path, idx_path]


def head(path: Path) -> Head:
    """The head of the shard whose ``.bin`` is at ``path``, from 56 bytes and two sizes of files.

    UserError if a file is absent, cut short, of another format, or no match for the other.
    """
    index = path.with_suffix(".idx")
    try:
        with index.open("rb", buffering=0) as handle:
            read, size = handle.read(_HEAD.size), os.fstat(handle.fileno()).st_size
        found = path.stat()
    except OSError as error:
        raise UserError(error.filename, f"unreadable ({error.strerror})", _AGAIN) from error
    if len(read) < _HEAD.size or read[:8] != _MAGIC:
        what = "no index of token ids of this release"
        raise UserError(index, what, "remove the tokens folder and run again")
    _, width, documents, tokens, entries, digest = _HEAD.unpack(read)
    if width != _width(entries) or not 0 < documents <= tokens:
        raise UserError(index, "its head is damaged", _AGAIN)
    wanted = {path: tokens * width, index: _HEAD.size + 12 * documents + 8}
    for file, has in ((path, found.st_size), (index, size)):
        if has != wanted[file]:
            what = f"{has:,} bytes, but {wanted[file]:,} by the head of {index.name}"
            raise UserError(file, what, _AGAIN)
    return Head(path, width, documents, tokens, Vocabulary(entries, digest), found.st_mtime_ns)


class Shard:
    """One pair of files, mapped; UserError if they are damaged or do not belong together."""

    def __init__(self, path: Path) -> None:
        """``path`` is that of the ``.bin``."""
        self.head = head(path)
        index, documents = path.with_suffix(".idx"), self.head.documents
        try:
            self.tokens = _mapped(path, _WIDTHS[self.head.width])
            whole = _mapped(index, "<u4")[_HEAD.size // 4 :]
            self.offsets = whole[: 2 * documents + 2].view("<u8")
            self.content = whole[2 * documents + 2 :]
            ends = int(self.offsets[0]), int(self.offsets[-1])
        except (OSError, ValueError, IndexError) as error:  # changed since its head was read
            raise UserError(path, f"unreadable ({error})", _AGAIN) from error
        if ends != (0, len(self.tokens)):
            raise self.damaged("the offsets of its index do not span its ids")

    def damaged(self, what: str) -> UserError:
        """The error that says so of this shard."""
        return UserError(self.head.path, what, _AGAIN)

    def pieces(self, start: int, end: int, at: int) -> list[Piece]:
        """The documents that ids ``start`` to ``end`` touch, as pieces from ``at`` on.

        UserError where ids or documents are not as ``write`` leaves them.
        """
        if int(self.tokens[start:end].max()) >= self.head.vocabulary.size:
            raise self.damaged(f"ids beyond its vocabulary of {self.head.vocabulary.size:,}")
        # As np.uint64: beside a Python int, NumPy would copy the whole index to float64.
        first = int(self.offsets.searchsorted(np.uint64(start), side="right")) - 1
        last = int(self.offsets.searchsorted(np.uint64(end), side="left"))
        offsets = self.offsets[first : last + 1].tolist()
        contents = self.content[first:last].tolist()
        found, place = [], start
        for begins, ends, content in zip(offsets, offsets[1:], contents):
            left, right = max(begins, start), min(ends, end)
            closed = ends > end or self.tokens[ends - 1] == END_OF_TEXT
            if left != place or left >= right or content >= ends - begins or not closed:
                break
            before = max(0, min(begins + content, right) - left)
            found.append(Piece(at + left - start, at + right - start, before))
            place = right
        else:
            if place == end:
                return found
        raise self.damaged(f"its index does not fit its ids from {place:,} on")


class Tokens:
    """Many shards as one endless array: behind the last id comes the first again.

    So a window may be longer than the source. Nothing is read but heads, and what windows touch;
    at most ``_OPEN`` shards are mapped at a time in a process.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """``paths`` are ``.bin`` files, in order; at least one.

        UserError as for ``head``, and if the shards are not all of one vocabulary.
        """
        self.heads = [head(path) for path in paths]
        self.vocabulary = self.heads[0].vocabulary
        for one in self.heads:
            if one.vocabulary != self.vocabulary:
                what = f"vocabulary of {one.vocabulary}, but {self.vocabulary} in {paths[0].name}"
                raise UserError(one.path, what, "remove the tokens folder and run again")
        self._ends = np.cumsum([one.tokens for one in self.heads])
        self.size = int(self._ends[-1])
        self.documents = sum(one.documents for one in self.heads)

    def window(self, start: int, length: int) -> tuple[np.ndarray, list[Piece]]:
        """``length`` ids from ``start`` on (int64), and the pieces of documents in them.

        UserError, with the shard's name, on ids or documents that ``write`` never leaves.
        """
        ids = np.empty(length, np.int64)
        pieces: list[Piece] = []
        filled = 0
        while filled < length:
            place = (start + filled) % self.size
            i = int(self._ends.searchsorted(place, side="right"))
            shard, here = _opened(self.heads[i]), place - (int(self._ends[i - 1]) if i else 0)
            taken = min(length - filled, len(shard.tokens) - here)
            ids[filled : filled + taken] = shard.tokens[here : here + taken]
            pieces += shard.pieces(here, here + taken, filled)
            filled += taken
        return ids, pieces


@lru_cache(_OPEN)
def _opened(known: Head) -> Shard:
    shard = Shard(known.path)
    if shard.head != known:
        raise shard.damaged("replaced by another while in use")
    return shard


def _width(entries: int) -> int:
    return 2 if entries <= 1 << 16 else 4


def _mapped(path: Path, dtype: str) -> np.ndarray:
    # Not np.memmap, whose slices cost twice as much, and which takes six times as long to open.
    with path.open("rb", buffering=0) as handle:
        return np.frombuffer(mmap(handle.fileno(), 0, access=ACCESS_READ), dtype)
