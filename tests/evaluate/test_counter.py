"""Counter-tests as texts: one expectation is another, and nothing else is."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.evaluate import counter, toolchains
from starkiln.evaluate.toolchains import RUNNERS
from starkiln.problems import multiple


def changed(before, after):
    """The lines that two texts do not share, as pairs."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return [pair for pair in pairs if pair[0] != pair[1]]


@pytest.mark.parametrize("code", RUNNERS)
def test_one_expectation_of_each_language_s_check_is_changed(code):
    tests = RUNNERS[code].check["tests"]
    (against,) = counter.of_file(tests, RUNNERS[code].claims, "")
    ((old, new),) = changed(tests, against)
    assert old.count("4") == 1
    assert len(new) == len(old) + 1  # a digit, or a letter in a text


LITERALS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(max_size=8),
)
VALUES = st.recursive(LITERALS, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=6)
JS = RUNNERS["js"].claims


def alike(one, other):
    """Whether some comparison may take the two for one."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= max(1e-3, 1e-3 * abs(one))
    return one == other


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_exactly_one_expectation_is_changed_and_to_something_else(values):
    texts = [json.dumps(value) for value in values]
    tests = "\n".join(
        f'assert.deepEqual(candidate("(,;", [{i}]),{t});' for i, t in enumerate(texts)
    )
    found = counter.of_file(tests, JS, "")
    assert len(found) == min(len(values), 2)
    for against in found:
        ((old, new),) = changed(tests, against)
        was, now = (json.loads(line.partition("]),")[2].removesuffix(");")) for line in (old, new))
        assert old.partition("]),")[0] == new.partition("]),")[0]
        assert was in values
        assert not alike(was, now)


def expectations(tests):
    return [line.partition("),")[2].removesuffix(");") for line in tests.splitlines()]


@given(st.sets(st.integers(0, 99) | st.text("abc", max_size=3), min_size=1, max_size=6))
def test_expectations_that_are_all_different_stay_so(values):
    tests = "\n".join(
        f"assert.deepEqual(candidate({i}),{json.dumps(value)});" for i, value in enumerate(values)
    )
    for against in counter.of_file(tests, JS, ""):
        assert len(set(expectations(against))) == len(values)


@given(st.lists(st.integers(1, 3).map(lambda n: n * 10), min_size=5, max_size=6))
def test_where_some_are_alike_one_becomes_another_of_them(values):
    tests = "\n".join(f"assert.deepEqual(candidate({i}),{n});" for i, n in enumerate(values))
    for against in counter.of_file(tests, JS, ""):
        assert len(set(values)) == 1 or {*map(int, expectations(against))} <= set(values)


def test_truths_can_only_be_exchanged():
    tests = "assert.deepEqual(candidate(1),true);\nassert.deepEqual(candidate(2),false);"
    found = {tuple(expectations(against)) for against in counter.of_file(tests, JS, "")}
    assert found == {("true", "true"), ("false", "false")}


@pytest.mark.parametrize("text", ['"4"', '"1 2 3"', "'0.5'", '"-7"', '"12-31"'])
def test_a_text_of_numbers_stays_one(text):
    """All that a shell's tests expect are texts: a letter among numbers would be seen."""
    (against,) = counter.of_file(f"assert.deepEqual(candidate(1),{text});", JS, "")
    (new,) = expectations(against)
    assert new != text
    assert not re.search("[a-z]", new)


@pytest.mark.parametrize("text", ["nan", "inf", "Infinity", "1e999", "0", "", "True"])
def test_a_text_that_reads_as_a_number_is_not_exchanged_for_itself(text):
    tests = f'assert.deepEqual(candidate(1),"{text}");\nassert.deepEqual(candidate(2),"{text}");'
    found = counter.of_file(tests, JS, "")
    assert len(found) == 2
    for against in found:
        ((old, new),) = changed(tests, against)
        assert old != new


@given(st.text(alphabet="assert.deepEqual(candidate(1),\"'`\\);[]{} \n4", max_size=60))
def test_no_text_is_too_odd(text):
    for row in RUNNERS.values():
        assert text not in counter.of_file(text, row.claims, "")
    assert text not in counter.of_calls(text, "f", "") + counter.of_script(text)


