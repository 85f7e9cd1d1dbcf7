"""Python distributions: which files belong to one, and which licences govern them."""

import csv
import io
from pathlib import Path

from starkiln.code.licences import Declaration, declaration, governed, is_licence
from starkiln.ingest.scan import Entry, read_file

Owned = tuple[Declaration, list[Entry]]
LONGEST = 64 << 20  # bytes of a METADATA or RECORD that are read


def licence_files(paths: list[str], exact: bool = False) -> list[tuple[str, str]]:
    """(governed folder, licence file's path) pairs among ``paths``.

    A copy under ``X.dist-info/licenses/FOLDER/`` governs ``FOLDER``, where that was installed.
    ``exact``: a licence expression states the whole, so the root's own licence files are left out.
    """
    folders = {folder for path in paths for folder in _folders(path)}
    pairs = []
    for path in paths:
        inner = _inside(path)
        if is_licence(inner):
            folder = governed(inner)
            if (folder in folders) if folder else not exact:
                pairs.append((folder, path))
    return pairs


def _folders(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _inside(path: str) -> str:
    """The path of a licence file in the source tree that a wheel was made of."""
    top, _, rest = path.partition("/")
    if not top.endswith(".dist-info"):
        return path
    return rest.removeprefix("licenses/").removeprefix("license_files/").removeprefix("src/")


def installed(root: Path) -> list[Path]:
    """The ``*.dist-info`` folders in ``root`` that hold a RECORD."""
    return sorted(path.parent for path in root.glob("*.dist-info/RECORD"))


def split(root: Path, entries: list[Entry]) -> tuple[list[Owned], list[Entry]]:
    """Each installed distribution with its entries, and the entries that none owns."""
    known = {entry.path: entry for entry in entries}
    owned: set[str] = set()
    found = []
    for folder in installed(root):
        mine = []
        for path in record(folder):
            if path.startswith(("/", "..")):
                mine.append(Entry(path, 0, 0, "outside"))
            elif path in known and path not in owned:
                mine.append(known[path])
                owned.add(path)
        found.append((declared(folder), mine))
    return found, [entry for entry in entries if entry.path not in owned]


def record(folder: Path) -> list[str]:
    """The paths that a distribution installed, as the RECORD in its ``*.dist-info`` lists them."""
    lines = (read_file(folder / "RECORD", LONGEST) or b"").decode("utf-8", "replace")
    try:
        return sorted({line[0] for line in csv.reader(io.StringIO(lines, newline="")) if line})
    except csv.Error:
        return []


def declared(folder: Path) -> Declaration:
    """What a ``*.dist-info`` folder's METADATA declares; without it, the folder's name alone."""
    told = declaration((read_file(folder / "METADATA", LONGEST) or b"").decode("utf-8", "replace"))
    return told if told.name else told._replace(name=folder.name.partition("-")[0])
