import hashlib
import inspect
import json
import textwrap
from collections import Counter
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, code_document
from starkiln.code.sentinels import END_OF_TEXT, FIM_MIDDLE, FIM_PAD, FIM_PREFIX
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer import shards
from starkiln.tokenizer.layout import Layouts
from starkiln.tokenizer.settings import LayoutSettings, PackSettings
from starkiln.tokenizer.tokenizer import fit
from starkiln.train.loader import Loader, apportion, permuted
from starkiln.train.pack import pack_shard

T = 32


def _texts():
    functions = [f for _, f in inspect.getmembers(textwrap.TextWrapper, inspect.isfunction)]
    python = [inspect.getsource(f) for f in functions] + [inspect.getsource(json)]
    other = [f"naïve = {i} 日本語🙂\r\n" * (i % 5) for i in range(30)]
    return {"Python": python, "C++": other, "PL/SQL": ["tiny\n"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three sources in two shards, and their tokenizer; ``PL/SQL`` is shorter than a window."""
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = fit([text for texts in _texts().values() for text in texts], 400)
    tokenizer.save(folder)
    rows = [
        code_document(text, repo="o/r", path="a.py", language=language, licences=[])
        for language, texts in _texts().items()
        for text in texts
    ]
    for i in range(2):
        path = folder / f"{i:05}.parquet"
        pl.DataFrame(rows[i::2], SCHEMA).write_parquet(path)
        for part in ("train", "validation"):
            share = {"train": 0.0, "validation": 0.999999}[part]
            pack = PackSettings(validation=share)
            pack_shard(path, folder / "tokens", folder, LayoutSettings(), pack, 0)
    return folder / "tokens", tokenizer


def loader(corpus, **rest):
    options = {"split": "train", "sequence_length": T, "seed": 5, "fim_rate": 0.5, "spm_rate": 0.5}
    return Loader(*corpus, **{**options, **rest})


def digest(tokens):
    return hashlib.sha256(tokens.tobytes()).hexdigest()


@pytest.mark.parametrize("fim_rate", [0.0, 0.5])
def test_global_batches_are_the_same_for_any_grouping(corpus, fim_rate):
    whole, mask = loader(corpus, fim_rate=fim_rate).batch(0, 64)
    assert whole.shape == (64, T + 1)
    assert (whole.dtype, mask.dtype, mask.shape) == (np.int64, bool, (64, T))
    for world in (1, 2, 4, 8):
        for micro in (1, 4, 16):
            fresh = loader(corpus, fim_rate=fim_rate)
            step = max(1, 64 // world // micro)
            parts = [fresh.batch(first, step)[0] for first in reversed(range(0, 64, step))]
            assert digest(np.concatenate(parts[::-1])) == digest(whole)


@given(first=st.integers(0, 10**7), count=st.integers(1, 20))
def test_any_place_can_be_resumed(corpus, first, count):
    whole = loader(corpus).batch(first, count)[0]
    again = loader(corpus).batch(first + count - 1, 1)[0]
    assert (whole[-1] == again[0]).all()


def test_seeds_differ(corpus):
    assert digest(loader(corpus).batch(0, 8)[0]) != digest(loader(corpus, seed=6).batch(0, 8)[0])


@pytest.mark.parametrize("size", [1, 5, T, T + 1, 300])
def test_an_epoch_predicts_every_token(corpus, tmp_path, size):
    (tmp_path / "train" / "numbers").mkdir(parents=True)
    ids = np.arange(100, 100 + size, dtype=np.uint32)
    for i, part in enumerate(np.array_split(ids, min(size, 3))):
        one = Layouts(part, np.array([0, len(part)], np.uint64), np.zeros(1, np.uint32))
        shards.write(tmp_path / "train" / "numbers" / f"{i:05}", one, 65_536)
    one = loader((tmp_path, corpus[1]), fim_rate=0.0)
    count = one.windows("numbers")
    assert count == -(-size // T)
    starts = set()
    for epoch in range(4):
        windows = one.batch(epoch * count, count)[0] - 100
        assert (windows[:, 1:] == (windows[:, :-1] + 1) % size).all()
        times = np.bincount(windows[:, 1:].ravel(), minlength=size)
        assert times.min() >= 1
        assert times.sum() == count * T
        starts.add(int(windows[0, 0]))
    assert len(starts) > 1 or size < 10  # windows begin elsewhere in each epoch
    rows = [(row, kept) for b in one.validation(3) for row, kept in zip(b.tokens, b.mask)]
    assert len(rows) == -(-(size - 1) // T)
    assert [t for row, kept in rows for t in row[1:][kept]] == ids[1:].tolist()


def test_a_source_shorter_than_a_window_is_repeated(corpus):
    tiny = loader(corpus, fim_rate=0.0, weights={"Python": 0.0, "C++": 0.0})
    size = tiny.tokens["PL/SQL"].size
    assert size < T
    for window in tiny.batch(0, 5)[0]:
        assert (window[size:] == window[:-size]).all()
        assert (window == END_OF_TEXT).sum() >= (T + 1) // size


SHARES = st.lists(st.integers(1, 10**7), min_size=1, max_size=12)


@given(weights=SHARES, count=st.integers(1, 300), first=st.integers(0, 10**6))
def test_quotas_hold_at_every_moment_for_every_source(weights, count, first):
    """Half a sample for the source's own rounding, and its share of the rounding of all."""
    shares = np.array(weights) / sum(weights)
    sources, draws = apportion(shares, first, count)
    assert len(sources) == len(draws) == count
    for n, (source, draw) in enumerate(zip(sources.tolist(), draws.tolist())):
        quota = shares[source] * (first + n + 0.5)
        assert abs(draw + 0.5 - quota) <= 0.5 + 0.5 * shares[source] * (len(shares) + 1)


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=6), rounds=st.integers(1, 3))
def test_apportionment_is_websters(weights, rounds):
    """In exact arithmetic: draws in turn, by (k + 1/2) / weight; whole rounds are exact."""
    shares = np.array(weights) / sum(weights)
    sources, draws = apportion(shares, 0, rounds * sum(weights))
    pairs = list(zip(sources.tolist(), draws.tolist()))
    due = [Fraction(2 * draw + 1, weights[source]) for source, draw in pairs]
    assert due == sorted(due)
    for source, weight in enumerate(weights):
        assert [draw for s, draw in pairs if s == source] == list(range(rounds * weight))


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=60), first=st.integers(0, 300))
@example(weights=[531, *[1] * 59], first=255)  # a crowd is due at once: samples lag behind
@example(weights=[531, *[1] * 59], first=320)  # ... and then run ahead
def test_any_part_of_the_sequence_is_the_same(weights, first):
    shares = np.array(weights) / sum(weights)
    whole, part = apportion(shares, 0, first + 500), apportion(shares, first, 5)
    for one, other in zip(whole, part):
        assert one[first : first + 5].tolist() == other.tolist()


