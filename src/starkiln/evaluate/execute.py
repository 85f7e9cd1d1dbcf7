"""Runs programs in the sandboxes that they need, each program once."""

import platform
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import astuple
from itertools import groupby
from typing import Any, NamedTuple

from starkiln.core import keyed
from starkiln.evaluate.jail import Toolchain
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.sandbox import Limits, Sandbox, Verdict


class Place(NamedTuple):
    """Where a program runs: what its jail shows, and what it may use."""

    toolchain: Toolchain
    limits: Limits


class Case(NamedTuple):
    """A program and its place; ``verdict`` where none has to run.

    ``counters`` are the program with tests that it must not pass if it is right (``counter``).
    """

    place: Place | None
    program: Any  # a sandbox.Program or FileProgram; None with a verdict
    verdict: Verdict | None = None
    counters: tuple[Any, ...] = ()


VERSION = 2  # of verdicts and scores: higher where the same samples get others
FOOLED = "passes tests that no right program passes"
_BATCH = 32  # programs a worker of those that may have to run again
_LONGEST = 4 << 20  # characters of a program and its tests
_LONG = Verdict("limit", f"the program has more than {_LONGEST:,} characters", 0.0)


def _fits(program: Any) -> bool:
    return program is None or len(program.source) + len(program.tests) <= _LONGEST


class Executor:
    """A context manager over one sandbox a place, opened at the first use.

    Verdicts are kept in ``journal`` under the digest of program and place; those of the
    infrastructure are not, so that the next run tries again.
    """

    def __init__(self, journal: Journal, workers: int = 1, isolate: bool = True) -> None:
        self.isolate = isolate
        self._journal, self._workers = journal, workers
        self._open: dict[Place, Sandbox] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *how: Any) -> None:
        self._stack.__exit__(*how)

    @property
    def opened(self) -> int:
        """How many sandboxes were needed so far."""
        return len(self._open)

    def sandbox(self, place: Place) -> Sandbox:
        """The sandbox for ``place``; ``UserError`` where it cannot be had."""
        if place not in self._open:
            made = Sandbox(place.limits, self._workers, place.toolchain, self.isolate)
            self._open[place] = self._stack.enter_context(made)
        return self._open[place]

    def run(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """One verdict a case, in order; equal programs of the cases run once."""
        cases = (case if _fits(case.program) else Case(None, None, _LONG) for case in cases)
        for place, group in groupby(cases, lambda case: case.place):
            if place is None:
                yield from (case.verdict for case in group)  # pyrefly: ignore
            else:
                yield from self._run(place, list(group))

    def _run(self, place: Place, cases: list[Case]) -> Iterator[Verdict]:
        names = [self._digest(case) for case in cases]
        found = {n: Verdict(*told) for n in names if (told := self._journal.known.get(n))}
        fresh = {n: case for n, case in zip(names, cases) if n not in found}
        coming = zip(fresh, self._judge(place, [*fresh.values()]))
        for name in names:
            while name not in found:
                done, verdict = next(coming)
                found[done] = verdict
                if verdict.outcome != "infrastructure":
                    self._journal.add(done, astuple(verdict))
            yield found[name]

    def _judge(self, place: Place, cases: list[Case]) -> Iterator[Verdict]:
        for countered, group in groupby(cases, lambda case: bool(case.counters)):
            if not countered:
                yield from self.sandbox(place).run(case.program for case in group)
                continue
            left, size = list(group), _BATCH * self._workers
            for start in range(0, len(left), size):
                yield from _again(self.sandbox(place), left[start : start + size])

    def _digest(self, case: Case) -> str:
        told = (platform.python_version(), *map(repr, case.place or ()), case.program.digest)
        counters = [counter.digest for counter in case.counters]
        return keyed.digest("verdict", VERSION, *told, *counters, self.isolate).hex()


def _again(sandbox: Sandbox, cases: list[Case]) -> list[Verdict]:
    """The verdicts; a program that passed its tests and counter-tests too has fooled them."""
    found = list(sandbox.run(case.program for case in cases))
    passed = [place for place, verdict in enumerate(found) if verdict.passed]
    runs = [(place, counter) for place in passed for counter in cases[place].counters]
    for (place, _), again in zip(runs, sandbox.run(counter for _, counter in runs)):
        if again.passed:
            found[place] = Verdict("violation", FOOLED, found[place].cpu_s)
        elif again.outcome == "infrastructure" and found[place].passed:  # is it right?
            found[place] = again
    return found
