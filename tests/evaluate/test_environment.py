"""DS-1000's libraries and jails: installed whole or not at all, and no verdict is forged."""

import json
import sys
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate import counter, environment, tasks
from starkiln.evaluate.jail import Toolchain
from starkiln.evaluate.sandbox import Sandbox
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.sources.ask import Sample
from starkiln.problems import ds1000
from starkiln.problems.problem import Problem

CONTEXT = '''
import numpy as np
import copy


def generate_test_case(test_case_id):
    def define_test_input(test_case_id):
        return np.arange(6.0).reshape(2, 3), ["a", None]

    def generate_ans(data):
        x, names = data
        return x.sum(axis=0), names[0]

    test_input = define_test_input(test_case_id)
    return test_input, generate_ans(copy.deepcopy(test_input))


def exec_test(result, ans):
    assert type(result[0]) is np.ndarray
    np.testing.assert_allclose(result[0], ans[0])
    assert result[1] == ans[1]
    return 1


exec_context = r"""
import numpy as np
x, names = test_input
[insert]
result = total, name
"""


def test_execution(solution: str):
    code = exec_context.replace("[insert]", solution)
    for i in range(2):
        test_input, expected_result = generate_test_case(i + 1)
        test_env = {"test_input": test_input}
        exec(code, test_env)
        assert exec_test(test_env["result"], expected_result)


def test_string(solution: str):
    assert "while" not in solution
'''
RIGHT = "total, name = x.sum(axis=0), names[0]"
WRONG = "total, name = x.sum(axis=1), names[0]"
PROBLEM = Problem(
    id="DS-1000/0",
    prompt="",
    canonical=RIGHT,
    tests=f"{CONTEXT}\ntest_execution(solution)\ntest_string(solution)\n",
    entry_point="",
    context="",
    stop=(),
    judge="script",
    group="Numpy",
)
# A candidate's ways to a verdict that it has not earned.
ENDS = {
    "leaves": "import sys\nsys.exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "gives nothing": "del x",
    "raises what ends loops": "raise StopIteration",
}
FORGERIES = {
    "patched assertion": f"np.testing.assert_allclose = lambda *_, **__: None\n{WRONG}",
    "patched tester": f"import sys\nsys.modules['solution'].exec_test = lambda *_: 1\n{WRONG}",
    "overwritten test": "import sys\ntest = sys._getframe(1)\n"
    f"test.f_globals['exec_test'] = lambda *_: 1\n{WRONG}",
    "expected result": "import sys\ntotal, name = sys._getframe(1).f_locals['expected_result']",
}
LIES = {
    "says yes to all": "class Yes(np.ndarray):\n    __eq__ = lambda *_: True\n"
    "    __array_function__ = lambda *_, **__: True\ntotal, name = x[0].view(Yes), names[0]",
    "patched dump": "import starkiln_values\nstarkiln_values.dump = lambda _: ['tuple', 1]\n"
    + WRONG,
    "names a constructor": "import starkiln_values\n"
    "starkiln_values.dump = lambda _: ['eval', 'print']\n" + WRONG,
    "an array of pointers": "import starkiln_values\nstarkiln_values.dump = lambda _: "
    "['tuple', ['array', [1], False, 'O', 'AAAAAAAAAAA='], 'a']\n" + WRONG,
    "an array that is too large": "import starkiln_values\nstarkiln_values.dump = lambda _: "
    "['tuple', ['array', [1 << 60], False, '<f8', ''], 'a']\n" + WRONG,
    "deep nesting": "import starkiln_values\ndeep = 'a'\nfor _ in range(5000):\n"
    "    deep = ['tuple', deep]\nstarkiln_values.dump = lambda _: deep\n" + WRONG,
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """With this interpreter's own NumPy: no verdict here depends on a version."""
    installed = Path(np.__file__).parents[1]
    toolchain = Toolchain(
        packages=(Path("/starkiln/ready"), installed),
        preload=("starkiln_ds1000", "starkiln_values", "numpy"),
        ready=environment.ready(tmp_path_factory.mktemp("ready"), installed, {}),
    )
    with Sandbox(replace(environment.LIMITS, cpu_s=2), 2, toolchain) as made:
        yield made


def judge(sandbox, solution, strict, problem=PROBLEM):
    (verdict,) = sandbox.run([environment.program(problem, solution, strict)])
    return verdict


@pytest.mark.parametrize("strict", [True, False])
def test_a_right_solution_passes_and_others_do_not(sandbox, strict):
    outcomes = {
        RIGHT: "passed",
        WRONG: "wrong",
        "total, name = x.sum(axis=0), None": "wrong",
        "total, name = list(x.sum(axis=0)), 'a'": "wrong",
        "total, name = y": "error",
        "total = (": "error",
        f"while False: pass\n{RIGHT}": "wrong",  # test_string
        "while True: pass": "timeout",
        "total, name = np.ones(1 << 40), 'a'": "memory",
        "": "error",
        "\ud800": "error",
    }
    programs = [environment.program(PROBLEM, solution, strict) for solution in outcomes]
    found = dict(zip(outcomes, (verdict.outcome for verdict in sandbox.run(programs))))
    assert found == outcomes


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ENDS)
def test_an_early_end_never_passes(sandbox, name, strict):
    assert not judge(sandbox, ENDS[name], strict).passed


