"""Scores a model: draws completions, judges them, and writes samples, report and page."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.core import atomic, keyed
from starkiln.core.errors import UserError
from starkiln.core.log import EVENTS, Events, Sink
from starkiln.evaluate import account, drawing, perplexity, tasks
from starkiln.evaluate.execute import VERSION, Case
from starkiln.evaluate.grade import Checked, Make, Row, grade, summary
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.progress import Watched
from starkiln.evaluate.protocol import Draw, draws, stored
from starkiln.evaluate.sandbox import Verdict
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.sources.ask import NO_ANSWER, REFUSED, Sample, Source
from starkiln.evaluate.sources.engine import Checkpoint
from starkiln.evaluate.sources.formats import HARNESSES
from starkiln.evaluate.sources.stored import Stored
from starkiln.evaluate.tasks import Task
from starkiln.problems import ds1000, own
from starkiln.problems.problem import Problem

SCHEMA = {
    "task": pl.String,
    "temperature": pl.Float64,
    "group": pl.String,
    "problem": pl.String,
    "sample": pl.Int64,
    "prompt": pl.String,
    "suffix": pl.String,
    "completion": pl.String,
    "finish": pl.String,
    "verdict": pl.String,
    "detail": pl.String,
    "strict": pl.Boolean,
}
SAMPLES, REPORT = "samples.parquet", "report.json"
_ASIDE = {"data", "texts", "out", "against", "source"}  # settings that are told otherwise
JOURNALS = _DRAWN, _VERDICTS = "drawn.jsonl", "verdicts.jsonl"


@dataclass(frozen=True)
class Pass:
    """One pass over a task and what came of it; ``checked`` is a reason where it cannot be run."""

    task: Task
    draw: Draw
    rows: list[Row]
    checked: Checked | str


def evaluate(
    source: Source,
    settings: EvaluateSettings,
    out: Path,
    *,
    seed: int = 0,
    workers: int = 1,
    line: Sink | None = None,
    isolate: bool = True,
) -> dict[str, Any]:
    """Write ``samples.parquet``, ``report.json`` and the page in ``out``; the report.

    A killed run goes on where it was, to the same bytes; a finished one is read. What was drawn
    and judged is kept there under the digest of what was asked, so other settings do nothing
    twice. ``UserError`` where programs cannot be isolated, before any is drawn; with ``isolate``
    off they run all the same.
    """
    settings = _as_stored(source, settings)
    plan = _plan(source, settings, seed)
    chosen = {task.name: task for task, _ in plan}
    identity = source.identity
    asked = [(task.name, task.problems) for task in chosen.values()]
    how = settings.model_dump(exclude=_ASIDE)
    key = keyed.digest(VERSION, identity, how, asked, tasks.stamp(settings), seed, isolate).hex()
    _make(out)
    if (done := _finished(out, key)) is not None:
        _write_page(out, done, settings)
        return done
    with (
        drawing.counted(source, out) as count,
        Journal(out / _DRAWN) as drawn,
        Journal(out / _VERDICTS) as verdicts,
        Watched(verdicts, workers, isolate, line) as executor,
    ):
        runs = [(*one, drawing.asks(identity, *one, seed, drawn)) for one in plan]
        sampled = {task.name: _sampled(source, asks) for task, _, asks in runs}
        checked = {n: _checked(task, sampled[n], executor) for n, task in chosen.items()}
        curves = _perplexity(source, settings, seed, key, drawn, line)
        ready = [asks for task, _, asks in runs if isinstance(checked[task.name], Checked)]
        if line is not None:
            line.total(sum(map(drawing.units, ready)))
        passes = []
        for task, draw, asks in runs:
            found, rows = checked[task.name], []
            if isinstance(found, Checked):
                samples = drawing.samples(source, task, asks, drawn, line, count)
                executor.tells(task.name, 1)
                if line is not None and isinstance(source, Stored):
                    line.total(len(samples))  # known by now
                coming = grade(task.problems, samples, _case(task), executor, found)
                rows = _hinted(task, coming)
            passes.append(Pass(task, draw, rows, found))
    return _write(out, key, source, settings, passes, seed, isolate, curves)


def _as_stored(source: Source, settings: EvaluateSettings) -> EvaluateSettings:
    """The settings; what they leave open is as the harness has it that stored the completions."""
    own = HARNESSES.get(source.harness, {}) if isinstance(source, Stored) else {}
    left = {name: value for name, value in own.items() if getattr(settings, name) is None}
    return settings.model_copy(update=left)


def _plan(source: Source, settings: EvaluateSettings, seed: int) -> list[tuple[Task, Draw]]:
    """The passes over each task, in order."""
    found = []
    for task in tasks.load(settings, seed):
        how = stored if isinstance(source, Stored) else draws
        for draw in how(task.family, settings):
            edition = ds1000.returning if draw.returns else lambda problem: problem
            found.append((replace(task, problems=tuple(map(edition, task.problems))), draw))
    return found


def _sampled(source: Source, asks: drawing.Asks) -> set[str]:
    """The problems of a task that will have samples: stored ones may be of some only."""
    if isinstance(source, Stored):
        return source.covers(asks.values())
    return {ask.problem for ask in asks.values()}


def _checked(task: Task, sampled: set[str], executor: Watched) -> Checked | str:
    executor.tells(f"{task.name}, its own solutions", 0)
    return task.check(executor, sampled)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(out, f"cannot be made ({error.strerror})", "set out to another") from error


def usage(out: Path) -> dict[str, int | float]:
    """What all runs in ``out`` used together: requests, tokens, cost…, as the source counts."""
    events = [event for event in account.rows(out / EVENTS) if event["event"] == drawing.DRAWN]
    last = {event["session"]: event["usage"] for event in events}  # even of a run that was killed
    if last and "stored" in (told := list(last.values()))[-1]:  # files are read whole each time
        return told[-1]
    used: Counter[str] = Counter()
    for one in last.values():
        used.update(one)
    return dict(used)


def _case(task: Task) -> Make:
    """What has to run for a sample; nothing for one that never came."""
    silence = Case(None, None, Verdict("infrastructure", "no answer had a text", 0.0))

    def made(problem: Problem, sample: Sample, strict: bool) -> Case:
        return silence if sample.finish == NO_ANSWER else task.case(problem, sample, strict)

    return made


def _hinted(task: Task, rows: Iterable[Row]) -> list[Row]:
    """Rows with what the user may mend in problems of the user's own."""
    known = {problem.id: problem for problem in task.problems if task.is_own}
    return [
        row | {"detail": row["detail"] + own.hint(known[row["problem"]], row["detail"])}
        if row["problem"] in known and row["verdict"] != "passed"
        else row
        for row in rows
    ]


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    try:
        report = json.loads((out / REPORT).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict) or report.get("key") != key or report.get("unrun"):
        return None
    return report if (out / SAMPLES).is_file() else None


