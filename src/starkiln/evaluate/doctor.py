"""Which languages can be judged on this machine, and what the others need."""

from collections.abc import Iterable
from typing import NamedTuple

from starkiln.core.errors import UserError
from starkiln.evaluate import counter, toolchains
from starkiln.evaluate.sandbox import Sandbox
from starkiln.evaluate.toolchains import Runner


class Row(NamedTuple):
    """A language: ``state`` is ready, missing, or why its own check failed."""

    language: str
    state: str
    version: str
    install: str  # the command that brings it, "" where nothing is missing


def check(row: Runner, sandbox: Sandbox) -> str:
    """Why programs of a language would get no true verdict in ``sandbox``, "" where they do.

    A right program has to pass its tests, a wrong one to fail them, and a right one to fail the
    counter-tests.
    """
    right, wrong = (row.check["source"].replace("FACTOR", factor) for factor in "23")
    tests = row.check["tests"]
    against = counter.of_file(tests, row.claims, "")
    asked = [("right", right, tests, "passed"), ("wrong", wrong, tests, "wrong")]
    asked += [("right", right, own, "wrong") for own in against]
    programs = [toolchains.program(row, source, own) for _, source, own, _ in asked]
    for (what, _, own, wanted), verdict in zip(asked, sandbox.run(programs)):
        if verdict.outcome != wanted:
            by = "" if own is tests else " by counter-tests"
            said = f"a {what} program is judged {verdict.outcome}{by}: {verdict.detail}"
            return said.rstrip(": ")
    return ""


def diagnosis(codes: Iterable[str] = tuple(toolchains.RUNNERS)) -> list[Row]:
    """One row a language of ``codes`` (MultiPL-E's); each that is here judges its two programs."""
    return [_diagnosed(toolchains.RUNNERS[code]) for code in codes]


def _diagnosed(row: Runner) -> Row:
    version = toolchains.version(row)
    if not version:
        return Row(row.language, "missing", "", toolchains.install(row))
    try:
        with Sandbox(row.limits, toolchain=toolchains.toolchain(row)) as sandbox:
            state = check(row, sandbox)
    except UserError as error:
        return Row(row.language, error.what, version, error.mend)
    return Row(row.language, state or "ready", version, toolchains.install(row) if state else "")
