"""From samples to verdicts and scores."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from starkiln.core.errors import UserError
from starkiln.evaluate import generate, passk
from starkiln.evaluate.generate import Sample
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.sandbox import Program, Sandbox, Verdict
from starkiln.problems.problem import Problem

Row = dict[str, Any]


def strict_problems(problems: Sequence[Problem], sandbox: Sandbox) -> dict[str, bool]:
    """Which problems can be judged across processes: those whose own solution passes so.

    The others (their tests need objects, or names that the program defines) are judged in one
    process; ``UserError`` when a solution passes in neither, for then verdicts mean nothing.
    """
    allowed = _solved(problems, sandbox, strict=True)
    left = [p for p in problems if p.id not in allowed]
    shared = _solved(left, sandbox, strict=False)
    broken = [p.id for p in left if p.id not in shared]
    if broken:
        what = f"the benchmark's own solutions fail: {', '.join(broken[:5])}"
        raise UserError(
            "evaluate", what, "raise evaluate.timeout_s or memory_mb, or get its file anew"
        )
    return {p.id: p.id in allowed for p in problems}


def _solved(problems: Sequence[Problem], sandbox: Sandbox, strict: bool) -> set[str]:
    programs = (generate.program(p, p.canonical, strict=strict) for p in problems)
    return {p.id for p, verdict in zip(problems, sandbox.run(programs)) if verdict.passed}


def grade(
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    sandbox: Sandbox,
    *,
    strict: Mapping[str, bool],
    prelude: str = "",
    journal: Journal | None = None,
) -> Iterator[Row]:
    """One row a sample, in order: problem, sample, prompt, completion, finish, verdict, detail,
    strict and cpu_s. Equal programs run once, and those in ``journal`` not again.
    """
    by_id = {problem.id: problem for problem in problems}
    programs = [
        generate.program(by_id[s.problem], s.completion, prelude, strict[s.problem])
        for s in samples
    ]
    names = [program.digest for program in programs]
    verdicts = {name: Verdict(*told) for name, *told in (journal.lines if journal else ())}
    fresh = {n: program for n, program in zip(names, programs) if n not in verdicts}
    coming = zip(fresh, sandbox.run(fresh.values()))
    for sample, program, name in zip(samples, programs, names):
        while name not in verdicts:
            done, verdict = next(coming)
            verdicts[done] = verdict
            if journal and verdict.outcome != "infrastructure":
                journal.append([done, verdict.outcome, verdict.detail, verdict.cpu_s])
        yield _row(by_id[sample.problem], sample, program, verdicts[name])


def _row(problem: Problem, sample: Sample, program: Program, verdict: Verdict) -> Row:
    return {
        "problem": sample.problem,
        "sample": sample.index,
        "prompt": problem.prompt,
        "completion": sample.completion,
        "finish": sample.finish,
        "verdict": verdict.outcome,
        "detail": re.sub(r"\b0x[0-9a-f]+", "0x…", verdict.detail),  # addresses differ by run
        "strict": program.strict,
        "cpu_s": verdict.cpu_s,
    }


def summary(rows: Sequence[Row], ks: Iterable[int], seed: int) -> dict[str, Any]:
    """Scores with intervals and the counts of verdicts.

    A problem with an infrastructure verdict is scored on its other samples; it is left out of the
    scores, and named, where fewer than k remain.
    """
    tried: dict[str, list[Row]] = {}
    for one in rows:
        tried.setdefault(one["problem"], [])
        if one["verdict"] != "infrastructure":
            tried[one["problem"]].append(one)
    counts = {p: (len(own), sum(r["verdict"] == "passed" for r in own)) for p, own in tried.items()}
    scores = []
    for k in sorted(set(ks)):
        scored = [count for count in counts.values() if count[0] >= k]
        if scored:
            scores.append({**passk.score(scored, k, seed), "problems": len(scored)})
    return {
        "scores": scores,
        "verdicts": dict(sorted(Counter(r["verdict"] for r in rows).items())),
        "solved": sorted(p for p, (_, right) in counts.items() if right),
        "in_process": sorted({r["problem"] for r in rows if not r["strict"]}),
        "no_room": sorted({r["problem"] for r in rows if r["finish"] == "no room"}),
        "problems": len(tried),
        "samples": len(rows),
    }
