"""The tree of prefixes: every path's keys and values are those of its tokens, whatever is done."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.model import cache
from starkiln.model.cache import Prefix, Prefixes, common
from starkiln.model.tails import Row, Tails

BLANK = torch.empty(2, 2, 1, 0, 3)
IDS = st.lists(st.integers(0, 1), min_size=1, max_size=24)


def stores(ids):
    """Keys and values [2, 2, 1, P, 3] that tell all tokens before, as a model's do."""
    seen = [hash(tuple(ids[: i + 1])) % 10**6 for i in range(len(ids))]
    return torch.tensor(seen, dtype=torch.float32)[:, None].expand(2, 2, 1, -1, 3)


def read(prefixes, tails, ids):
    """Read a prompt to its end as an engine does; returns the reading."""
    reading = prefixes.begin(np.array(ids, np.int32), tails)
    whole = stores(ids)
    known = [*reading.path, reading.store[..., : reading.at, :]]
    assert torch.equal(torch.cat(known, dim=3), whole[..., : reading.start + reading.at, :])
    assert 0 <= reading.at < len(reading.tokens)
    assert reading.start + len(reading.tokens) == len(ids)
    reading.store[..., reading.at :, :] = whole[..., reading.start + reading.at :, :]
    return reading


def holds(prefixes, tails):
    """Every store is that of its tokens."""
    for node in prefixes.all():
        ids = [token for one in node.path() for token in one.tokens.tolist()]
        assert torch.equal(node.store, stores(ids)[..., -len(node.tokens) :, :])
        assert node.store.is_contiguous()
        assert node.store.untyped_storage().nbytes() == node.store.nbytes
    for row in tails.rows:
        ids = [token for one in row.leaf.path() for token in one.tokens.tolist()]
        assert torch.equal(tails.tail(row), stores([*ids, *row.own])[..., len(ids) :, :])
    return True


def row_of(leaf):
    return Row(leaf, [], SimpleNamespace(), 0)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(IDS, st.sampled_from(["row", "prefix", "drop", "forget"])), max_size=14),
    st.sampled_from([0, 20, 999]),
    st.sampled_from([1, 3, 6]),
)
def test_stores_are_those_of_their_tokens(events, room, shared):
    prefixes, tails = Prefixes(BLANK, room), Tails(BLANK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "SHARED", shared)
        for ids, event in events:
            reading = read(prefixes, tails, ids)
            leaf = reading.parent
            if event == "prefix" and not reading.again:
                leaf = Prefix(leaf, reading.tokens, reading.store)
            if event == "row":
                row = row_of(leaf)
                own = not reading.again
                row.own.extend(reading.tokens.tolist() if own else [])
                tails.add([row], reading.store[:, :, None] if own else None)
            reading.parent.users -= 1
            prefixes.touch(leaf)
            if event == "drop":
                for row in tails.rows[::2]:
                    tokens = np.array(row.own, np.int32)
                    if len(tokens):
                        Prefix(row.leaf, tokens, tails.tail(row).clone())
                    tails.drop({row})
            prefixes.trim()
            assert holds(prefixes, tails)
            held = sum(len(node.tokens) for node in prefixes.all())
            assert held <= room or not any(node.idle for node in prefixes.all())
    tails.drop(set(tails.rows))
    prefixes.trim()
    assert tails.shelves == {}
    assert prefixes.root.users == 1
    assert not any(node.users for node in prefixes.all())
    assert sum(len(node.tokens) for node in prefixes.all()) <= room


def test_the_least_recently_used_goes_first():
    prefixes, tails = Prefixes(BLANK, 30), Tails(BLANK)
    for first in (1, 2, 3):
        reading = read(prefixes, tails, [first] * 10)
        reading.parent.users -= 1
        prefixes.touch(Prefix(reading.parent, reading.tokens, reading.store))
    prefixes.begin(np.array([1] * 11, np.int32), tails)  # takes the first over
    assert sorted(node.tokens[0] for node in prefixes.all()) == [2, 3]
    prefixes.touch(next(node for node in prefixes.all() if node.tokens[0] == 2))
    prefixes.room = 10
    prefixes.trim()
    assert [node.tokens[0] for node in prefixes.all()] == [2]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_beginnings(a, b):
    n = common(a, np.array(b, np.int32))
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 80), st.integers(1, 5)),
            st.tuples(st.just("drop"), st.integers(0, 10**6), st.integers(0, 1)),
            st.tuples(st.just("step"), st.integers(1, 3), st.integers(0, 1)),
        ),
        max_size=20,
    )
)
def test_rows_keep_their_tails_as_others_come_and_go(events):
    """Also the room: a row's shelf is less than twice what it needs, and gaps are given back."""
    tails, root = Tails(BLANK), Prefix(None, np.empty(0, np.int32), BLANK)
    held, mark = {}, 0.0
    for kind, size, count in events:
        if kind == "add":
            rows = [row_of(root) for _ in range(count)]
            start = torch.rand(2, 2, count, 1, size, 3)
            for row, own in zip(rows, start.unbind(2)):
                row.own.extend([0] * size)
                held[row] = own
            tails.add(rows, start if size else None)
        elif kind == "drop":
            gone = {row for i, row in enumerate(tails.rows) if (size >> i % 20) & 1 or count}
            tails.drop(gone)
            held = {row: own for row, own in held.items() if row not in gone}
        elif tails.rows:
            tails.grow(size)
            step, mark = tails.step(size, 2), mark + 1
            value = torch.full((len(tails.rows), 1, size, 3), mark)
            for layer in range(2):
                step.attend(layer, torch.rand(len(tails.rows), 2, size, 3), value, -value)
            for row in tails.rows:
                row.own.extend([0] * size)
                new = torch.stack([value[0], -value[0]])[None].expand(2, -1, -1, -1, -1)
                held[row] = torch.cat([held[row], new], dim=3)
        assert set(tails.rows) == set(held)
        assert len(tails.rows) == len(held)
        for row, own in held.items():
            assert torch.equal(tails.tail(row), own)
        for capacity, shelf in tails.shelves.items():
            assert shelf.store.size(4) == capacity
            assert shelf.store[:, :, : len(shelf.rows)].isfinite().all()
            assert len(shelf.rows) <= shelf.store.size(2) <= max(1, 4 * len(shelf.rows))
            assert all(capacity // 2 <= len(row.own) + 3 or capacity == 64 for row in shelf.rows)
    assert root.users == len(held)
