import hashlib
import inspect
import json
import shutil
import textwrap
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, code_document, document
from starkiln.code.sentinels import END_OF_TEXT, FIM_MIDDLE, FIM_PAD, FIM_PREFIX, FIM_SUFFIX
from starkiln.core import keyed, manifest
from starkiln.core.errors import UserError
from starkiln.tokenizer import shards
from starkiln.tokenizer.fim import restore
from starkiln.tokenizer.layout import Layouts
from starkiln.tokenizer.settings import LayoutSettings, PackSettings
from starkiln.tokenizer.tokenizer import Tokenizer, fit
from starkiln.train.loader import Loader, apportion, drawn, mixture, permuted
from starkiln.train.pack import pack_shard

T = 32


def _texts():
    """Of code files, by language."""
    functions = [f for _, f in inspect.getmembers(textwrap.TextWrapper, inspect.isfunction)]
    python = [inspect.getsource(f) for f in functions] + [inspect.getsource(json)]
    other = [f"naïve = {i} 日本語🙂\r\n" * (i % 5) for i in range(30)]
    return {"Python": python, "C++": other, "PL/SQL": ["tiny\n"]}


def _marked():
    """Documents whose parts stand behind markers, some empty, some that name sentinels."""
    parts = [
        (
            "issue",
            [("<issue_start>", "Title: naïve 日本"), ("<issue_comment>", "username_0: ok\r\n")],
        ),
        ("issue", [("<issue_start>", "<fim_middle>"), ("<issue_closed>", ""), ("", "x\n" * 9)]),
        (
            "commit",
            [("<commit_before>", "a = 1"), ("<commit_msg>", "b"), ("<commit_after>", "a=2")],
        ),
    ]
    where = {"repo": "o/r", "path": "", "language": "unknown", "licences": []}
    return [document(kind, segments, **where) for kind, segments in parts for _ in range(2)]


