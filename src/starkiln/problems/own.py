"""A benchmark of the user's: one JSON Lines file to be scored on, and kept out of training data.

What is only to be kept out of it may be plain text too.
"""

import difflib
import gzip
import json
import keyword
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starkiln.core.errors import UserError
from starkiln.problems.problem import Judge, Needle, Problem, convert, rows

PARTS = ("prompt", "solution")
MEND = "write one object a line: id, prompt, solution"
_LINE = "write one object a line: id, prompt, tests, entry_point, … (see problems.own)"
# field of a problem: what it is to be, and a test of that
_TEXT = ("a text", lambda value: isinstance(value, str))
_FIELDS: dict[str, tuple[str, Any]] = {
    "id": (
        "a text or a whole number",
        lambda v: isinstance(v, str | int) and not isinstance(v, bool) and str(v).strip(),
    ),
    "prompt": _TEXT,
    "suffix": ("a text or null", lambda value: value is None or isinstance(value, str)),
    "tests": _TEXT,
    "entry_point": (
        "the name of a function",
        lambda v: isinstance(v, str) and v.isidentifier() and not keyword.iskeyword(v),
    ),
    "canonical": _TEXT,
    "stop": (
        "a list of texts, none of them empty",
        lambda v: isinstance(v, list) and all(isinstance(one, str) and one for one in v),
    ),
    "language": ("the name of a language", lambda v: isinstance(v, str) and v.strip()),
    "judge": ("calls, file or exact", lambda v: v in tuple(NEEDED)),
    "context": _TEXT,
    "group": _TEXT,
    "strict": ("true or false", lambda v: isinstance(v, bool)),
}
NEEDED = {  # by judge, beside id and prompt
    "calls": ("tests", "entry_point"),
    "file": ("tests",),
    "exact": ("canonical",),
}
_OBJECTS = ("returned an object", "AttributeError: 'Proxy' object")
_MISSING = re.compile(r"NameError: name '(\w+)' is not defined")
_STRICT = """; if the tests need the program's own objects, add "strict": false to its line"""
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


def problems(path: Path) -> list[Problem]:
    """The problems to score on, of a ``.jsonl`` or ``.jsonl.gz`` file, an object a line.

    - ``id`` names the problem, ``prompt`` is what the model sees, ``suffix`` what stands behind
      the gap that it fills (none: it goes on after the prompt).
    - ``judge`` is ``calls`` (Python ``tests`` call ``entry_point`` and raise unless it is right),
      ``file`` (prompt, completion, suffix and ``tests`` are a program of another ``language`` that
      ends well) or ``exact`` (the completion is ``canonical``). Not given: ``exact`` where there
      are no tests but ``canonical``, ``calls`` where there is an ``entry_point``, else ``file``.
    - ``canonical``, where it is given, is a right completion: it has to pass. It tells whether
      ``calls`` can be judged across processes, where arguments and results are plain data, and
      copies. Without it they are, unless ``strict`` is false.
    - ``context`` is trusted Python that the tests of ``calls`` need.
    - ``stop`` lists texts before which a completion ends, ``language`` is ``Python`` unless told,
      and scores are broken down by ``group``.

    Other fields are the user's. ``UserError`` names file, line and fault.
    """
    found: dict[str, int] = {}
    made = []
    for number, row in _lines(path):
        where = f"{path}, line {number}"
        problem = _checked(row, where)
        if problem.id in found:
            what = f"its id is that of line {found[problem.id]}"
            raise UserError(where, what, "give each problem an id of its own")
        found[problem.id] = number
        made.append(problem)
    if not made:
        raise UserError(path, "holds no problems", _LINE)
    return made


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers from 1 and objects of the lines that are not blank."""
    number = 0
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(line, f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        where = f"{path}, after line {number}" if number else path
        raise UserError(where, f"cannot be read ({error})", _LINE) from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(where, f"is no JSON ({error})", _LINE) from error
    if not isinstance(row, dict):
        raise UserError(where, "is no object", _LINE)
    return row


def _checked(row: dict[str, Any], where: str) -> Problem:
    for name, value in row.items():
        if name in _FIELDS:
            what, fits = _FIELDS[name]
            if not fits(value):
                raise UserError(where, f"{name} is {_short(value)}", f"give {what}")
            if _broken(value):
                raise UserError(where, f"{name} holds half a character", "write it in UTF-8")
        elif near := difflib.get_close_matches(_plain(name.lower()), _FIELDS, 1, 0.8):
            raise UserError(where, f"there is no field {name!r}", f"did you mean {near[0]!r}?")
    judge: Judge = row.get("judge") or _judge(row)
    missing = [name for name in ("id", "prompt", *NEEDED[judge]) if name not in row]
    if missing:
        what = f"has no {' and no '.join(missing)}"
        raise UserError(where, what, f"{judge!r} needs id, prompt, {', '.join(NEEDED[judge])}")
    language = row.get("language", "Python")
    if judge == "calls" and language.lower() != "python":
        mend = "judge it as 'file', a whole program of that language"
        raise UserError(where, f"{judge!r} runs Python, and its language is {language}", mend)
    if judge == "file" and "language" not in row:
        mend = "name its language, or give an entry_point, which tests in Python call"
        raise UserError(where, "'file' is a program of another language, and none is named", mend)
    if "strict" in row and judge != "calls":
        raise UserError(where, f"strict is for 'calls', not for {judge!r}", "leave it out")
    return Problem(
        id=str(row["id"]),
        prompt=row["prompt"],
        canonical=row.get("canonical", ""),
        tests=row.get("tests", ""),
        entry_point=row.get("entry_point", ""),
        context=row.get("context", ""),
        stop=tuple(row.get("stop", ())),
        language=language,
        suffix=row.get("suffix"),
        judge=judge,
        group=row.get("group", ""),
        strict=row.get("strict", True),
    )


def hint(problem: Problem, detail: str) -> str:
    """What to add to a failure that may come of being judged across processes; "" elsewhere.

    That is where the result is an object, or the tests use more of the program than a function.
    """
    known = problem.canonical or problem.judge != "calls" or not problem.strict
    missing = _MISSING.match(detail)
    used = missing is not None and re.search(rf"\b{missing[1]}\b", problem.tests) is not None
    return _STRICT if not known and (used or detail.startswith(_OBJECTS)) else ""


def _judge(row: dict[str, Any]) -> Judge:
    if "tests" not in row:
        return "exact" if "canonical" in row else "calls"
    return "calls" if "entry_point" in row else "file"


def _broken(value: Any) -> bool:
    """Whether a text holds a lone surrogate, which JSON may spell and no file can hold."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(t, str) and re.search("[\ud800-\udfff]", t) for t in texts)


def _short(value: Any) -> str:
    told = json.dumps(value)
    return told if len(told) <= 60 else f"{told[:60]}…"


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
