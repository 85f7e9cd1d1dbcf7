"""Evaluations of what is no plain completion: silence, refusals, others' files, objects."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import scripted
from scripted import Script, evaluated
from starkiln.core.errors import UserError
from starkiln.evaluate import compare
from starkiln.evaluate.evaluation import evaluate, usage
from starkiln.evaluate.printed import scores
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.sources import open_source


class Silent(Script):
    """A script some of whose samples never come, or are refused."""

    def __init__(self, ends):
        super().__init__(lambda problem, index: "yes")
        self.ends, self.asked = ends, []

    def draw(self, asks):
        for samples in super().draw(asks):
            self.asked += [(one.problem, one.index) for one in samples]
            ends = [self.ends.get((one.problem, one.index)) for one in samples]
            yield [
                replace(one, completion="", finish=end) if end else one
                for one, end in zip(samples, ends)
            ]


class Line:
    """A sink that keeps all it is told."""

    def __init__(self):
        self.totals, self.notes, self.done = [], [], 0.0

    def total(self, units):
        self.totals.append(units)
        self.done = 0.0

    def advance(self, units, note):
        self.done += units
        self.notes.append(note)


def test_what_was_not_answered_is_no_failure_and_asked_for_again(tmp_path):
    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "abc"])
    source = Silent({("a", 0): "no answer", ("b", 0): "no answer", ("b", 1): "no answer"})
    with pytest.raises(UserError, match=r"3 programs could not be run \(no answer had a text"):
        evaluated(source, tmp_path / "out", [own])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["verdicts"] == {"infrastructure": 3, "passed": 3}
    assert [(s["k"], s["score"], s["problems"]) for s in report["scores"]] == [
        (1, 1.0, 2),
        (2, 1.0, 1),
    ]
    source.ends, source.asked = {}, []
    _, report = evaluated(source, tmp_path / "out", [own])
    assert source.asked == [("a", 0), ("b", 0), ("b", 1)]
    assert report["verdicts"] == {"passed": 6}
    whole, _ = evaluated(Script(lambda problem, index: "yes"), tmp_path / "whole", [own])
    for name in ("samples.parquet", "report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def test_a_refusal_is_a_failure_that_is_named(tmp_path):
    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "ab"])
    out, report = evaluated(Silent({("a", 0): "refused"}), tmp_path / "out", [own])
    assert report["scores"][0]["score"] == 0.75
    assert report["passes"][0]["refused"] == ["a"]
    assert "problems refused 1" in scores(report)[0][-1]
    page = (out / "report.html").read_text()
    assert "1 with a refused answer" in page
    assert "Refused by the endpoint" in page


def test_the_line_knows_how_much_is_left(tmp_path):
    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "abcd"])
    how = EvaluateSettings(tasks=[str(own)], n=2, k=[1], temperature=0.5)
    line = Line()
    evaluate(Script(lambda problem, index: "yes"), how, tmp_path / "out", line=line)
    assert (line.totals, line.done) == ([16], 16)
    assert f"{own}: 8 of 8 passed" in line.notes
    (tmp_path / "out/report.json").unlink()
    line = Line()
    evaluate(Script(lambda problem, index: "yes"), how, tmp_path / "out", line=line)
    assert (line.totals, line.done) == ([8], 8)  # nothing is left to draw


def test_the_line_knows_the_number_of_stored_completions(tmp_path):
    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "ab"])
    rows = [{"task_id": name, "completion": "yes"} for name in "aaabb"]
    stored = tmp_path / "stored.jsonl"
    stored.write_text("\n".join(map(json.dumps, rows)))
    line, how = Line(), EvaluateSettings(tasks=[str(own)])
    report = evaluate(open_source(str(stored), how.source), how, tmp_path / "out", line=line)
    assert (line.totals[-1], line.done) == (5, 5)
    assert report["samples"] == 5


NODE = "class Node:\n    def __init__(self, x):\n        self.x = x\n\n\n"


def objects(tmp_path, **more):
    row = {"id": "n", "prompt": f"{NODE}def f(x):\n", "entry_point": "f", **more}
    path = tmp_path / "objects.jsonl"
    path.write_text(json.dumps({"tests": "assert f(3).x == 3", **row}))
    return path


def test_results_that_are_objects_pass_where_the_problem_says_so(tmp_path):
    right = Script(lambda problem, index: "    return Node(x)\n")
    how = {"n": 1, "k": [1], "temperature": 0.0, "memory_mb": 256}
    _, report = evaluated(right, tmp_path / "one", [objects(tmp_path)], **how)
    assert report["verdicts"] == {"wrong": 1}
    (told,) = compare.pl.read_parquet(tmp_path / "one/samples.parquet")["detail"]
    assert told == (
        "returned an object: Node; if the tests need the program's own objects, "
        'add "strict": false to its line'
    )
    _, report = evaluated(right, tmp_path / "two", [objects(tmp_path, strict=False)], **how)
    assert report["verdicts"] == {"passed": 1}
    assert report["passes"][0]["in_process"] == ["n"]
    wrong = Script(lambda problem, index: "    return Node(x + 1)\n", identity="wrong")
    _, report = evaluated(wrong, tmp_path / "three", [objects(tmp_path, strict=False)], **how)
    assert report["verdicts"] == {"wrong": 1}


def test_a_harness_that_judges_in_its_own_way_is_known_by_its_lines(tmp_path):
    row = {"id": "HumanEval/0", "prompt": "def f(x):\n", "entry_point": "f"}
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({**row, "tests": "assert f(2.5) == 2"}))
    ldb = {"task_id": "HumanEval/0", "prompt": row["prompt"], "is_solved": True}
    stored = tmp_path / "ldb.jsonl"
    stored.write_text(json.dumps({**ldb, "solution": "def f(x):\n    return math.floor(x)\n"}))

    def judged(**keys):
        how = EvaluateSettings(tasks=[str(own)], memory_mb=256, **keys)
        return evaluate(open_source(str(stored), how.source), how, tmp_path / "out")

    report = judged()
    assert report["verdicts"] == {"passed": 1}
    assert "import heapq, itertools, math" in scores(report)[0][4]
    report = judged(prelude="")
    assert report["verdicts"] == {"error": 1}
    assert scores(report)[0][4] == "as stored"


def test_two_runs_that_judged_in_other_ways_are_not_alike(tmp_path):
    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "ab"])
    source = Script(lambda problem, index: "yes")
    one, _ = evaluated(source, tmp_path / "one", [own], prelude="import math", timeout_s=9)
    two, _ = evaluated(source, tmp_path / "two", [own])
    first = compare.compare(compare.load(one), compare.load(two))[0]
    assert first["differs"] == ["prelude 'import math' (none)", "timeout s 9 (the task's)"]
    assert compare.compare(compare.load(one), compare.load(one))[0]["differs"] == []


DYING = """
import os, sys
from pathlib import Path
from scripted import Script, evaluated

