"""A file of another language: compiled and run within walls of its own, where pid 1 is the judge.

The tests end by printing a proof, in two halves that are made anew for each program. Only a run
that printed it and ended well has passed: an early exit, or tests that were cut off, prove
nothing. The source is gone before the program's first line runs, and pid 1's memory is closed.
Program and tests do share a process, so what happens in there cannot be judged from outside: a
program that replaces the functions its tests compare with, or searches its own memory for the
proof, can still pass.
"""

import json
import os
import resource
import select
import time
from pathlib import Path
from typing import Any

from . import confine, processes
from .commands import Ended, execute, reaped
from .compiler import Compiler, Failed
from .ends import compile_error, settle

LEFT, RIGHT = "STARKILN_LEFT", "STARKILN_RIGHT"  # stand for the halves in the text of the tests
_POLL_MS = 20
_compilers: dict[str, Compiler] = {}


def run(request: dict[str, Any], requests: int) -> dict[str, Any]:
    """Judge one file; the verdict as plain data. Called in the fork server."""
    steps, limits = request["steps"], request["limits"]
    halves = os.urandom(8).hex(), os.urandom(8).hex()
    source = (request["source"] + _sealed(request["tests"], halves)).encode(errors="replace")
    if steps["compiler"]:
        said, files = _compiled(source, steps, limits)
    else:
        files = {steps["file"] or "source": source}
        files |= {n: _sealed(text, halves).encode() for n, text in steps["beside"].items()}
        said = None
    if not said:
        said = _judged(files, "".join(halves).encode(), steps, limits, requests)
    return dict(zip(("outcome", "detail", "cpu_s"), said))


def _sealed(text: str, halves: tuple[str, str]) -> str:
    return text.replace(LEFT, halves[0]).replace(RIGHT, halves[1])


def _compiled(
    source: bytes, steps: dict[str, Any], limits: dict[str, Any]
) -> tuple[list[Any] | None, dict[str, bytes]]:
    """What the compiler that stays makes, or a verdict; a fresh one has the last word."""
    key = json.dumps([steps["compiler"], limits])
    while True:
        old = key in _compilers
        if not old:
            _compilers[key] = Compiler(steps, limits)
        try:
            wrong, files = _compilers[key].compile(source)
        except Failed as error:
            _compilers.pop(key).end()
            if not old:
                return [*error.args, 0.0], {}
            continue
        return (["error", compile_error(wrong, steps), 0.0] if wrong else None), files


def _judged(
    files: dict[str, bytes],
    proof: bytes,
    steps: dict[str, Any],
    limits: dict[str, Any],
    requests: int,
) -> list[Any]:
    reports, report = os.pipe()
    play = lambda: _judge(files, proof, steps, limits, report)  # noqa: E731
    pid = processes.spawn(confine.fork, {report}, play)
    os.close(report)
    try:
        said = _watch(reports, requests, steps, limits)
    finally:
        os.close(reports)
        ended = processes.end(pid, 0.0)
    return said or ["infrastructure", f"the judge died of signal {ended.signal}", 0.0]


def _watch(reports: int, requests: int, steps: dict[str, Any], limits: dict[str, Any]) -> list[Any]:
    """Wait for the verdict while all processes of the program stay within their limits."""
    heard, judge, cpu_s = b"", "", steps["compile_s"] or limits["cpu_s"]
    deadline = time.monotonic() + 10 * cpu_s
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    poll.register(requests, 0)  # tells when the host is gone
    used = before = 0.0
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_POLL_MS)]
        if requests in ready:
            raise OSError("the host is gone")
        if ready:
            part = os.read(reports, 1 << 16)
            if not part:
                return []
            *lines, heard = (heard + part).split(b"\n")
            for line in map(json.loads, lines):
                if line[0] == "confined":
                    judge = line[1]
                elif line[0] == "running":
                    before, cpu_s = line[1], limits["cpu_s"]
                    deadline = time.monotonic() + limits["wall_s"]
                else:
                    return line
        used, resident = processes.usage(judge) if judge else (0.0, 0)
        if used - before > cpu_s:
            return ["timeout", f"more than {cpu_s} s of CPU time", used - before]
        if resident > limits["memory_mb"] << 20:
            return ["memory", f"more than {limits['memory_mb']} MB in use", used - before]
        if time.monotonic() > deadline:
            told = ("timeout", "waited too long")
            if processes.starved(judge, used):
                told = ("infrastructure", processes.STARVED)
            return [*told, used - before]


def _judge(
    files: dict[str, bytes],
    proof: bytes,
    steps: dict[str, Any],
    limits: dict[str, Any],
    report: int,
) -> None:
    """Pid 1 of the walls: write, compile and run the files, and report how it ended."""

    def tell(*said: Any) -> None:
        os.write(report, json.dumps(said).encode() + b"\n")

    whole = {**limits, "cpu_s": max(limits["cpu_s"], steps["compile_s"])}
    judge = str(Path("/proc/self").readlink())
    try:
        confine.enter(whole, memory=resource.RLIMIT_DATA, proc=steps["proc"])
        confine.hide()
        tell("confined", judge)
        ended, compiling = _steps(files, proof, steps, tell)
    except OSError as error:
        tell("infrastructure", str(error), 0.0)
        return
    tell(*settle(ended, steps, limits, compiling), ended.cpu_s)


def _steps(
    files: dict[str, bytes], proof: bytes, steps: dict[str, Any], tell: Any
) -> tuple[Ended, bool]:
    """Run each step until one fails; how the last one ended, and whether it was a compiler."""
    for name, content in files.items():
        Path(name).write_bytes(content)
    with Path("/dev/null" if steps["file"] else "source").open("rb") as file:
        if not steps["file"]:  # read from standard input, so that no source can include itself
            Path("source").unlink()
        for words in steps["compile"]:
            ended = execute(words, steps["env"], file.fileno(), proof)
            if ended.status != 0:
                return ended, True
    if steps["compile"]:
        for name in files:
            Path(name).unlink(missing_ok=True)
    used = reaped()
    tell("running", used.ru_utime + used.ru_stime)
    with Path("/dev/null").open("rb") as nothing:
        return execute(steps["run"], steps["env"], nothing.fileno(), proof), False
