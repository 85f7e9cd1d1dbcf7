"""``verdicts.json``: what was decided by eye, one small change at a time.

``{"format": 1, "table": name, "strata": {key: {"include", "limits", "note"}},
"files": {id: {"verdict", "note"}}}``; only what somebody decided is there. A limit of null switches
its test off.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.curate.verdicts import Verdicts

NAME = "verdicts.json"
FORMAT = 1
ABSENT = object()  # the value that removes an entry


def read(path: Path, table: str) -> dict[str, Any]:
    """The verdicts at ``path``, or none yet; a damaged file is a ``UserError``."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {"format": FORMAT, "table": table, "strata": {}, "files": {}}
    except ValueError as error:
        raise _damaged(path, error) from error
    try:
        Verdicts.model_validate_json(text)
    except ValidationError as error:
        raise _damaged(path, _first(error)) from error
    return {"strata": {}, "files": {}, **json.loads(text)}


def change(path: Path, table: str, at: Sequence[str], value: Any) -> None:
    """Set one value of the file at ``path``, or remove it (``ABSENT``); others stay as they are.

    ``at`` leads to it: ``("strata", key, "limits", name)``, ``("files", id, "verdict")``. Readers
    always find a whole file; two processes that write wait for each other. ``ValueError`` for what
    does not belong there.
    """
    if len(at) < 3 or at[0] not in ("strata", "files"):
        raise ValueError("no such entry")
    with _alone(path.parent):
        whole = read(path, table)
        whole = {**whole, at[0]: _put(whole[at[0]], at[1:], value)}
        Verdicts.model_validate_json(json.dumps(whole))
        atomic.write_json(path, whole)


def _put(tree: Any, at: Sequence[str], value: Any) -> dict[str, Any]:
    """``tree`` with ``value`` at the place; what is left empty goes."""
    if not isinstance(tree, dict):
        raise ValueError("no such entry")
    head, *rest = at
    new = _put(tree.get(head, {}), rest, value) or ABSENT if rest else value
    others = {name: old for name, old in tree.items() if name != head}
    return others if new is ABSENT else {**others, head: new}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes verdicts of this folder meanwhile; a lock that leaves no file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def _damaged(path: Path, why: object) -> UserError:
    return UserError(path, f"damaged ({why})", "mend it, or move it away")
