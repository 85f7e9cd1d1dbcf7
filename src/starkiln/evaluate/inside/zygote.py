"""The fork server: pays the interpreter and the usual imports once, then forks a program at a time.

Speaks frames on the descriptors it is started with: requests on 0, verdicts on 1.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

# What completions import most; a program's own import of these costs nothing.
import bisect, calendar, collections, copy, datetime, fractions, functools, hashlib, heapq  # noqa: E401, F401, I001
import itertools, json, math, operator, random, re, statistics, string, typing  # noqa: E401, F401

from . import carry, confine, roles

_GRACE = 0.5  # seconds that a process which hung up has to end by itself


def main() -> None:
    """Serve until the host hangs up."""
    requests, verdicts = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    sys.path[:] = [place for place in sys.path if place != "/starkiln"]
    os.environ.clear()
    gc.collect()
    gc.freeze()
    carry.send(verdicts, "ready")
    while True:
        try:
            request = carry.receive(requests)
        except carry.Closed:
            return
        carry.send(verdicts, _run(request))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one program; the verdict as plain data."""
    token = os.urandom(8).hex()
    reports, report = os.pipe()
    ours, theirs = socket.socketpair()
    strict = request["strict"]
    try:
        if strict:
            program = _spawn(
                confine.fork, (theirs.fileno(),), lambda: _play_candidate(request, theirs.fileno())
            )
            judge = _spawn(
                os.fork, (ours.fileno(), report), lambda: _play_judge(request, ours.fileno(), report, token)
            )
        else:
            program = _spawn(confine.fork, (report,), lambda: _play_both(request, report, token))
            judge = None
    finally:
        ours.close()
        theirs.close()
        os.close(report)
    said = _listen(reports, token, time.monotonic() + request["limits"]["wall_s"])
    os.close(reports)
    judged = _end(judge, 0.0) if judge else (0, 0.0, False)
    status, cpu, killed = _end(program, _GRACE if said == ["gone", ""] else 0.0)
    outcome, detail = _settle(said, status, cpu, killed, judged, request["limits"]["cpu_s"])
    return {"outcome": outcome, "detail": detail, "cpu_s": cpu}


def _spawn(fork: Callable[[], int], keep: tuple[int, ...], play: Callable[[], None]) -> int:
    pid = fork()
    if pid:
        return pid
    try:
        confine.close_others(*keep)
        play()
    except BaseException:  # noqa: BLE001, S110  the parent reads the silence
        pass
    finally:
        os._exit(0)


def _play_candidate(request: dict[str, Any], channel: int) -> None:
    try:
        confine.enter(request["limits"])
    except OSError as error:
        carry.send(channel, ["failed", "infrastructure", str(error)])
        return
    roles.candidate(request, channel)


def _play_judge(request: dict[str, Any], channel: int, report: int, token: str) -> None:
    limits = request["limits"]
    confine.set_limits({**limits, "processes": 4096})
    roles.judge(request, channel, lambda *said: carry.send(report, [token, *said]))


def _play_both(request: dict[str, Any], report: int, token: str) -> None:
    try:
        confine.enter(request["limits"])
    except OSError as error:
        carry.send(report, [token, "infrastructure", str(error)])
        return
    roles.both(request, lambda *said: carry.send(report, [token, *said]))


def _listen(reports: int, token: str, deadline: float) -> list[str]:
    """Outcome and detail as reported, ``gone`` when nobody will, ``late`` past the deadline."""
    if not select.select([reports], [], [], max(0.0, deadline - time.monotonic()))[0]:
        return ["late", ""]
    try:
        match carry.receive(reports):
            case [str(said), str(outcome), str(detail)] if said == token:
                return [outcome, detail]
    except carry.Closed:
        pass
    return ["gone", ""]


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
    if cpu >= cpu_s or judged[1] >= cpu_s:
        return "timeout", f"more than {cpu_s} s of CPU time"
    if said[0] == "late":
        return "timeout", "waited too long"
    if said[0] != "gone":
        return said[0], said[1]
    number = 0 if killed else os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGSYS:
        return "violation", "a forbidden system call"
    if number == signal.SIGKILL:
        return "memory", "killed by the system, most likely for its memory"
    if number:
        return "error", f"crashed with {signal.Signals(number).name}"
    return "error", "ended itself before its tests were done"
