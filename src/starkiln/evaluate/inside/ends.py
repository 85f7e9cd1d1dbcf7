"""What the end of a command means: the verdict, and the line that says why."""

import re
import signal
from typing import Any

from .commands import OUTPUT, Ended

DETAIL = 400  # characters
NEAR = 512 << 10  # of a limit in MB: half of it, in bytes
_SAYS = re.compile(r"error|exception|fatal|fail|panic|abort|not ", re.IGNORECASE)
_KNOWN = {
    "memory": re.compile(
        r"bad_alloc|OutOfMemory|NoMemoryError|(?i:out of memory|cannot allocate|not enough memory|"
        r"memory exhausted|failed to allocate|allowed memory size|memory allocation of)"
    ),
    "limit": re.compile(
        r"Resource temporarily unavailable|No space left on device|File (size limit|too large)|"
        r"Too many open files|EAGAIN|ENOSPC|EFBIG|EMFILE|unable to create (new )?native thread|"
        r"[Cc]an(no|')t (create|start) (new )?[Tt]hread|failed to (spawn|create) thread"
    ),
}


def settle(
    ended: Ended, steps: dict[str, Any], limits: dict[str, Any], compiling: bool
) -> tuple[str, str]:
    """Outcome and detail from how the last command, perhaps a compiler, ended."""
    limit = steps["compile_s"] if compiling else limits["cpu_s"]
    if ended.cpu_s >= limit:
        return "timeout", f"more than {limit} s of CPU time"
    if ended.out.total + ended.err.total > OUTPUT:
        return "limit", f"wrote more than {OUTPUT >> 20} MB"
    if compiling:
        return "error", compile_error(ended.said, steps)
    failed = bool(steps["fails"] and re.search(steps["fails"], ended.said))
    failed |= steps["quiet"] and ended.err.total > 0
    if ended.out.proved and ended.status == 0 and not failed:
        return "passed", ""
    outcome, detail = _failed(ended, steps, limits)
    return outcome, detail[:DETAIL]


def compile_error(said: str, steps: dict[str, Any]) -> str:
    """The detail for a program that does not compile."""
    return f"does not compile: {_line(said, steps['says'])}"[:DETAIL]


def _failed(ended: Ended, steps: dict[str, Any], limits: dict[str, Any]) -> tuple[str, str]:
    number, line = -ended.status, _line(ended.said, steps["says"])
    if number == signal.SIGSYS:
        return "violation", "a forbidden system call"
    if number == signal.SIGXFSZ:
        return "limit", "a file too large"
    if number > 0 and ended.peak > NEAR * limits["memory_mb"]:
        return "memory", f"killed by signal {number}, most likely for its memory"
    if ended.status == 0 and not line:
        return "error", "ended itself before its tests were done"
    wrong = "" if number == signal.SIGKILL else steps["wrong"]  # some languages' is silence
    for outcome, pattern in {**_KNOWN, "wrong": re.compile(wrong or "(?!)")}.items():
        if found := pattern.search(ended.said):
            return outcome, _around(ended.said, found)
    if number > 0:
        return "error", f"crashed with {signal.Signals(number).name}: {line}".rstrip(": ")
    return "error", line or f"ended itself before its tests were done (status {ended.status})"


def _around(text: str, found: re.Match[str]) -> str:
    """The line that holds a match."""
    start = text.rfind("\n", 0, found.start()) + 1
    return text[start : start + DETAIL].split("\n")[0].strip()


def _line(text: str, says: str) -> str:
    """The first line that says what went wrong, by the language's pattern or else the usual."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in (re.compile(says), _SAYS):
        told = [line for line in lines if pattern.search(line)]
        if told:
            return told[0]
    return lines[0] if lines else ""
