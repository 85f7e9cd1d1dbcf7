"""Source ``files``: folders and archives; the standard library and installed packages too."""

import os
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from starkiln.code.document import set_aside
from starkiln.code.licences import Declaration, above, declaration, governing, is_licence
from starkiln.core.errors import UserError
from starkiln.core.keyed import digest
from starkiln.core.stage import source
from starkiln.ingest.archives import Bounds, Member, Refused, members, suffix
from starkiln.ingest.distributions import installed, licence_files, split
from starkiln.ingest.rows import cut, decode, excluded, row
from starkiln.ingest.scan import Entry, read_file, scan

EXCLUDE = [".git", ".hg", ".svn", ".tox", ".venv", "__pycache__", "node_modules"]
STANDARD_LIBRARY, SITE_PACKAGES = "python:stdlib", "python:site-packages"
Make = Callable[..., Iterable[dict]]
PACKED = 4  # guess of an archive's unpacked size over its packed size


def read(unit: dict) -> Iterator[dict]:
    """The rows of one unit of ``files``, in a fixed order."""
    return rows(unit, lambda data, **told: [row(data, **told)])


@source(version=2, read=read)
def files(
    *,
    paths: list[str],
    exclude: list[str] = EXCLUDE,
    max_bytes: int = 1_000_000,
    archive_bytes: int = 1 << 30,
    archive_members: int = 200_000,
    archive_ratio: int = 200,
    unit_bytes: int = 32 << 20,
) -> list[dict]:
    """Every file of folders and of .tar(.gz/.bz2/.xz), .zip and .whl archives, by repository.

    A folder that holds ``*.dist-info/RECORD`` is read distribution by distribution. One that is no
    repository itself but holds some (with ``.git`` or a licence file) or archives gives one each.
    ``python:stdlib`` and ``python:site-packages`` name the running interpreter's own folders.
    An archive that unpacks beyond ``archive_bytes``, ``archive_members`` or ``archive_ratio`` times
    its size is set aside whole. What starkiln made itself and virtual environments below a path
    are not read (see ``scan``). Raises ``UserError`` for a path that does not exist.
    """
    bounds = Bounds(max_bytes, archive_bytes, archive_members, archive_ratio)
    return units(paths, exclude, bounds, unit_bytes)


def units(
    paths: list[str], exclude: list[str], bounds: Bounds, unit_bytes: int, ending: str = ""
) -> list[dict]:
    """The units of ``files``, of the files alone whose name ends in ``ending`` (lower case)."""
    listed = [part for path in paths for part in _parts(path, exclude, bounds)]
    parts = [_ending(part, ending) for part in listed]
    return [_unit(k, group) for k, group in enumerate(_packed(parts, unit_bytes))]


def rows(unit: dict, make: Make) -> Iterator[dict]:
    """The rows that ``make(data, repo=, path=, licences=)`` gives of each file of a unit."""
    for part in unit["parts"]:
        yield from _read_archive(part, make) if part["archive"] else _read_folder(part, make)


# ---- what there is to read


def _ending(part: dict, ending: str) -> dict:
    """A part without the other files; a folder that cannot be read may hold some."""
    entries = part["entries"]
    if not part["archive"]:
        entries = [e for e in entries if e.reason == "unreadable" or _ends(e.path, ending)]
    return {**part, "entries": entries, "ending": ending}


def _ends(path: str, ending: str) -> bool:
    return path.lower().endswith(ending)


def _parts(path: str, exclude: list[str], bounds: Bounds) -> Iterator[dict]:
    if path == STANDARD_LIBRARY:
        root = Path(sysconfig.get_path("stdlib"))
        yield _library(root, scan(root, [*exclude, "*-packages"], bounds.file), bounds)
        return
    roots = [Path(path).expanduser()]
    if path == SITE_PACKAGES:
        roots = [
            Path(one) for one in dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))
        ]
    for root in roots:
        if root.is_file() and suffix(root):
            yield _archive(root, exclude, bounds)
        elif root.is_dir():
            yield from _folder(root.resolve(), exclude, bounds)
        elif root.exists():
            raise UserError(path, "is neither a folder nor an archive", "name its folder")
        else:
            raise UserError(path, "there is no such file or folder", "mend the path in the recipe")


def _library(root: Path, entries: list[Entry], bounds: Bounds) -> dict:
    """CPython's library: its LICENSE.txt, or where a packager moved that away, PSF-2.0."""
    stated = any(is_licence(entry.path) for entry in entries if "/" not in entry.path)
    return _part(root, "python/cpython", entries, bounds, [] if stated else ["PSF-2.0"])


def _folder(root: Path, exclude: list[str], bounds: Bounds) -> Iterator[dict]:
    entries = scan(root, exclude, bounds.file)
    if installed(root):
        owned, rest = split(root, entries)
        for told, mine in owned:
            yield _part(root, told.name, mine, bounds, told.licences, told.exact)
        rest = [entry._replace(reason=entry.reason or "no-distribution") for entry in rest]
        yield _part(root, root.name, rest, bounds)
        return
    own, packed = set(), set()
    if not _is_project(root):
        own = {one.name for one in _subfolders(root) if _is_project(one)}
        packed = {entry for entry in entries if _is_packed(root, entry)}
    mine = {name: [] for name in sorted(own)} | {"": []}
    for entry in entries:
        top, _, rest = entry.path.partition("/")
        if top in own and rest:
            mine[top].append(entry._replace(path=rest))
        elif entry not in packed:
            mine[""].append(entry)
    for name, found in mine.items():
        yield _part(root / name, name or root.name, found, bounds)
    for entry in sorted(packed):
        yield _archive(root / entry.path, exclude, bounds)


