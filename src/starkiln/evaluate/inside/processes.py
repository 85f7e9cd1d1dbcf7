"""Processes of the fork server: started, watched and reaped."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from . import confine

STARVED = "it was stopped, or the machine was too busy to run it"

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class End(NamedTuple):
    """How a process ended: the signal that it died of by itself (or 0), its CPU seconds, and the
    most memory that it had, in bytes.
    """

    signal: int
    cpu_s: float
    peak: int


def spawn(fork: Callable[[], int], keep: set[int], play: Callable[[], None]) -> int:
    """A child that holds the descriptors ``keep``, does ``play`` in silence, and ends."""
    pid = fork()
    if pid == 0:
        _be(keep, play)
    return pid


def _be(keep: set[int], play: Callable[[], None]) -> NoReturn:
    with contextlib.suppress(BaseException):  # the parent reads the silence
        os.setsid()  # signals and priorities of a group stay with the program
        os.dup2(1, 2)
        confine.close_others(keep)
        play()
    os._exit(0)


def end(pid: int, grace: float) -> End:
    """Reap a process, killing it after ``grace`` seconds."""
    deadline = time.monotonic() + grace
    found, status, usage = os.wait4(pid, os.WNOHANG)
    while not found and time.monotonic() < deadline:
        time.sleep(0.001)
        found, status, usage = os.wait4(pid, os.WNOHANG)
    if not found:
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    mine = number == signal.SIGKILL and not found
    return End(0 if mine else number, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)


def cpu_clock(pid: int) -> float:
    """CPU seconds so far: exact, where RLIMIT_CPU counts whole ticks and may be a third off."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def starved(pid: str, used: float) -> bool:
    """Whether a process is stopped, or has waited for a core longer than it had one.

    A program cannot stop itself: it is the first process of its namespace. It can wait for its own
    processes, but not longer than for the ``used`` CPU seconds of all. ``pid`` as for ``usage``.
    """
    try:
        ran, waited = map(int, Path("/proc", pid, "schedstat").read_text().split()[:2])
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return False
    return state == "T" or waited > max(ran, 10**9 * (1 + used))


def children() -> list[str]:
    """This process's children as /proc numbers them, the newest last."""
    place = Path("/proc/self/task")
    return [pid for one in place.iterdir() for pid in (one / "children").read_text().split()]


def usage(pid: str) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process, all below it, and those they have reaped.

    ``pid`` is the process's number in /proc; one that is gone counts as nothing.
    """
    seconds, resident, todo = 0.0, 0, [pid]
    while todo:
        place = Path("/proc", todo.pop())
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / _TICKS
            resident += int(fields[21]) * _PAGE
            for thread in (place / "task").iterdir():
                todo += (thread / "children").read_text().split()
    return seconds, resident
