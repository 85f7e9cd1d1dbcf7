"""The stage on labelled files: a small set with known faults, and the whole one for the figures."""

import json

import polars as pl
import pytest

from starkiln.core.errors import UserError
from starkiln.curate.audit_contamination import contamination

QUESTION = "Weigh every seventh lobster twice and report the heavier reading of the two."


def _write(path, rows):
    keys = ["id", "content", "variant", "contaminated"]
    frame = pl.DataFrame(rows, schema=keys, orient="row")
    frame = frame.with_columns(benchmark=pl.lit("harbour"), task_id=pl.lit("harbour/1"))
    frame.write_parquet(path)
    return path


def test_figures_and_names_of_what_went_wrong(tmp_path):
    own = tmp_path / "harbour.jsonl"
    own.write_text(json.dumps({"id": 1, "prompt": QUESTION}))
    rows = [
        (1, f"x\n{QUESTION}\n", "verbatim", True),
        (2, QUESTION.replace(" ", "\n# "), "ported", True),
        (3, "Weigh the lobster.", "paraphrase", True),
        (4, f"# {QUESTION}", "quoted in a review", False),
        (5, "nothing of it", "clean", False),
    ]
    files = _write(tmp_path / "labelled.parquet", rows)
    made = contamination(files, {"benchmarks": [], "own": str(own)})
    assert made["files"] == 5
    assert made["recall"] == made["precision"] == 2 / 3
    assert [(row["id"], row["variant"]) for row in made["misses"]] == [(3, "paraphrase")]
    (wrong,) = made["false_positives"]
    assert wrong["id"] == 4
    assert wrong["contaminated_by"] == ["harbour/1:prompt:exact"]
    found = {
        row["variant"]: (row["found"], row["exact"], row["normalised"]) for row in made["variants"]
    }
    assert found["verbatim"] == (1, 1, 0)
    assert found["ported"] == (1, 0, 1)
    assert found["clean"] == found["paraphrase"] == (0, 0, 0)
    less = contamination(files, {"benchmarks": [], "own": str(own), "methods": ["exact"]})
    assert [row["id"] for row in less["misses"]] == [2, 3]


def test_no_labelled_set_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"unreadable|no column"):
        contamination(tmp_path / "absent.parquet", {})
    pl.DataFrame({"content": ["x"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"unreadable|no column"):
        contamination(tmp_path / "other.parquet", {})


def test_labelled_files(shared):
    """Every planted copy but renamed solutions that are short; nothing clean but the gcd loop."""
    data = str(shared("benchmarks/humaneval/HumanEval.jsonl.gz").parents[1])
    made = contamination(shared("corpora/contamination/files.parquet"), {"data": data})
    missed = {row["variant"] for row in made["misses"]}
    assert missed == {"renamed_no_docstring"}
    renamed = {
        row["benchmark"]: row["found"]
        for row in made["variants"]
        if row["variant"] == "renamed_no_docstring" and row["contaminated"]
    }
    assert renamed == {"humaneval": 56, "mbpp": 35}  # of 81 and 70: all of 24 tokens or more
    wrong = [(row["variant"], row["contaminated_by"]) for row in made["false_positives"]]
    assert wrong == 6 * [("hard_negative_generic_code", ["HumanEval/13:solution:exact"])]