def _is_packed(root: Path, entry: Entry) -> bool:
    """Whether an entry that lies directly in a folder of repositories is an archive."""
    alone = "/" not in entry.path and entry.reason in (None, "too-large")
    return alone and bool(suffix(root / entry.path))


def _subfolders(root: Path) -> list[Path]:
    return sorted(one for one in root.iterdir() if one.is_dir() and not one.is_symlink())


def _is_project(folder: Path) -> bool:
    """Whether a folder is one whole: a repository, or anything with a licence file of its own."""
    try:
        return any(name == ".git" or is_licence(name) for name in os.listdir(folder))  # noqa: PTH208
    except OSError:
        return False


def _part(
    root: Path,
    repo: str,
    entries: list[Entry],
    bounds: Bounds,
    declared: list[str] | None = None,
    exact: bool = False,
) -> dict:
    readable = [entry.path for entry in entries if not entry.reason]
    return {
        "archive": None,
        "root": str(root),
        "repo": repo,
        "entries": entries,
        "licences": licence_files(readable, exact),
        "declared": declared or [],
        "bounds": bounds,
    }


def _archive(path: Path, exclude: list[str], bounds: Bounds) -> dict:
    status = path.stat()
    entry = Entry(path.name, status.st_size * PACKED, status.st_mtime_ns, None)
    return {
        "archive": str(path),
        "repo": path.name[: -len(suffix(path))],
        "entries": [entry],
        "exclude": exclude,
        "bounds": bounds,
    }


# ---- units


def _packed(parts: list[dict], unit_bytes: int) -> Iterator[list[dict]]:
    """Parts in order, cut between files and packed into groups of at most ``unit_bytes``."""
    entries = ((k, entry) for k, part in enumerate(parts) for entry in part["entries"])
    for piece in cut(entries, lambda one: _size(one[1]), unit_bytes):
        yield [
            {**parts[k], "entries": [entry for _, entry in mine]}
            for k, mine in groupby(piece, lambda one: one[0])
        ]


def _size(entry: Entry) -> int:
    return 0 if entry.reason else entry.size


def _unit(number: int, parts: list[dict]) -> dict:
    """A unit; its stamp follows the paths, sizes and times of its files and of their licences."""
    entries = [entry for part in parts for entry in part["entries"]]
    governors = [
        (path, _stamp(Path(part["root"]) / path))
        for part in parts
        for _, path in part.get("licences", [])
    ]
    told = [(part["repo"], part.get("declared")) for part in parts]
    return {
        "name": f"{number:05d} {parts[0]['repo']}",
        "bytes": sum(map(_size, entries)),
        "stamp": digest(entries, governors, told).hex(),
        "parts": parts,
    }


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


# ---- reading


def _read_folder(part: dict, make: Make) -> Iterator[dict]:
    root, repo, limit = Path(part["root"]), part["repo"], part["bounds"].file
    texts = ((folder, read_file(root / path, limit) or b"") for folder, path in part["licences"])
    table = governing(_decoded(texts), part["declared"])
    for entry in part["entries"]:
        path, reason = entry.path, entry.reason
        data = b"" if reason else read_file(root / path, limit)
        if data is None or len(data) > limit:  # gone, replaced or grown since it was listed
            reason = "unreadable" if data is None else "too-large"
        if reason or data is None:
            yield set_aside(repo, path, entry.size, reason or "unreadable")
        else:
            yield from make(data, repo=repo, path=path, licences=above(table, path))


def _decoded(files: Any) -> Iterator[tuple[str, str]]:
    return ((folder, decode(data)[0]) for folder, data in files)


def _read_archive(part: dict, make: Make) -> Iterator[dict]:
    """The rows of an archive, in two passes: one to check it whole and to find the licences."""
    path = Path(part["archive"])
    try:
        repo, prefix, table = _survey(part)
        for member in _listed(part):
            inner = member.path.removeprefix(prefix)
            if not _ends(inner, part["ending"]):
                continue
            if member.reason:
                yield set_aside(repo, inner, member.size, member.reason)
            else:
                yield from make(member.data, repo=repo, path=inner, licences=above(table, inner))
    except Refused as refusal:
        size = part["entries"][0].size // PACKED
        yield set_aside(part["repo"], path.name, size, str(refusal))


def _listed(part: dict) -> Iterator[Member]:
    for member in members(Path(part["archive"]), part["bounds"]):
        if not excluded(member.path, part["exclude"]):
            yield member


def _survey(part: dict) -> tuple[str, str, dict[str, list[str]]]:
    """(repository's name, the one top folder to take off, licences by folder) of an archive."""
    paths: list[str] = []
    texts: dict[str, bytes] = {}
    for member in _listed(part):
        if not member.reason:
            paths.append(member.path)
            if is_licence(member.path) or member.path.endswith(("/METADATA", "PKG-INFO")):
                texts[member.path] = member.data
    tops = {path.partition("/")[0] for path in paths}
    single = len(tops) == 1 and all("/" in path for path in paths)
    prefix = f"{tops.pop()}/" if single else ""
    told = _told(texts, prefix)
    pairs = licence_files([path.removeprefix(prefix) for path in paths], told.exact)
    found = _decoded((folder, texts.get(prefix + path, b"")) for folder, path in pairs)
    return told.name or part["repo"], prefix, governing(found, told.licences)


def _told(texts: dict[str, bytes], prefix: str) -> Declaration:
    """What a wheel's METADATA or a source archive's PKG-INFO declares."""
    for path, data in texts.items():
        inner = path.removeprefix(prefix)
        if inner == "PKG-INFO" or (inner.count("/") == 1 and inner.endswith(".dist-info/METADATA")):
            return declaration(decode(data)[0])
    return Declaration("", [], False)
