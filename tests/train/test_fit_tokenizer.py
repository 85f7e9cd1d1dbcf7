import polars as pl
import pytest

from starkiln.code.document import SCHEMA, code_document
from starkiln.core.errors import UserError
from starkiln.tokenizer.settings import PackSettings, TokenizerSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.fit_tokenizer import fit_tokenizer
from starkiln.train.pack import is_validation

PACK = PackSettings(validation=0.3)


def documents(language, count, word):
    texts = [f"{word}{chr(97 + i % 26)} {word} {i}\n" * 4 for i in range(count)]
    rows = {"repo": "r", "path": "p", "licences": [], "language": language}
    return [code_document(text, **rows) for text in texts]


@pytest.fixture
def shards(tmp_path):
    rows = documents("Python", 300, "python") + documents("Go", 100, "golang")
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i:05}.parquet")
        pl.DataFrame(rows[i::4], SCHEMA).write_parquet(paths[-1])
    return paths


def fitted(shards, out, sample_bytes=10**9, **rest):
    settings = TokenizerSettings(vocab_size=300, sample_bytes=sample_bytes)
    options = {"settings": settings, "pack": PACK, "seed": 3, **rest}
    return fit_tokenizer(shards, out, **options)


def test_all_training_documents_and_no_other(shards, tmp_path):
    facts = fitted(shards, tmp_path / "t")
    frame = pl.concat([pl.read_parquet(path) for path in shards])
    training = [row for row in frame.to_dicts() if not is_validation(row["id"], 0.3, 3)]
    assert 0.6 < len(training) / 400 < 0.8
    for one in facts["sample"]:
        texts = [r["segments"][0]["text"] for r in training if r["language"] == one["language"]]
        assert one["documents"] == len(texts)
        assert one["bytes"] == sum(map(len, texts))
    assert Tokenizer.load(tmp_path / "t").vocab_size == facts["vocab_size"] == 300


def test_held_out_text_teaches_nothing(tmp_path):
    rows = documents("Python", 200, "aaa")
    for row in rows:
        if is_validation(row["id"], 0.3, 3):
            row["segments"] = [{"marker": "", "text": "zzz " * 99}]
    path = tmp_path / "00000.parquet"
    pl.DataFrame(rows, SCHEMA).write_parquet(path)
    fitted([path], tmp_path / "t")
    pieces = Tokenizer.load(tmp_path / "t").token_bytes
    assert b"aaa" in pieces
    assert not any(b"zz" in piece for piece in pieces)


def test_the_sample_has_the_same_share_of_each_language(shards, tmp_path):
    whole = {o["language"]: o["bytes"] for o in fitted(shards, tmp_path / "a")["sample"]}
    budget = sum(whole.values()) // 4
    facts = fitted(shards, tmp_path / "b", sample_bytes=budget)
    longest = 130
    for one in facts["sample"]:
        quota = whole[one["language"]] / 4
        assert quota <= one["bytes"] <= quota + longest


def test_the_bytes_do_not_depend_on_how_documents_are_sharded(shards, tmp_path):
    fitted(shards, tmp_path / "a", sample_bytes=5000)
    fitted(shards[::-1], tmp_path / "b", sample_bytes=5000)
    name = "tokenizer.json"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    fitted(shards, tmp_path / "c", sample_bytes=5000, seed=4)
    assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize("rows", [[], documents("Python", 1, "")[:0]])
def test_nothing_to_train_on(tmp_path, rows):
    path = tmp_path / "00000.parquet"
    pl.DataFrame(rows, SCHEMA).write_parquet(path)
    with pytest.raises(UserError, match="no training text"):
        fitted([path], tmp_path / "t")
