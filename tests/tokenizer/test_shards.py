import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.sentinels import END_OF_TEXT
from starkiln.core.errors import UserError
from starkiln.tokenizer import shards
from starkiln.tokenizer.fim import Piece
from starkiln.tokenizer.layout import Layouts
from starkiln.tokenizer.tokenizer import Tokenizer

DOCUMENTS = st.lists(
    st.tuples(st.lists(st.integers(19, 65535), min_size=1, max_size=9), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)


WORDS = shards.Vocabulary(65_536, bytes(16))


def layouts(documents):
    """Documents of (ids, content), each closed by end of text."""
    ends = np.cumsum([0, *(len(ids) + 1 for ids, _ in documents)], dtype=np.uint64)
    tokens = np.array([i for ids, _ in documents for i in (*ids, END_OF_TEXT)], np.uint32)
    return Layouts(
        tokens, ends, np.array([min(content, len(ids)) for ids, content in documents], np.uint32)
    )


@settings(deadline=None)
@given(
    tables=st.lists(DOCUMENTS, min_size=1, max_size=3),
    start=st.integers(0, 99),
    length=st.integers(0, 150),
)
def test_windows_are_slices_of_one_endless_array(tmp_path_factory, tables, start, length):
    folder = tmp_path_factory.mktemp("tokens")
    paths = [shards.write(folder / f"{i:05}", layouts(t), WORDS)[0] for i, t in enumerate(tables)]
    tokens = shards.Tokens(paths)
    documents = [([*ids, END_OF_TEXT], content) for table in tables for ids, content in table]
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
        size, content = piece.end - piece.start, min(documents[n][1], len(documents[n][0]) - 1)
        assert piece.content == max(0, min(content - k, size))
        if wanted[piece.end - 1][2] == len(documents[n][0]) - 1:
            assert ids[piece.end - 1] == END_OF_TEXT


def test_widths_and_bytes(tmp_path):
    table, words = layouts([([70_000, 20], 1), ([21], 0)]), shards.Vocabulary(70_001, bytes(16))
    wide = shards.write(tmp_path / "wide", table, words)
    assert wide[0].stat().st_size == 4 * 5
    ids, pieces = shards.Tokens([wide[0]]).window(0, 5)
    assert ids.tolist() == [70_000, 20, END_OF_TEXT, 21, END_OF_TEXT]
    assert pieces == [Piece(0, 3, 1), Piece(3, 5, 0)]
    narrow = shards.write(tmp_path / "narrow", layouts([([65_535], 0)]), WORDS)
    assert narrow[0].read_bytes() == b"\xff\xff\0\0"
    again = shards.write(tmp_path / "again", table, words)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in wide]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{name}.{kind}" for name in ("again", "narrow", "wide") for kind in ("bin", "idx")
    ]


DOCUMENT = ([20, 21, 22], 1)


def written(tmp_path, documents=(DOCUMENT, DOCUMENT), name="a", words=WORDS):
    return shards.write(tmp_path / name, layouts(documents), words)


