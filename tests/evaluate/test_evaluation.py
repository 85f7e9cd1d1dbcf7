"""From a checkpoint to scores, with a real tiny model and real jails."""

import gzip
import json

import polars as pl
import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate.evaluation import SCHEMA, evaluate
from starkiln.evaluate.generate import Sample, complete, cut, program
from starkiln.evaluate.grade import grade, strict_problems, summary
from starkiln.evaluate.sandbox import Limits, Program, Sandbox
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.engine import Engine
from starkiln.model.settings import DecoderSettings
from starkiln.problems import benchmarks
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
def sandbox():
    with Sandbox(Limits(cpu_s=1, wall_s=3, memory_mb=256), workers=2) as made:
        yield made


def settings(data, **keys):
    chosen = {"n": 3, "k": [1, 2], "max_new_tokens": 8, "temperature": 1.0, "timeout_s": 1}
    return EvaluateSettings(data=str(data), **{**chosen, **keys})


def test_settings_refuse_what_cannot_be_scored():
    for keys in ({"n": 2, "k": [3]}, {"k": [0]}, {"temperature": 0.0, "n": 2}, {"k": []}):
        with pytest.raises(ValueError, match=r"k|temperature"):
            EvaluateSettings(**keys)


def test_cut_is_at_the_first_stop_string():
    assert cut("a\nb\ndef c\nclass", ["\nclass", "\ndef"]) == "a\nb"
    assert cut("a", ["\nclass"]) == "a"


def test_problems_that_need_objects_are_judged_in_one_process(data, sandbox):
    problems = benchmarks.load("humaneval", data)
    strict = strict_problems(problems, sandbox)
    assert strict == {f"HumanEval/{i}": i != 3 for i in range(4)}


def test_a_benchmark_that_fails_itself_is_refused(tmp_path, sandbox):
    row = {**_row(0, "f0", "x"), "canonical_solution": "    return x - 1\n"}
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(row))
    problems = benchmarks.load("humaneval", tmp_path / "HumanEval.jsonl")
    with pytest.raises(UserError, match="HumanEval/0"):
        strict_problems(problems, sandbox)


def test_grading_scores_right_and_wrong_and_runs_equal_programs_once(data, sandbox):
    problems = benchmarks.load("humaneval", data)
    samples = [
        Sample(p.id, i, p.canonical if right else "\n    return None", "stop")
        for p in problems
        for i, right in enumerate((True, False, True))
    ]
    strict = strict_problems(problems, sandbox)
    rows = list(grade(problems, samples, sandbox, strict=strict))
    verdicts = [r["verdict"] for r in rows]
    assert verdicts == ["passed", "wrong", "passed"] * 3 + ["passed", "error", "passed"]
    assert all(rows[i]["cpu_s"] == rows[i + 2]["cpu_s"] for i in (0, 3, 6, 9))  # one run, not two
    found = summary(rows, [1, 2], seed=0)
    assert [round(s["score"], 6) for s in found["scores"]] == [round(2 / 3, 6), 1.0]
    assert found["in_process"] == ["HumanEval/3"]
    assert len(found["solved"]) == 4


def test_infrastructure_is_never_scored_as_wrong():
    row = {"problem": "a", "strict": True, "finish": "stop"}
    verdicts = ["passed", "infrastructure", "infrastructure"]
    rows = [{**row, "verdict": v} for v in verdicts] + [{**row, "problem": "b", "verdict": "wrong"}]
    found = summary(rows, [1, 2], seed=0)
    assert [(s["k"], s["score"], s["problems"]) for s in found["scores"]] == [(1, 0.5, 2)]
    assert found["verdicts"] == {"infrastructure": 2, "passed": 1, "wrong": 1}


def test_prelude_reaches_program_and_tests(data, sandbox):
    problem = benchmarks.load("humaneval", data)[0]
    completion = "\n    return math.floor(x)"
    plain, helped = (program(problem, completion, prelude) for prelude in ("", "import math"))
    assert [v.passed for v in sandbox.run([plain, helped])] == [False, True]


def test_published_completions_get_their_published_verdicts(shared):
    """StarCoder's, as LDB printed them: 64 of 164 with LDB's imports, problem by problem."""
    lines = shared("benchmarks/completions/ldb-starcoder-humaneval.jsonl").read_text().splitlines()
    published = list(map(json.loads, lines))
    problems = benchmarks.load("humaneval", shared("benchmarks/humaneval"))
    modules = "math re sys copy datetime itertools collections heapq statistics functools hashlib"
    imports = "".join(f"import {name}\n" for name in f"{modules} string".split())
    imports += "from typing import *\nfrom collections import *\n"
    programs = [
        Program(imports + r["solution"], p.tests, p.entry_point, imports + p.context)
        for r, p in zip(published, problems, strict=True)
    ]
    with Sandbox(workers=2) as sandbox:
        passed = [verdict.passed for verdict in sandbox.run(programs)]
    assert passed == [bool(r["is_solved"]) for r in published]
    assert sum(passed) == 64


def test_samples_depend_on_seed_problem_and_index_only(data, model):
    loaded, tokenizer = checkpoint.load(model)
    engine = Engine(loaded, tokenizer)
    first, second = benchmarks.load("humaneval", data)[:2]
    three = complete(engine, tokenizer, first, settings(data), 5)
    assert [s.index for s in three] == [0, 1, 2]
    assert complete(engine, tokenizer, first, settings(data), 5) == three
    assert complete(engine, tokenizer, first, settings(data, n=2), 5) == three[:2]
    assert complete(engine, tokenizer, first, settings(data), 6) != three
    assert complete(engine, tokenizer, second, settings(data), 5) != three


def test_a_prompt_without_room_is_scored_and_named(data, model, tmp_path):
    tokenizer = Tokenizer.load(model)
    shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=8)
    checkpoint.save(tmp_path / "small", Decoder(shape, tokenizer.vocab_size), tokenizer)
    report = evaluate(tmp_path / "small", settings(data), tmp_path / "out")
    assert len(report["no_room"]) == 4
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
    report = evaluate(model, settings(data), tmp_path / "whole", workers=2)
    assert report["samples"] == 12
    assert sum(report["verdicts"].values()) == 12
    assert [s["k"] for s in report["scores"]] == [1, 2]
    frame = pl.read_parquet(tmp_path / "whole/samples.parquet")
    assert dict(frame.schema) == SCHEMA
    assert json.loads((tmp_path / "whole/report.json").read_text()) == report

    for left in (0, 4, 14, 20):
        out = tmp_path / f"after-{left}"
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, settings(data), out, line=Stop(left))
        assert not (out / "report.json").exists()
        with (out / "generated.jsonl").open("ab") as journal:
            journal.write(b'["HumanEval/9", [[0, "a kill in the midd')
        resumed = Stop(12 + max(0, 12 - left) + 3)  # less than all over again
        assert evaluate(model, settings(data), out, line=resumed, workers=2) == report
        for name in ("samples.parquet", "report.json"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert sorted(p.name for p in out.iterdir()) == [
            "events.jsonl",
            "report.json",
            "samples.parquet",
        ]


def test_a_finished_run_is_read_and_another_setting_runs_anew(data, model, tmp_path):
    once = evaluate(model, settings(data, limit=1), tmp_path)
    assert once["problems"] == 1
    assert evaluate(model, settings(data, limit=1), tmp_path, line=Stop(0)) == once
    other = evaluate(model, settings(data, limit=2), tmp_path)
    assert other["problems"] == 2
    assert other["key"] != once["key"]
