"""Source ``git``: a repository's files at HEAD."""

from collections.abc import Iterator
from pathlib import Path

from starkiln.code.document import set_aside
from starkiln.code.licences import above
from starkiln.core.keyed import digest
from starkiln.core.stage import source
from starkiln.ingest.repository import (
    Blob,
    Broken,
    Repository,
    blobs,
    examined,
    governed,
    repositories,
)
from starkiln.ingest.rows import cut, row


def read(unit: dict) -> Iterator[dict]:
    """The rows of one unit of ``git``: the blobs are fetched together, then decoded in order."""
    repo = unit["repo"]
    try:
        if unit["broken"]:
            raise Broken(unit["broken"])
        wanted = [name for _, name, _, reason in unit["entries"] if not reason]
        wanted += [name for _, name in unit["licences"]]
        contents = blobs(Path(unit["root"]), list(dict.fromkeys(wanted)), unit["room"])
    except Broken as fault:
        yield set_aside(repo, "", unit["bytes"], str(fault))
        return
    table = governed(unit["licences"], contents)
    for path, name, size, reason in unit["entries"]:
        if reason:
            yield set_aside(repo, path, size, reason)
        else:
            licences = above(table, path)
            yield row(contents[name], repo=repo, path=path, licences=licences, stars=unit["stars"])


@source(version=1, read=read)
def git(
    *,
    paths: list[str],
    names: dict[str, str] = {},  # noqa: B006 (never written to)
    stars: dict[str, int] = {},  # noqa: B006
    max_bytes: int = 1_000_000,
    unit_bytes: int = 32 << 20,
) -> list[dict]:
    """The files at HEAD of git repositories (work trees or bare), or of folders of repositories.

    ``names``: folder name -> repository name; else owner/name of the origin URL, else the folder's.
    ``stars``: repository name -> stars. Links and submodules are set aside; so is a repository that
    is broken, has no commit, or keeps its objects outside its folder. Raises ``UserError`` for a
    path that does not exist or holds no repository.
    """
    found = (examined(folder, names, max_bytes) for folder in repositories(paths))
    units = [unit for one in found for unit in _units(one, stars, max_bytes, unit_bytes)]
    return [{"name": f"{k:05d} {unit['repo']}", **unit} for k, unit in enumerate(units)]


def _units(
    found: Repository, stars: dict[str, int], max_bytes: int, unit_bytes: int
) -> Iterator[dict]:
    known = stars.get(found.name)
    for piece in [*cut(found.entries, _size, unit_bytes)] or [[]]:
        yield {
            "bytes": sum(map(_size, piece)),
            "stamp": digest(found.name, found.head, known, found.broken).hex(),
            "root": str(found.root),
            "repo": found.name,
            "stars": known,
            "entries": piece,
            "licences": found.licences,
            "room": unit_bytes + max_bytes * (len(found.licences) + 1),
            "broken": found.broken,
        }


def _size(entry: Blob) -> int:
    return 0 if entry.reason else entry.size
