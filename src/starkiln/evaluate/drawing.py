"""What an evaluation asks of a model, and the answers, each kept as soon as it is there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from starkiln.core import keyed
from starkiln.core.log import Events, Sink
from starkiln.evaluate import tasks
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.protocol import Draw
from starkiln.evaluate.sources.ask import NO_ANSWER, Ask, Sample, Source
from starkiln.evaluate.tasks import Task
from starkiln.problems.problem import Problem

DRAWN = "drawn"  # the event that tells what a source has used in a session
Asks = dict[str, Ask]  # by name in the journal


def asks(identity: str, task: Task, draw: Draw, seed: int, drawn: Journal) -> Asks:
    """What is asked of the model of ``identity``, without the samples that ``drawn`` has."""
    found = {}
    for place, problem in enumerate(task.problems):
        ask = _ask(task, problem, place, draw, seed)
        name = keyed.digest("draw", identity, asdict(ask)).hex()
        have = frozenset(one["index"] for one in drawn.known.get(name, []))
        found[name] = replace(ask, have=have)
    return found


def units(asked: Asks) -> int:
    """How much there is to do: samples that are not drawn yet, and all verdicts."""
    return sum(len(ask.wanted) + ask.n for ask in asked.values())


@contextmanager
def counted(source: Source, out: Path) -> Iterator[Callable[[], None]]:
    """A function that writes down what the source has used so far, called at the end too."""
    session = f"{time.time_ns()}-{os.getpid()}"

    def count() -> None:
        Events(out).write(DRAWN, session=session, usage=source.usage)

    try:
        yield count
    finally:
        count()


def samples(
    source: Source,
    task: Task,
    asked: Asks,
    drawn: Journal,
    line: Sink | None,
    count: Callable[[], None],
) -> list[Sample]:
    """All samples of a pass in order of problems; those in ``drawn`` are not asked for again.

    Those without an answer are not kept there: they are asked for by the next run.
    """
    names = {ask.problem: name for name, ask in asked.items()}
    have: dict[str, list[dict[str, Any]]] = {
        name: list(drawn.known.get(name, [])) for name in asked
    }
    silent: list[Sample] = []
    for told in source.draw(asked.values()):
        name = names[told[0].problem]
        silent += [sample for sample in told if sample.finish == NO_ANSWER]
        if kept := [asdict(sample) for sample in told if sample.finish != NO_ANSWER]:
            have[name] += kept
            drawn.add(name, have[name])
        count()
        if line is not None:
            line.advance(len(told), f"{task.name}: sampled {told[0].problem}")
    found = [Sample(**one) for name in asked for one in have[name]]
    place = {ask.problem: at for at, ask in enumerate(asked.values())}
    return sorted([*found, *silent], key=lambda one: (place[one.problem], one.index))


def _ask(task: Task, problem: Problem, place: int, draw: Draw, seed: int) -> Ask:
    return Ask(
        problem=problem.id,
        prompt=draw.prefix + problem.prompt,
        suffix=problem.suffix,
        stop=problem.stop,
        n=draw.n,
        temperature=draw.temperature,
        top_p=draw.top_p,
        max_new_tokens=draw.max_new_tokens,
        max_total_tokens=draw.max_total_tokens,
        seed=seed,
        path=draw.path,
        tail=problem.tail,
        place=place,
        trim=task.name == tasks.RETURN_TYPES,  # whole files: as much of them as there is room for
    )
