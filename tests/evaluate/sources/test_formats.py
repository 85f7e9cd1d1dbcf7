"""The formats that harnesses write, recognised by their shape."""

import gzip
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.core.errors import UserError
from starkiln.evaluate.sources import formats
from starkiln.evaluate.sources.formats import Text, read


def _write(path, value, lines=False):
    data = "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines(tmp_path, name) -> None:
    rows = [
        {"task_id": "HumanEval/0", "completion": "a"},  # human-eval
        {"task_id": "HumanEval/0", "completion": "b"},
        {"task_id": "MBJSP/3", "completion": "c", "language": "javascript"},  # MBXP
        {"task_id": "Mbpp/2", "solution": "d", "_identifier": "x"},  # EvalPlus
        {"task_id": "HumanEval/1", "prompt": "p", "solution": "e", "is_solved": True},  # LDB
        {"prompt": "p", "samples": ["f", "g"]},  # CodeT
        {"id": 7, "code": "h", "metadata": {}},  # DS-1000
        {"task_id": "HumanEval/2", "completion": None},
    ]
    assert read(_write(tmp_path / name, rows, lines=True)) == [
        Text("a", "next", "HumanEval/0"),
        Text("b", "next", "HumanEval/0"),
        Text("c", "next", "MBJSP/3"),
        Text("d", "whole", "Mbpp/2"),
        Text("e", "whole", "HumanEval/1", "p", harness="LDB"),
        Text("f", "next", "", "p"),
        Text("g", "next", "", "p"),
        Text("h", "whole", "7"),
        Text("", "next", "HumanEval/2"),
    ]


def test_lm_evaluation_harness(tmp_path) -> None:
    """Filters give a text for each request, or a list of texts; what they give is whole."""

    def row(task_id, filtered):
        doc = {"task_id": task_id, "prompt": "p", "text": "t"}
        asked = {"arguments": {"gen_args_0": {"arg_0": "p"}}, "resps": [["a"]], "target": "x"}
        return {"doc_id": 0, "doc": doc, **asked, "filtered_resps": filtered, "filter": "f"}

    rows = [row("HumanEval/0", [["pa", "pb"]]), row(11, ["c"]), row(12, [["d"], [None]])]
    path = _write(tmp_path / "samples_humaneval_2025.jsonl", rows, lines=True)
    _write(tmp_path / "results_2025.json", {"results": {"humaneval": {"pass@1": 0.5}}})
    for place in (path, tmp_path):
        assert [(t.text, t.kind, t.key) for t in read(place)] == [
            ("pa", "whole", "HumanEval/0"),
            ("pb", "whole", "HumanEval/0"),
            ("c", "whole", "11"),
            ("d", "whole", "12"),
            ("", "whole", "12"),
        ]


def test_bigcodes_generations(tmp_path) -> None:
    found = read(_write(tmp_path / "generations.json", [["a", "b"], ["c"]]))
    assert [(t.text, t.kind, t.place) for t in found] == [
        ("a", "whole", 0),
        ("b", "whole", 0),
        ("c", "whole", 1),
    ]


def test_fastevals_answers_are_numbered_by_library(tmp_path) -> None:
    rows = {"Numpy": ["a", "b"], "Pandas": ["c"]}
    _write(tmp_path / "answers.json", rows)
    _write(tmp_path / "results.json", {"Numpy": [True, False], "Pandas": [True]})
    _write(tmp_path / "scores.json", {"average": 0.3})
    expected = [("a", "DS-1000/291"), ("b", "DS-1000/292"), ("c", "DS-1000/0")]
    for path in (tmp_path, tmp_path / "answers.json"):
        assert [(t.text, t.key) for t in read(path)] == expected
        assert {t.kind for t in read(path)} == {"ours"}


def test_multipl_es_problems(tmp_path) -> None:
    row = {"name": "HumanEval_23_strlen", "language": "js", "prompt": "p\n", "tests": "\nt()"}
    _write(tmp_path / "HumanEval_23_strlen.json.gz", {**row, "completions": ["a", "b"]})
    ran = {**row, "results": [{"program": "p\na\n\nt()", "status": "OK"}]}
    _write(tmp_path / "HumanEval_23_strlen.results.json.gz", ran)
    _write(
        tmp_path / "HumanEval_24_x.json", {**row, "name": "HumanEval_24_x", "completions": ["c"]}
    )
    found = read(tmp_path)
    assert [(t.text, t.kind, t.key, t.prompt) for t in found] == [
        ("a", "next", "HumanEval_23_strlen", "p\n"),
        ("b", "next", "HumanEval_23_strlen", "p\n"),
        ("c", "next", "HumanEval_24_x", "p\n"),
    ]
    [only] = read(tmp_path / "HumanEval_23_strlen.results.json.gz")
    assert (only.text.rstrip(), only.kind) == ("p\na", "whole")


