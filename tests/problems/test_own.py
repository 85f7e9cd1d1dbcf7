"""The user's own problems to be scored on: every fault has its file, line and mend."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.core.errors import UserError
from starkiln.problems import benchmarks, own
from starkiln.problems.problem import Problem

CALLS = {"id": 7, "prompt": "def f(x):", "tests": "assert f(1) == 2", "entry_point": "f"}


def write(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_least_is_enough_and_the_rest_is_kept(tmp_path):
    whole = {
        "id": "x",
        "prompt": "fn f() {",
        "suffix": "}",
        "tests": "fn main() { f() }",
        "canonical": "1",
        "stop": ["\n}"],
        "language": "Rust",
        "judge": "file",
        "context": "",
        "group": "easy",
        "source": {"my": ["own", None]},
    }
    least, most, exact = benchmarks.load(
        str(write(tmp_path, CALLS, whole, {"id": "e", "prompt": "a", "canonical": "b"}))
    )
    assert least == Problem("7", "def f(x):", "", CALLS["tests"], "f", "", ())
    told = whole | {"stop": ("\n}",), "entry_point": ""}
    assert {k: getattr(most, k) for k in told if k != "source"} == {
        k: v for k, v in told.items() if k != "source"
    }
    assert (exact.judge, exact.canonical) == ("exact", "b")


def test_a_packed_file_and_blank_lines(tmp_path):
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress(f"\n{json.dumps(CALLS)}\n\n".encode()))
    assert [p.id for p in own.problems(path)] == ["7"]


def test_the_judge_follows_from_what_is_there(tmp_path):
    rows = [
        CALLS,
        {"id": 1, "prompt": "p", "tests": "t", "language": "Lua"},
        {"id": 3, "prompt": "p", "tests": "t", "canonical": "c", "judge": "exact"},
    ]
    made = own.problems(write(tmp_path, *rows))
    assert [p.judge for p in made] == ["calls", "file", "exact"]


@pytest.mark.parametrize(
    ("row", "fault", "mend"),
    [
        ({"prompt": "p", "canonical": "c"}, "has no id", "'exact' needs id, prompt, canonical"),
        ({"id": 1}, "has no prompt and no tests and no entry_point", "'calls' needs"),
        (CALLS | {"judge": "exact"}, "has no canonical", "'exact' needs"),
        ({**CALLS, "prompt": 5}, "prompt is 5", "give a text"),
        ({**CALLS, "id": True}, "id is true", "give a text or a whole number"),
        ({**CALLS, "id": " "}, 'id is " "', "give a text or a whole number"),
        ({**CALLS, "stop": "\n"}, r'stop is "\n"', "give a list of texts, none of them empty"),
        ({**CALLS, "stop": ["a", ""]}, "stop is", "none of them empty"),
        ({**CALLS, "judge": "human"}, 'judge is "human"', "give calls, file or exact"),
        ({**CALLS, "judge": []}, "judge is ", "give calls, file or exact"),
        ({**CALLS, "entry_point": "f()"}, "entry_point is ", "give the name of a function"),
        ({**CALLS, "entry_point": "for"}, "entry_point is ", "give the name of a function"),
        ({**CALLS, "sufix": "s"}, "there is no field 'sufix'", "did you mean 'suffix'"),
        ({**CALLS, "Entry-Point": "s"}, "there is no field", "did you mean 'entry_point'"),
        ({**CALLS, "language": "Lua"}, "'calls' runs Python, and its language is Lua", "'file'"),
        ({**CALLS, "prompt": "\ud800"}, "prompt holds half a character", "UTF-8"),
        ({**CALLS, "stop": ["\udfff"]}, "stop holds half a character", "UTF-8"),
        (CALLS, "its id is that of line 1", "an id of its own"),
        ([1], "is no object", "write one object a line"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path, row, fault, mend):
    path = write(tmp_path, CALLS, row)
    with pytest.raises(UserError) as caught:
        own.problems(path)
    assert caught.value.where == f"{path}, line 2"
    assert fault in caught.value.what
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"{} x", ", line 1"),
        (b'{"id": 1,\n', ", line 1"),
        (b"[" * 100_000, ", line 1"),
        (json.dumps(CALLS).encode() + b"\n\xff", ""),
    ],
)
def test_a_file_at_fault_is_one_sentence(tmp_path, content, where):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        own.problems(path)
    assert caught.value.where.startswith(f"{path}{where}")
    assert "write one object a line" in caught.value.mend


def test_a_cut_archive_and_no_file(tmp_path):
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(CALLS).encode() * 99)[:-9])
    for file in (path, tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match="cannot be read"):
            own.problems(file)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_no_value_is_a_crash(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    for field in own._FIELDS:
        path.write_text(json.dumps(CALLS | {field: value}))
        try:
            (made,) = own.problems(path)
        except UserError:
            continue
        assert isinstance(made.prompt + made.tests + made.id + (made.suffix or ""), str)


def test_a_problem_says_that_its_tests_share_the_process(tmp_path):
    plain, shared = own.problems(write(tmp_path, CALLS, {**CALLS, "id": 8, "strict": False}))
    assert (plain.strict, shared.strict) == (True, False)
    for row, fault in (
        ({**CALLS, "strict": 0}, "strict is 0; give true or false"),
        ({"id": 1, "prompt": "p", "canonical": "c", "strict": False}, "'calls', not for 'exact'"),
    ):
        with pytest.raises(UserError, match=fault):
            own.problems(write(tmp_path, row))


def test_a_failure_that_comes_of_two_processes_says_what_to_add(tmp_path):
    [plain] = own.problems(write(tmp_path, {**CALLS, "tests": "assert f(1) == Node(2)"}))
    told = '"strict": false'
    assert told in own.hint(plain, "returned an object: Node")
    assert told in own.hint(plain, "AttributeError: 'Proxy' object has no attribute 'count'")
    assert told in own.hint(plain, "NameError: name 'Node' is not defined")
    assert not own.hint(plain, "NameError: name 'math' is not defined")
    assert not own.hint(plain, "AssertionError: assert f(1) == 2")
    for known in ({"canonical": "x"}, {"strict": False}):
        [other] = own.problems(write(tmp_path, {**CALLS, "tests": plain.tests, **known}))
        assert not own.hint(other, "returned an object: Node")