def _packed(folder, tokenizer, rows, layout):
    """Two shards of every source in either split."""
    tokenizer.save(folder)
    for i in range(2):
        path = folder / f"{i:05}.parquet"
        pl.DataFrame(rows[i::2], SCHEMA).write_parquet(path)
        for share in (0.0, 0.999999):
            pack_shard(path, folder / "tokens", folder, layout, PackSettings(validation=share), 0)
    return folder / "tokens", tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Five sources in two shards, and their tokenizer; ``PL/SQL`` is shorter than a window."""
    tokenizer = fit([text for texts in _texts().values() for text in texts], 400)
    rows = [
        code_document(text, repo="o/r", path="a.py", language=language, licences=[])
        for language, texts in _texts().items()
        for text in texts
    ]
    folder = tmp_path_factory.mktemp("corpus")
    return _packed(folder, tokenizer, rows + _marked(), LayoutSettings())


def loader(corpus, **rest):
    options = {"split": "train", "sequence_length": T, "seed": 5, "fim_rate": 0.5, "spm_rate": 0.5}
    return Loader(*corpus, **{**options, **rest})


def digest(batch):
    return hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()


GLOBAL = 64  # samples a step


def grouped(step, world, micro):
    """(first, count) of every read of a step, rank by rank and micro-batch by micro-batch."""
    share = GLOBAL // world
    size = min(micro, share)
    return [
        (step * GLOBAL + rank * share + at, size)
        for rank in range(world)
        for at in range(0, share, size)
    ]


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_batch(corpus):
    batch = loader(corpus).batch(0, 5)
    kinds = {name: (array.dtype, array.shape) for name, array in batch.items()}
    assert kinds == {
        "tokens": (np.int64, (5, T + 1)),
        "mask": (bool, (5, T)),
        "source": (np.int64, (5,)),
    }


@settings(deadline=None, max_examples=40)
@given(
    world=st.sampled_from([1, 2, 4, 8]),
    micro=st.sampled_from([1, 4, 16]),
    readers=st.sampled_from([0, 1, 3]),
    step=st.integers(0, 10**6),
    fim_rate=st.sampled_from([0.0, 0.5, 1.0]),
    order=st.randoms(use_true_random=False),
)
def test_global_batches_are_the_same_for_any_grouping(
    corpus, world, micro, readers, step, fim_rate, order
):
    """For world size, micro-batch, reading threads, order of reading and point of resumption."""
    whole = loader(corpus, fim_rate=fim_rate).batch(step * GLOBAL, GLOBAL)
    one = loader(corpus, fim_rate=fim_rate)
    calls = grouped(step, world, micro)
    shuffled = order.sample(calls, len(calls))
    if readers:
        with ThreadPoolExecutor(readers) as pool:
            read = list(pool.map(lambda call: one.batch(*call), shuffled))
    else:
        read = [one.batch(*call) for call in shuffled]
    parts = dict(zip(shuffled, read))
    assert digest(joined([parts[call] for call in calls])) == digest(whole)


@pytest.mark.parametrize("workers", [1, 3])
def test_global_batches_are_the_same_in_reading_processes(corpus, workers):
    one, calls = loader(corpus), grouped(7, 4, 4)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = list(pool.map(one.batch, *zip(*calls)))
    assert digest(joined(parts)) == digest(one.batch(7 * GLOBAL, GLOBAL))


@settings(deadline=None)
@given(first=st.integers(0, 10**7), count=st.integers(1, 20))
def test_any_place_can_be_resumed(corpus, first, count):
    whole = loader(corpus).batch(first, count)["tokens"]
    again = loader(corpus).batch(first + count - 1, 1)["tokens"]
    assert (whole[-1] == again[0]).all()


def test_seeds_differ(corpus):
    assert digest(loader(corpus).batch(0, 8)) != digest(loader(corpus, seed=6).batch(0, 8))


@pytest.mark.parametrize("size", [2, 5, T, T + 1, 300])
def test_an_epoch_predicts_every_token(corpus, tmp_path, size):
    place = tmp_path / "train" / "numbers"
    place.mkdir(parents=True)
    ids = np.arange(size, dtype=np.uint32) + 19
    ids[np.array_split(np.arange(size), min(size // 2, 3))[0][-1]] = ids[-1] = END_OF_TEXT
    names = np.arange(size)
    for i, part in enumerate(np.split(ids, np.flatnonzero(ids == END_OF_TEXT)[:-1] + 1)):
        one = Layouts(part, np.array([0, len(part)], np.uint64), np.zeros(1, np.uint32))
        shards.write(place / f"{i:05}", one, shards.vocabulary(corpus[1]))
    one = loader((tmp_path, corpus[1]), fim_rate=0.0)
    count = one.windows("numbers")
    assert count == -(-size // T)
    starts = set()
    for epoch in range(4):
        windows = one.batch(epoch * count, count)["tokens"]
        begins = [window_place(window, ids) for window in windows]
        places = (np.array(begins)[:, None] + names[:1] + np.arange(1, T + 1)) % size
        times = np.bincount(places.ravel(), minlength=size)
        assert times.min() >= 1
        assert times.sum() == count * T
        starts.add(begins[0])
        assert one.epochs((epoch + 1) * count) == {"numbers": epoch + 1}
    assert len(starts) > 1 or size < 10  # windows begin elsewhere in each epoch
    rows = [(row, kept) for b in one.validation(3) for row, kept in zip(b.tokens, b.mask)]
    assert len(rows) == -(-(size - 1) // T)
    assert [t for row, kept in rows for t in row[1:][kept]] == ids[1:].tolist()


def window_place(window, ids):
    """Where the window begins in the endless repetition of ``ids``."""
    turns = np.resize(ids, len(ids) + len(window))
    return next(i for i in range(len(ids)) if (turns[i : i + len(window)] == window).all())


def test_a_source_shorter_than_a_window_is_repeated(corpus):
    tiny = loader(corpus, fim_rate=0.0, only=["PL/SQL"])
    size = tiny.tokens["PL/SQL"].size
    assert size < T
    for window in tiny.batch(0, 5)["tokens"]:
        assert (window[size:] == window[:-size]).all()
        assert (window == END_OF_TEXT).sum() >= (T + 1) // size


WEIGHTS = st.lists(st.integers(1, 10**7) | st.integers(1, 9), min_size=1, max_size=60)


@settings(deadline=None)
@given(weights=WEIGHTS, first=st.integers(0, 10**9), count=st.integers(1, 300))
@example(weights=[531, *[1] * 59], first=0, count=1180)  # a crowd is due at once
def test_quotas_hold_at_every_moment_for_every_source(weights, first, count):
    """Within 1.5 samples; and each source's draws come in turn, from any place on."""
    tree, total = mixture(weights), sum(weights)
    done = drawn(tree, first)
    assert sum(done.values()) == first
    assert sorted(done) == list(range(len(weights)))
    for sample in range(first, first + count):
        source, draw = apportion(tree, sample)
        assert draw == done[source]
        done[source] += 1
        if sample < first + 3 or sample % 50 == 0:
            gaps = (done[i] * total - (sample + 1) * w for i, w in enumerate(weights))
            assert max(map(abs, gaps)) < 1.5 * total
    assert done == drawn(tree, first + count)