@pytest.mark.parametrize("name", [*FORGERIES, *LIES])
def test_no_verdict_is_forged_across_processes(sandbox, name):
    verdict = judge(sandbox, {**FORGERIES, **LIES}[name], strict=True)
    assert verdict.outcome in {"wrong", "error"}, verdict


SAYS_YES = """
class Yes(np.ndarray):
    __eq__ = lambda *_: True
    __array_function__ = lambda *_, **__: True
np.testing.assert_allclose = lambda *_, **__: None
total, name = x[0].view(Yes), type("Y", (), {"__eq__": lambda *_: True})()
total = np.zeros(3)
"""


@pytest.mark.parametrize("name", [*FORGERIES, "says yes"])
def test_one_process_can_be_deceived_and_counter_tests_tell(sandbox, name):
    """Which is why two processes are the rule, and what they are run for where these cannot be."""
    forgery = {**FORGERIES, "says yes": SAYS_YES}[name]
    assert judge(sandbox, forgery, strict=False).passed
    for tests in counter.of_script(PROBLEM.tests):
        against = replace(PROBLEM, tests=tests)
        assert judge(sandbox, forgery, strict=False, problem=against).passed
        assert judge(sandbox, RIGHT, strict=False, problem=against).outcome == "wrong"


@pytest.mark.parametrize("strict", [True, False])
def test_a_case_has_counter_tests_of_its_form(sandbox, strict, monkeypatch):
    """Across processes too, for NumPy compares an empty array with anything."""
    monkeypatch.setattr(tasks, "_libraries", lambda *_: None)  # the sandbox has its own
    sample = Sample(PROBLEM.id, 0, RIGHT, "stop")
    case = tasks._script(PROBLEM, sample, strict, EvaluateSettings())
    found, *against = sandbox.run([case.program, *case.counters])
    assert found.passed
    assert {verdict.outcome for verdict in against} == {"wrong"}


def test_the_candidate_s_process_holds_neither_test_nor_answer(sandbox):
    seek = """
import gc, sys
held = [o for o in gc.get_objects() if isinstance(o, dict)]
frame = sys._getframe()
for _ in range(99):
    held += [frame.f_locals, frame.f_globals] if frame else []
    frame = frame and frame.f_back
seen = {key for one in held for key in one if isinstance(key, str)}
assert not seen & {"generate_test_case", "expected_result", "exec_test"}, "found"
"""
    assert judge(sandbox, seek + RIGHT, strict=True).passed
    assert judge(sandbox, seek + RIGHT, strict=False).detail == "AssertionError: found"


def test_a_result_that_is_no_data_is_said_so(sandbox):
    verdict = judge(sandbox, "total, name = (lambda: 0), 'a'", strict=True)
    assert verdict.outcome == "error"
    assert "function, which is no plain data" in verdict.detail


def test_large_arrays_cross(sandbox):
    tests = PROBLEM.tests.replace("np.arange(6.0)", "np.arange(1200000.0)")
    tests = tests.replace("reshape(2, 3)", "reshape(-1, 600000)")
    assert judge(sandbox, RIGHT, True, replace(PROBLEM, tests=tests)).passed


