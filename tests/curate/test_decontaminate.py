"""A synthetic benchmark folder for the rules, and the labelled set for the figures."""

import gzip
import json

import polars as pl
import pytest

from starkiln.core.errors import UserError
from starkiln.curate.decontaminate import decontaminate

DOCSTRING = (
    "Sort the Ünderwater baskets by the number of oysters in each,\n"
    "    then by the name of the diver. Empty baskets come last.\n"
    '    >>> baskets("a\\nb")\n    [2, 3]'
)
SOLUTION = (
    "    found = sorted(baskets, key=lambda b: (-b.oysters, b.diver))\n"
    "    return [b.name for b in found if b.oysters > 0]\n"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "humaneval").mkdir()
    row = {
        "task_id": "HumanEval/7",
        "prompt": f'def baskets(s):\n    """ {DOCSTRING}\n    """\n',
        "canonical_solution": SOLUTION,
        "entry_point": "baskets",
        "test": "def check(candidate):\n    pass\n",
    }
    trivial = {**row, "task_id": "HumanEval/8", "canonical_solution": "    return x + y\n"}
    trivial["prompt"] = 'def add(x, y):\n    """ Add x and y as nobody ever asked before. """\n'
    with gzip.open(tmp_path / "humaneval" / "HumanEval.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, [row, trivial])))
    return tmp_path


def _run(folder, *texts, **settings):
    frame = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
    settings = {"benchmarks": ["humaneval"], "data": str(folder)} | settings
    return decontaminate(frame, **settings)


VARIANTS = {
    "as it is": f"x = 1\n{DOCSTRING}\n",
    "in capitals": DOCSTRING.upper(),
    "with CRLF": DOCSTRING.replace("\n", "\r\n"),
    "solution": f"def f(baskets):\n{SOLUTION}",
}
NORMALISED = {
    "as a comment": "// " + DOCSTRING.replace("\n", "\n// "),
    "as a block": "/*\n * " + DOCSTRING.replace("\n", "\n * ") + "\n */",
    "reflowed": " ".join(DOCSTRING.split()),
    "in JSON": json.dumps([line + "\n" for line in DOCSTRING.splitlines()]),
    "in JSON in JSON": json.dumps(json.dumps(DOCSTRING)),
    "reformatted": SOLUTION.replace(", ", ",").replace("    ", "\t").replace("b: (", "b: ("),
    "commented in capitals": "# " + DOCSTRING.upper().replace("\n", "\n# "),
}


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS)
def test_exact_copies_are_found_whatever_the_case(folder, text):
    for normalised in (True, False):
        found = _run(folder, "clean", text, normalised=normalised)
        assert found["reason"].to_list() == [None, "contaminated:humaneval"]


@pytest.mark.parametrize("text", NORMALISED.values(), ids=NORMALISED)
def test_copies_in_another_dress_are_found_when_normalised(folder, text):
    assert _run(folder, text)["reason"].to_list() == ["contaminated:humaneval"]
    assert _run(folder, text, normalised=False)["reason"].to_list() == [None]


def test_the_source_is_named(folder):
    found = _run(folder, DOCSTRING, SOLUTION)
    assert found["contaminated_by"].to_list() == ["HumanEval/7:docstring", "HumanEval/7:solution"]


def test_clean_text_stays(folder):
    part = DOCSTRING[: len(DOCSTRING) // 3]
    found = _run(folder, "", "\r\n", "日本語", part, "def add(x, y):\n    return x + y\n")
    assert found["reason"].null_count() == 5
    assert _run(folder).height == 0


def test_no_benchmark_no_pass(folder, tmp_path):
    with pytest.raises(UserError, match="holds no mbpp"):
        _run(folder, "text", benchmarks=["mbpp"])
    with pytest.raises(UserError, match="no such benchmark"):
        _run(folder, "text", benchmarks=["humanevil"])


def test_labelled_files(shared):
    rows = pl.read_parquet(shared("corpora/contamination/files.parquet"))
    data = str(shared("benchmarks/humaneval/HumanEval.jsonl.gz").parents[1])
    found = decontaminate(rows.select(text="content"), data=data)
    rows = rows.with_columns(hit=found["reason"].is_not_null())
    planted = rows.filter("contaminated").group_by("benchmark", "variant").agg(pl.mean("hit"))
    recall = {(b, v): share for b, v, share in planted.iter_rows()}
    ours = {v: r for (b, v), r in recall.items() if b == "humaneval"}
    renamed = ours.pop("renamed_no_docstring")  # needs more than the text: not searched for
    assert renamed == 0
    assert set(ours.values()) == {1.0}
    # The labels took MBPP from its edited ("sanitized") copy; the needles are the originals.
    assert recall["mbpp", "verbatim_full"] >= 61 / 70
    clean = rows.filter(~pl.col("contaminated"))
    wrong = clean.filter("hit")["variant"].value_counts().rows()
    assert wrong == [("hard_negative_generic_code", 6)]  # the exact rule's own: a gcd loop
