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

from starkiln.core import atomic
from starkiln.curate import verdicts

NAME = "verdicts.json"
FORMAT = 1
ABSENT = object()  # the value that removes an entry


def read(path: Path, table: str) -> dict[str, Any]:
    """The verdicts at ``path``, or none yet; a damaged file is a ``UserError``."""
    if not path.exists():
        return {"format": FORMAT, "table": table, "strata": {}, "files": {}}
    return {"strata": {}, "files": {}, **verdicts.read(path).model_dump(exclude_unset=True)}


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
        verdicts.Verdicts.model_validate_json(json.dumps(whole))
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
