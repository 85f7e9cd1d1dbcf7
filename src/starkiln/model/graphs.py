"""Steps recorded once and repeated: a GPU spends most of a small model's step on starting kernels.

A recorded step does the same with what stands at the same places in memory, so all that differs
from step to step is data: ids, positions, where new tokens go, which prefix a row has, and how
long that is. Batch and lengths are rounded up; what is more than there is, is hidden. CUDA graphs
are one way to record (``recorder``); what is recorded is the same everywhere.
"""

import logging
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from starkiln.model.attention import merge, shared_prefix_attention
from starkiln.model.cache import Prefix
from starkiln.model.decoder import Decoder
from starkiln.model.tails import Over, Parts, Row, Step, Tails, places, uneven

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]  # makes what does a work again, into the same tensor
Recorded = Callable[[torch.device], Record | None]
Numbers = Sequence[Sequence[int]]  # [B][T], of all rows

_MOST = 64  # steps that are kept
_WORTH = 3  # steps alike, after which the next is recorded: that takes as long as some ten
_GROUPS = 4  # prefixes that the rows of a recorded step may stand on; each is read for all rows
_LEAST = 64  # keys that are read at least
_FINE = 4  # lengths of keys from a power of two up to the next

LOG = logging.getLogger(__name__)


def recorder(device: torch.device) -> Record | None:
    """How steps are recorded on ``device``: as CUDA graphs on a GPU, and not at all elsewhere.

    Those of one recorder share their memory; it must not be used when they all have gone.
    """
    if device.type != "cuda":
        return None
    return partial(_captured, _stream(device), torch.cuda.graph_pool_handle())


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _captured(stream: torch.cuda.Stream, pool: Any, work: Work) -> Work:
    """``work`` as a CUDA graph with the memory of ``pool``: of all in it one runs at a time.

    It is done first on the stream of the capture, where libraries then have their workspaces
    (pytorch#187745); it writes the same numbers to the same places each time.
    """
    with torch.cuda.device(stream.device):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            out = work()

    def again() -> Tensor:
        graph.replay()
        return out

    return again


def width(new: int) -> int:
    """Tokens a row of a recorded step that is to add ``new``: one, or one and a power of two."""
    return new if new == 1 else 1 + (1 << (new - 2).bit_length())


