"""From a checkpoint to scores, with a real tiny model and real jails."""

import gzip
import json

import polars as pl
import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate import tasks
from starkiln.evaluate.evaluation import SCHEMA, evaluate
from starkiln.evaluate.execute import Executor
from starkiln.evaluate.grade import grade, summary
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.protocol import draws
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.sources import open_source
from starkiln.evaluate.sources.ask import Sample
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.tokenizer import Tokenizer, fit

TASKS = {"f0": "x", "f1": "x + 1", "f2": "[x] * 3", "f3": "Node(x)"}


def _row(number, name, answer):
    node = "class Node:\n    def __init__(self, x): self.x = x\n" if "Node" in answer else ""
    expected = "candidate(2).x == 2" if node else f"candidate(2) == (lambda x: {answer})(2)"
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'{node}def {name}(x):\n    """ Give {answer}. """\n',
        "entry_point": name,
        "canonical_solution": f"    return {answer}\n",
        "test": f"def check(candidate):\n    assert {expected}\n",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "HumanEval.jsonl.gz"
    rows = [_row(i, *pair) for i, pair in enumerate(TASKS.items())]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = fit(["def f(x):\n    return x + 1\n"] * 4, 290)
    shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=160)
    checkpoint.save(folder, Decoder(shape, tokenizer.vocab_size, seed=1), tokenizer)
    return folder


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    place = tmp_path_factory.mktemp("verdicts") / "verdicts.jsonl"
    with Journal(place) as journal, Executor(journal, workers=2) as made:
        yield made


def settings(data, **keys):
    chosen = {"n": 3, "k": [1, 2], "max_new_tokens": 8, "temperature": 1.0, "timeout_s": 1}
    return EvaluateSettings(**{"data": str(data), "memory_mb": 256, **chosen, **keys})


def task(data, **keys):
    return tasks.load(settings(data, **keys), 0)[0]


def run(model, data, out, **keys):
    how = {name: keys.pop(name) for name in ("line", "workers") if name in keys}
    chosen = settings(data, **keys)
    return evaluate(open_source(str(model), chosen.source), chosen, out, **how)


def test_draws_refuse_what_cannot_be_scored():
    for keys in ({"n": 2, "k": [3]}, {"temperature": 0.0, "n": 2}):
        with pytest.raises(UserError, match=r"evaluate\.(k|temperature)"):
            draws("humaneval", EvaluateSettings(**keys))


def test_the_papers_draws():
    first, second = draws("humaneval", EvaluateSettings(protocol="paper"))
    assert (first.n, first.temperature, first.top_p, first.k) == (200, 0.2, 0.95, (1,))
    assert (second.n, second.temperature, second.k) == (200, 0.8, (10, 100))
    assert first.max_total_tokens == 512
    (libraries,) = draws("ds1000", EvaluateSettings(protocol="paper"))
    assert (libraries.n, libraries.temperature, libraries.top_p) == (40, 0.2, 0.5)
    (own,) = draws("mbpp", EvaluateSettings(protocol="paper", temperature=0.4, n=20))
    assert (own.n, own.temperature, own.k) == (20, 0.4, (1,))


def test_problems_that_need_objects_are_judged_in_one_process(data, executor):
    found = task(data).check(executor)
    assert found.strict == {f"HumanEval/{i}": i != 3 for i in range(4)}
    assert found.broken == {}


def test_a_benchmark_that_fails_itself_is_refused(tmp_path, executor):
    row = {**_row(0, "f0", "x"), "canonical_solution": "    return x - 1\n"}
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="HumanEval/0"):
        task(tmp_path / "HumanEval.jsonl").check(executor)


OF_ONES_OWN = {"id": "own/1", "prompt": "def f(x):\n", "entry_point": "f"}


