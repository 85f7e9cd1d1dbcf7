"""Completions for problems: prompt, stop strings and draws as the benchmark's protocol says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starkiln.core import keyed
from starkiln.evaluate.sandbox import Program
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.problems.problem import Problem


@dataclass(frozen=True)
class Sample:
    """One completion; ``finish`` is the engine's, or ``no room`` for a prompt that is too long."""

    problem: str
    index: int
    completion: str
    finish: str


def complete(
    engine: Any, tokenizer: Any, problem: Problem, settings: EvaluateSettings, seed: int
) -> list[Sample]:
    """``settings.n`` samples for ``problem``; each depends on (seed, problem, index) only.

    ``engine`` is a ``model.engine.Engine`` and ``tokenizer`` its ``Tokenizer``. A prompt that
    fills the model's context gives empty completions, which are scored like any other.
    """
    ids = tokenizer.encode(problem.prompt)
    if len(ids) >= engine.model.config.n_positions:
        return [Sample(problem.id, index, "", "no room") for index in range(settings.n)]
    found = engine.generate(
        ids,
        n=settings.n,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop=problem.stop,
        seed=int.from_bytes(keyed.digest("evaluate", seed, problem.id)[:7], "little"),
    )
    return [
        Sample(problem.id, index, cut(one.text, problem.stop), one.finish)
        for index, one in enumerate(found)
    ]


def cut(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first of the stop strings."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


def program(problem: Problem, completion: str, prelude: str = "", strict: bool = True) -> Program:
    """The program that judges ``completion``; ``prelude`` comes before it."""
    head = f"{prelude}\n" if prelude else ""
    return Program(
        source=head + problem.prompt + completion + "\n",
        tests=problem.tests,
        entry_point=problem.entry_point,
        context=head + problem.context,
        strict=strict,
    )