@settings(deadline=None)
@given(weights=WEIGHTS, rounds=st.integers(1, 3))
def test_whole_rounds_are_exact(weights, rounds):
    done = drawn(mixture(weights), rounds * sum(weights))
    assert [done[i] for i in range(len(weights))] == [rounds * weight for weight in weights]


# Thousands of characters by folder in StarCoder's data, with those below 200 MB left out (§2).
VOLUMES = """1560 240 53990 44880 460 460 640 1400 49010 11970 560 3670 420 710 300 410 700 610 1780
410 23820 910 2230 29350 87410 980 64980 5560 1320 5740 2880 1320 74810 1060 1030 1680 2230 61060
1100 310 60540 250 3330 6860 9120 4720 200 3130 580 850 10930 330 370 350 5150 26700 860 1420 480
3790 60210 56830 7090 5900"""


def test_quotas_in_starcoders_mixture_hold_within_a_sample():
    weights = [int(volume) for volume in VOLUMES.split()]
    tree, quota = mixture(weights), np.array(weights) / sum(weights)
    done = np.zeros(len(weights))
    for sample in range(20_000):
        done[apportion(tree, sample)[0]] += 1
        assert np.abs(done - (sample + 1) * quota).max() < 1


def counted(one, samples):
    source = one.batch(0, samples)["source"]
    return {name: int((source == i).sum()) for i, name in enumerate(one.names)}


def test_weights_multiply_the_natural_share(corpus):
    natural = loader(corpus, fim_rate=0.0)
    total = sum(tokens.size for tokens in natural.tokens.values())
    found = counted(natural, 2000)
    for name, tokens in natural.tokens.items():
        assert abs(found[name] - 2000 * tokens.size / total) < 1
        assert natural.epochs(2000)[name] == found[name] / natural.windows(name)
    weights = {"PL/SQL": 0.0, "C++": 3.0}
    one = loader(corpus, fim_rate=0.0, weights=weights, only=["Python", "C++", "PL/SQL"])
    python, other = one.tokens["Python"].size, one.tokens["C++"].size
    found = counted(one, 2000)
    assert abs(found["C++"] - 2000 * 3 * other / (3 * other + python)) < 1
    assert one.names == list(found) == ["C++", "Python"]
    for name in one.names:
        number = one.names.index(name)
        alone = loader(corpus, fim_rate=0.0, only=[name]).batch(0, 5)["tokens"]
        batch = one.batch(0, 40)
        assert (batch["tokens"][batch["source"] == number][:5] == alone).all()


def test_validation_covers_what_is_not_trained_on(corpus):
    everything = {"C++", "PL/SQL", "Python", "commit", "issue"}
    for rest in ({"only": ["Python"]}, {"weights": {"PL/SQL": 0.0, "issue": 0.0}}, {}):
        one = loader(corpus, split="validation", **rest)
        found = {name for batch in one.validation(8) for name in batch.sources}
        assert found == everything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"Pyton": 1.0}}, "train.weights: 'Pyton' is no source in .*mean 'Python'"),
        ({"weights": {"Python": -1.0}}, "train.weights: 'Python' is weighted -1.0; write a factor"),
        ({"weights": {"Python": float("nan")}}, "weighted nan"),
        ({"weights": {"Python": float("inf")}}, "weighted inf"),
        ({"only": ["python"]}, "train.sources: 'python' is no source in .*mean 'Python'"),
        ({"only": ["Cobol 85"]}, r"sources: C\+\+, PL/SQL, Python, commit, issue"),
        ({"only": ["Python"], "weights": {"Python": 0.0}}, "no tokens to draw from"),
    ],
)
def test_wrong_names_and_weights_are_told(corpus, options, message):
    with pytest.raises(UserError, match=message):
        loader(corpus, **options)


