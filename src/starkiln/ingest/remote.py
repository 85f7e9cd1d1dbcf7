"""Files on the local disk or behind a URL that fsspec knows: which there are, and opened."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from starkiln.core.errors import UserError

# What tells that a file changed, by the names that file systems give it.
STATE = ("size", "mtime", "ETag", "etag", "checksum", "md5Hash", "content_md5", "blob_id", "oid",
         "LastModified", "last_modified")  # fmt: skip


class Found(NamedTuple):
    """One file: its URL, its path below what the user named, and what changes with its bytes."""

    url: str
    name: str
    stamp: str


def listed(paths: list[str], ending: str) -> list[Found]:
    """The files that ``paths`` name: files, folders (all files with this ending) and globs.

    In the order of ``paths``, then of names. ``UserError`` for a path that names none, for a kind
    of URL that is not known and for one whose package is not installed.
    """
    return [found for path in paths for found in _listed(path, ending)]


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """The file behind ``url``, to read bytes; ``UserError`` if it cannot be opened."""
    system, path = _system(url)
    try:
        handle = system.open(path, "rb")
    except Exception as fault:  # each file system has its own
        raise _unreachable(url, fault) from fault
    with handle:
        yield handle


def _listed(path: str, ending: str) -> list[Found]:
    system, inner = _system(path)
    try:
        if system.isfile(inner):
            infos, root = {inner: system.info(inner)}, posixpath.dirname(inner)
        elif system.isdir(inner):
            found, root = system.find(inner, detail=True), inner
            infos = {name: info for name, info in found.items() if name.lower().endswith(ending)}
        else:
            found, root = system.glob(inner, detail=True), posixpath.dirname(inner.split("*")[0])
            infos = {name: info for name, info in found.items() if info["type"] == "file"}
    except Exception as fault:  # each file system has its own
        raise _unreachable(path, fault) from fault
    if not infos:
        raise UserError(path, f"there is no such file, nor a folder of *{ending}", "mend the path")
    return [_found(system, name, root, infos[name]) for name in sorted(infos)]


def _found(system: Any, path: str, root: str, info: dict) -> Found:
    state = {key: str(info[key]) for key in STATE if info.get(key) is not None}
    stamp = str(state) if len(state) > 1 else system.ukey(path)
    url = path if "file" in system.protocol else system.unstrip_protocol(path)
    return Found(url, path.removeprefix(root).lstrip("/"), stamp)


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as fault:
        package = known_implementations.get(protocol, {}).get("class", protocol).partition(".")[0]
        mend = "install it" if package == "fsspec" else f"pip install {package}"
        raise UserError(url, f"needs a package that is missing ({fault})", mend) from fault
    except Exception as fault:  # each file system has its own; fsspec: a protocol not known
        raise _unreachable(url, fault) from fault


def _unreachable(url: str, fault: Exception) -> UserError:
    what = " ".join(str(fault).split())[:200]
    what = f"cannot be read ({type(fault).__name__}: {what})"
    return UserError(url, what, "mend the path, the rights or the connection")
