"""Parts come back as they were written, from many files, and damage is a sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.core import shuffle
from starkiln.core.errors import UserError


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(st.binary(), min_size=n, max_size=n))))
def test_parts_of_many_writers_come_in_the_order_of_the_files(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"{k}" for k in range(len(written))]
    for path, parts in zip(paths, written):
        shuffle.write(path, [parts[0], *map(memoryview, parts[1:])])
        assert shuffle.sizes(path).tolist() == [len(part) for part in parts]
    for part in range(len(written[0]) if written else 0):
        assert list(shuffle.read(paths, part)) == [parts[part] for parts in written]


def test_a_file_of_no_parts(tmp_path):
    shuffle.write(tmp_path / "none", [])
    assert shuffle.sizes(tmp_path / "none").tolist() == []
    with pytest.raises(UserError, match="has no part 0"):
        list(shuffle.read([tmp_path / "none"], 0))


@pytest.mark.parametrize("kept", [0, 7, 20, -1, -8])
def test_a_cut_file_is_refused(tmp_path, kept):
    path = tmp_path / "cut"
    shuffle.write(path, [b"first part", b"second"])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="damaged"):
        list(shuffle.read([path], 1))


def test_offsets_out_of_order_are_refused(tmp_path):
    path = tmp_path / "wild"
    path.write_bytes(b"abc" + b"".join(n.to_bytes(8, "little") for n in (0, 2**40, 3, 2)))
    with pytest.raises(UserError, match="damaged"):
        list(shuffle.read([path], 0))
