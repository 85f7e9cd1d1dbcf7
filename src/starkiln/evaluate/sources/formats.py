"""Stored completions in the formats that harnesses write, recognised by their shape.

    .jsonl   human-eval and MBXP (task_id, completion), EvalPlus, LDB and DS-1000's own (solution
             or code), CodeT (prompt, samples): a text or a list of texts; lm-evaluation-harness's
             samples (doc, filtered_resps: lists of whole programs)
    .json    BigCode's generations (a list of texts for each problem, in order), FastEval's answers
             (lists by library of DS-1000), MultiPL-E's problem (completions or results), or a
             list of such rows
    folder   of MultiPL-E's problems, of EvalPlus's PROBLEM/0.py, of a run of ours, or of one file

Files may be packed (.gz).
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from starkiln.core.errors import UserError

_MOST = 1 << 30  # bytes of one JSON value, unpacked
_NEXT = ("completion", "completions", "samples")  # what goes on from the prompt
_WHOLE = ("solution", "solutions", "code")  # the whole answer
_IDS = ("task_id", "name", "id", "problem")
# Where DS-1000's libraries begin: its problems are numbered in this order.
_LIBRARIES = {
    "Pandas": 0,
    "Numpy": 291,
    "Matplotlib": 511,
    "Tensorflow": 666,
    "Scipy": 711,
    "Sklearn": 817,
    "Pytorch": 932,
}
# How a harness judges what it writes, where that is not as we do: settings of an evaluation.
HARNESSES: dict[str, dict[str, Any]] = {
    "FastEval": {"returns": True},  # of DS-1000's first edition
    "LDB": {
        "prelude": "import heapq, itertools, math, re, typing\n"
        "from heapq import *\nfrom typing import *"
    },
}
_MEND = "give completions as human-eval, EvalPlus, BigCode, MultiPL-E… write them"
_BROKEN = (OSError, EOFError, ValueError, RecursionError, zlib.error)


class Text(NamedTuple):
    """One stored completion.

    ``key`` is the problem's name in the file, ``place`` its place there (-1: none), ``prompt`` the
    prompt that stands beside it ("": none). ``kind``: it goes on from that or the published prompt
    (``next``), from ours (``ours``), or is the whole answer (``whole``). ``harness`` is who wrote
    it, where that one judges in a way of its own (``HARNESSES``).
    """

    text: str
    kind: Literal["next", "ours", "whole"]
    key: str = ""
    prompt: str = ""
    place: int = -1
    finish: str = "stored"
    harness: str = ""


def read(path: Path) -> list[Text]:
    """All completions of a file or folder; ``UserError`` where none can be recognised."""
    found = _folder(path) if path.is_dir() else _file(path)
    if not found:
        raise UserError(path, "holds no completions", _MEND)
    return found


def _folder(path: Path) -> list[Text]:
    if (path / "samples.parquet").is_file():
        return _own(path / "samples.parquet")
    if programs := sorted(path.glob("*/*.py"), key=_number):
        return [Text(_text(one), "whole", one.parent.name) for one in programs]
    files = [one for one in sorted(path.iterdir()) if _is_readable(one)]
    names = {one.name for one in files}
    files = [one for one in files if one.name.replace(".results.", ".") not in names - {one.name}]
    found = {one: texts for one in files if (texts := _file(one, known=False))}
    single = len(found) > 1 and not all(_is_problem(texts) for texts in found.values())
    if single:
        listed = ", ".join(one.name for one in list(found)[:5])
        raise UserError(path, f"holds several sets of completions ({listed})", "name one of them")
    return [text for texts in found.values() for text in texts]


def _number(path: Path) -> tuple[str, int, str]:
    return path.parent.name, int(path.stem) if path.stem.isdecimal() else 0, path.name


def _is_readable(path: Path) -> bool:
    return path.is_file() and path.name.endswith((".json", ".json.gz", ".jsonl", ".jsonl.gz"))


def _is_problem(texts: list[Text]) -> bool:
    """Whether a file of MultiPL-E's, which holds one problem."""
    return len({(text.key, text.place) for text in texts}) == 1 and bool(texts[0].prompt)


def _file(path: Path, known: bool = True) -> list[Text]:
    """The completions of a file; without ``known``, none where it is of another shape."""
    if path.suffix == ".parquet":
        return _own(path)
    try:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return list(_jsonl(path))
        return list(_value(json.loads(_text(path))))
    except _BROKEN as error:
        if not known and not isinstance(error, OSError):
            return []
        raise UserError(path, f"holds no completions ({error})", _MEND) from error