def test_a_split_without_tokens(corpus, tmp_path):
    for split, mend in (("train", "lower"), ("validation", "raise")):
        with pytest.raises(UserError, match=rf"no tokens .*{mend} pack\.validation"):
            loader((tmp_path, corpus[1]), split=split)


def test_shards_of_another_tokenizer(corpus):
    with pytest.raises(
        UserError, match=r"00000\.bin: of another tokenizer .*400 entries"
    ) as caught:
        loader((corpus[0], fit(["a b c"], 300)))
    assert "pack the documents again" in caught.value.mend


def test_a_shard_that_the_manifest_lists_is_missing(corpus, tmp_path):
    shutil.copytree(corpus[0], tmp_path / "tokens")
    names = [str(path.relative_to(corpus[0])) for path in sorted(corpus[0].rglob("*.*"))]
    made = manifest.Manifest(
        manifest.Identity("tokens", [], {}), shards=[{"name": name} for name in names]
    )
    manifest.write(tmp_path / "tokens", made)
    copied = (tmp_path / "tokens", corpus[1])
    assert digest(loader(copied).batch(0, 9)) == digest(loader(corpus).batch(0, 9))
    for kind in ("bin", "idx"):
        (tmp_path / "tokens" / "train" / "Python" / f"00001.{kind}").unlink()
    with pytest.raises(UserError, match=r"train/Python/00001\.bin: missing, though the manifest"):
        loader(copied)
    loader(copied, split="validation")


def test_a_vocabulary_above_65536(corpus, tmp_path):
    """End to end: ids above uint16 are packed, drawn and rearranged as the narrow ones are."""
    parsed = json.loads(corpus[1].definition)
    known = parsed["model"]["vocab"]
    shift = {i: i if i < 300 else i + 70_000 for i in known.values()}
    parsed["model"]["vocab"] = {token: shift[i] for token, i in known.items()}
    wide = Tokenizer(json.dumps(parsed))
    assert wide.vocab_size == 70_400
    rows = [
        code_document(text, repo="o/r", path="a.py", language=language, licences=[])
        for language, texts in _texts().items()
        for text in texts
    ]
    widths = {}
    for name, words in (("narrow", corpus[1]), ("wide", wide)):
        (tmp_path / name).mkdir()
        _packed(tmp_path / name, words, rows, LayoutSettings())
        one = loader((tmp_path / name / "tokens", words))
        widths[name] = one.tokens["Python"].heads[0].width
        batch = one.batch(0, 40)
        if name == "narrow":
            expected = batch
    shifted = np.vectorize(lambda i: shift.get(i, i))(expected["tokens"])
    assert (batch["tokens"] == shifted).all()
    assert (batch["mask"] == expected["mask"]).all()
    assert widths == {"narrow": 2, "wide": 4}
    assert batch["tokens"].max() > 1 << 16


@settings(deadline=None)
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
    """Of the pieces with room, half but for chance; each source by itself draws the same."""
    one = loader(corpus, only=["Python"], sequence_length=512)
    count = one.windows("Python")
    tokens = np.concatenate([one.batch(epoch * count, count)["tokens"] for epoch in range(20)])
    first = tokens[:, 0] == FIM_PREFIX  # of pieces at the start of a window, all have room
    sigma = (0.25 / len(first)) ** 0.5
    assert abs(first.mean() - 0.5) < 3 * sigma
    spm = tokens[first, 1] == FIM_SUFFIX
    assert abs(spm.mean() - 0.5) < 3 * (0.25 / len(spm)) ** 0.5 + 0.02  # PSM with no prefix
    assert len({row.tobytes() for row in tokens}) > 0.9 * len(tokens)
    plain = loader(corpus, fim_rate=0.0).batch(0, 50)["tokens"]
    assert not np.isin(plain, [FIM_MIDDLE, FIM_PREFIX, FIM_PAD]).any()