def patched(path, offset, value):
    """``path`` with ``value`` (bytes) in place of what is at ``offset``."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(bytes(data))


FAULTS = {  # what befalls .bin and .idx, and what the error says
    "bin cut short": (lambda b, i: os.truncate(b, 14), r"a\.bin: 14 bytes, but 16 by the head"),
    "bin too long": (lambda b, i: b.write_bytes(bytes(18)), r"a\.bin: 18 bytes, but 16"),
    "idx cut short": (lambda b, i: os.truncate(i, 80), r"a\.idx: 80 bytes, but 88 by the head"),
    "head cut short": (lambda b, i: os.truncate(i, 40), r"a\.idx: no index of token ids"),
    "idx empty": (lambda b, i: os.truncate(i, 0), r"a\.idx: no index of token ids"),
    "idx absent": (lambda b, i: i.unlink(), r"a\.idx: unreadable \(No such file"),
    "idx a folder": (lambda b, i: (i.unlink(), i.mkdir()), r"a\.idx: unreadable"),
    "another format": (lambda b, i: patched(i, 0, b"starkil1"), "index of token ids of this rel"),
    "width": (lambda b, i: patched(i, 8, b"\4"), r"a\.idx: its head is damaged"),
    "no document": (lambda b, i: patched(i, 16, bytes(8)), "head is damaged"),
    "huge counts": (
        lambda b, i: patched(i, 16, b"\xff" * 16),
        r"a\.\w+: \d+ bytes, but [\d,]{20,}",
    ),
    "of another": (lambda b, i: patched(i, 16, b"\1"), r"a\.idx: 88 bytes, but 76"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_found_before_anything_is_read(tmp_path, fault):
    bin_path, idx_path = written(tmp_path)
    spoil, message = FAULTS[fault]
    spoil(bin_path, idx_path)
    with pytest.raises(UserError, match=message) as caught:
        shards.Tokens([bin_path])
    assert "run again" in caught.value.mend


OFFSETS = 56  # bytes of the head

READ = {
    "offsets do not begin at 0": (lambda b, i: patched(i, OFFSETS, b"\1"), "do not span"),
    "offsets end elsewhere": (lambda b, i: patched(i, OFFSETS + 16, b"\7"), "do not span"),
    "no document ends there": (lambda b, i: patched(i, OFFSETS + 8, b"\2"), "does not fit its ids"),
    "no end of text": (lambda b, i: patched(b, 6, b"\x14"), "does not fit its ids from 0 on"),
    "content beyond": (lambda b, i: patched(i, OFFSETS + 28, b"\4"), "not fit its ids from 4 on"),
}


@pytest.mark.parametrize("fault", READ)
def test_faults_found_when_they_are_met(tmp_path, fault):
    bin_path, idx_path = written(tmp_path)
    spoil, message = READ[fault]
    spoil(bin_path, idx_path)
    tokens = shards.Tokens([bin_path])
    with pytest.raises(UserError, match=rf"a\.bin: .*{message}"):
        tokens.window(0, 8)


def test_an_index_of_another_shard(tmp_path):
    """Of as many documents and ids, so that no size tells; its ends of documents do."""
    bin_path, idx_path = written(tmp_path)
    other = written(tmp_path, [([20], 0), ([20, 21, 22, 23, 24], 0)], "b")
    idx_path.write_bytes(other[1].read_bytes())
    with pytest.raises(UserError, match=r"a\.bin: its index does not fit its ids from 0 on"):
        shards.Tokens([bin_path]).window(0, 8)


def test_ids_beyond_the_vocabulary(tmp_path):
    words = shards.Vocabulary(22, bytes(16))
    good, bad = (written(tmp_path, [([i], 0)], f"{i}", words)[0] for i in (21, 22))
    tokens = shards.Tokens([good, bad])
    assert tokens.window(0, 2)[0].tolist() == [21, END_OF_TEXT]
    with pytest.raises(UserError, match=r"22\.bin: ids beyond its vocabulary of 22"):
        tokens.window(0, 3)


def test_shards_of_two_vocabularies(tmp_path):
    one = written(tmp_path)[0]
    other = written(tmp_path, name="b", words=shards.Vocabulary(65_536, b"\1" * 16))[0]
    with pytest.raises(UserError, match=r"b\.bin: vocabulary of 65,536 entries, 01010101"):
        shards.Tokens([one, other])


def test_a_shard_cut_short_while_in_use(tmp_path):
    paths = [written(tmp_path, name=name)[0] for name in "ab"]
    tokens = shards.Tokens(paths)
    tokens.window(0, 4)
    os.truncate(paths[1], 2)
    with pytest.raises(UserError, match=r"b\.bin: 2 bytes, but 16"):
        tokens.window(0, 9)


def test_many_shards_hold_few_files_open(tmp_path):
    paths = [written(tmp_path, name=f"{i:05}")[0] for i in range(300)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    tokens = shards.Tokens(paths)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    whole = tokens.window(0, tokens.size)[0]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 256
    assert (whole.reshape(-1, 4) == [20, 21, 22, END_OF_TEXT]).all()


def test_a_shard_that_is_written_anew_is_read_anew(tmp_path):
    for first in (20, 30):
        path = written(tmp_path, [([first], 0)])[0]
        os.utime(path, ns=(first, first))
        assert shards.Tokens([path]).window(0, 1)[0].tolist() == [first]


def test_vocabularies_are_told_apart_by_what_ids_mean(tokenizer):
    same = Tokenizer(json.dumps(json.loads(tokenizer.definition), indent=3))
    assert shards.vocabulary(same) == shards.vocabulary(tokenizer)
    parsed = json.loads(tokenizer.definition)
    known, (a, b) = parsed["model"]["vocab"], "ab"
    known[a], known[b] = known[b], known[a]
    swapped = shards.vocabulary(Tokenizer(json.dumps(parsed)))
    assert swapped.size == tokenizer.vocab_size
    assert swapped != shards.vocabulary(tokenizer)
