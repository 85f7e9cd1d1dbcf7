"""Files that are either whole or absent: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK, _BLOCKS = 16 << 10, 1024  # of a file whose stamp is taken


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Call ``fill(temporary_path)`` and move the result to ``path`` when it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fill(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    write(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def swap(new: Path, final: Path) -> None:
    """Put the folder ``new`` in the place of ``final``; at every moment one of them is whole."""
    old = forget_old(final)
    if final.exists():
        final.rename(old)
    new.rename(final)
    sync_folder(final.parent)
    forget_old(final)


def forget_old(final: Path) -> Path:
    """Remove what ``swap`` put aside, also where a kill kept it from doing so; its place."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    return old


def sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stamp(path: Path) -> str:
    """A hash of a file's size and of up to 1,024 blocks of 16 KiB, evenly spread over it.

    That is all of a file up to 16 MiB. Of 60 GB of weights it is enough to tell two trainings
    apart in a moment, though not to find a byte that was damaged.
    """
    size = path.stat().st_size
    spread = max(_BLOCK, size // _BLOCKS)
    found = hashlib.blake2b(f"{size} ".encode(), digest_size=16)
    with path.open("rb") as file:
        for start in range(0, size, spread):
            file.seek(min(start, max(0, size - _BLOCK)))
            found.update(file.read(_BLOCK))
    return found.hexdigest()