def test_pieces_of_the_sequence_agree(corpus):
    shares = np.array([0.7, 0.2999, 0.0001])
    sources, draws = apportion(shares, 0, 50_000)
    for first in (0, 1, 777, 49_000):
        part = apportion(shares, first, 500)
        assert part[0].tolist() == sources[first : first + 500].tolist()
        assert part[1].tolist() == draws[first : first + 500].tolist()
    assert np.bincount(sources).tolist() == [35_000, 14_995, 5]


def test_weights_multiply_the_natural_share(corpus):
    natural = loader(corpus)
    total = sum(tokens.size for tokens in natural.tokens.values())
    found = Counter(natural.sources(0, 10_000))
    for name, tokens in natural.tokens.items():
        assert abs(found[name] - 10_000 * tokens.size / total) <= 2
    python, other = natural.tokens["Python"].size, natural.tokens["C++"].size
    found = Counter(loader(corpus, weights={"PL/SQL": 0.0, "C++": 3.0}).sources(0, 10_000))
    assert abs(found["C++"] - 10_000 * 3 * other / (3 * other + python)) <= 2
    assert "PL/SQL" not in found


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"Pyton": 1.0}, "did you mean 'Python'"),
        ({"Python": -1.0}, "below 0"),
        (dict.fromkeys(_texts(), 0.0), "no tokens"),
    ],
)
def test_wrong_weights_are_named(corpus, weights, message):
    with pytest.raises(UserError, match=message):
        loader(corpus, weights=weights)