def span(length: int) -> int:
    """Keys that a recorded step reads where there are ``length``: up to a quarter more."""
    step = max(_LEAST, (1 << length.bit_length()) // 2 // _FINE)
    return -(-length // step) * step


class Graphs:
    """The steps of ``model`` over tails that stay where they are."""

    def __init__(self, model: Decoder, blank: Tensor, recorded: Recorded) -> None:
        """``blank`` is [L, 2, K, 0, D]."""
        self.model, self._blank, self._recorded = model, blank, recorded
        self._record = recorded(blank.device)
        self._table = _Table(blank, 1, _LEAST)
        self._stores: dict[int, Tensor] = {}  # of the tails, by capacity
        self._frames: dict[tuple, _Frame] = {}

    def logits(self, tails: Tails, ids: Numbers, positions: Numbers) -> Tensor | None:
        """[B, T, V] of what follows ``ids``; the next call overwrites it.

        None where no step is recorded: rows stand on too many prefixes, or recording has failed.
        """
        rows, new = tails.rows, len(ids[0])
        if self._record is None or (slots := self._slots(rows)) is None:
            return None
        shelves = [(capacity, shelf) for capacity, shelf in tails.shelves.items() if shelf.rows]
        for capacity, shelf in shelves:
            if self._stores.setdefault(capacity, shelf.store) is not shelf.store:
                self._forget()
                self._stores[capacity] = shelf.store
        parts = [
            (capacity, places(len(shelf.rows)), span(max(len(row.own) for row in shelf.rows) + new))
            for capacity, shelf in shelves
        ]
        prefixes = [row.leaf.end for row, slot in zip(rows, slots, strict=True) if slot >= 0]
        groups = places(1 + max(slots)) if prefixes else 0
        frame = self._frame(new, groups, span(max(prefixes, default=0)), tuple(parts))
        starts = accumulate((count for _, count, _ in parts), initial=0)
        live = [slice(at, at + len(shelf.rows)) for at, (_, shelf) in zip(starts, shelves)]
        ends = [range(len(row.own), len(row.own) + new) for row in rows]
        frame.feed(live, ids, positions, ends, [[slot] * new for slot in slots])
        try:
            out = frame.run(self._record)
        except RuntimeError:
            LOG.exception("a step could not be recorded, and none is from now on")
            self._forget()
            self._record = None
            return None
        return torch.cat([out[part] for part in live]) if len(live) > 1 else out[live[0]]

    def _slots(self, rows: Sequence[Row]) -> list[int] | None:
        """The place of each row's prefix in the table, -1 without; None if there are too many."""
        leaves = list({row.leaf: None for row in rows if row.leaf.parent is not None})
        longest = max((leaf.end for leaf in leaves), default=0)
        if len(leaves) > _GROUPS:
            return None
        count, room = len(self._table.leaves), self._table.store.size(4)
        if len(leaves) > count or longest > room:
            self._forget()
            room = room if longest <= room else 1 << (longest - 1).bit_length()
            self._table = _Table(self._blank, max(count, places(len(leaves))), room)
        found = self._table.put(leaves)
        return [found.get(row.leaf, -1) for row in rows]

    def _frame(self, *key: Any) -> "_Frame":
        if key not in self._frames:
            if len(self._frames) == _MOST:
                self._forget()
            self._frames[key] = _Frame(self.model, self._table, self._stores, *key)
        return self._frames[key]

    def _forget(self) -> None:
        """All at once: the end of one CUDA graph takes others' workspaces (pytorch#193402)."""
        if self._frames:
            self._frames.clear()
            self._record = self._recorded(self._blank.device)


class _Table:
    """Copies of prefixes, whole, where recorded steps read them: [G, L, 2, K, P, D]."""

    def __init__(self, blank: Tensor, count: int, room: int) -> None:
        layers, two, heads, _, dim = blank.shape
        self.store = blank.new_zeros(count, layers, two, heads, room, dim)
        self.lengths = torch.ones(
            count, dtype=torch.int64, device=blank.device
        )  # an empty one's too
        self.leaves: list[weakref.ref[Prefix] | None] = [None] * count

    def put(self, leaves: Sequence[Prefix]) -> dict[Prefix, int]:
        """Where each of ``leaves`` is; those that are not there take the places of others."""
        known = [None if leaf is None else leaf() for leaf in self.leaves]
        free = [i for i, leaf in enumerate(known) if leaf not in leaves]
        for leaf in leaves:
            if leaf not in known:
                known[i := free.pop(0)] = leaf
                self.leaves[i], self.lengths[i] = weakref.ref(leaf), leaf.end
                torch.cat(
                    [node.store for node in leaf.path()], 3, out=self.store[i][..., : leaf.end, :]
                )
        return {leaf: known.index(leaf) for leaf in leaves}


class _Frame:
    """One step on data that stand still: ``fed`` int64 [4, B, T] are ids, positions, the columns
    of the tails and the places of the prefixes.
    """

    def __init__(
        self,
        model: Decoder,
        table: _Table,
        stores: dict[int, Tensor],
        new: int,
        groups: int,
        depth: int,
        parts: Sequence[tuple[int, int, int]],
    ) -> None:
        """``parts`` are capacity, rows and keys of each shelf."""
        self._model, self._table = model, table
        self._groups, self._depth = groups, depth
        self._spans = [(stores[capacity], rows, last) for capacity, rows, last in parts]
        batch = sum(rows for _, rows, _ in self._spans)
        self._fed = torch.zeros(4, batch, new, dtype=torch.int64, device=table.store.device)
        self._again: Work | None = None
        self._seen = 0

    def feed(self, live: Sequence[slice], *told: Numbers) -> None:
        """Put in what is told of all rows, at the places ``live``; other rows begin a text."""
        fed = np.zeros(self._fed.shape, np.int64)
        rows = np.array(told)
        for part in live:
            size = part.stop - part.start
            fed[:, part], rows = rows[:, :size], rows[:, size:]
        self._fed.copy_(torch.from_numpy(fed))

    def run(self, record: Record) -> Tensor:
        """Logits [B, T, V]."""
        if self._again is None and self._seen >= _WORTH:
            self._again = record(self._work)
        self._seen += 1
        return (self._again or self._work)()

    def _work(self) -> Tensor:
        ids, positions, ends, slots = self._fed
        heads, spans, first = self._model.config.n_head, [], 0
        for store, rows, last in self._spans:
            spans.append(uneven(store, ends[first : first + rows], last, heads))
            first += rows
        over = [self._over(group, slots[:, :1, None, None]) for group in range(self._groups)]
        hidden = self._model.hidden(ids, positions=positions, cache=Step(spans, over))
        return self._model.output(hidden)

    def _over(self, group: int, slots: Tensor) -> Over:
        """What the rows see of a prefix whose place theirs is, ``slots`` [B, 1, 1, 1]."""
        store, length = self._table.store[group], self._table.lengths[group]
        beyond = torch.arange(self._depth, device=store.device) >= length
        bias = store.new_zeros(self._depth).masked_fill_(beyond, float("-inf"))
        others = slots != group

        def over(layer: int, q: Tensor, own: Parts) -> Parts:
            keys, values = store[layer, :, :, : self._depth]
            out, weight = shared_prefix_attention(q, keys, values, bias)
            return merge(own, (out, weight.masked_fill(others, float("-inf"))))

        return over
