"""A benchmark of the user's: one JSON Lines or plain text file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starkiln.core.errors import UserError
from starkiln.problems.problem import Needle, convert, rows

PARTS = ("prompt", "solution")
MEND = "write one object a line: id, prompt, solution"
_RULE = re.compile(r"^-{3,}[ \t]*$", re.MULTILINE)


def needles(path: Path) -> list[Needle]:
    """What training data must not hold of the user's own benchmark.

    ``.jsonl`` or ``.jsonl.gz``: an object a line with ``id`` and ``prompt`` and/or ``solution``,
    each a text or a list of texts; ``benchmark`` names it, else the file does. Any other file is
    plain text, its problems set apart by lines of three or more dashes and numbered from 1.
    ``UserError`` where a line is no such object or the file holds nothing.
    """
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        found = [
            n for row in convert(path, rows(path, MEND), lambda r: _row(r, path), MEND) for n in row
        ]
    else:
        found = [
            Needle(f"{_name(path)}/{number}", "prompt", block.strip())
            for number, block in enumerate(_RULE.split(_text(path)), 1)
            if block.strip()
        ]
    if not found:
        raise UserError(path, "holds no problems", MEND)
    return found


def _row(row: dict[str, Any], path: Path) -> list[Needle]:
    problem = f"{_plain(row.get('benchmark', _name(path)))}/{_plain(row['id'])}"
    found = [
        Needle(problem, part, text.strip())
        for part in PARTS
        for text in _texts(row.get(part, []))
        if text.strip()
    ]
    if not found:
        raise ValueError("neither prompt nor solution")
    return found


def _texts(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise TypeError("prompt and solution are texts or lists of texts")
        yield text


def _plain(value: Any) -> str:
    if not isinstance(value, str | int):
        raise TypeError("id and benchmark are texts or numbers")
    return re.sub(r"[\s:]+", "_", str(value))


def _name(path: Path) -> str:
    return _plain(path.name.split(".")[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read ({error})", "give a UTF-8 text") from error