def test_a_split_without_tokens(corpus, tmp_path):
    with pytest.raises(UserError, match="no tokens"):
        loader((tmp_path, corpus[1]))


@given(size=st.integers(1, 3000), key=st.binary(min_size=16, max_size=16))
def test_permutation(size, key):
    assert sorted(permuted(i, size, key) for i in range(size)) == list(range(size))


def test_permutations_scatter():
    """Neighbours part, and over many keys each place is equally likely."""
    order = [permuted(i, 5000, keyed.digest("k")) for i in range(5000)]
    assert abs(np.corrcoef(order, range(5000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    hits = Counter(permuted(3, 10, keyed.digest(i)) for i in range(5000))
    assert all(abs(hits[place] - 500) < 100 for place in range(10))


def test_fim_share_and_fresh_draws_each_epoch(corpus):
    one = loader(corpus, weights={"C++": 0.0, "PL/SQL": 0.0}, sequence_length=24)
    count = one.windows("Python")
    epochs = [one.batch(epoch * count, count)[0] for epoch in range(4)]
    tokens = np.concatenate(epochs)
    pieces = len(tokens) + (tokens[:, :-1] == END_OF_TEXT).sum()
    changed = (tokens == FIM_MIDDLE).sum()
    assert 0.35 < changed / pieces < 0.55  # a few do not fit
    assert (tokens == FIM_MIDDLE).sum() == (tokens == FIM_PREFIX).sum()
    plain = loader(corpus, fim_rate=0.0).batch(0, 50)[0]
    assert not np.isin(plain, [FIM_MIDDLE, FIM_PREFIX, FIM_PAD]).any()


def test_the_mask_leaves_out_pads_alone(corpus):
    tokens, mask = loader(corpus, fim_rate=1.0).batch(0, 200)
    assert (mask == (tokens[:, 1:] != FIM_PAD)).all()
    batches = list(loader(corpus, split="validation").validation(4))
    padded = sum((~batch.mask).sum() for batch in batches)
    assert padded == sum((batch.tokens[:, 1:] == FIM_PAD).sum() for batch in batches) > 0


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_validation_predicts_each_token_once_and_counts_its_bytes(corpus, batch_size):
    one = loader(corpus, split="validation")
    targets = {name: [] for name in one.tokens}
    total = 0
    for batch in one.validation(batch_size):
        for row, mask, name in zip(batch.tokens, batch.mask, batch.sources):
            targets[name] += row[1:][mask].tolist()
        total += batch.bytes.sum()
        assert not batch.bytes[~batch.mask].any()
    wanted = 0
    for name, tokens in one.tokens.items():
        flat = tokens.window(0, tokens.size)[0]
        assert targets[name] == flat[1:].tolist()
        wanted += len(corpus[1].decode_bytes(flat[1:].tolist()))
    assert total == wanted


def test_validation_with_fim_and_limit(corpus):
    one = loader(corpus, split="validation")
    plain, fim = list(one.validation(8)), list(one.validation(8, fim=True))
    assert [b.sources for b in plain] == [b.sources for b in fim]
    assert any((b.tokens == FIM_MIDDLE).any() for b in fim)
    assert not any((b.tokens == FIM_MIDDLE).any() for b in plain)
    again = list(one.validation(3, fim=True))
    rows = [np.concatenate([b.tokens for b in batches]) for batches in (fim, again)]
    assert (rows[0] == rows[1]).all()
    few = np.concatenate([b.tokens for b in one.validation(2, limit=5)])
    assert len(few) == 5
    whole = {row.tobytes() for b in plain for row in b.tokens}
    assert {row.tobytes() for row in few} <= whole
    assert len({name for b in one.validation(2, limit=5) for name in b.sources}) > 1
