"""The batch: each sample's own keys and values over its prefix, and one step of attention.

A prefix is read once a step for all samples over it. What is a sample's own stands in a store
with others of about its length.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from starkiln.model.attention import merge, partial_attention, shared_prefix_attention
from starkiln.model.cache import Ids, Prefix, common
from starkiln.model.lookup import Lookup
from starkiln.model.sampling import Sample

_SMALLEST = 64  # tokens in the smallest shelf; each further one holds twice as many
_MANY = 64  # rows of a batch, beyond which places are given by so many at a time


@dataclass(eq=False)
class Row:
    """A sample of a ``request`` in the batch.

    It stands on the prefix ``leaf``, and ``own`` are the tokens behind that which its tail holds.
    """

    leaf: Prefix
    prompt: list[int]
    sample: Sample
    request: int
    own: array = field(default_factory=lambda: array("i"))
    lookup: Lookup | None = None

    def __post_init__(self) -> None:
        self.leaf.users += 1


def places(rows: int) -> int:
    """The batch of a recorded step for so many rows: the next power of two, or 64 more."""
    return -(-rows // _MANY) * _MANY if rows > _MANY else 1 << max(0, rows - 1).bit_length()


class Shelf:
    """Tails of rows with one capacity, [L, 2, room, K, capacity, D], each with its own length."""

    def __init__(self, blank: Tensor, capacity: int, still: bool) -> None:
        """``blank`` is [L, 2, K, 0, D]; ``still`` as for ``Tails``."""
        layers, two, heads, _, dim = blank.shape
        self.store = blank.new_empty(layers, two, 0, heads, capacity, dim)
        self.rows: list[Row] = []
        self.still = still

    def add(self, rows: Sequence[Row], stores: Tensor | None = None) -> None:
        """Put in ``rows``, which begin with ``stores`` [L, 2, B, K, P, D]."""
        first, last = len(self.rows), len(self.rows) + len(rows)
        if last > self.store.size(2):
            shape = list(self.store.shape)
            shape[2] = places(last) if self.still else max(last, 3 * first // 2)
            old, make = self.store, self.store.new_zeros if self.still else self.store.new_empty
            self.store = make(shape)
            self.store[:, :, :first] = old[:, :, :first]
        self.store[:, :, first:last] = 0  # what is masked must be finite all the same
        if stores is not None:
            self.store[:, :, first:last, :, : stores.size(4)] = stores
        self.rows += rows

    def take(self, gone: set[Row]) -> None:
        """Remove rows; the last ones fill the gaps, and room that is not needed is given back."""
        keep = sum(row not in gone for row in self.rows)
        holes = [i for i, row in enumerate(self.rows[:keep]) if row in gone]
        movers = [i for i in range(keep, len(self.rows)) if self.rows[i] not in gone]
        if holes:
            self.store[:, :, holes] = self.store[:, :, movers]
        for hole, mover in zip(holes, movers, strict=True):
            self.rows[hole] = self.rows[mover]
        del self.rows[keep:]
        if keep <= self.store.size(2) // 4 and not self.still:
            self.store = self.store[:, :, :keep].clone()

    def tail(self, row: Row) -> Tensor:
        """Keys and values [L, 2, K, P, D] of a row's own tokens; a view."""
        return self.store[:, :, self.rows.index(row), :, : len(row.own)]


class Tails:
    """All rows, each in the smallest shelf that holds it; none takes twice the room it needs."""

    def __init__(self, blank: Tensor, still: bool = False) -> None:
        """``blank`` is [L, 2, K, 0, D].

        ``still``: shelves have room for the rows of a recorded step, and stay where they are, at
        their largest, when rows leave.
        """
        self._blank, self.device, self._still = blank, blank.device, still
        self.shelves: dict[int, Shelf] = {}  # by capacity

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of a step's batch."""
        return [row for shelf in self.shelves.values() for row in shelf.rows]

    def add(self, rows: Sequence[Row], stores: Tensor | None = None) -> None:
        """Put in ``rows`` of equal length, which begin with ``stores`` [L, 2, B, K, P, D]."""
        self._shelf(len(rows[0].own) + 1).add(rows, stores)

    def drop(self, gone: set[Row]) -> None:
        """Remove rows."""
        for capacity, shelf in list(self.shelves.items()):
            if not gone.isdisjoint(shelf.rows):
                self._take(capacity, gone)
        for row in gone:
            row.leaf.users -= 1

    def tail(self, row: Row) -> Tensor:
        """Keys and values [L, 2, K, P, D] of a row's own tokens; a view."""
        [tail] = [shelf.tail(row) for shelf in self.shelves.values() if row in shelf.rows]
        return tail

    def promote(self, leaf: Prefix, ids: Ids, least: int) -> Prefix | None:
        """A new prefix on ``leaf`` of what a row there has in common with ``ids``.

        The row then stands on it. None if no row has ``least`` tokens in common.
        """
        over = [(common(row.own, ids), row) for row in self.rows if row.leaf is leaf]
        count, row = max(over, key=lambda found: found[0], default=(0, None))
        if row is None or count < least:
            return None
        tail = self.tail(row)
        head, rest = tail[..., :count, :].clone(), tail[..., count:, :].clone()
        tail[..., : rest.size(3), :] = rest
        row.leaf.users -= 1
        row.leaf = Prefix(leaf, np.array(row.own[:count], np.int32), head)
        row.leaf.users += 1
        del row.own[:count]
        return row.leaf

    def grow(self, new: int) -> None:
        """Make room for ``new`` more tokens a row."""
        for capacity, shelf in list(self.shelves.items()):
            long = [i for i, row in enumerate(shelf.rows) if len(row.own) + new > capacity]
            if long:
                rows = [shelf.rows[i] for i in long]
                most = max(len(row.own) for row in rows)
                stores = shelf.store[:, :, long, :, :most]
                self._take(capacity, set(rows))
                self._shelf(most + new).add(rows, stores)

    def step(self, new: int, heads: int) -> "Step":
        """The attention of ``heads`` query heads in a step that adds ``new`` tokens a row."""
        spans = [_span(shelf, new, heads) for shelf in self.shelves.values() if shelf.rows]
        return Step(spans, [partial(_over, *group) for group in _groups(self.rows)])

    def _shelf(self, need: int) -> Shelf:
        capacity = max(_SMALLEST, 1 << (need - 1).bit_length())
        if capacity not in self.shelves:
            self.shelves[capacity] = Shelf(self._blank, capacity, self._still)
        return self.shelves[capacity]

    def _take(self, capacity: int, gone: set[Row]) -> None:
        self.shelves[capacity].take(gone)
        if not (self.shelves[capacity].rows or self._still):
            del self.shelves[capacity]


