"""What lies in a folder, without following any link."""

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from starkiln.ingest.rows import excluded, place

LOCK = ".lock"  # beside the recipe of every run
RECIPE = re.compile(rb"^(?:extends\s*=|source\s*=|\[\[\s*source\s*\]\])", re.MULTILINE)
LONGEST = 1 << 20  # bytes of a recipe that are looked at
VERDICTS = "verdicts.json"  # beside the recipe too, by ``starkiln inspect``
STEPS = (
    "documents", "decisions", "audit", "curated", "tokenizer", "tokens", "checkpoint",
    "evaluation", "report",
)  # fmt: skip
OTHERS = ("base", "examples", "copy")  # may be folders of the user's; finished, they tell
MADE = {LOCK, VERDICTS, *STEPS} | {
    f".{step}.{state}" for step in (*STEPS, *OTHERS) for state in ("partial", "old")
}
ARTEFACT = {"manifest.json", "events.jsonl"}  # what every artefact holds, moved away or not
VIRTUAL = "pyvenv.cfg"


class Entry(NamedTuple):
    """One file of a folder: relative path, size in bytes, mtime in ns, reason if set aside."""

    path: str
    size: int
    time: int
    reason: str | None


def scan(root: Path, exclude: list[str], max_bytes: int) -> list[Entry]:
    """Every file, link and special file below ``root``, sorted by path.

    Links are never followed, so loops end. Not looked at, and not counted, so that a run never
    changes its own input: what matches ``exclude``; beside a ``.lock`` and a recipe, these two,
    ``verdicts.json`` and the folders of the steps, finished or not; below ``root``, a folder with
    ``manifest.json`` and ``events.jsonl`` (an artefact that was moved) or ``pyvenv.cfg`` (a virtual
    environment).
    Everything else in a work folder is read, for it may be a project of the user's.
    """
    found: list[Entry] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as items:
                listed = {item.name: item for item in items}
        except OSError:
            found.append(Entry(place(folder)[0], 0, 0, "unreadable"))
            continue
        if folder and (VIRTUAL in listed or listed.keys() >= ARTEFACT):
            continue
        made = _made(root / folder, listed.keys())
        for name, item in listed.items():
            path = f"{folder}/{name}" if folder else name
            if name in made or excluded(path, exclude):
                continue
            if item.is_dir(follow_symlinks=False):
                waiting.append(path)
            else:
                found.append(_entry(path, item, max_bytes))
    return sorted(found)


def _made(folder: Path, names: Collection[str]) -> set[str]:
    """What a folder holds of a run's: nothing, unless a recipe lies there beside a lock."""
    recipes = {
        name
        for name in names
        if LOCK in names
        and name.endswith(".toml")
        and RECIPE.search(read_file(folder / name, LONGEST) or b"")
    }
    return recipes | MADE if recipes else set()


def read_file(path: Path, limit: int) -> bytes | None:
    """At most ``limit`` + 1 bytes of a regular file; None if it is gone, a link or special."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            return file.read(limit + 1)
    except OSError:
        return None


def _entry(path: str, item: os.DirEntry, max_bytes: int) -> Entry:
    clean, reason = place(path)
    try:
        status = item.stat(follow_symlinks=False)
    except OSError:
        return Entry(clean, 0, 0, "unreadable")
    if item.is_symlink():
        reason = "symlink"
    elif not item.is_file(follow_symlinks=False):
        reason = "special"
    elif status.st_size > max_bytes:
        reason = reason or "too-large"
    return Entry(clean, status.st_size, status.st_mtime_ns, reason)