class Dying(Script):
    def draw(self, asks):
        for number, samples in enumerate(super().draw(asks), 1):
            self.usage = {"requests": number, "cost": 0.5 * number}
            yield samples
            if number == int(sys.argv[3]):
                os.kill(os.getpid(), 9)

evaluated(Dying(lambda problem, index: "yes"), Path(sys.argv[1]), [sys.argv[2]])
"""


def test_what_a_killed_run_has_used_is_counted(tmp_path):
    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "abcde"])
    out, tests = tmp_path / "out", str(Path(scripted.__file__).parent)
    command = [sys.executable, "-c", DYING, str(out), str(own)]
    for last, ends, used in ((2, -9, 2), (1, -9, 3), (9, 0, 5)):
        done = subprocess.run(
            [*command, str(last)], env={**os.environ, "PYTHONPATH": tests}, check=False
        )
        assert done.returncode == ends
        assert usage(out) == {"requests": used, "cost": 0.5 * used}
    whole, _ = evaluated(Script(lambda problem, index: "yes"), tmp_path / "whole", [own])
    for name in ("samples.parquet", "report.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_figures_beside_pass_at_k_are_printed_too():
    figure = {"score": 0.5, "low": 0.25, "high": 0.75}
    draw = {"n": 1, "temperature": 0.0, "top_p": 0.95, "returns": False, "path": None, "prefix": ""}
    draw |= {"max_new_tokens": 32, "max_total_tokens": None}
    one = {"task": "return-types", "draw": draw, "asked": 9, "problems": 9, "verdicts": {}}
    one |= {"scores": [{"k": 1, "problems": 9, **figure}], "no_room": [], "refused": []}
    parts = {"all": {**figure, "functions": 9}, "non_none": {**figure, "functions": 7}}
    told = scores({"settings": {}, "passes": [{**one, "extra": {"return_types": parts}}]})
    assert [row[:2] for row in told] == [
        ("return-types pass@1", "50.0 %"),
        ("return-types F1", "50.0 %"),
        ("return-types F1 without None", "50.0 %"),
    ]
    assert [row[3] for row in told] == ["9", "9", "7 of 9"]


def test_weights_are_read_once_however_many_problems_there_are(tmp_path):
    class Weighed(Script):
        reads = 0

        @property
        def identity(self):
            Weighed.reads += 1
            return "weighed"

        @identity.setter
        def identity(self, value):
            pass

    own = scripted.problems(tmp_path / "own.jsonl", [{"id": name} for name in "abcdef"])
    evaluated(Weighed(lambda problem, index: "yes"), tmp_path / "out", [own])
    assert Weighed.reads == 1