Parts = tuple[Tensor, Tensor]  # what ``partial_attention`` gives
Over = Callable[[int, Tensor, Parts], Parts]  # of a layer and queries: joins what a prefix gives


class Step:
    """Keys and values for more tokens of every row, shelf by shelf: attends for a model."""

    def __init__(self, spans: Sequence["Span"], prefixes: Sequence[Over]) -> None:
        self.spans, self.prefixes = spans, prefixes

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, H, T, D] from q [B, H, T, D] and new k, v [B, K, T, D]."""
        batch, heads, new, dim = q.shape
        q = (q * dim**-0.5).reshape(batch, k.size(1), -1, dim)  # a query for each head of a group
        parts, first = [], 0
        for span in self.spans:
            own = slice(first, first := first + span.rows)
            parts.append(span.attend(layer, q[own], k[own], v[own], bool(self.prefixes)))
        found = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
        for over in self.prefixes:
            found = over(layer, q, found)
        return found[0].reshape(batch, heads, new, dim)


@dataclass(frozen=True)
class Span:
    """The first ``rows`` of one store in one step: where new tokens go, and what is seen.

    They go to column ``first`` and after, or to the columns ``ends`` (int64 [B, T]); those before
    ``last`` are read, and ``bias`` [B, 1, G * T, S] hides what a token must not see.
    """

    store: Tensor
    rows: int
    last: int
    first: int = 0
    ends: Tensor | None = None
    bias: Tensor | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, weighed: bool) -> Parts:
        """As ``Step``; the second is of use only if ``weighed``."""
        both = self.store[layer]
        if self.ends is None:
            place = both[:, : self.rows, :, self.first : self.last]
            place[0], place[1] = k, v
        else:
            rows = torch.arange(self.rows, device=both.device)[:, None]
            both[0][rows, :, self.ends] = k.transpose(1, 2)
            both[1][rows, :, self.ends] = v.transpose(1, 2)
        keys, values = both[:, : self.rows, :, : self.last]
        if weighed:
            return partial_attention(q, keys, values, self.bias)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=self.bias, scale=1.0)
        return out, out


def uneven(store: Tensor, ends: Tensor, last: int, heads: int) -> Span:
    """The span of rows whose tokens go to columns ``ends`` (int64 [B, T]), all before ``last``."""
    unseen = torch.arange(last, device=store.device) > ends[..., None]  # [B, T, S]
    bias = store.new_zeros(unseen.shape).masked_fill_(unseen, float("-inf"))
    bias = bias.repeat(1, heads // store.size(3), 1)[:, None]
    return Span(store, len(ends), last, ends=ends, bias=bias)


def _span(shelf: Shelf, new: int, heads: int) -> Span:
    lengths = [len(row.own) for row in shelf.rows]
    last, device = max(lengths) + new, shelf.store.device
    if new == 1 and min(lengths) == max(lengths):
        return Span(shelf.store, len(lengths), last, first=lengths[0])
    ends = torch.tensor(lengths, device=device)[:, None] + torch.arange(new, device=device)
    return uneven(shelf.store, ends, last, heads)


def _over(prefix: Prefix, rows: slice | Tensor | None, layer: int, q: Tensor, own: Parts) -> Parts:
    """Join what ``rows`` see of a prefix; None are all."""
    keys, values = prefix.store[layer]
    if rows is None:
        return merge(own, shared_prefix_attention(q, keys, values))
    out, weight = own
    found = shared_prefix_attention(q[rows], keys, values)
    out[rows], weight[rows] = merge((out[rows], weight[rows]), found)
    return own


def _groups(rows: Sequence[Row]) -> list[tuple[Prefix, slice | Tensor | None]]:
    """Each prefix that rows stand on, with its rows; None are all."""
    over: dict[Prefix, list[int]] = {}
    leaves: dict[Prefix, list[int]] = {}
    for i, row in enumerate(rows):
        leaves.setdefault(row.leaf, []).append(i)
    for leaf, own in leaves.items():
        for node in leaf.path():
            over.setdefault(node, []).extend(own)
    found: list[tuple[Prefix, slice | Tensor | None]] = []
    for node, own in over.items():
        own.sort()
        if len(own) == len(rows):
            found.append((node, None))
        elif own[-1] - own[0] == len(own) - 1:
            found.append((node, slice(own[0], own[-1] + 1)))
        else:
            found.append((node, torch.tensor(own, device=node.store.device)))
    return found
