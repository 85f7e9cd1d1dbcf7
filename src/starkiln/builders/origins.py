"""What a copy needs to know of the files that its sources named, beside their text."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from starkiln.catalogue import SOURCES, Use
from starkiln.ingest.files import files
from starkiln.ingest.rows import BOMS, excluded
from starkiln.ingest.scan import LOCK, MADE, VIRTUAL, read_file


class Form(NamedTuple):
    """How a file was written: the byte-order mark that it began with, and whether it may run."""

    mark: bytes
    runs: bool


PLAIN = Form(b"", False)


def forms(used: list[Use]) -> dict[tuple[str, str], Form]:
    """The form of each file (repo, path) in folders that is not plain, as it lies there now.

    Of two with the same place, the last.
    """
    found = {}
    for place, path in _lain(used):
        if (form := _form(path)) != PLAIN:
            found[place] = form
    return found


def _lain(used: list[Use]) -> Iterator[tuple[tuple[str, str], Path]]:
    """Place and path of every file that is read out of a folder."""
    units = (unit for use in _folders(used) for unit in files(**use.settings))
    for part in (part for unit in units for part in unit["parts"] if not part["archive"]):
        for entry in part["entries"]:
            if not entry.reason:
                yield (part["repo"], entry.path), Path(part["root"], entry.path)


def _folders(used: list[Use]) -> Iterator[Use]:
    return (use for use in used if use.use == SOURCES["files"])


def _form(path: Path) -> Form:
    head = read_file(path, 3)
    if not head:
        return PLAIN  # gone since it was read
    mark = next((mark for mark, _ in BOMS if head.startswith(mark)), b"")
    return Form(mark, bool(path.stat().st_mode & stat.S_IXUSR))


def encoded(text: str, mark: bytes) -> bytes:
    """``text`` behind ``mark`` and in its encoding; without one in UTF-8."""
    return mark + text.encode(dict(BOMS).get(mark, "utf-8"))


def passed_over(used: list[Use]) -> Counter:
    """How many files lie in folders and were not looked at, by the reason for it."""
    found: Counter = Counter()
    for settings in (use.settings for use in _folders(used)):
        for root in (Path(place).expanduser() for place in settings["paths"]):
            for folder, inner, names in os.walk(root):
                found += _passed_here(root, Path(folder), inner, names, settings["exclude"])
    return found


def _passed_here(
    root: Path, folder: Path, inner: list[str], names: list[str], exclude: list[str]
) -> Counter:
    """``passed_over`` of one folder; ``inner`` keeps the folders in it that were looked into."""
    if VIRTUAL in names and folder != root:
        inner.clear()
        return Counter({"virtual-environment": _within(folder)})
    found: Counter = Counter()
    own = MADE if LOCK in names else frozenset()
    for name in [*inner, *names]:
        path = (folder / name).relative_to(root).as_posix()
        pattern = next((one for one in exclude if excluded(path, [one])), None)
        if pattern:
            found[f"excluded {pattern}"] += _within(folder / name)
        if name in inner and (pattern or name in own):
            inner.remove(name)
    return found


def _within(path: Path) -> int:
    """How many files lie in a folder; 1 for what is none."""
    if path.is_symlink() or not path.is_dir():
        return 1
    return sum(len(files) for _, _, files in os.walk(path))
