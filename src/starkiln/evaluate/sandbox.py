"""Runs programs that nobody has read: no network, no user's files, no forged verdicts.

Each worker is a fork server in a jail (``jail``); each program gets a child of its own in fresh
user, PID, mount and IPC namespaces with a private tmpfs, resource limits, no capabilities and a
seccomp filter (``inside/confine``), and dies with everything it started. In strict mode, the
default, its tests run in another process and see plain values only.
"""

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.evaluate import jail

_START_S = 300.0  # two jails that import TensorFlow take 40 s on a busy machine
_PATIENCE_S = 15.0  # past a program's own wall limit
_MEND = (
    "run as a user who may create user namespaces (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0); "
    "a container needs a seccomp profile that allows them"
)


@dataclass(frozen=True)
class Limits:
    """What one program may use; each of its processes has ``memory_mb`` of address space."""

    cpu_s: int = 3
    wall_s: float = 30.0
    memory_mb: int = 1024
    disk_mb: int = 64
    processes: int = 16  # and threads


@dataclass(frozen=True)
class Program:
    """Source to judge: ``tests`` call ``entry_point`` and raise unless it is right.

    ``context`` is trusted code that the tests need (a prompt with its helper functions). With
    ``strict`` off, source and tests share one process, where a program can forge its verdict.
    """

    source: str
    tests: str
    entry_point: str
    context: str = ""
    strict: bool = True

    @property
    def digest(self) -> str:
        """Equal for equal programs."""
        return keyed.digest(*map(repr, astuple(self))).hex()


@dataclass(frozen=True)
class Steps:
    """How a file of another language is run: commands of words, each run in the file's folder.

    The file is named ``file``, or read from standard input where that is "". ``run`` is the last
    command; one that starts with "./" is made by ``compile``, which has ``compile_s`` seconds of
    CPU time and finds the files ``beside``, trusted like the tests. ``fails`` and ``wrong`` are
    patterns of output: of a failure whatever the exit status, and of tests that found a wrong
    answer; ``says`` is one of lines worth showing. With ``quiet`` any error output is a failure,
    with ``proc`` the program sees itself in /proc. ``version`` is the toolchain's.
    """

    file: str
    run: tuple[str, ...]
    compile: tuple[tuple[str, ...], ...] = ()
    compiler: tuple[str, ...] = ()
    compile_s: int = 0
    beside: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    fails: str = ""
    wrong: str = ""
    says: str = r"\b[Ee]rror\b"
    quiet: bool = False
    proc: bool = False
    version: str = ""


@dataclass(frozen=True)
class FileProgram:
    """A file of another language to judge: nobody's ``source``, and trusted ``tests`` after it.

    The tests end by printing ``files.LEFT`` and ``files.RIGHT`` in one piece, and are the only
    part in which these stand for the proof that the end was reached.
    """

    source: str
    tests: str
    steps: Steps

    @property
    def digest(self) -> str:
        """Equal for equal programs, tests and toolchains."""
        return keyed.digest(*map(repr, astuple(self))).hex()


@dataclass(frozen=True)
class Verdict:
    """How a program ended; ``infrastructure`` says nothing about the program."""

    outcome: str  # passed, wrong, error, timeout, memory, limit, violation or infrastructure
    detail: str
    cpu_s: float

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.outcome == "passed"


class _Dead(Exception):
    """A fork server ended, or did not answer in time."""


class _Worker:
    """One jailed fork server and the program it has."""

    def __init__(self, command: list[str]) -> None:
        self.job: int | None = None
        self.deadline = time.monotonic() + _START_S
        self._read = b""
        self._said = ""  # by the judge, of the program in hand
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self.verdicts = self._process.stdin, self._process.stdout

    def send(self, job: int, frames: bytes, wall_s: float) -> None:
        """Hand over a program."""
        self.job, self.deadline = job, time.monotonic() + wall_s + _PATIENCE_S
        self._said = ""
        with contextlib.suppress(BrokenPipeError):  # the end of its output tells
            self._requests.write(frames)
            self._requests.flush()

    def receive(self) -> dict[str, Any] | None:
        """The verdict if it is complete, else None; ``_Dead`` at the end of the stream."""
        part = os.read(self.verdicts.fileno(), 1 << 16)
        if not part:
            raise _Dead
        self._read += part
        while len(self._read) >= 4:
            end = 4 + struct.unpack(">I", self._read[:4])[0]
            if len(self._read) < end:
                break
            message, self._read = json.loads(self._read[4:end]), self._read[end:]
            if isinstance(message, dict):
                return {**message, "detail": message["detail"] or self._said}
            self._said = message
        return None

    def close(self) -> str:
        """Kill the jail; what it said on its error output."""
        with contextlib.suppress(ProcessLookupError):  # both bubblewraps: one is another user's
            os.killpg(self._process.pid, signal.SIGKILL)
        _, said = self._process.communicate()
        return said.decode(errors="replace").strip()


