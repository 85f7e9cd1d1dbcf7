"""The fork server: pays the interpreter and the usual imports once, then forks a program at a time.

Speaks frames on the descriptors it is started with: requests on 0, verdicts on 1. Its argument
names the folders of packages to import from, and what else to import once.
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
from typing import Any

from . import bare, carry, confine, files, roles
from .ends import NEAR
from .processes import STARVED, End, children, cpu_clock, end, spawn, starved, usage

# What completions import most: a program's own import of these costs nothing.
_USUAL = (
    *("bisect", "calendar", "collections", "copy", "datetime", "decimal", "fractions"),
    *("functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "random"),
    *("re", "statistics", "string", "typing"),
)
_WATCH_S = 0.1  # between looks at what a program's processes use together
_GRACE = 1.0  # seconds that a process which hung up has to end by itself
_CORES = os.cpu_count() or 1


def main() -> None:
    """Serve until the host hangs up."""
    requests, verdicts = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # standard error stays open: the host shows what a broken jail said
    os.close(null)
    sys.path.pop(0)  # where this package is
    os.environ.clear()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # pid 1 of a program's namespace ignores it then
    told = json.loads(sys.argv[1])
    walls = confine if told["isolate"] else bare
    sys.path += told["packages"]
    for name in (*_USUAL, *told["preload"]):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    carry.send(verdicts, {"detail": "ready"})
    while True:
        try:
            request = carry.receive(requests)
        except carry.Closed:
            return
        carry.send(verdicts, _run(request, requests, verdicts, walls))


def _run(request: dict[str, Any], requests: int, verdicts: int, walls: Any) -> dict[str, Any]:
    """Run one program; the verdict as plain data.

    Of Python, source and tests are the next two frames of ``requests``. The candidate reads the
    one, the process that judges the other, which also tells the host what was wrong: whatever
    this process held in memory, programs that it forks could find there.
    """
    if "steps" in request:
        return files.run(request, requests)
    token = os.urandom(8).hex()
    reports, report = os.pipe()
    ours, theirs = socket.socketpair()
    mine, yours = ours.fileno(), theirs.fileno()

    def tell(*said: str) -> None:
        os.write(report, json.dumps([token, *said]).encode() + b"\n")

    if request["strict"]:
        pids = [
            spawn(
                walls.fork,
                {yours, requests},
                lambda: _play_candidate(request, requests, yours, walls),
            ),
            spawn(
                os.fork,
                {mine, report, requests, verdicts},
                lambda: _judge(request, requests, mine, verdicts, tell),
            ),
        ]
    else:
        pids = [
            spawn(
                walls.fork, {report, requests}, lambda: _play_both(request, requests, tell, walls)
            )
        ]
    ours.close()
    theirs.close()
    os.close(report)
    said = _listen(reports, requests, token, pids, request["limits"])
    os.close(reports)
    ends = [end(pid, _GRACE if said == ["gone", ""] else 0.0) for pid in reversed(pids)]
    if walls is bare:
        bare.leave(pids[0])
    outcome, detail = _settle(said, ends, request["limits"])
    return {"outcome": outcome, "detail": detail, "cpu_s": ends[-1].cpu_s}


def _play_candidate(request: dict[str, Any], requests: int, channel: int, walls: Any) -> None:
    source = carry.receive(requests)
    os.close(requests)
    try:
        walls.enter(request["limits"])
    except OSError as error:
        carry.send(channel, ["infrastructure", str(error)])
        return
    carry.send(channel, ["confined"])
    roles.candidate(source, request["entry_point"], channel)


def _judge(
    request: dict[str, Any], requests: int, channel: int, verdicts: int, tell: roles.Report
) -> None:
    walls = roles.received(channel)  # before any of the candidate's code ran: its source is read
    tests = carry.receive(requests)
    confine.set_limits(request["limits"])
    tell("began", "")

    def report(outcome: str, detail: str) -> None:
        carry.send(verdicts, detail)
        tell(outcome, "")

    if walls == ["confined"]:
        roles.judge(tests, channel, report)
    else:
        report("infrastructure", str(walls[-1]))


def _play_both(request: dict[str, Any], requests: int, tell: roles.Report, walls: Any) -> None:
    source, tests = carry.receive(requests), carry.receive(requests)
    os.close(requests)
    tell("began", "")
    try:
        walls.enter(request["limits"])
    except OSError as error:
        tell("infrastructure", str(error))
        return
    roles.both(source, tests["tests"], tell)


def _listen(
    reports: int, requests: int, token: str, pids: list[int], limits: dict[str, Any]
) -> list[str]:
    """Outcome and detail as reported, ``gone`` when nobody will, ``late`` past a limit,
    ``starved`` where that is not the program's fault.
    """
    deadline, heard, here = time.monotonic() + limits["wall_s"], b"", children()[-len(pids) :]
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    poll.register(requests, 0)  # tells when the host is gone, and with it any reason to go on
    while True:
        left = min(deadline - time.monotonic(), limits["cpu_s"] - max(map(cpu_clock, pids)))
        if left <= 0:
            used = sum(usage(pid)[0] for pid in here)
            silence = "starved" if any(starved(pid, used) for pid in here) else "late"
            break
        wait_s, before = min(left / _CORES, _WATCH_S), time.monotonic()
        ready = [descriptor for descriptor, _ in poll.poll(max(1000 * wait_s, 10))]
        asleep = time.monotonic() - before - wait_s
        deadline += asleep if asleep > 1 else 0.0  # this process was stopped too
        if not ready and (silence := _excess(here, limits)):
            break
        if requests in ready:
            raise OSError("the host is gone")
        if ready:
            part = os.read(reports, 1 << 16)
            heard += part
            if not part or heard.count(b"\n") > 1 or len(heard) > 1 << 16:
                silence = "gone"
                break
    began, *rest = [_report(line, token) for line in heard.splitlines()] or [None]
    if began != ["began", ""]:  # the tests may be left in the pipe, and the next request after
        raise OSError("no process read the tests")
    return next(filter(None, rest), None) or [silence, ""]


def _excess(here: list[str], limits: dict[str, Any]) -> str:
    """What all processes of a program use too much of together, "" if nothing."""
    used = [usage(pid) for pid in here]
    if max(cpu_s for cpu_s, _ in used) > limits["cpu_s"]:
        return "busy"
    return "full" if sum(size for _, size in used) > limits["memory_mb"] << 20 else ""


def _report(line: bytes, token: str) -> list[str] | None:
    try:
        match json.loads(line):
            case [str(key), str(outcome), str(detail)] if key == token:
                return [outcome, detail]
    except (ValueError, RecursionError):
        pass
    return None


def _settle(said: list[str], ends: list[End], limits: dict[str, Any]) -> tuple[str, str]:
    """The verdict from what was reported and how the processes ended, the program's last."""
    cpu_s = limits["cpu_s"]
    if max(one.cpu_s for one in ends) >= cpu_s or said[0] == "busy":
        return "timeout", f"more than {cpu_s} s of CPU time"
    if said[0] == "full":
        return "memory", "its processes together use more than it may"
    if said[0] == "late":
        return "timeout", "waited too long"
    if said[0] == "starved":
        return "infrastructure", STARVED
    if said[0] != "gone":
        return said[0], said[1]
    number = ends[-1].signal
    if number == signal.SIGSYS:
        return "violation", "a forbidden system call"
    if number == signal.SIGKILL and ends[-1].peak > NEAR * limits["memory_mb"]:
        return "memory", "killed by the system, most likely for its memory"
    if number:
        name = signal.Signals(number).name
        told = "SIGSEGV or SIGABRT" if name == "SIGSEGV" else name  # abort() of a pid 1 is either
        return "error", f"crashed with {told}"
    return "error", "ended itself before its tests were done"
