"""Pairs of segments: shares of all kinds, whole cuts, and a pure function of the number."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from starkiln.code.document import SCHEMA, code_document
from starkiln.core import keyed, manifest
from starkiln.core.errors import UserError
from starkiln.tokenizer import encoder_words
from starkiln.tokenizer.settings import LayoutSettings, PackSettings
from starkiln.tokenizer.shards import Tokens
from starkiln.tokenizer.tokenizer import Tokenizer, fit
from starkiln.train.pack import folder_name, pack_shard
from starkiln.train.pairs import MARKS, NO_TARGET, Pairs
from starkiln.train.settings import PairSettings

ROOM, USUAL = 61, PairSettings()


def text(name: str, lines: int) -> str:
    """No line is another's, so that each place is known by its ids."""
    draw = keyed.generator("text", name)
    values = draw.integers(10**6, size=(lines, 2)).tolist()
    return "".join(f"{name}_{i} = é日{a} + {b}\n" for i, (a, b) in enumerate(values))


def make(folder: Path, texts: list[tuple[str, str]]) -> Callable[..., Pairs]:
    """``open(**changes)``: the pairs of these texts and languages, all for training."""
    rows = [
        code_document(body, repo=f"o/{i}", path="a.py", language=language, licences=[])
        for i, (body, language) in enumerate(texts)
    ]
    path = folder / "00000.parquet"
    pl.DataFrame(rows, SCHEMA).write_parquet(path)
    fit([body[:2000] for body, _ in texts], 300).save(folder / "tokenizer")
    pack = PackSettings(validation=0.0)
    pack_shard(path, folder / "tokens", folder / "tokenizer", LayoutSettings(), pack, 1)
    manifest.write(folder / "tokens", manifest.Manifest(manifest.Identity("tokens", [], {})))
    words = Tokenizer.load(folder / "tokenizer")

    def opened(*, settings: PairSettings = USUAL, seed: int = 3, **more) -> Pairs:
        how: dict[str, Any] = {"split": "train", "sequence_length": ROOM + MARKS, **more}
        return Pairs(folder / "tokens", words, settings=settings, seed=seed, **how)

    return opened


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Callable[..., Pairs]:
    """Long documents of two languages, and a few short ones."""
    long = [(text(f"long{i}", 60), "Python" if i % 3 else "C") for i in range(12)]
    short = [(text(f"few{i}", 2), "C") for i in range(6)]
    return make(tmp_path_factory.mktemp("pairs"), long + short)