def _perplexity(
    source: Source,
    settings: EvaluateSettings,
    seed: int,
    key: str,
    drawn: Journal,
    line: Sink | None,
) -> list[dict[str, Any]]:
    """The pass over texts, where it is asked for: it has no samples."""
    if tasks.PERPLEXITY not in settings.tasks:
        return []
    found = {"task": tasks.PERPLEXITY, "scores": [], "verdicts": {}}
    if not isinstance(source, Checkpoint):
        return [{**found, "not_run": "only our own engine tells the probabilities of a text"}]
    if key not in drawn.known:
        engine, tokenizer = source.load()
        place = tasks.texts(settings)
        drawn.add(key, perplexity.measure(engine.model, tokenizer, place, seed=seed, line=line))
    return [{**found, "extra": {"perplexity": drawn.known[key]}}]


def _write(
    out: Path,
    key: str,
    source: Source,
    settings: EvaluateSettings,
    passes: list[Pass],
    seed: int,
    isolate: bool,
    curves: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that differs from run to run goes to the events, the rest to the files."""
    rows = [row for one in passes for row in one.rows]
    Events(out).write("graded", cpu_s=[round(r["cpu_s"], 4) for r in rows])
    told = [_told(one, seed) for one in passes]
    report: dict[str, Any] = {
        "key": key,
        "model": source.name,
        "settings": settings.model_dump(exclude=_ASIDE),
        "seed": seed,
        "isolated": isolate,
        "unrun": len(unrun := _unrun(passes)),
        "scores": [{"task": p["task"], **p["draw"], **s} for p in told for s in p["scores"]],
        "verdicts": dict(sorted(Counter(row["verdict"] for row in rows).items())),
        "samples": len(rows),
        "passes": [*told, *curves],
    }
    frame = pl.DataFrame(
        [
            {"task": one.task.name, "temperature": one.draw.temperature, **row}
            for one in passes
            for row in one.rows
        ],
        schema=SCHEMA,
        strict=False,
    )
    atomic.write(out / SAMPLES, lambda path: frame.write_parquet(path, compression="zstd"))
    atomic.write_json(out / REPORT, report)
    _write_page(out, report, settings)
    if unrun:
        what = f"{len(unrun)} programs could not be run ({unrun[0]}); the report leaves them out"
        raise UserError("evaluate", what, "run it again: only these are tried anew")
    return report


def _write_page(out: Path, report: dict[str, Any], settings: EvaluateSettings) -> None:
    from starkiln.evaluate import page

    against = Path(settings.against) if settings.against else None
    page.write(out, report, pl.read_parquet(out / SAMPLES), against)


def _told(one: Pass, seed: int) -> dict[str, Any]:
    found = {"task": one.task.name, "draw": {**asdict(one.draw), "k": list(one.draw.k)}}
    if not isinstance(one.checked, Checked):
        return {**found, "not_run": one.checked, "scores": []}
    found |= {"asked": len(one.task.problems)}
    extra = one.task.extra(one.rows, seed)
    told = summary(one.rows, one.draw.k, seed)
    told |= {"refused": sorted({r["problem"] for r in one.rows if r["finish"] == REFUSED})}
    told |= {"broken": one.checked.broken, "uncountered": sorted(one.checked.uncountered)}
    return {**found, **told, "extra": extra}


def _unrun(passes: Sequence[Pass]) -> list[str]:
    """Why programs could not be run, though their problems can be judged here."""
    return [
        row["detail"]
        for one in passes
        for row in one.rows
        if isinstance(one.checked, Checked)
        and row["verdict"] == "infrastructure"
        and row["problem"] not in one.checked.broken
    ]
