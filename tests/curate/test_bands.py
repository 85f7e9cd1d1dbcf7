"""Equal keys through the disk, against a dictionary."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.curate import bands, forest, join_kernels

KEY = st.sampled_from([0, 1, 2**32, 2**64 - 1, 2**63]) | st.integers(0, 2**64 - 1)


def _buckets(flat):
    begins, rows = forest.bounds(flat), forest.plain(flat)
    return [rows[a:b].tolist() for a, b in pairwise(begins)]


@given(
    st.lists(st.lists(st.tuples(KEY, KEY), max_size=30), min_size=1, max_size=4),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_buckets_are_those_of_a_dictionary(tmp_path_factory, files, parts):
    folder = tmp_path_factory.mktemp("bands")
    starts = np.cumsum([0, *map(len, files)])
    for k, rows in enumerate(files):
        keys = np.array(rows, np.uint64).reshape(-1, 2)
        bands.spill(folder / str(k), keys, np.arange(len(rows), dtype=np.uint32), parts)
    paths = [folder / str(k) for k in range(len(files))]
    for band in range(2):
        wanted = defaultdict(list)
        for row, both in enumerate(pair for rows in files for pair in rows):
            wanted[both[band]].append(row)
        found = [
            bucket
            for part in range(band * parts, band * parts + parts)
            for bucket in _buckets(bands.equal(paths, starts, part))
        ]
        assert sorted(found) == sorted(rows for rows in wanted.values() if len(rows) > 1)


def test_many_keys_in_one_cell():
    """Keys that differ in their high bits alone, some of them equal: sorted, not compared."""
    keys = (np.arange(5000) % 3000).astype(np.uint64) << np.uint64(40)
    found = _buckets(join_kernels.equal(keys, np.arange(5000)))
    assert sorted(found) == [[row, row + 3000] for row in range(2000)]


def test_no_rows():
    assert join_kernels.equal(np.zeros(0, np.uint64), np.zeros(0, np.int64)).tolist() == []


@given(st.lists(st.integers(0, 30), max_size=20), st.lists(st.integers(0, 30), max_size=20))
@settings(deadline=None)
def test_odd_sketches_never_tell_more_than_differs(one, two):
    sets = [np.unique(np.array(s, np.uint64) * np.uint64(0x9E3779B97F4A7C15)) for s in (one, two)]
    ends = np.cumsum([0, *map(len, sets)])
    spans = np.stack([ends[:-1], ends[1:]], axis=1)
    bits, cells = join_kernels.parities(np.concatenate(sets), spans)
    apart = join_kernels._differing(bits, *cells[0], *cells[1])
    assert apart <= len(set(one) ^ set(two))


@given(st.integers(2, 300), st.floats(0.01, 1))
@settings(deadline=None)
def test_the_intersection_that_is_needed(total, threshold):
    least = join_kernels.needed(total, threshold)
    reach = [n for n in range(total + 1) if n == total or n / (total - n) >= threshold]
    assert least == reach[0]
