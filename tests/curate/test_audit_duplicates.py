"""The labelled set, and a small one whose scores are known."""

import polars as pl
import pytest
from rich.console import Console

from starkiln.core.errors import UserError
from starkiln.core.log import Line
from starkiln.core.pool import Pool
from starkiln.curate.audit_duplicates import near_duplicates

STARCODER = {"bands": 25, "rows": 10, "verify": False, "keep_empty": True}
SINK = Line(Console(quiet=True), "audit")
WORDS = " ".join(f"word{i}" for i in range(60))


@pytest.fixture
def scored(shared, tmp_path):
    def score(**settings):
        documents = shared("corpora/neardup/docs.parquet")
        pairs = shared("corpora/neardup/pairs.parquet")
        pl.read_parquet(documents).drop("language").write_parquet(tmp_path / "docs.parquet")
        one = tmp_path / "docs.parquet"
        return near_duplicates(one, pairs, settings, tmp_path / "scratch", Pool(1), SINK)

    return score


@pytest.mark.parametrize("keep_empty", [False, True])
def test_the_default_finds_all_and_nothing_else(scored, keep_empty):
    found = scored(keep_empty=keep_empty)
    assert found["pairs"] > 1200
    assert found["across_languages"] == found["wrong_removals"] == 0
    assert (found["recall"], found["precision"], found["agreement"]) == (1, 1, 1)


def test_the_papers_bands_miss_pairs_and_unite_what_is_not_alike(scored):
    found = scored(**STARCODER)
    assert 0.9 < found["recall"] < 1
    assert found["precision"] < 0.7
    assert found["wrong_removals"] > 50


def _small(tmp_path, pairs, **columns):
    texts = [WORDS, f"{WORDS} a", f"{WORDS} b", WORDS.replace("word", "other")]
    docs = pl.DataFrame({"doc_id": [7, 8, 9, 10], "content": texts, **columns})
    docs.write_parquet(tmp_path / "docs.parquet")
    labels = pl.DataFrame(
        pairs, {"a": pl.Int64, "b": pl.Int64, "jaccard_clean": pl.Float64}, orient="row"
    )
    labels.write_parquet(tmp_path / "pairs.parquet")
    return tmp_path / "docs.parquet", tmp_path / "pairs.parquet"


def test_scores_by_hand(tmp_path):
    """The stage unites 7, 8, 9; these labels say that 8 is like 7, and 10 like 9."""
    files = _small(tmp_path, [(7, 8, 0.9), (9, 10, 0.8), (7, 9, 0.3)])
    found = near_duplicates(*files, {}, tmp_path / "scratch", Pool(1), SINK)
    assert (found["pairs"], found["recall"]) == (2, 0.5)
    assert (found["precision"], found["cluster_recall"]) == (1 / 3, 0.5)
    assert (found["agreement"], found["removed"], found["wrong_removals"]) == (0, 2, 0)
    assert not (tmp_path / "scratch").exists()


def test_pairs_across_languages_are_counted_only(tmp_path):
    languages = ["python", "rust", "python", "rust"]
    files = _small(tmp_path, [(7, 8, 0.9), (7, 9, 0.9)], language=languages)
    found = near_duplicates(*files, {}, tmp_path / "scratch", Pool(1), SINK)
    assert (found["across_languages"], found["pairs"], found["recall"]) == (1, 1, 1)


def test_what_cannot_be_scored_is_refused(tmp_path):
    files = _small(tmp_path, [(7, 8, 0.9)])
    with pytest.raises(UserError, match="ngram = 3"):
        near_duplicates(*files, {"ngram": 3}, tmp_path / "scratch", Pool(1), SINK)
    pl.DataFrame({"x": [1]}).write_parquet(files[1])
    with pytest.raises(UserError, match="no column 'a'"):
        near_duplicates(*files, {}, tmp_path / "scratch", Pool(1), SINK)