def whole(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The rows as they were before any token was hidden."""
    return np.where(batch["targets"] == NO_TARGET, batch["tokens"], batch["targets"])


def segments(pairs: Pairs, batch: dict[str, np.ndarray], i: int) -> tuple[list[int], list[int]]:
    """Both segments of a row without the words of the frame, which are checked."""
    _, sep, cls, _ = pairs.words
    row = whole(batch)[i][batch["mask"][i]]
    kinds = batch["segments"][i][batch["mask"][i]]
    a, b = row[kinds == 0].tolist(), row[kinds == 1].tolist()
    assert (a[0], a[-1], b[-1]) == (cls, sep, sep)
    return a[1:-1], b[:-1]


def source_ids(pairs: Pairs, source: int) -> np.ndarray:
    paths = sorted((pairs_folder(pairs) / folder_name(pairs.names[source])).glob("*.bin"))
    tokens = Tokens(paths)
    return tokens.window(0, tokens.size)[0]


def pairs_folder(pairs: Pairs) -> Path:
    return next(iter(pairs.tokens.values())).heads[0].path.parents[1]


def stands(run: list[int], ids: np.ndarray) -> bool:
    found = np.lib.stride_tricks.sliding_window_view(ids, len(run))
    return bool((found == np.array(run)).all(1).any())


def near(share: float, expected: float, count: int) -> bool:
    """Within five standard deviations of a share of so many draws."""
    return abs(share - expected) < 5 * (expected * (1 - expected) / count) ** 0.5


def test_as_many_are_hidden_and_in_each_way_as_the_rules_say(corpus) -> None:
    pairs = corpus()
    batch = pairs.batch(0, 1200)
    told = batch["targets"] != NO_TARGET
    framed = np.isin(whole(batch), pairs.words)
    assert abs(told.sum() / (~framed).sum() - 0.15) < 0.005
    assert not (told & framed).any()
    ordinary = encoder_words.words(pairs.tokenizer).pad
    assert whole(batch)[told].max() < ordinary
    assert all(pairs.tokenizer.token_bytes[i] for i in np.unique(batch["tokens"][told])[:-1])
    shown, wanted, count = batch["tokens"][told], batch["targets"][told], int(told.sum())
    assert near((shown == pairs.words.mask).mean(), 0.8, count)
    same = 0.1 + 0.1 / 290  # a drawn token may be the same
    assert near((shown == wanted).mean(), same, count)
    assert near(batch["follows"].mean(), 0.5, 1200)
    assert (told.sum(1) > 0).all()
    assert (batch["tokens"][~told] == whole(batch)[~told]).all()


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"mask_share": 1.0, "random_share": 0.0}, "mask"),
        ({"mask_share": 0.0, "random_share": 0.0}, "same"),
    ],
)
def test_the_shares_are_the_settings(corpus, changes, shown) -> None:
    pairs = corpus(settings=PairSettings(mlm_rate=0.5, follows_share=1.0, **changes))
    batch = pairs.batch(0, 100)
    told = batch["targets"] != NO_TARGET
    expected = pairs.words.mask if shown == "mask" else batch["targets"][told]
    assert (batch["tokens"][told] == expected).all()
    assert not batch["follows"].any()


def test_long_documents_give_balanced_segments_of_which_one_follows_the_other(corpus) -> None:
    """Documents cut in their middle, and then cut to size at the end, would leave gaps or no B."""
    pairs = corpus(only=["Python"])
    batch = pairs.batch(0, 150)
    ids = source_ids(pairs, 0)
    sizes = []
    for i in range(150):
        a, b = segments(pairs, batch, i)
        sizes.append((len(a), len(b)))
        joined = stands(a + b, ids)
        assert joined == (batch["follows"][i] == 0)
        assert stands(a, ids)
        assert stands(b, ids)
    a, b = np.array(sizes).T
    assert a.min() > ROOM / 3
    assert b.min() > ROOM / 3
    assert np.mean(a + b) > 0.95 * ROOM
    follows = batch["follows"] == 0
    assert abs(b[follows].mean() - b[~follows].mean()) < 1.5


def test_another_document_is_of_the_same_language(corpus) -> None:
    pairs = corpus(settings=PairSettings(follows_share=0.0))
    batch = pairs.batch(0, 80)
    assert batch["follows"].all()
    every = [source_ids(pairs, i) for i in range(2)]
    for i in range(80):
        own = batch["source"][i]
        for part in segments(pairs, batch, i):
            assert stands(part, every[own])
            assert len(part) < 8 or not stands(part, every[1 - own])


def test_cuts_fall_between_characters(corpus) -> None:
    pairs = corpus()
    batch = pairs.batch(0, 100)
    for i in range(100):
        for part in segments(pairs, batch, i):
            pairs.tokenizer.decode_bytes(part).decode()


def test_pairs_do_not_depend_on_how_they_are_grouped(corpus) -> None:
    pairs = corpus()
    once = pairs.batch(7, 30)
    again = [pickle.loads(pickle.dumps(pairs)).batch(first, 5) for first in range(7, 37, 5)]
    for name, array in once.items():
        assert np.array_equal(array, np.concatenate([part[name] for part in again]))
    other = corpus(seed=4).batch(7, 30)
    assert not np.array_equal(other["tokens"], once["tokens"])


def test_a_document_alone_is_followed_by_itself(tmp_path) -> None:
    pairs = make(tmp_path, [(text("alone", 30), "Python")])()
    assert not pairs.batch(0, 40)["follows"].any()


def test_documents_without_two_ids_are_counted_and_passed_over(tmp_path) -> None:
    texts = [("a", "Python")] * 5 + [(text("only", 9), "Python")]
    pairs = make(tmp_path, texts)()
    assert pairs.short() == 5
    assert (pairs.batch(0, 20)["mask"].sum(1) > 12).all()


def test_a_damaged_shard_is_named(tmp_path) -> None:
    pairs = make(tmp_path, [(text(f"long{i}", 60), "Python") for i in range(3)])()
    path = next((tmp_path / "tokens").rglob("*.bin"))
    path.write_bytes(b"\xff\xff" * (path.stat().st_size // 2))
    with pytest.raises(UserError, match=r"00000\.bin: .*(beyond its vocab|replaced)"):
        pairs.batch(0, 20)


def test_refusals(corpus, tmp_path) -> None:
    with pytest.raises(UserError, match=r"train.sequence_length: 7 is too short"):
        corpus(sequence_length=7)
    with pytest.raises(UserError, match="no document is long enough"):
        make(tmp_path, [("a", "Python"), ("b", "Python")])().batch(0, 1)