def test_a_test_that_writes_files_finds_none_of_another_s(sandbox):
    tests = (
        "import os\nassert os.listdir() == []\nopen('given.csv', 'w').write('a')\n" + PROBLEM.tests
    )
    writing = replace(PROBLEM, tests=tests)
    programs = [environment.program(writing, RIGHT, strict) for strict in (True, True, False) * 2]
    assert [verdict.outcome for verdict in sandbox.run(programs)] == ["passed"] * 6


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """An index of one package, and pip with no other; a cache of its own."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinykiln-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinykiln.py", "ANSWER = 42\n")
        about = "Metadata-Version: 2.1\nName: tinykiln\nVersion: 1.0\n"
        wheel.writestr("tinykiln-1.0.dist-info/METADATA", about)
        kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("tinykiln-1.0.dist-info/WHEEL", kind)
        wheel.writestr("tinykiln-1.0.dist-info/RECORD", "")
    for name, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(folder),
        "CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def pins(tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("tinykiln==1.0\n")
    return path


def test_libraries_are_installed_once_by_whoever_comes_first(wheels, pins):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(environment.install, [pins, pins])
    assert first == second
    assert (first / "tinykiln.py").read_text() == "ANSWER = 42\n"
    (wheels / "tinykiln-1.0-py3-none-any.whl").unlink()
    assert environment.install(pins) == first  # nothing is fetched again
    assert sorted(p.name for p in first.parent.iterdir()) == [first.name, f"{first.name}.lock"]


def test_a_failed_install_leaves_nothing_and_says_what_to_try(wheels, pins):
    pins.write_text("tinykiln==2.0\n")
    with pytest.raises(UserError, match=r"tinykiln==2.0.*; see what '.* -m pip download") as caught:
        environment.install(pins)
    assert str(pins) in str(caught.value)
    cache = wheels.parent / "cache" / "starkiln" / "tiny"
    assert [p.suffix for p in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(pins, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        environment.install(pins)


def test_another_python_is_told_which_one_it_takes(wheels, pins, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UserError, match=r"Python 3\.11 only"):
        environment.install(pins)


def test_the_pins_are_exact():
    lines = [p for p in environment.PINS.read_text().splitlines() if not p.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    names = [line.split("==")[0].lower() for line in lines]
    assert names == sorted(set(names))
    assert not {"torch", "tensorflow"} & set(names)  # the one is starkiln's, the other gigabytes


def test_drawing_needs_seaborn_s_data_sets(tmp_path):
    with pytest.raises(UserError, match=r"exercise\.csv"):
        environment.toolchain("Matplotlib", tmp_path)


@pytest.fixture(scope="module")
def checked(shared):
    """The problems, how their reference solutions end across processes, and in one."""
    problems = ds1000.completion(shared("benchmarks/ds1000/ds1000.jsonl.gz"))
    across = run_all(shared, [(p, p.canonical, True) for p in problems if p.group != "Matplotlib"])
    left = [p for p in problems if p.id not in across or not across[p.id].passed]
    return problems, across, run_all(shared, [(p, p.canonical, False) for p in left])


def run_all(shared, cases):
    data = shared("benchmarks/ds1000/seaborn-data")
    verdicts = {}
    for library in Counter(problem.group for problem, *_ in cases):
        own = [case for case in cases if case[0].group == library]
        place = environment.toolchain(library, data if library == environment.DRAWS else None)
        with Sandbox(environment.LIMITS, workers=2, toolchain=place) as sandbox:
            found = sandbox.run(environment.program(*case) for case in own)
            verdicts |= {case[0].id: verdict for case, verdict in zip(own, found)}
    return verdicts


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_all_reference_solutions_pass_but_the_one_that_needs_the_network(checked):
    _, across, left = checked
    failed = {name: verdict for name, verdict in left.items() if not verdict.passed}
    assert set(failed) == {"DS-1000/819"}, failed
    objects = {name: verdict for name, verdict in across.items() if not verdict.passed}
    optimisers, file = {f"DS-1000/{number}" for number in range(932, 936)}, {"DS-1000/993"}
    assert set(objects) == {*failed, *optimisers, *file}, objects


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_published_completions_get_their_published_score(shared, checked):
    problems, across, _ = checked
    folder = shared("benchmarks/completions/fasteval-wizardcoder15b-ds1000")
    answers = json.loads((folder / "answers-postprocessed.json").read_text())
    published = json.loads((folder / "execution-results.json").read_text())
    cases, expected = [], {}
    for library, texts in answers.items():
        own = [ds1000.returning(p) for p in problems if p.group == library]
        strict = [p.id in across and across[p.id].passed for p in own]
        cases += zip(own, (f"\n{text}\n" for text in texts), strict)
        expected |= zip((p.id for p in own), published[library])
    passed = {name: verdict.passed for name, verdict in run_all(shared, cases).items()}
    assert len(passed) == 1000
    assert abs(sum(passed.values()) - sum(expected.values())) <= 2  # 0.2 points
    assert sum(passed[name] == expected[name] for name in passed) >= 990
