"""How far an evaluation is, told as its programs are judged."""

from collections.abc import Iterable, Iterator

from starkiln.core.log import Sink
from starkiln.evaluate.execute import Case, Executor
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.sandbox import Verdict


class Watched(Executor):
    """An executor that tells ``line`` of each verdict."""

    def __init__(self, journal: Journal, workers: int, isolate: bool, line: Sink | None) -> None:
        super().__init__(journal, workers, isolate)
        self._line, self._name, self._units = line, "", 0
        self._judged, self._passed = 0, 0

    def __enter__(self) -> "Watched":
        return self

    def tells(self, name: str, units: int) -> None:
        """What is judged from now on, and how many units of the line's work a verdict is."""
        self._name, self._units, self._judged, self._passed = name, units, 0, 0

    def run(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """One verdict a case, in order, as it comes."""
        for verdict in super().run(cases):
            self._judged += 1
            self._passed += verdict.passed
            if self._line is not None:
                told = f"{self._passed:,} of {self._judged:,} passed"
                told = told if self._units else f"{self._judged:,} run"  # some run in two ways
                self._line.advance(self._units, f"{self._name}: {told}")
            yield verdict