def test_evalplus_folders(tmp_path) -> None:
    for name, count in (("HumanEval_0", 11), ("HumanEval_1", 1)):
        for number in range(count):
            path = tmp_path / name / f"{number}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name} {number}")
    found = read(tmp_path)
    assert [t.text for t in found] == [f"HumanEval_0 {i}" for i in range(11)] + ["HumanEval_1 0"]
    assert {t.key for t in found} == {"HumanEval_0", "HumanEval_1"}


def test_our_own_samples(tmp_path) -> None:
    frame = {"problem": ["a", "b"], "sample": [0, 0], "completion": ["x", "y"]}
    columns = {**frame, "finish": ["stop", "length"], "whole": [False, True]}
    pl.DataFrame(columns).write_parquet(tmp_path / "samples.parquet")
    for path in (tmp_path, tmp_path / "samples.parquet"):
        assert read(path) == [
            Text("x", "ours", "a", finish="stop"),
            Text("y", "whole", "b", finish="length"),
        ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": 1}, "names no problem"),
        ([1], "row 1 is no object"),
        ([{"task_id": "a", "text": "b"}], "none of completion"),
        ([{"task_id": "a", "completion": 5}], "no text"),
        ([[1]], "no text"),
        ([], "no completions"),
        ({"name": "a", "results": [3]}, "none of MultiPL-E"),
        ([{"doc": {"prompt": "p"}, "filtered_resps": ["a"]}], "names no problem"),
        ([{"doc": {"task_id": "a"}, "filtered_resps": "a"}], "no text"),
        ([{"doc": {"task_id": "a"}, "filtered_resps": [[1]]}], "no text"),
    ],
)
def test_other_shapes_are_refused_with_their_row(tmp_path, value, told) -> None:
    with pytest.raises(UserError, match=told):
        read(_write(tmp_path / "a.json", value))


def test_broken_files_are_refused(tmp_path, monkeypatch) -> None:
    for name, data in (
        ("a.json", b"["),
        ("a.jsonl", b'{"task_id": '),
        ("a.json", b"[" * 200_000),
        ("a.json.gz", b"no gzip"),
        ("a.jsonl.gz", gzip.compress(b"x" * 99)[:-9]),
        ("a.jsonl", b"\xff\xfe"),
        ("a.parquet", b"PAR1"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError):
            read(tmp_path / name)
    monkeypatch.setattr(formats, "_MOST", 1000)
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"x" * 100_000))
    with pytest.raises(UserError, match="unpacks"):
        read(bomb)
    with pytest.raises(UserError, match="unpacks"):
        read(_write(tmp_path / "bomb.json", [["x" * 2000]]))


def test_folders_of_several_sets_or_none(tmp_path) -> None:
    with pytest.raises(UserError, match="no completions"):
        read(tmp_path)
    (tmp_path / "README.md").write_text("x")
    _write(tmp_path / "a.jsonl", [{"task_id": "HumanEval/0", "completion": "a"}], lines=True)
    assert len(read(tmp_path)) == 1
    _write(tmp_path / "b.jsonl", [{"task_id": "HumanEval/0", "completion": "a"}], lines=True)
    with pytest.raises(UserError, match=r"several.*a.jsonl, b.jsonl.*name one"):
        read(tmp_path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["task_id", "completion", "results", "prompt", "x"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_read_or_refused(tmp_path_factory, value) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    try:
        assert all(isinstance(text.text, str) for text in read(path))
    except UserError as error:
        assert "completions" in str(error)  # noqa: PT017 (either is right)


def test_the_shared_files(shared) -> None:
    counts = {
        "completions/ldb-starcoder-humaneval.jsonl": 164,
        "completions/codet-codegen16b-humaneval-t0.8-n100.jsonl.gz": 16_400,
        "completions/fasteval-wizardcoder15b-ds1000": 1000,
        "mbxp/mbcpp_samples.jsonl": 848,
        "mbxp/mbjsp_samples.jsonl": 966,
        "mbxp/mbphp_samples.jsonl": 966,
    }
    for name, count in counts.items():
        assert len(read(shared(f"benchmarks/{name}"))) == count
    path = shared(
        "benchmarks/completions/fasteval-wizardcoder15b-ds1000/answers-postprocessed.json"
    )
    answers = json.loads(path.read_text())
    lines = gzip.decompress(shared("benchmarks/ds1000/ds1000.jsonl.gz").read_bytes()).splitlines()
    starts: dict[str, int] = {}
    for row in map(json.loads, lines):
        starts.setdefault(row["metadata"]["library"], row["metadata"]["problem_id"])
    found = {text.key: text.text for text in read(path)}
    for library, texts in answers.items():
        assert found[f"DS-1000/{starts[library]}"] == texts[0]
        assert found[f"DS-1000/{starts[library] + len(texts) - 1}"] == texts[-1]
