"""The two parties of a test: the candidate, which has the code, and the judge, which has the tests.

In strict mode they are separate processes; the candidate sees arguments and nothing else, the
judge sees plain values. Otherwise one process is both.
"""

import builtins
import contextlib
import errno
import random
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from . import carry

_DETAIL = 400  # characters
_NO_ROOM = {errno.EAGAIN, errno.EFBIG, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EDQUOT}
_CLAIMS = {"wrong", "error", "memory", "limit"}
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, ArithmeticError, RecursionError)
_ENDS_LOOPS = (StopIteration, StopAsyncIteration)  # such as a map's in the tests
Report = Callable[[str, str], None]  # outcome, detail


class _Raised(Exception):
    """Stands for a candidate's exception that is no built-in one."""


class _Gone(BaseException):
    """The candidate ended, or closed its channel."""


class _NotPlain(BaseException):
    """The candidate returned an object that is no plain data."""


def run_source(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Execute ``source`` in ``namespace``; tracebacks call it ``<name>``."""
    exec(compile(source, f"<{name}>", "exec", dont_inherit=True), namespace)  # noqa: S102


def fresh_module() -> dict[str, Any]:
    """The namespace of a new module ``solution``; the random generator starts at a fixed state."""
    random.seed(0)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    return module.__dict__


def classify(error: BaseException) -> tuple[str, str]:
    """The outcome and the detail for what a program or its tests raised."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  a candidate's __str__ may do anything
        text = ""
    detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return _outcome(error, text), detail[:_DETAIL]


def _outcome(error: BaseException, text: str) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return "limit"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "limit"
    return "wrong" if isinstance(error, AssertionError) else "error"


def candidate(source: str, entry_point: str, channel: int) -> None:
    """Define the program, then answer calls of its entry point until the judge hangs up."""
    namespace = fresh_module()
    try:
        run_source(source, "program", namespace)
        function = namespace[entry_point]
    except KeyError:
        carry.send(channel, ["failed", "error", f"the program defines no {entry_point}"])
        return
    except BaseException as error:  # noqa: BLE001  SystemExit too is a failure
        carry.send(channel, ["failed", *classify(error)])
        return
    carry.send(channel, ["ready"])
    while True:
        positional, named = carry.receive(channel)
        carry.send(channel, _answer(function, carry.load(positional), carry.load(named)))


def _answer(function: Callable, positional: list, named: dict) -> list:
    try:
        return ["value", carry.dump(function(*positional, **named))]
    except carry.Uncarried as error:
        return ["object", str(error)]
    except BaseException as error:  # noqa: BLE001
        return ["raised", type(error).__name__, *classify(error)]


def judge(tests: dict[str, str], channel: int, report: Report) -> None:
    """Run the tests against the candidate behind ``channel`` and report."""
    opening = received(channel)
    if opening != ["ready"]:
        report(*_claim(*opening[1:]) if opening[0] == "failed" else ("gone", ""))
        return
    namespace = fresh_module()
    proxy = Proxy(channel)
    outcome, detail = "passed", ""
    try:
        run_source(tests["context"], "context", namespace)
        namespace[tests["entry_point"]] = proxy
        run_source(tests["tests"], "tests", namespace)
    except BaseException as error:  # noqa: BLE001
        outcome, detail = _judged(error, tests["tests"])
    report("gone" if proxy.gone else outcome, detail)


def received(channel: int) -> list:
    """What the candidate says; ``gone`` where it has ended or says nothing that is understood."""
    try:
        message = carry.receive(channel)
    except carry.Closed:
        return ["gone"]
    return message if isinstance(message, list) and message else ["gone"]


class Proxy:
    """Stands for the entry point in the tests; a call goes to the candidate's process."""

    def __init__(self, channel: int) -> None:
        self.channel, self.gone = channel, False

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """The candidate's answer: its value, or its exception raised here."""
        carry.send(self.channel, [carry.dump(list(positional)), carry.dump(named)])
        answer = received(self.channel)
        if answer[0] == "value":
            with contextlib.suppress(*_MALFORMED):
                return carry.load(answer[1])
        elif answer[0] == "object":
            raise _NotPlain(f"returned an object: {answer[-1]}"[:_DETAIL])
        elif answer[0] == "raised":
            raise _same(answer[1], *_claim(*answer[2:]))
        self.gone = True
        raise _Gone


def _claim(*said: object) -> tuple[str, str]:
    """What a candidate may say of its own end: never that it passed."""
    match said:
        case [str(outcome), str(detail)] if outcome in _CLAIMS:
            return outcome, detail[:_DETAIL]
    return "error", ""


def _same(name: object, outcome: str, detail: str) -> Exception:
    known = getattr(builtins, str(name), None)
    text = detail.removeprefix(f"{name}: ")
    error: Exception = _Raised(detail)
    if isinstance(known, type) and issubclass(known, Exception) and known not in _ENDS_LOOPS:
        with contextlib.suppress(TypeError):  # UnicodeDecodeError wants five arguments
            error = known(text)
    error.candidate = (outcome, detail)  # pyrefly: ignore
    return error


def _judged(error: BaseException, tests: str) -> tuple[str, str]:
    if isinstance(error, _NotPlain):
        return "wrong", str(error)
    if hasattr(error, "candidate"):
        return error.candidate
    outcome, detail = classify(error)
    if outcome == "wrong" and detail == "AssertionError":
        detail = f"AssertionError: {_line(error, tests)}"
    return outcome, detail[:_DETAIL]


def _line(error: BaseException, tests: str) -> str:
    numbers = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<tests>"
    ]
    return tests.splitlines()[numbers[-1] - 1].strip() if numbers and numbers[-1] else ""


def both(source: str, tests: str, report: Report) -> None:
    """Run the program and its tests in this one process, and report.

    Nothing here is out of the program's reach: it finds tests and ``report`` in the frames around
    it, and can forge what is reported. Counter-tests are there to tell such programs.
    """
    namespace = fresh_module()
    try:
        run_source(source, "program", namespace)
        run_source(tests, "tests", namespace)
    except BaseException as error:  # noqa: BLE001
        report(*_judged(error, tests))
    else:
        report("passed", "")