def test_a_wrong_solution_of_one_s_own_is_to_be_mended_in_its_file(tmp_path, executor):
    path = tmp_path / "own.jsonl"
    row = {**OF_ONES_OWN, "tests": "assert f(1) == 1", "canonical": "    return 2\n"}
    path.write_text(json.dumps(row))
    (one,) = tasks.load(EvaluateSettings(tasks=[str(path)]), 0)
    with pytest.raises(UserError, match="mend canonical or tests of own/1") as told:
        one.check(executor)
    assert str(told.value).startswith(f"{path}: ")
    assert "timeout" not in str(told.value)
    assert "anew" not in str(told.value)


def test_only_solutions_of_problems_that_have_samples_are_run(data, tmp_path):
    stored = tmp_path / "he.jsonl"
    rows = [{"task_id": f"HumanEval/{i}", "completion": f"    return {i}\n"} for i in (1, 2)]
    stored.write_text("\n".join(map(json.dumps, rows)))
    report = run(stored, data, tmp_path / "out", tasks=["humaneval"], n=None, k=None)
    assert report["samples"] == 2
    judged = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    assert len(judged) == 4  # two solutions, two samples


def test_grading_scores_right_and_wrong_and_runs_equal_programs_once(data, executor):
    one = task(data)
    samples = [
        Sample(p.id, i, p.canonical if right else "\n    return None", "stop")
        for p in one.problems
        for i, right in enumerate((True, False, True))
    ]
    found = one.check(executor)
    rows = list(grade(one.problems, samples, one.case, executor, found))
    verdicts = [r["verdict"] for r in rows]
    assert verdicts == ["passed", "wrong", "passed"] * 3 + ["passed", "error", "passed"]
    assert all(rows[i]["cpu_s"] == rows[i + 2]["cpu_s"] for i in (0, 3, 6, 9))  # one run, not two
    told = summary(rows, [1, 2], seed=0)
    assert [round(s["score"], 6) for s in told["scores"]] == [round(2 / 3, 6), 1.0]
    assert told["in_process"] == ["HumanEval/3"]
    assert len(told["solved"]) == 4


def test_infrastructure_is_never_scored_as_wrong():
    row = {"problem": "a", "group": "", "strict": True, "finish": "stop"}
    verdicts = ["passed", "infrastructure", "infrastructure"]
    rows = [{**row, "verdict": v} for v in verdicts] + [{**row, "problem": "b", "verdict": "wrong"}]
    found = summary(rows, [1, 2], seed=0)
    assert [(s["k"], s["score"], s["problems"]) for s in found["scores"]] == [(1, 0.5, 2)]
    assert found["verdicts"] == {"infrastructure": 2, "passed": 1, "wrong": 1}


OWN = [  # a function of JavaScript that doubles, with and without a solution that vouches
    {
        "id": name,
        "prompt": "function f(x) {\n",
        "language": "JavaScript",
        "tests": "const assert = require('assert');\nassert.deepEqual(f(2), 4);\n",
        **more,
    }
    for name, more in {"vouched": {"canonical": "  return 2 * x;\n}\n"}, "not": {}}.items()
]


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, OWN)))
    return path


def test_problems_of_one_s_own_have_counter_tests_where_a_solution_vouches(own, executor):
    (one,) = tasks.load(EvaluateSettings(tasks=[str(own)]), 0)
    found = one.check(executor)
    if isinstance(found, str):
        pytest.skip(found)
    cheat = "}\nconst real = require;\n"
    cheat += "require = name => name == 'assert' ? { deepEqual() {} } : real(name);\n"
    samples = [Sample(p.id, 0, cheat, "stop") for p in one.problems]
    rows = grade(one.problems, samples, one.case, executor, found)
    assert [row["verdict"] for row in rows] == ["violation", "passed"]


def test_too_little_memory_for_a_language_s_tools_is_told(own, executor):
    low = EvaluateSettings(tasks=[str(own)]).model_copy(update={"memory_mb": 24})  # Java: 1024
    (one,) = tasks.load(low, 0)
    told = one.check(executor)
    assert isinstance(told, str)
    if "is not here" not in told:
        assert told.endswith("evaluate.memory_mb is 24, and its tools have 1024")


