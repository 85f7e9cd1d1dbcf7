import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.core.errors import UserError
from starkiln.tokenizer import shards
from starkiln.tokenizer.fim import Piece
from starkiln.tokenizer.layout import Layouts

DOCUMENTS = st.lists(
    st.tuples(st.lists(st.integers(19, 65535), min_size=1, max_size=9), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)


def layouts(documents):
    return Layouts(
        np.array([i for ids, _ in documents for i in ids], np.uint32),
        np.cumsum([0, *(len(ids) for ids, _ in documents)], dtype=np.uint64),
        np.array([min(content, len(ids)) for ids, content in documents], np.uint32),
    )


@given(
    tables=st.lists(DOCUMENTS, min_size=1, max_size=3),
    start=st.integers(0, 99),
    length=st.integers(0, 150),
)
def test_windows_are_slices_of_one_endless_array(tmp_path_factory, tables, start, length):
    folder = tmp_path_factory.mktemp("tokens")
    paths = [shards.write(folder / f"{i:05}", layouts(t), 65536)[0] for i, t in enumerate(tables)]
    tokens = shards.Tokens(paths)
    documents = [pair for table in tables for pair in table]
    flat = [(i, n, k) for n, (ids, _) in enumerate(documents) for k, i in enumerate(ids)]
    assert tokens.size == len(flat)
    assert tokens.documents == len(documents)
    wanted = [flat[(start + i) % len(flat)] for i in range(length)]
    ids, pieces = tokens.window(start, length)
    assert ids.tolist() == [i for i, _, _ in wanted]
    assert ids.dtype == np.int64
    assert [p.start for p in pieces] == ([0] if length else []) + [
        i for i in range(1, length) if wanted[i][1:] != (wanted[i - 1][1], wanted[i - 1][2] + 1)
    ]
    assert [p.end for p in pieces] == [p.start for p in pieces[1:]] + ([length] if length else [])
    for piece in pieces:
        _, n, k = wanted[piece.start]
        size, content = piece.end - piece.start, min(documents[n][1], len(documents[n][0]))
        assert piece.content == max(0, min(content - k, size))


def test_widths_and_bytes(tmp_path):
    table = layouts([([70_000, 20], 1), ([21], 0)])
    wide = shards.write(tmp_path / "wide", table, 65_537)
    assert wide[0].stat().st_size == 12
    assert shards.Tokens([wide[0]]).window(0, 3) == (
        pytest.approx([70_000, 20, 21]),
        [Piece(0, 2, 1), Piece(2, 3, 0)],
    )
    narrow = shards.write(tmp_path / "narrow", layouts([([65_535], 0)]), 65_536)
    assert narrow[0].read_bytes() == b"\xff\xff"
    again = shards.write(tmp_path / "again", table, 65_537)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in wide]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{name}.{kind}" for name in ("again", "narrow", "wide") for kind in ("bin", "idx")
    ]


@pytest.mark.parametrize("fault", ["short", "absent", "magic", "empty"])
def test_damaged_files_are_named(tmp_path, fault):
    bin_path, idx_path = shards.write(tmp_path / "a", layouts([([20, 21, 22], 0)]), 300)
    if fault == "short":
        bin_path.write_bytes(bin_path.read_bytes()[:-2])
    elif fault == "absent":
        idx_path.unlink()
    elif fault == "magic":
        idx_path.write_bytes(b"x" * idx_path.stat().st_size)
    else:
        idx_path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.bin: unreadable"):
        shards.Tokens([bin_path])