def test_the_mask_leaves_out_pads_alone(corpus):
    batch = loader(corpus, fim_rate=1.0).batch(0, 200)
    assert (batch["mask"] == (batch["tokens"][:, 1:] != FIM_PAD)).all()
    batches = list(loader(corpus, split="validation").validation(4))
    padded = sum((~batch.mask).sum() for batch in batches)
    assert padded == sum((batch.tokens[:, 1:] == FIM_PAD).sum() for batch in batches) > 0


@pytest.mark.parametrize("fim_rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("length", [T, 300])
def test_documents_can_be_told_from_the_ids_and_lose_nothing(corpus, fim_rate, length):
    """Each piece, rearranged or not, closes with end of text, and pads stand at the end alone.

    The model masks attention by these ids, so a boundary lost would join two documents. The
    bytes and markers of a piece are the document's, in its order, metadata first; only the last
    piece of a window may have lost its end.
    """
    one = loader(corpus, fim_rate=fim_rate, sequence_length=length)
    rearranged = 0
    for source, draw, row in zip(*drawn_rows(one, 200)):
        ids, pieces = one.tokens[source].window(one._start(source, draw), length + 1)
        kept = row[row != FIM_PAD]
        assert (row[len(kept) :] == FIM_PAD).all()
        parts = [part.tolist() for part in np.split(kept, np.flatnonzero(kept == END_OF_TEXT) + 1)]
        parts = parts if parts[-1] else parts[:-1]
        if len(kept) < len(row):
            assert len(parts) == len(pieces)
        for part, piece, last in zip(parts, pieces, [False] * (len(parts) - 1) + [True]):
            whole = ids[piece.start : piece.end].tolist()
            closed = whole[-1] == END_OF_TEXT
            assert part[-1] == END_OF_TEXT or last or not closed
            markers = [i for i in part if i in (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)]
            assert sorted(markers) in ([], [FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX])
            assert not markers or part[0] == FIM_PREFIX
            rearranged += bool(markers)
            found = restore(part[:-1] if part[-1] == END_OF_TEXT else part)
            assert found[: piece.content] == whole[: piece.content][: len(found)]
            told, wanted = (
                spelled(one.tokenizer, x) for x in (found, whole[: len(whole) - closed])
            )
            assert told == (wanted[: len(told)] if last else wanted)
    assert (rearranged > 50) == (fim_rate > 0)


def spelled(tokenizer, ids):
    """Bytes as numbers, markers as negative ones."""
    return [x for i in ids for x in (tokenizer.token_bytes[i] or [-i])]


def drawn_rows(one, count):
    """The source, the draw and the ids of the first samples."""
    pairs = [apportion(one._mixture, n) for n in range(count)]
    batch = one.batch(0, count)["tokens"]
    return [one.names[s] for s, _ in pairs], [draw for _, draw in pairs], batch


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


def test_validation_with_fim(corpus):
    one = loader(corpus, split="validation")
    plain, fim = list(one.validation(8)), list(one.validation(8, fim=True))
    assert [b.sources for b in plain] == [b.sources for b in fim]
    assert any((b.tokens == FIM_MIDDLE).any() for b in fim)
    assert not any((b.tokens == FIM_MIDDLE).any() for b in plain)
    again = list(one.validation(3, fim=True))
    rows = [np.concatenate([b.tokens for b in batches]) for batches in (fim, again)]
    assert (rows[0] == rows[1]).all()


@pytest.mark.parametrize("limit", [1, 3, 5, 20, 60, 10**6])
def test_a_limited_validation_hears_every_source(corpus, limit):
    one = loader(corpus, split="validation")
    whole = Counter(name for batch in one.validation(8) for name in batch.sources)
    found = Counter(name for batch in one.validation(2, limit=limit) for name in batch.sources)
    total = sum(found.values())
    assert min(limit, sum(whole.values())) - len(whole) < total <= limit
    assert len(found) == min(limit, len(whole))
    assert all(found[name] <= whole[name] for name in found)
    rows = {row.tobytes() for batch in one.validation(8) for row in batch.tokens}
    few = [row.tobytes() for batch in one.validation(2, limit=limit) for row in batch.tokens]
    assert len(set(few)) == len(few) == total
    assert set(few) <= rows
