"""From samples to verdicts and scores."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starkiln.core.errors import UserError
from starkiln.evaluate import passk
from starkiln.evaluate.execute import FOOLED, Case, Executor
from starkiln.evaluate.sandbox import Verdict
from starkiln.evaluate.sources.ask import Sample
from starkiln.problems.problem import Problem

Row = dict[str, Any]
Make = Callable[[Problem, Sample, bool], Case]  # with the last, across processes


@dataclass
class Checked:
    """What a benchmark's own solutions told: which problems can be judged across processes, why
    some cannot be judged at all, and whose counter-tests a right program passes.
    """

    strict: dict[str, bool]
    broken: dict[str, str] = field(default_factory=dict)
    uncountered: set[str] = field(default_factory=set)


def check(
    problems: Sequence[Problem], make: Make, executor: Executor, own_file: str = ""
) -> Checked:
    """Run the benchmark's own solutions, first across processes, then in one.

    Those that need one process (their tests need objects, or names that the program defines) are
    judged so. A ``script`` whose solution fails is not judged: it needs what is not here, such as
    a network or another edition of a library. ``UserError`` where any other fails, for then
    verdicts mean nothing; ``own_file`` is the user's that holds them. A problem without a solution
    is judged across processes if that is known. One whose solution passes its counter-tests is
    judged without them.
    """
    strict = {p.id: p.judge != "file" for p in problems}
    solved = [p for p in problems if p.canonical and p.judge != "exact"]
    uncountered: set[str] = set()
    for own in (True, False):
        tried = [p for p in solved if strict[p.id] == own]
        found = executor.run([make(p, Sample(p.id, 0, p.canonical, "stop"), own) for p in tried])
        failed = {p.id: v for p, v in zip(tried, found) if not v.passed}
        uncountered |= {name for name, v in failed.items() if v.detail == FOOLED}
        failed = {name: v for name, v in failed.items() if name not in uncountered}
        _refuse_unrun(failed)
        if own:
            strict.update(dict.fromkeys(failed, False))
    scripts = {p.id for p in solved if p.judge == "script"}
    if wrong := {name: v for name, v in failed.items() if name not in scripts}:
        raise _wrong(wrong, own_file)
    broken = {name: f"{v.outcome}: {v.detail}" for name, v in failed.items()}
    return Checked(strict, broken, uncountered)


def _wrong(failed: Mapping[str, Verdict], own_file: str) -> UserError:
    """That solutions fail their tests, and what to mend: the limits, where they met one."""
    name, verdict = next(iter(failed.items()))
    whose = "solutions in canonical" if own_file else "the benchmark's own solutions"
    what = f"{whose} fail their tests: {', '.join([*failed][:5])}"
    what += f" ({verdict.outcome}: {verdict.detail})"
    mend = f"mend canonical or tests of {name}" if own_file else "get its file anew"
    if verdict.outcome in ("timeout", "memory") or not own_file:
        mend = f"raise evaluate.timeout_s or memory_mb, or {mend}"
    return UserError(own_file or "evaluate", what, mend)


def _refuse_unrun(failed: Mapping[str, Verdict]) -> None:
    """A solution that could not be run tells nothing of its problem."""
    unrun = [name for name, v in failed.items() if v.outcome == "infrastructure"]
    if unrun:
        what = f"the solution of {unrun[0]} could not be run ({failed[unrun[0]].detail})"
        raise UserError("evaluate", what, "run it again")


def grade(
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    make: Make,
    executor: Executor,
    checked: Checked,
) -> Iterator[Row]:
    """One row a sample, in order: problem, group, sample, prompt, suffix, completion, finish,
    verdict, detail, strict and cpu_s. Samples of problems that cannot be judged get
    ``infrastructure``.
    """
    by_id = {problem.id: problem for problem in problems}
    cases = [_case(by_id[s.problem], s, make, checked) for s in samples]
    for sample, verdict in zip(samples, executor.run(cases)):
        yield _row(by_id[sample.problem], sample, checked.strict[sample.problem], verdict)


def _case(problem: Problem, sample: Sample, make: Make, checked: Checked) -> Case:
    if problem.id in checked.broken:
        what = f"its own solution fails here ({checked.broken[problem.id]})"
        return Case(None, None, Verdict("infrastructure", what, 0.0))
    case = make(problem, sample, checked.strict[problem.id])
    return case._replace(counters=()) if problem.id in checked.uncountered else case


def _row(problem: Problem, sample: Sample, strict: bool, verdict: Verdict) -> Row:
    return {
        "problem": sample.problem,
        "group": problem.group,
        "sample": sample.index,
        "prompt": problem.prompt,
        "suffix": problem.suffix,
        "completion": sample.completion,
        "finish": sample.finish,
        "verdict": verdict.outcome,
        "detail": re.sub(r"\b0x[0-9a-f]+", "0x…", verdict.detail),  # addresses differ by run
        "strict": strict,
        "cpu_s": verdict.cpu_s,
    }


def summary(rows: Sequence[Row], ks: Iterable[int], seed: int) -> dict[str, Any]:
    """Scores with intervals, for all and by group, and the counts of verdicts.

    A problem with an infrastructure verdict is scored on its other samples; it is left out of the
    scores, and named, where fewer than k remain.
    """
    counts = tally(rows)
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    for row in rows:
        groups.setdefault(row["group"], {})[row["problem"]] = counts[row["problem"]]
    ks = sorted(set(ks))
    return {
        "scores": scores(counts, ks, seed),
        "groups": {
            name: scores(own, ks, seed) for name, own in sorted(groups.items()) if len(groups) > 1
        },
        "verdicts": dict(sorted(Counter(r["verdict"] for r in rows).items())),
        "solved": sorted(p for p, (_, right) in counts.items() if right),
        "in_process": sorted({r["problem"] for r in rows if not r["strict"]}),
        "not_judged": sorted(p for p, (n, _) in counts.items() if not n),
        "no_room": sorted({r["problem"] for r in rows if r["finish"] == "no room"}),
        "problems": len(counts),
        "samples": len(rows),
    }


def tally(rows: Iterable[Row]) -> dict[str, tuple[int, int]]:
    """Problem -> (samples with a verdict of their own, those that passed)."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        n, right = found.get(row["problem"], (0, 0))
        judged = row["verdict"] != "infrastructure"
        found[row["problem"]] = (n + judged, right + (row["verdict"] == "passed"))
    return found


def scores(counts: Mapping[str, tuple[int, int]], ks: Iterable[int], seed: int) -> list[Row]:
    """pass@k for each k that some problem has samples enough for."""
    enough = {k: [count for count in counts.values() if count[0] >= k] for k in ks}
    return [{**passk.score(own, k, seed), "problems": len(own)} for k, own in enough.items() if own]