@dataclass
class _Book:
    """The programs in hand: at most as many as there are workers, and those done out of turn."""

    programs: Iterator[Program | FileProgram]
    taken: int = 0
    given: int = 0
    running: dict[int, Program | FileProgram] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    done: dict[int, Verdict] = field(default_factory=dict)

    def next(self) -> int | None:
        """The next program to run, None when there is none."""
        if self.again:
            return self.again.pop()
        program = next(self.programs, None)
        if program is None:
            return None
        self.running[self.taken] = program
        self.taken += 1
        return self.taken - 1

    def ready(self) -> Iterator[Verdict]:
        """Verdicts whose turn has come."""
        while self.given in self.done:
            yield self.done.pop(self.given)
            self.given += 1


class Sandbox:
    """A context manager that holds ``workers`` jails; ``UserError`` where they cannot be had.

    With ``isolate`` off programs run with the limits alone, and can reach all that this user can.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        workers: int = 1,
        toolchain: jail.Toolchain | None = None,
        isolate: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self._isolate = isolate
        self._toolchain = toolchain or jail.Toolchain()
        self._count = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Sandbox":
        if not sys.platform.startswith("linux"):
            raise UserError("sandbox", f"no isolation on {sys.platform}", "evaluate on Linux")
        self._command = jail.command(self._toolchain, self._isolate)
        try:
            self._workers = [_Worker(self._command) for _ in range(self._count)]
            for worker in self._workers:
                _await_start(worker)
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []

    def run(self, programs: Iterable[Program | FileProgram]) -> Iterator[Verdict]:
        """One verdict for each program, in order.

        A program whose jail breaks is tried once more in a new one, then ``infrastructure``.
        """
        book = _Book(iter(programs))
        try:
            self._feed(book)
            while book.running:
                self._wait(book)
                self._feed(book)
                yield from book.ready()
        finally:
            for place, worker in enumerate(self._workers):
                if worker.job is not None:  # the caller went away
                    self._replace(place)

    def _feed(self, book: _Book) -> None:
        for worker in self._workers:
            if worker.job is None and (job := book.next()) is not None:
                program = book.running[job]
                wall_s = self.limits.wall_s + _compile_wall_s(program)
                worker.send(job, _frames(program, self.limits), wall_s)

    def _wait(self, book: _Book) -> None:
        busy = {w.verdicts: i for i, w in enumerate(self._workers) if w.job is not None}
        with selectors.DefaultSelector() as selector:
            for stream in busy:
                selector.register(stream, selectors.EVENT_READ)
            soon = min(self._workers[i].deadline for i in busy.values()) - time.monotonic()
            events = [key.fileobj for key, _ in selector.select(max(0.0, soon))]
        late = [s for s, i in busy.items() if self._workers[i].deadline < time.monotonic()]
        for stream in [*events, *(s for s in late if s not in events)]:
            self._take(busy[stream], book, stream in events)  # pyrefly: ignore

    def _take(self, place: int, book: _Book, readable: bool) -> None:
        worker = self._workers[place]
        job = worker.job
        assert job is not None
        try:
            if not readable:
                raise _Dead
            message = worker.receive()
        except _Dead:
            message = self._broken(place, book, job)
        if message is None:
            return
        worker.job = None
        if job not in book.again:
            book.done[job] = Verdict(**message)
            del book.running[job]

    def _broken(self, place: int, book: _Book, job: int) -> dict[str, Any] | None:
        said = self._replace(place)
        book.tries[job] = book.tries.get(job, 0) + 1
        if book.tries[job] < 2:
            book.again.append(job)
            return None
        return {"outcome": "infrastructure", "detail": said or "the jail broke", "cpu_s": 0.0}

    def _replace(self, place: int) -> str:
        said = self._workers[place].close()
        self._workers[place] = _Worker(self._command)
        _await_start(self._workers[place])
        return said

    def _check(self) -> None:
        """A right program passes and a wrong one fails, or the sandbox is not used."""
        tests = "assert f(2) == 4"
        right = Program("def f(x):\n    return x * 2", tests, "f")
        wrong = Program("def f(x):\n    return x", tests, "f")
        found = list(self.run([right, wrong]))
        if [verdict.outcome for verdict in found] != ["passed", "wrong"]:
            raise UserError("sandbox", f"no isolation here: {found[0].detail}", _MEND)


def _frames(program: Program | FileProgram, limits: Limits) -> bytes:
    """A file; or what is asked of a Python program, its source, and its tests, which no process of
    the program's ever reads.
    """
    whole: dict[str, Any] = {**asdict(program), "limits": asdict(limits)}
    parts: list[Any] = [whole]
    if isinstance(program, FileProgram):
        pairs = {"env": dict(program.steps.env), "beside": dict(program.steps.beside)}
        whole["steps"].update(pairs)
    else:
        tests = {name: whole.pop(name) for name in ("tests", "context")}
        parts += [whole.pop("source"), {**tests, "entry_point": program.entry_point}]
    data = [json.dumps(part).encode() for part in parts]
    return b"".join(struct.pack(">I", len(one)) + one for one in data)


def _compile_wall_s(program: Program | FileProgram) -> float:
    return 10.0 * program.steps.compile_s if isinstance(program, FileProgram) else 0.0


def _await_start(worker: _Worker) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(worker.verdicts, selectors.EVENT_READ)
        answered = selector.select(_START_S)
        try:
            if answered and worker.receive():
                return
        except _Dead:
            pass
    raise UserError("sandbox", f"no isolation here: {worker.close() or 'no answer'}", _MEND)
