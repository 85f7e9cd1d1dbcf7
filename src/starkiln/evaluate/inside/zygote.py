"""The fork server: pays the interpreter and the usual imports once, then forks a program at a time.

Speaks frames on the descriptors it is started with: requests on 0, verdicts on 1.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import carry, confine, roles

# What completions import most: a program's own import of these costs nothing.
_USUAL = (
    *("bisect", "calendar", "collections", "copy", "datetime", "decimal", "fractions"),
    *("functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "random"),
    *("re", "statistics", "string", "typing"),
)
_GRACE = 0.5  # seconds that a process which hung up has to end by itself
_CORES = os.cpu_count() or 1


def main() -> None:
    """Serve until the host hangs up."""
    requests, verdicts = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    sys.path[:] = [place for place in sys.path if place != "/starkiln"]
    os.environ.clear()
    for name in _USUAL:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    carry.send(verdicts, "ready")
    while True:
        try:
            request = carry.receive(requests)
        except carry.Closed:
            return
        try:
            verdict = _run(request)
        except OSError as error:  # no process to be had
            verdict = {"outcome": "infrastructure", "detail": str(error), "cpu_s": 0.0}
        carry.send(verdicts, verdict)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one program; the verdict as plain data."""
    token = os.urandom(8).hex()
    reports, report = os.pipe()
    ours, theirs = socket.socketpair()
    judge = None
    if request["strict"]:
        mine, yours = ours.fileno(), theirs.fileno()
        program = _spawn(confine.fork, {yours}, lambda: _play_candidate(request, yours))
        judge = _spawn(os.fork, {mine, report}, lambda: _play_judge(request, mine, report, token))
    else:
        program = _spawn(confine.fork, {report}, lambda: _play_both(request, report, token))
    ours.close()
    theirs.close()
    os.close(report)
    pids = [program, judge] if judge else [program]
    said = _listen(reports, token, pids, request["limits"])
    os.close(reports)
    judged = _end(judge, 0.0) if judge else (0, 0.0, False)
    status, cpu, killed = _end(program, _GRACE if said == ["gone", ""] else 0.0)
    outcome, detail = _settle(said, status, cpu, killed, judged, request["limits"]["cpu_s"])
    return {"outcome": outcome, "detail": detail, "cpu_s": cpu}


def _spawn(fork: Callable[[], int], keep: set[int], play: Callable[[], None]) -> int:
    pid = fork()
    if pid == 0:
        _be(keep, play)
    return pid


def _be(keep: set[int], play: Callable[[], None]) -> NoReturn:
    try:
        confine.close_others(keep)
        play()
    except BaseException:  # noqa: BLE001  the parent reads the silence
        pass
    finally:
        os._exit(0)


def _play_candidate(request: dict[str, Any], channel: int) -> None:
    try:
        confine.enter(request["limits"])
    except OSError as error:
        carry.send(channel, ["infrastructure", str(error)])
        return
    carry.send(channel, ["confined"])
    roles.candidate(request, channel)


def _play_judge(request: dict[str, Any], channel: int, report: int, token: str) -> None:
    confine.set_limits(request["limits"])
    roles.judge(request, channel, lambda *said: _report(report, token, *said))


def _play_both(request: dict[str, Any], report: int, token: str) -> None:
    try:
        confine.enter(request["limits"])
    except OSError as error:
        _report(report, token, "infrastructure", str(error))
        return
    roles.both(request, lambda *said: _report(report, token, *said))


def _report(report: int, *said: str) -> None:
    os.write(report, json.dumps(said).encode())


def _listen(reports: int, token: str, pids: list[int], limits: dict[str, Any]) -> list[str]:
    """Outcome and detail as reported, ``gone`` when nobody will, ``late`` past a limit."""
    deadline, said = time.monotonic() + limits["wall_s"], b""
    while True:
        left = min(deadline - time.monotonic(), limits["cpu_s"] - max(map(_cpu_clock, pids)))
        if left <= 0:
            return ["late", ""]
        if select.select([reports], [], [], max(left / _CORES, 0.01))[0]:
            part = os.read(reports, 1 << 16)
            said += part
            if not part or len(said) > 1 << 16:
                break
    try:
        match json.loads(said):
            case [str(key), str(outcome), str(detail)] if key == token:
                return [outcome, detail]
    except (ValueError, RecursionError):
        pass
    return ["gone", ""]


def _cpu_clock(pid: int) -> float:
    """CPU seconds so far: exact, where RLIMIT_CPU counts whole ticks and may be a third off."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _end(pid: int, grace: float) -> tuple[int, float, bool]:
    """Kill and reap: the exit status, the CPU seconds, and whether it had to be killed."""
    deadline = time.monotonic() + grace
    found, status, usage = os.wait4(pid, os.WNOHANG)
    while not found and time.monotonic() < deadline:
        time.sleep(0.001)
        found, status, usage = os.wait4(pid, os.WNOHANG)
    if not found:
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime, not found


def _settle(
    said: list[str],
    status: int,
    cpu: float,
    killed: bool,
    judged: tuple[int, float, bool],
    cpu_s: int,
) -> tuple[str, str]:
    """The verdict from what was reported and how the processes ended."""
    number = 0 if killed or not os.WIFSIGNALED(status) else os.WTERMSIG(status)
    if max(cpu, judged[1]) >= cpu_s:
        return "timeout", f"more than {cpu_s} s of CPU time"
    if said[0] == "late":
        return "timeout", "waited too long"
    if said[0] != "gone":
        return said[0], said[1]
    if number == signal.SIGSYS:
        return "violation", "a forbidden system call"
    if number == signal.SIGKILL:
        return "memory", "killed by the system, most likely for its memory"
    if number:
        return "error", f"crashed with {signal.Signals(number).name}"
    return "error", "ended itself before its tests were done"
