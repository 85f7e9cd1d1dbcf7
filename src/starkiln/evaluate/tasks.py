"""The tasks of an evaluation: their problems, and where and how each is judged."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starkiln.core.errors import UserError
from starkiln.evaluate import counter, doctor, environment, exact, return_types, toolchains
from starkiln.evaluate.execute import Case, Executor, Place
from starkiln.evaluate.grade import Checked, Row, check
from starkiln.evaluate.jail import Toolchain
from starkiln.evaluate.sandbox import Limits, Program
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.sources.ask import Sample
from starkiln.problems import benchmarks
from starkiln.problems.problem import Problem

RETURN_TYPES, PERPLEXITY = "return-types", "perplexity"
_STARTS = ("multiple", "mbpp", "ds1000")  # of tasks that protocols know by one name
_EXACT = {"infill", "infill-py", "infill-java", "infill-js"}


@dataclass(frozen=True)
class Task:
    """A benchmark as it is run: its name on the command line, its problems, and the settings."""

    name: str
    problems: tuple[Problem, ...]
    settings: EvaluateSettings

    @property
    def family(self) -> str:
        """The name under which protocols know it."""
        if self.name in _EXACT:
            return "infill"
        return next((start for start in _STARTS if self.name.startswith(start)), self.name)

    @property
    def is_own(self) -> bool:
        """Whether its problems are the user's."""
        return self.name.endswith((".jsonl", ".jsonl.gz"))

    def case(self, problem: Problem, sample: Sample, strict: bool) -> Case:
        """What has to run to judge ``sample``, and where; a verdict where nothing has to."""
        if problem.judge == "exact":
            same = return_types.normalise if self.name == RETURN_TYPES else str.strip
            return Case(None, None, exact.verdict(problem, sample.completion, same))
        case = _JUDGES[problem.judge](problem, sample, strict, self.settings)
        assert case.place is not None
        case = case._replace(place=_limited(case.place, self.settings))
        # that the changed expectation is met, a solution shows, or a publisher's regular form
        known = problem.canonical or self.name in benchmarks.TASKS
        return case if known else case._replace(counters=())

    def extra(self, rows: list[Row], seed: int) -> dict[str, Any]:
        """What is told beside pass@k: how near infilled lines come, F1 of return types."""
        if self.family == "infill" and rows:
            return {"closeness": exact.closeness(self.problems, rows, seed)}
        if self.name == RETURN_TYPES and rows:
            return {"return_types": return_types.summary(self.problems, rows, seed)}
        return {}

    def check(self, executor: Executor, of: Collection[str] | None = None) -> Checked | str:
        """What the benchmark's own solutions tell, or why nothing of it can be judged here.

        ``of`` names the problems that have samples (None: all have); the others are left out.

        A language whose toolchain is not here, or fails its own check, is not run; a failing
        solution of a benchmark in Python is a ``UserError``.
        """
        for language in sorted({p.language for p in self.problems if p.judge == "file"}):
            if reason := _unfit(language, self.settings, executor):
                return reason
        asked = [p for p in self.problems if of is None or p.id in of]
        found = check(asked, self.case, executor, self.name if self.is_own else "")
        found.strict.update({problem.id: False for problem in asked if not problem.strict})
        return found


def load(settings: EvaluateSettings, seed: int) -> list[Task]:
    """The tasks that the settings name, each once; ``UserError`` where one is not known."""
    folder = Path(settings.data) if settings.data else None
    tasks = []
    for name in dict.fromkeys(settings.tasks):
        if name == PERPLEXITY:  # it has no problems
            continue
        if name == RETURN_TYPES:
            problems, _ = return_types.load(texts(settings), seed)
        else:
            problems = benchmarks.load(name, folder)
        tasks.append(Task(name, tuple(problems[: settings.limit or None]), settings))
    return tasks


