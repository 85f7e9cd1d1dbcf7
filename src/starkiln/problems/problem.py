"""What to complete and how it is judged: plain data, read from the publishers' files."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from starkiln.core.errors import UserError

T = TypeVar("T")
Judge: TypeAlias = Literal["calls", "file", "script", "exact"]


@dataclass(frozen=True)
class Problem:
    """One task of a benchmark.

    ``prompt`` is what the model sees, and with ``suffix`` what stands after the gap (None: there
    is none); ``prompt + canonical + suffix`` is a right program ("": the publisher gives no
    solution). A completion ends where one of ``stop`` begins. ``judge`` says how it is judged:

    - ``calls``: Python ``tests`` call ``entry_point`` and raise unless it is right; they may need
      ``context``, which is trusted code.
    - ``file``: prompt, completion, suffix and ``tests`` make one file of ``language``.
    - ``script``: ``tests`` is trusted Python that takes the completion as a text, ``solution``.
    - ``exact``: the completion is ``canonical``, white space around both aside.

    ``group`` breaks scores down in the report: a library, a language. ``tail`` is the white space
    at the end of the published prompt that ``prompt`` lacks. Without ``strict`` a program shares
    the process of its tests, whatever ``canonical`` tells.
    """

    id: str
    prompt: str
    canonical: str
    tests: str
    entry_point: str
    context: str
    stop: tuple[str, ...]
    language: str = "Python"
    suffix: str | None = None
    judge: Judge = "calls"
    group: str = ""
    tail: str = ""
    strict: bool = True


@dataclass(frozen=True)
class Needle:
    """A text of a benchmark that training data must not hold."""

    problem: str
    part: str  # docstring, question, prompt or solution
    text: str


ANEW = "get the publisher's file anew"


def rows(path: Path, mend: str = ANEW) -> Iterator[dict[str, Any]]:
    """The objects of a ``.jsonl`` or ``.jsonl.gz`` file; ``UserError`` if absent or broken."""
    opened = gzip.open if path.suffix == ".gz" else open
    empty = True
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                if line.strip():
                    empty = False
                    yield json.loads(line)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise UserError(path, f"cannot be read ({error})", mend) from error
    if empty:
        raise UserError(path, "holds no problems", mend)


def array(path: Path) -> list[dict[str, Any]]:
    """The objects of a ``.json`` file that holds one array; ``UserError`` if absent or broken."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(path, f"cannot be read ({error})", ANEW) from error
    if not isinstance(found, list) or not found:
        raise UserError(path, "holds no problems", ANEW)
    return found


def convert(
    path: Path,
    table: Iterable[dict[str, Any]],
    function: Callable[[dict[str, Any]], T],
    mend: str = ANEW,
) -> list[T]:
    """``function`` of each row; ``UserError`` naming the row that lacks something."""
    made = []
    for number, row in enumerate(table, 1):
        try:
            made.append(function(row))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            what = f"row {number} is no problem of this benchmark ({error!r})"
            raise UserError(path, what, mend) from error
    return made