def test_only_drawing_needs_the_data_sets_of_seaborn(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.environment, "toolchain", lambda library, data=None: (library, data))
    (tmp_path / "tips.csv").write_text("")
    alone = settings(tmp_path)
    assert tasks._libraries("Numpy", alone) == ("Numpy", None)
    with pytest.raises(UserError, match="seaborn"):
        tasks._libraries("Matplotlib", alone)


def test_prelude_reaches_program_and_tests(data, executor):
    sample = Sample("HumanEval/0", 0, "\n    return math.floor(x)", "stop")
    plain, helped = (task(data, prelude=text) for text in ("", "import math"))
    cases = [one.case(one.problems[0], sample, True) for one in (plain, helped)]
    assert [v.passed for v in executor.run(cases)] == [False, True]


def test_a_verdict_is_found_again_by_another_run(data, tmp_path):
    one = task(data)
    case = one.case(one.problems[0], Sample("HumanEval/0", 0, one.problems[0].canonical, ""), True)
    with Journal(tmp_path / "v") as journal, Executor(journal) as executor:
        (first,) = executor.run([case])
    with Journal(tmp_path / "v") as journal, Executor(journal) as executor:
        (second,) = executor.run([case])
        assert executor.opened == 0
    assert first == second


def test_groups_are_scored_apart():
    row = {"strict": True, "finish": "stop"}
    rows = [
        {**row, "problem": f"{group}{i}", "group": group, "verdict": "passed" if i else "wrong"}
        for group, count in (("one", 2), ("two", 4))
        for i in range(count)
    ]
    found = summary(rows, [1], seed=0)
    assert {name: own[0]["score"] for name, own in found["groups"].items()} == {
        "one": 0.5,
        "two": 0.75,
    }


def test_a_prompt_without_room_is_scored_and_named(data, model, tmp_path):
    tokenizer = Tokenizer.load(model)
    shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=8)
    checkpoint.save(tmp_path / "small", Decoder(shape, tokenizer.vocab_size), tokenizer)
    report = run(tmp_path / "small", data, tmp_path / "out")
    assert len(report["passes"][0]["no_room"]) == 4
    assert report["scores"][0]["score"] == 0.0


class Stop:
    """A sink that pulls the plug after ``left`` samples."""

    def __init__(self, left):
        self.left = left

    def total(self, units):
        self.units = units

    def advance(self, units, note):
        self.left -= units
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_killed_run_goes_on_to_the_same_bytes(data, model, tmp_path):
    report = run(model, data, tmp_path / "whole", workers=2)
    assert report["samples"] == 12
    assert sum(report["verdicts"].values()) == 12
    assert [s["k"] for s in report["scores"]] == [1, 2]
    frame = pl.read_parquet(tmp_path / "whole/samples.parquet")
    assert dict(frame.schema) == SCHEMA
    assert json.loads((tmp_path / "whole/report.json").read_text()) == report

    for left in (0, 4, 14, 20):
        out = tmp_path / f"after-{left}"
        with pytest.raises(KeyboardInterrupt):
            run(model, data, out, line=Stop(left))
        assert not (out / "report.json").exists()
        with (out / "drawn.jsonl").open("ab") as journal:
            journal.write(b'["HumanEval/9", [[0, "a kill in the midd')
        resumed = Stop(12 + max(0, 12 - left) + 3)  # less than all over again
        assert run(model, data, out, line=resumed, workers=2) == report
        for name in ("samples.parquet", "report.json"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_read_and_another_setting_runs_anew(data, model, tmp_path):
    once = run(model, data, tmp_path, limit=1)
    assert once["passes"][0]["problems"] == 1
    assert run(model, data, tmp_path, limit=1, line=Stop(0)) == once
    other = run(model, data, tmp_path, limit=2)
    assert other["passes"][0]["problems"] == 2
    assert other["key"] != once["key"]
