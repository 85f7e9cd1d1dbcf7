"""Sharded work that survives kill -9: one journal line for each finished unit.

A unit writes its files atomically; only then its line (name, result, hash of each file) is
appended and synced. After a crash a unit counts as done when its line and its files agree.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starkiln.core import atomic
from starkiln.core.log import Sink
from starkiln.core.pool import Pool

JOURNAL = "journal.jsonl"
WANTED = "wanted.json"  # in a partial folder: the identity that it is built for


def run(
    folder: Path,
    function: Callable[..., dict[str, Any]],
    calls: Iterable[tuple[str, tuple]],
    pool: Pool,
    sink: Sink,
) -> list[dict[str, Any]]:
    """Results of ``function(*arguments)`` for each (unit name, arguments), in their order.

    ``function`` must be picklable and return a dict with ``files``: the paths it wrote, all
    inside ``folder``; in the results they have become {relative path: SHA-256}.
    """
    calls = list(calls)
    known = _finished(folder)
    todo = [(name, arguments) for name, arguments in calls if name not in known]
    sink.total(len(calls))
    sink.advance(len(calls) - len(todo), "")
    with (folder / JOURNAL).open("a") as journal:
        work = ((folder, function, arguments) for _, arguments in todo)
        for index, result in pool.completed(_unit, work):
            name = todo[index][0]
            known[name] = result
            journal.write(json.dumps({"unit": name, "result": result}) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
            sink.advance(1, _note(known.values()))
    return [known[name] for name, _ in calls]


def finished(folder: Path) -> int:
    """How many units the journal of ``folder`` claims (not verified)."""
    path = folder / JOURNAL
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def hashed(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """``result`` with its ``files`` as {path relative to ``folder``: SHA-256}."""
    files = {str(Path(p).relative_to(folder)): atomic.sha256(Path(p)) for p in result["files"]}
    return {**result, "files": files}


def _unit(folder: Path, function: Callable[..., dict], arguments: tuple) -> dict[str, Any]:
    return hashed(folder, function(*arguments))


def _finished(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / JOURNAL
    lines = path.read_text().splitlines() if path.is_file() else []
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # the line that a crash cut
            continue
        if all(_agrees(folder / name, digest) for name, digest in entry["result"]["files"].items()):
            found[entry["unit"]] = entry["result"]
    atomic.write_bytes(
        path,
        "".join(json.dumps({"unit": u, "result": r}) + "\n" for u, r in found.items()).encode(),
    )
    return found


def _agrees(path: Path, digest: str) -> bool:
    return path.is_file() and atomic.sha256(path) == digest


def _note(results: Iterable[dict[str, Any]]) -> str:
    rows = size = dropped = 0
    for result in results:
        rows += result.get("rows", 0)
        size += result.get("bytes", 0)
        dropped += sum(result.get("drops", {}).values())
    parts = [f"{rows:,} rows"]
    if size:
        parts.append(f"{size / 1e6:,.0f} MB")
    if dropped:
        parts.append(f"{dropped:,} dropped")
    return "  ".join(parts)
