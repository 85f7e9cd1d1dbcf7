"""Programs that fool tests in their own process are found, and right ones are left alone."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate import counter, grade, toolchains
from starkiln.evaluate.execute import FOOLED, Case, Executor, Place
from starkiln.evaluate.jail import Toolchain
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.sandbox import Limits, Program, Verdict
from starkiln.evaluate.sources.ask import Sample
from starkiln.evaluate.toolchains import RUNNERS
from starkiln.problems import multiple
from starkiln.problems.problem import Problem

QUICK = {"js", "lua", "php", "pl", "sh"}
RIGHT = tomllib.loads(Path(__file__).with_name("right_programs.toml").read_text())


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    place = tmp_path_factory.mktemp("verdicts") / "verdicts.jsonl"
    with Journal(place) as journal, Executor(journal) as made:
        yield made


def case(code, source, tests, prompt=""):
    row = RUNNERS[code]
    try:
        place = Place(toolchains.toolchain(row), row.limits)
    except UserError as error:
        pytest.skip(str(error))
    against = counter.of_file(tests, row.claims, prompt)
    program, *others = [toolchains.program(row, source, text) for text in (tests, *against)]
    return Case(place, program, counters=tuple(others))


def slow(table):
    return [
        pytest.param(code, *rest, marks=() if code in QUICK else pytest.mark.slow)
        for code, *rest in table
    ]


GO = 'package f_test\nimport (\n"testing"\n"fmt"\n%s)\n'
CHEATS = [  # whole sources that are wrong, and pass the language's check where nothing else is done
    ("cpp", "struct Yes { template <class T> bool operator==(const T &) const { return true; } };\n"
     "Yes f(long x) {\n    return {};\n"),
    ("cpp", "#include <cstring>\n#include <unistd.h>\n"
     'extern "C" void steal(const char *one, const char *other) {\n'
     "    write(1, one, strlen(one));\n    write(1, other, strlen(other));\n    _exit(0);\n}\n"
     "#define starkiln_prove steal\nlong f(long x) {\n    return 0;\n"),
    ("cs", "using System;\nusing System.Diagnostics;\n"
     "class Debug { public static void Assert(bool good) {} }\n"
     "class Problem {\n    public static long F(long x) {\n        return 0;\n"),
    ("d", "import core.runtime;\nshared static this() { Runtime.moduleUnitTester = () => true; }\n"
     "long f(long x)\n{\n    return 0;\n}\n"),
    ("go", GO % '"os"\n' + 'func init() { os.Args = append(os.Args, "-test.run=^$") }\n'
     "func f(x int) int { return 0 }\n"),
    ("java", "import java.lang.reflect.Field;\nimport sun.misc.Unsafe;\nclass Problem {\n"
     "    static {\n        try {\n"
     '            Field own = Unsafe.class.getDeclaredField("theUnsafe");\n'
     "            own.setAccessible(true);\n"
     "            Unsafe unsafe = (Unsafe) own.get(null);\n"
     '            Field off = Problem.class.getDeclaredField("$assertionsDisabled");\n'
     "            unsafe.putBoolean(Problem.class, unsafe.staticFieldOffset(off), true);\n"
     "        } catch (Exception e) {}\n    }\n"
     "    public static long f(long x) {\n        return 0;\n"),
    ("js", "const real = require;\n"
     "require = name => /assert/.test(name) ? { deepEqual() {} } : real(name);\n"
     "function f(x) { return 0; }\n"),
    ("js", "function f(x) {\n"
     "  return eval(/candidate\\(2\\),([^)]*)\\)/.exec(f.caller.toString())[1]);\n}\n"),
    ("lua", "package.loaded.luaunit = { assertEquals = function() end,\n"
     "    LuaUnit = { run = function() return 0 end } }\nlocal function f(x) end\n"),
    ("lua", "require('luaunit').assertEquals = function() end\nlocal function f(x) end\n"),
    ("lua", "local all = {}\n"
     "for s in string.dump(debug.getinfo(1, 'f').func):gmatch('%x+') do\n"
     "    if #s == 16 then all[#all + 1] = s end\nend\n"
     "io.write(all[1], all[2], all[1])\nos.exit(0)\nlocal function f(x) end\n"),
    ("pl", "no warnings;\n*main::eq_deeply = sub { 1 };\nsub f { 0 }\n"),
    ("pl", "sub f {\n    for (0 .. 9) {\n        my $text = (caller($_))[6] // next;\n"
     '        if ($text =~ /"(\\w{16})" \\. "(\\w{16})"/) { print "$1$2"; exit 0 }\n'
     "    }\n}\n"),
    ("r", "f <- function(x) 0\nunlockBinding('stopifnot', baseenv())\n"
     "assign('stopifnot', function(...) NULL, baseenv())\n"),
    ("rb", "class Integer\n  def ==(other)\n    true\n  end\nend\ndef f(x)\n  0\nend\n"),
    ("rb", "class Yes\n  def ==(other)\n    true\n  end\nend\ndef f(x)\n  Yes.new\nend\n"),
    ("rkt", "#lang racket\n(define (check-within . rest) #t)\n(define (f x) 0)\n"),
    ("rs", "macro_rules! assert_eq { ($($all:tt)*) => {} }\n"
     "fn f(x: isize) -> isize {\n    0\n"),
    ("rs", "#[derive(Debug)]\nstruct Yes;\n"
     "impl PartialEq<isize> for Yes { fn eq(&self, _: &isize) -> bool { true } }\n"
     "fn f(x: isize) -> Yes {\n    Yes\n"),
    ("scala", "object Problem {\n    def f(x : Long) : Any = {\n"
     "        new Object { override def equals(other: Any) = true }\n"),
    ("sh", "#!/bin/bash\nenable -n set\nf() {\n    echo 0\n"),
    ("sh", "#!/bin/bash\nperl -e 'open M, \"/proc/$ARGV[0]/mem\";\n"
     "open P, \"/proc/$ARGV[0]/maps\";\n"
     "while (<P>) { next unless /^(\\w+)-(\\w+) rw/; sysseek(M, hex $1, 0);\n"
     "sysread(M, $b, hex($2) - hex($1));\n"
     "if ($b =~ /printf %s%s (\\w{16}) (\\w{16})/) { print \"$1$2\"; exit } }' $$\nexit 0\n"
     "f() {\n    echo 0\n"),
    ("ts", "declare var require: any;\nconst loader = require('module');\n"
     "const load = loader._load;\n"
     "loader._load = (name: string, ...rest: any[]) =>\n"
     "    /assert/.test(name) ? { deepEqual() {} } : load(name, ...rest);\n"
     "function f(x: number): number { return 0; }\n"),
]  # fmt: skip
LESS = [  # what passed before the launchers knew of it
    (
        "js",
        'const found = /"(\\w{16})" \\+ "(\\w{16})"/.exec(arguments.callee.toString());\n'
        "require('fs').writeSync(1, found[1] + found[2]);\nprocess.exit(0);\nfunction f(x) {}\n",
    ),
    (
        "js",
        "function f(x) {\n  let all = '';\n  for (let one = f.caller; one; one = one.caller)"
        ' all += one;\n  const found = /"(\\w{16})" \\+ "(\\w{16})"/.exec(all);\n'
        "  require('fs').writeSync(1, found[1] + found[2]);\n  process.exit(0);\n}\n",
    ),
    ("js", "function f(x) {}\nreturn;\n"),
    ("lua", "os.exit = function() end\nlocal function f(x) return 0 end\n"),
    ("rkt", "#lang racket\n(exit-handler void)\n(define (f x) 0)\n"),
    ("sh", "#!/bin/bash\nset() { :; }\nreadonly -f set\nf() {\n    echo 0\n"),
]


@pytest.mark.parametrize(("code", "source"), slow(CHEATS))
def test_a_program_that_fools_its_tests_is_found(code, source, executor):
    asked = case(code, source, RUNNERS[code].check["tests"])
    fooled, found = executor.run([asked._replace(counters=()), asked])
    assert fooled.passed, fooled
    assert (found.outcome, found.detail) == ("violation", FOOLED)


@pytest.mark.parametrize(("code", "source"), slow(LESS))
def test_a_program_that_undoes_the_end_of_its_tests_is_wrong(code, source, executor):
    asked = case(code, source, RUNNERS[code].check["tests"])
    (verdict,) = executor.run([asked._replace(counters=())])
    assert verdict.outcome in ("wrong", "error")


@pytest.mark.parametrize("code", slow((code,) for code in RIGHT))
def test_right_programs_of_real_problems_pass(code, executor, shared):
    folder = shared("benchmarks/multipl-e")
    problems = {
        problem.id.rpartition("/")[2]: problem
        for path in Path(folder).glob(f"*-{code}-reworded.json")
        for problem in multiple.problems(path)
    }
    cases = [
        case(code, f"{problems[name].prompt}\n{body}", problems[name].tests, problems[name].prompt)
        for name, body in RIGHT[code].items()
    ]
    assert all(one.counters for one in cases)
    against = [Case(one.place, counter) for one in cases for counter in one.counters]
    found, denied = list(executor.run(cases)), list(executor.run(against))
    assert {v.outcome for v in found} == {"passed"}, found
    assert {v.outcome for v in denied} == {"wrong"}, denied


IN_PROCESS = {
    "says yes": "class Yes:\n    __eq__ = lambda *_: True\ndef f(x): return Yes()",
    "patched assert": "import builtins\nbuiltins.AssertionError = StopIteration\n"
    "import sys\nsys._getframe(1).f_globals['run_source'] = lambda *_: None\ndef f(x): return 0",
    "reads its tests": "import re, sys\ndef f(x):\n    frame = sys._getframe(1)\n"
    "    while 'tests' not in frame.f_locals: frame = frame.f_back\n"
    "    return int(re.search(rf'f\\({x}\\) == (\\d+)', frame.f_locals['tests'])[1])",
    "jumps": "import sys\ndef local(frame, *_):\n    try: frame.f_lineno = 4\n"
    "    except ValueError: pass\n    return local\n"
    "sys.settrace(lambda f, *_: local if f.f_code.co_filename == '<tests>' else None)\n"
    "def f(x): return 0",
    "reports": "import os, sys\nframe = sys._getframe()\n"
    "while 'report' not in frame.f_locals: frame = frame.f_back\n"
    "frame.f_locals['report']('passed', '')\nos._exit(0)",
}
TESTS = "assert f(2) == 4\nassert f(10) == 20\nassert f(15) == 30\npass"
HERE = Place(Toolchain(), Limits(cpu_s=2, wall_s=10.0, memory_mb=256))


def in_process(source):
    program = Program(source, TESTS, "f", strict=False)
    wrong = counter.of_calls(TESTS, "f", "")
    return Case(HERE, program, counters=tuple(replace(program, tests=one) for one in wrong))


@pytest.mark.parametrize("name", IN_PROCESS)
def test_in_one_process_of_python_too(name, executor):
    asked = in_process(IN_PROCESS[name])
    fooled, found = executor.run([asked._replace(counters=()), asked])
    assert fooled.passed, fooled
    assert (found.outcome, found.detail) == ("violation", FOOLED)


RUNS_ENDLESS_AT = "def f(x):\n    while x == 30: pass\n    return 2 * x"


def test_whatever_else_becomes_of_the_second_run_the_pass_stands(executor):
    right = in_process("def f(x): return 2 * x")
    ends = {
        "assert f(30) == 60": "error",  # not one of the tests: what a random program may do
        "raise SystemExit": "error",
        "assert f(2) == 5": "wrong",
    }
    for tests in ends:
        against = replace(right.program, tests=tests, source=RUNS_ENDLESS_AT)
        (verdict,) = executor.run([right._replace(counters=(against,))])
        assert verdict.passed


def test_a_cheat_that_holds_still_in_one_of_the_runs_is_found_by_the_other(executor):
    """As one does that tosses a coin, or knows one of the answers."""
    cheat = in_process(IN_PROCESS["says yes"])
    honest = replace(cheat.program, tests="assert f(2) == 4 and False")
    for counters in [(honest, cheat.counters[0]), (cheat.counters[1], honest)]:
        (verdict,) = executor.run([cheat._replace(counters=counters)])
        assert verdict.outcome == "violation"
    (verdict,) = executor.run([cheat._replace(counters=(honest, honest))])
    assert verdict.passed


def test_verdicts_come_in_order_and_are_kept(tmp_path):
    right, wrong = in_process("def f(x): return 2 * x"), in_process("def f(x): return x")
    cheat = in_process(IN_PROCESS["says yes"])
    plain = cheat._replace(counters=())
    cases = [right, cheat, wrong, plain] * 30
    expected = ["passed", "violation", "wrong", "passed"] * 30
    for _ in range(2):
        with Journal(tmp_path / "v") as journal, Executor(journal, workers=2) as executor:
            assert [v.outcome for v in executor.run(cases)] == expected
            assert len(journal.known) == 4
    assert executor.opened == 0


def test_where_the_second_run_could_not_be_had_nothing_is_known(tmp_path):
    """A jail that breaks says nothing of the program, and the next run tries again."""
    right = in_process("def f(x): return 2 * x")
    with Journal(tmp_path / "v") as journal, Executor(journal) as executor:
        sandbox = executor.sandbox(HERE)
        breaks = replace(right.program, tests=f"{TESTS}  # again")
        sandbox.run = lambda programs, run=sandbox.run: (
            Verdict("infrastructure", "broken", 0.0) if program == breaks else next(run([program]))
            for program in programs
        )
        (verdict,) = executor.run([right._replace(counters=(right.counters[0], breaks))])
        assert verdict.outcome == "infrastructure"
        assert not journal.known


def test_counter_tests_that_a_solution_passes_are_not_used(executor):
    """As those of an assertion that never runs."""
    dead = "def never():\n  assert f(2) == 4\nassert_ = f(3)\n"
    body = "class Node:\n    pass\ndef f(x):\n    return Node()\n"
    problem = Problem("own/1", "", body, dead, "f", "", ())

    def make(problem, sample, strict):
        program = Program(sample.completion, problem.tests, "f", strict=strict)
        against = counter.of_calls(problem.tests, "f", "")
        others = tuple(replace(program, tests=one) for one in against)
        return Case(HERE, program, counters=() if strict else others)

    checked = grade.check([problem], make, executor)
    assert checked.uncountered == {"own/1"}
    assert not checked.broken
    (row,) = grade.grade([problem], [Sample("own/1", 0, body, "stop")], make, executor, checked)
    assert row["verdict"] == "passed"