def stamp(settings: EvaluateSettings) -> list[tuple[str, int, int]]:
    """Name, size and time of each file that perplexity is measured on."""
    if PERPLEXITY not in settings.tasks:
        return []
    place = texts(settings)
    files = [path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    found = [(str(path), path.stat()) for path in sorted(files)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def texts(settings: EvaluateSettings) -> Path:
    """The folder of code that a model is measured on."""
    if not settings.texts:
        mend = "set evaluate.texts to a folder of code that the model has not seen"
        raise UserError("evaluate.texts", "is empty", mend)
    return Path(settings.texts)


def _calls(problem: Problem, sample: Sample, strict: bool, settings: EvaluateSettings) -> Case:
    head = f"{settings.prelude}\n" if settings.prelude else ""
    program = Program(
        source=head + _whole(problem, sample),
        tests=problem.tests,
        entry_point=problem.entry_point,
        context=head + problem.context,
        strict=strict,
    )
    place = Place(Toolchain(), Limits())
    if strict:
        return Case(place, program)
    wrong = counter.of_calls(problem.tests, problem.entry_point, problem.prompt)
    return Case(place, program, counters=tuple(replace(program, tests=one) for one in wrong))


def _file(problem: Problem, sample: Sample, strict: bool, settings: EvaluateSettings) -> Case:
    runner, source = toolchains.runner(problem.language), _whole(problem, sample)
    wrong = counter.of_file(problem.tests, runner.claims, problem.prompt)
    return Case(
        Place(toolchains.toolchain(runner), runner.limits),
        toolchains.program(runner, source, problem.tests),
        counters=tuple(toolchains.program(runner, source, one) for one in wrong),
    )


def _script(problem: Problem, sample: Sample, strict: bool, settings: EvaluateSettings) -> Case:
    place = Place(_libraries(problem.group, settings), environment.LIMITS)
    # counter-tests also across processes: NumPy compares an empty array with anything
    tests = (problem.tests, *counter.of_script(problem.tests))
    program, *counters = (
        environment.program(replace(problem, tests=one), sample.completion, strict) for one in tests
    )
    return Case(place, program, counters=tuple(counters))


def _libraries(library: str, settings: EvaluateSettings) -> Toolchain:
    if library != environment.DRAWS:
        return environment.toolchain(library)
    folder = Path(settings.data) if settings.data else None
    if folder is not None and not folder.is_dir():
        folder = folder.parent
    return environment.toolchain(library, benchmarks.locate("seaborn", folder)[0].parent)


_JUDGES: dict[str, Callable[..., Case]] = {
    "calls": _calls,
    "file": _file,
    "script": _script,
}


def _whole(problem: Problem, sample: Sample) -> str:
    """The program that a sample makes."""
    if sample.whole:
        return sample.completion
    return f"{problem.prompt}{sample.completion}{problem.suffix or chr(10)}"


def _limited(place: Place, settings: EvaluateSettings) -> Place:
    """``place`` with the user's limits."""
    limits = place.limits
    if settings.timeout_s:
        limits = replace(limits, cpu_s=settings.timeout_s, wall_s=10.0 * settings.timeout_s)
    if settings.memory_mb:
        limits = replace(limits, memory_mb=settings.memory_mb)
    return place._replace(limits=limits)


def _unfit(language: str, settings: EvaluateSettings, executor: Executor) -> str:
    """Why a language cannot be judged here ("": it can)."""
    runner = toolchains.runner(language)
    if not executor.isolate:
        return "it needs the sandbox"
    try:
        place = _limited(Place(toolchains.toolchain(runner), runner.limits), settings)
    except UserError as error:
        return f"{error.what}; {error.mend}"
    reason, usual = doctor.check(runner, executor.sandbox(place)), runner.limits.memory_mb
    if reason and place.limits.memory_mb < usual:
        reason += f"; evaluate.memory_mb is {place.limits.memory_mb}, and its tools have {usual}"
    return reason
