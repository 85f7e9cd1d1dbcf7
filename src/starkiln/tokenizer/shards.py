"""Token shards: flat ids in ``.bin``, documents in ``.idx``, both memory-mapped.

``.bin`` is ids, uint16, or uint32 for a vocabulary above 65,536. ``.idx`` is four uint64 (magic,
bytes an id, documents, tokens), then documents + 1 offsets into the ids (uint64), then where
content begins in each document (uint32). All little-endian.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.tokenizer.fim import Piece
from starkiln.tokenizer.layout import Layouts

_MAGIC = int.from_bytes(b"starkil1", "little")
_WIDTHS = {2: "<u2", 4: "<u4"}


def write(stem: Path, layouts: Layouts, vocab_size: int) -> list[Path]:
    """Write ``stem``.bin and .idx atomically, at least one document; returns both paths."""
    width = 2 if vocab_size <= 1 << 16 else 4
    head = [_MAGIC, width, len(layouts.content), len(layouts.tokens)]
    index = b"".join(
        [
            np.array(head, "<u8").tobytes(),
            layouts.offsets.astype("<u8").tobytes(),
            layouts.content.astype("<u4").tobytes(),
        ]
    )
    bin_path, idx_path = Path(f"{stem}.bin"), Path(f"{stem}.idx")
    atomic.write_bytes(bin_path, layouts.tokens.astype(_WIDTHS[width]).tobytes())
    atomic.write_bytes(idx_path, index)
    return [bin_path, idx_path]


class Shard:
    """One pair of files; UserError if they are damaged or do not belong together."""

    def __init__(self, bin_path: Path) -> None:
        idx_path = bin_path.with_suffix(".idx")
        try:
            head = np.fromfile(idx_path, "<u8", 4)
            magic, width, documents, tokens = (int(number) for number in head)
            if magic != _MAGIC:
                raise ValueError("not an index of token ids")
            self.tokens = _mapped(bin_path, _WIDTHS[width], 0, tokens)
            self.offsets = _mapped(idx_path, "<u8", 32, documents + 1)
            self.content = _mapped(idx_path, "<u4", 32 + 8 * (documents + 1), documents)
            if tokens != int(self.offsets[-1]) or bin_path.stat().st_size != tokens * width:
                raise ValueError("its files disagree on the number of tokens")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                bin_path, f"unreadable ({error})", "remove its folder and run again"
            ) from error


def _mapped(path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    # A plain array over the map: slices of np.memmap itself cost twice as much.
    return np.memmap(path, dtype, "r", offset, (count,)).view(np.ndarray)


class Tokens:
    """Many shards as one endless array: behind the last id comes the first again.

    So a window may be longer than the source. Nothing is read but what windows touch.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """``paths`` are ``.bin`` files, in order; at least one."""
        self.shards = [Shard(path) for path in paths]
        self._ends = np.cumsum([len(shard.tokens) for shard in self.shards])
        self.size = int(self._ends[-1])
        self.documents = sum(len(shard.content) for shard in self.shards)

    def window(self, start: int, length: int) -> tuple[np.ndarray, list[Piece]]:
        """``length`` ids from ``start`` on (int64), and the pieces of documents in them."""
        ids = np.empty(length, np.int64)
        pieces: list[Piece] = []
        filled = 0
        while filled < length:
            place = (start + filled) % self.size
            i = int(self._ends.searchsorted(place, side="right"))
            shard, here = self.shards[i], place - (int(self._ends[i - 1]) if i else 0)
            taken = min(length - filled, len(shard.tokens) - here)
            ids[filled : filled + taken] = shard.tokens[here : here + taken]
            pieces += _pieces(shard, here, here + taken, filled)
            filled += taken
        return ids, pieces


def _pieces(shard: Shard, start: int, end: int, at: int) -> list[Piece]:
    """The documents that ids ``start`` to ``end`` of ``shard`` touch, as pieces from ``at`` on."""
    # As np.uint64: beside a Python int, NumPy would copy the whole index to float64.
    first = int(shard.offsets.searchsorted(np.uint64(start), side="right")) - 1
    last = int(shard.offsets.searchsorted(np.uint64(end), side="left"))
    offsets = shard.offsets[first : last + 1].tolist()
    contents = shard.content[first:last].tolist()
    found = []
    for begins, ends, content in zip(offsets, offsets[1:], contents):
        left, right = max(begins, start), min(ends, end)
        before = max(0, min(begins + content, right) - left)
        found.append(Piece(at + left - start, at + right - start, before))
    return found
