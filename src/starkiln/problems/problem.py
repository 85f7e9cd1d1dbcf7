"""What to complete and how it is judged: plain data, read from the publishers' files."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starkiln.core.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One task of a benchmark.

    ``prompt`` is what the model sees and ``prompt + canonical`` is a right program. ``tests`` call
    ``entry_point`` and raise unless it is right; they may need ``context``, which is trusted code.
    A completion ends where one of ``stop`` begins.
    """

    id: str
    prompt: str
    canonical: str
    tests: str
    entry_point: str
    context: str
    stop: tuple[str, ...]
    language: str = "Python"


@dataclass(frozen=True)
class Needle:
    """A text of a benchmark that training data must not hold."""

    problem: str
    part: str  # docstring, solution or text
    text: str


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a ``.jsonl`` or ``.jsonl.gz`` file; ``UserError`` if absent or broken."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            path, f"cannot be read ({error})", "get the publisher's file anew"
        ) from error
    if not found or not all(isinstance(row, dict) for row in found):
        raise UserError(path, "holds no problems", "get the publisher's file anew")
    return found


def convert(
    path: Path, table: list[dict[str, Any]], function: Callable[[dict[str, Any]], Any]
) -> list[Any]:
    """``function`` of each row; ``UserError`` naming the row that lacks something."""
    made = []
    for number, row in enumerate(table, 1):
        try:
            made.append(function(row))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            what = f"row {number} is no problem of this benchmark ({error!r})"
            raise UserError(path, what, "get the publisher's file anew") from error
    return made