def test_what_the_prompt_tells_of_is_spared():
    """A program may know its prompt's examples by heart, and compare only these."""
    told = "".join(f"  >>> f({i})\n  {i * 100}\n" for i in range(9))
    tests = "".join(f"assert.deepEqual(candidate({i}),{i * 100});\n" for i in range(10))
    first, _ = counter.of_file(tests, JS, told)
    ((old, _),) = changed(tests, first)
    assert old == "assert.deepEqual(candidate(9),900);"


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("js", "assert.deepEqual(candidate(1),undefined);"),
        ("js", "assert.deepEqual(candidate([]),[]);\nassert.deepEqual(candidate({}),[]);"),
        ("js", "assert.deepEqual(candidate(1),1"),
        ("js", "if (f(2) !== 4) throw 1;"),
        ("d", "assert(result.isNull);\nassert(result == []);"),
        ("sh", "test $(f 2) = 4"),
        ("cpp", ""),
    ],
)
def test_what_cannot_be_changed_surely_is_not(code, tests):
    assert not counter.of_file(tests, RUNNERS[code].claims, "")


CALLS = {  # tests in Python, and a piece of what becomes of them
    "assert f(2) == 4": "f(2) == ",
    "assert 'ü' + f('ü') == 'üé'": "üé'",
    "def check(candidate):\n    assert candidate(2) == 4\ncheck(f)": "candidate(2) == ",
    "if x:\n    assert f(2) == 4\nassert f(3) == 6": "if x:\n    assert f(2) == 4\nassert f(3) == ",
    "assert f(2) == 4, 'four'": "4, 'four'",
    "assert math.isclose(f(2), 4.0, rel_tol=0.001)": "4.0, rel_tol=0.001)",
    "assert abs(f(2) - 4) < 0.1": "4) < 0.1",
    "np.testing.assert_allclose(f(2), [4.0])": "4.0])",
    "assert f(2).value[0] == 4": "f(2).value[0] == ",
    "x = 4\nassert f(2) == x": "assert f(2) == (x, '",
    "assert f(2) == y[0]": "assert f(2) == (y[0], '",
    "assert f(2) in (3, 4)": "assert f(2) in ((3, 4), '",
    "assert f(2)": "assert (f(2)) == '",
    "assert f(2) == 4 or f(2) == 5": "assert (f(2) == 4 or f(2) == 5) == '",
}


@pytest.mark.parametrize("tests", CALLS)
def test_of_tests_in_python_the_expectation_is_changed(tests):
    against = counter.of_calls(tests, "f", "")[0]
    assert against != tests
    assert CALLS[tests] in against
    compile(against, "tests", "exec")


TRIED = "try:\n    assert f(2) == [1, 2]\nexcept AssertionError:\n    assert f(2) == [2, 1]"


@pytest.mark.parametrize("tests", ["print(f(2))", "assert f(", "\0", "", TRIED])
def test_of_tests_that_assert_nothing_there_are_none(tests):
    assert not counter.of_calls(tests, "f", "")
    assert not counter.of_script(tests)


LOOPS = """
def exec_test(result, ans):
    if not sample_image_stat:
        for label in labels:
            assert label == "a"
        {more}
    return 1
def test_execution(solution): ...
"""


def test_what_a_right_program_may_never_come_to_is_not_counted_on():
    assert not counter.of_script(LOOPS.format(more="pass"))
    (against,) = counter.of_script(LOOPS.format(more='assert title == "b"'))
    assert 'label == "a"' in against
    assert 'title == "b"' not in against


@pytest.mark.parametrize("data", ["humaneval", pytest.param("mbpp", marks=pytest.mark.slow)])
def test_nearly_all_problems_of_multiple_have_counter_tests(shared, data):
    folder = shared("benchmarks/multipl-e")
    count = without = 0
    for path in sorted(Path(folder).glob(f"{data}-*-reworded.json")):
        for problem in multiple.problems(path):
            if problem.judge == "file":
                row = toolchains.runner(problem.language)
                against = counter.of_file(problem.tests, row.claims, problem.prompt)
                count += 1
                without += not against
                assert problem.tests not in against
                for one in against:
                    toolchains.program(row, problem.prompt, one)  # can be sealed
    assert count > 2000
    assert without < 0.005 * count
