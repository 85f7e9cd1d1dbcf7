"""What a copy needs to know of the files that its sources named, beside their text."""

import codecs
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from starkiln.catalogue import SOURCES, Use
from starkiln.ingest.files import files
from starkiln.ingest.rows import BOMS, DECLARED, STATED, decode, excluded
from starkiln.ingest.scan import LOCK, MADE, VIRTUAL, read_file


class Form(NamedTuple):
    """How a file was written: its byte-order mark, whether it may run, and its encoding.

    ``encoding`` is empty where the file does not say in which one it is, and it is not UTF-8.
    """

    mark: bytes
    runs: bool
    encoding: str = "utf-8"


PLAIN = Form(b"", False)


def forms(used: list[Use]) -> dict[tuple[str, str], Form]:
    """The form of each file (repo, path) in folders that is not plain, as it lies there now.

    Of two with the same place, the last.
    """
    found = {}
    for place, path, size in _lain(used):
        if (form := _form(path, size)) != PLAIN:
            found[place] = form
    return found


def _lain(used: list[Use]) -> Iterator[tuple[tuple[str, str], Path, int]]:
    """Place, path and bytes of every file that is read out of a folder."""
    units = (unit for use in _folders(used) for unit in files(**use.settings))
    for part in (part for unit in units for part in unit["parts"] if not part["archive"]):
        for entry in part["entries"]:
            if not entry.reason:
                yield (part["repo"], entry.path), Path(part["root"], entry.path), entry.size


def _folders(used: list[Use]) -> Iterator[Use]:
    return (use for use in used if use.use == SOURCES["files"])


def _form(path: Path, size: int) -> Form:
    data = read_file(path, size)
    if not data:
        return PLAIN  # gone since it was read
    runs = bool(path.stat().st_mode & stat.S_IXUSR)
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return Form(mark, runs, encoding)
    return Form(b"", runs, _encoding(data))


def _encoding(data: bytes) -> str:
    """The encoding of ``data``, if it is UTF-8 or the one that is declared; otherwise empty."""
    if data.isascii() or _is_utf8(data):
        return "utf-8"
    stated = DECLARED.search(data[:1024])
    try:
        name = codecs.lookup(stated[1].decode()).name if stated else ""
    except LookupError:
        name = ""
    return name if name in STATED and decode(data)[1] is None else ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def encoded(text: str, form: Form) -> tuple[bytes, bool]:
    """``text`` as a file of that ``form``, and whether that one's encoding had to become UTF-8."""
    try:
        if form.encoding:
            return form.mark + text.encode(form.encoding), False
    except UnicodeEncodeError:
        pass
    return text.encode(), True


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
