"""What a command costs: CPU seconds of its whole tree of processes, and peak memory.

CPU is user and system time of every process of the tree, as the kernel hands it to whoever waits
for them (this process adopts what its children leave behind). Memory is PSS out of
``smaps_rollup``, sampled: shared pages count once. Linux only.
"""

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

EVERY = 0.2  # seconds between two samples of memory
SUBREAPER = 36  # prctl: orphans of the tree come to this process


@dataclass
class Cost:
    """One run: seconds, megabytes, and the last line of JSON that it printed."""

    cpu_s: float
    peak_mb: float  # of all processes together
    driver_mb: float  # of the first process
    worker_mb: float  # of the largest other one
    told: dict = field(default_factory=dict)


class Sampler(threading.Thread):
    """Watches one session of processes until it is told to stop."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.over = session, threading.Event()
        self.peak = self.driver = self.worker = 0

    def run(self) -> None:
        while not self.over.wait(EVERY):
            sizes = {pid: _pss(pid) for pid in _members(self.session)}
            self.peak = max(self.peak, sum(sizes.values()))
            self.driver = max(self.driver, sizes.pop(self.session, 0))
            self.worker = max(self.worker, *sizes.values(), 0)


def _members(session: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 (a path for each process would cost)
        try:
            if name.isdigit() and os.getsid(int(name)) == session:
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


def _pss(pid: int) -> int:
    """Bytes; 0 when it has just ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            lines = file.read().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:")), 0)


def run(command: Sequence[str | Path], log: Path, timeout: float = 1800) -> Cost:
    """Run ``command`` in a session of its own; its standard error goes to the file ``log``.

    Raises RuntimeError when it fails or outlasts ``timeout`` seconds (then all of it is killed).
    """
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    output = log.with_suffix(".out")
    with log.open("wb") as errors, output.open("wb") as lines:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=lines, stderr=errors, start_new_session=True
        )
    sampler = Sampler(process.pid)
    killer = threading.Timer(timeout, _kill, [process.pid])
    sampler.start()
    killer.start()
    seconds, status = _reap(process)
    killer.cancel()
    sampler.over.set()
    sampler.join()
    if status:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
        raise RuntimeError(f"status {status}: {tail[0]}")
    sizes = (size / 1e6 for size in (sampler.peak, sampler.driver, sampler.worker))
    return Cost(seconds, *sizes, told=_last_json(output.read_text(errors="replace")))


def _reap(process: subprocess.Popen) -> tuple[float, int]:
    """CPU seconds of ``process`` and all it started, and its exit status."""
    seconds, status = 0.0, 0
    while True:
        try:
            pid, code, used = os.wait4(-1, 0)
        except ChildProcessError:
            return seconds, status
        seconds += used.ru_utime + used.ru_stime
        if pid == process.pid:
            process.returncode = status = os.waitstatus_to_exitcode(code)
            _kill(pid)  # what outlives it would never end by itself


def _kill(session: int) -> None:
    for pid in _members(session):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def _last_json(output: str) -> dict:
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {}
