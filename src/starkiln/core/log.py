"""Progress for people and events for machines.

One live line a step on a terminal, plain lines otherwise. ``events.jsonl`` in an artefact's folder
keeps the clock: it is the only file there that differs between two runs of one recipe.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVENTS = "events.jsonl"


class Sink(Protocol):
    """What a running step reports to."""

    def total(self, units: float) -> None:
        """Announce how many units of work there are."""

    def advance(self, units: float, note: str) -> None:
        """``units`` more are done; ``note`` is the line's tail."""

    def reach(self, done: float, note: str) -> None:
        """``done`` units are done in all."""


class Line:
    """The progress line of one step."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self.start = self.said = time.monotonic()
        self.done = 0.0
        self.units = 0.0
        self.note = ""
        self._bar: Progress | None = None

    def __enter__(self) -> "Line":
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description:<14}"),
                BarColumn(24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bar.add_task(self.name, total=None, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def total(self, units: float) -> None:
        """Announce how many units of work there are; a step of several passes counts anew."""
        self.units, self.done = units, 0.0
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=units, completed=0)

    def reach(self, done: float, note: str) -> None:
        """Show that ``done`` units are done in all."""
        self.advance(done - self.done, note)

    def advance(self, units: float, note: str) -> None:
        """Show that ``units`` more are done."""
        self.done += units
        self.note = note
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=units, note=note)
        elif time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            share = f"{self.done / self.units:4.0%}" if self.units else f"{self.done:g}"
            self.console.print(f"{self.name:<14} {share}  {note}", highlight=False, markup=False)


class Events:
    """Appends to ``events.jsonl``; each line holds the clock time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        with self.path.open("a") as handle:
            handle.write(line + "\n")


def last_event(folder: Path, event: str) -> dict[str, Any]:
    """The newest event of that name in ``folder``, or an empty dict."""
    path = folder / EVENTS
    if not path.is_file():
        return {}
    found = [line for line in path.read_text().splitlines() if f'"event": "{event}"' in line]
    try:
        return json.loads(found[-1]) if found else {}
    except ValueError:  # a line cut by a crash
        return {}


def usage() -> dict[str, float]:
    """CPU seconds of this process and its ended children, and its own peak memory in MB."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_seconds": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "peak_mb": _peak(own.ru_maxrss) / (1 << 20),
    }


def _peak(told: int) -> int:
    """Bytes. What Linux tells of itself starts with the parent's peak; its status does not."""
    status = Path("/proc/self/status")
    if not status.exists():
        return told if sys.platform == "darwin" else told << 10
    (line,) = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10