def _opened(path: Path) -> Any:
    return (gzip.open if path.name.endswith(".gz") else open)(path, "rb")


def _jsonl(path: Path) -> Iterator[Text]:
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_MOST + 1), b""), 1):
            if line.strip():
                yield from _row(json.loads(_bounded(line)), number)


def _text(path: Path) -> str:
    with _opened(path) as file:
        return _bounded(file.read(_MOST + 1)).decode()


def _bounded(data: bytes) -> bytes:
    if len(data) > _MOST:
        raise ValueError(f"it unpacks to more than {_MOST >> 20} MiB")
    return data


def _own(path: Path) -> list[Text]:
    """``samples.parquet`` of a run of ours."""
    import polars as pl

    try:
        frame = pl.read_parquet(path)
        rows = frame.select("problem", "completion", "finish").rows()
        whole = frame["whole"] if "whole" in frame.columns else [False] * len(rows)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(path, f"is no samples.parquet of ours ({error})", _MEND) from error
    return [
        Text(text, "whole" if all_of_it else "ours", problem, finish=finish)
        for (problem, text, finish), all_of_it in zip(rows, whole)
    ]


def _value(value: Any) -> Iterator[Text]:
    """The completions of a whole JSON file; ValueError where it is of another shape."""
    if isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        for place, texts in enumerate(value):
            yield from (Text(text, "whole", place=place) for text in _texts(texts, place))
    elif isinstance(value, list):
        for number, row in enumerate(value, 1):
            yield from _row(row, number)
    elif isinstance(value, dict) and value and value.keys() <= _LIBRARIES.keys():
        for library, texts in value.items():
            for place, text in enumerate(_texts(texts, 0), _LIBRARIES[library]):
                yield Text(text, "ours", f"DS-1000/{place}", harness="FastEval")
    else:
        yield from _row(value, 1)


def _row(row: Any, number: int) -> Iterator[Text]:
    """The completions of one problem's row."""
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is no object")
    if isinstance(row.get("doc"), dict) and "filtered_resps" in row:
        row = _harness(row)
    key = next((str(row[name]) for name in _IDS if isinstance(row.get(name), str | int)), "")
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) else ""
    if not key and not prompt:
        raise ValueError(f"row {number} names no problem: one of {', '.join(_IDS)}, prompt")
    if "results" in row:
        yield from (Text(text, "whole", key, prompt) for text in _programs(row, number))
        return
    for names, kind in ((_WHOLE, "whole"), (_NEXT, "next")):
        for name in names:
            if name in row:
                harness = "LDB" if "is_solved" in row else ""
                for text in _texts(row[name], number):
                    yield Text(text, kind, key, prompt, harness=harness)  # pyrefly: ignore
                return
    keys = ", ".join(map(str, list(row)[:8]))
    wanted = ", ".join((*_NEXT, *_WHOLE))
    raise ValueError(f"row {number} has {keys}, and none of {wanted}")


def _harness(row: dict[str, Any]) -> dict[str, Any]:
    """A row of lm-evaluation-harness's in the form of others: one that has whole answers.

    Its filters put HumanEval's prompt before what the model wrote, and take MBPP's code out of it;
    they give one text for each request, or a list of them.
    """
    given = row["filtered_resps"]
    if not isinstance(given, list):
        raise ValueError("filtered_resps has no text of a request")
    texts = [text for one in given for text in (one if isinstance(one, list) else [one])]
    return {**{name: row["doc"][name] for name in _IDS if name in row["doc"]}, "solution": texts}


def _programs(row: dict[str, Any], number: int) -> list[str]:
    """MultiPL-E's programs without the tests that end them."""
    results, tests = row["results"], row.get("tests")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise ValueError(f"row {number} has results that are none of MultiPL-E's")
    programs = _texts([one.get("program") for one in results], number)
    cut = tests.strip() if isinstance(tests, str) else ""
    return [text[: text.rindex(cut)] if cut and cut in text else text for text in programs]


def _texts(given: Any, number: int) -> list[str]:
    """One text or several; null is an empty one."""
    listed = given if isinstance(given, list) else [given]
    if not all(one is None or isinstance(one, str) for one in listed):
        raise ValueError(f"row {number} has a completion that is no text")
    return [one or "" for one in listed]
