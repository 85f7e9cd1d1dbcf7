"""What lies in a folder, without following any link."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from starkiln.ingest.rows import excluded, place


class Entry(NamedTuple):
    """One file of a folder: relative path, size in bytes, mtime in ns, reason if set aside."""

    path: str
    size: int
    time: int
    reason: str | None


def scan(root: Path, exclude: list[str], max_bytes: int) -> list[Entry]:
    """Every file, link and special file below ``root``, sorted by path.

    Links are never followed, so loops end. What matches ``exclude`` is not looked at.
    """
    found: list[Entry] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as items:
                names = [(f"{folder}/{item.name}" if folder else item.name, item) for item in items]
        except OSError:
            found.append(Entry(place(folder)[0], 0, 0, "unreadable"))
            continue
        for path, item in names:
            if excluded(path, exclude):
                continue
            if item.is_dir(follow_symlinks=False):
                waiting.append(path)
            else:
                found.append(_entry(path, item, max_bytes))
    return sorted(found)


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
