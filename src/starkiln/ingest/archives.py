"""What lies in a tar or zip archive, read member by member; nothing is ever written to disk."""

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from starkiln.ingest.rows import place

OPEN: dict[str, Callable[[Path], Any]] = {
    ".tar": lambda path: path.open("rb"),
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tbz2": bz2.open,
    ".tar.xz": lzma.open,
    ".txz": lzma.open,
}
ZIPS = (".zip", ".whl")
CHUNK = 1 << 18
FREE = 16 << 20  # bytes that an archive may unpack to whatever its size
FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
          struct.error, ValueError, NotImplementedError, RuntimeError, OverflowError)  # fmt: skip


class Refused(Exception):
    """The whole archive is set aside; the message is the reason."""


class Bounds(NamedTuple):
    """How much an archive may hold before it counts as a bomb."""

    file: int  # bytes of one file; a larger one is set aside alone
    total: int  # bytes unpacked
    members: int
    ratio: int  # unpacked to packed


class Member(NamedTuple):
    """One file in an archive: its data, or the reason why it is set aside."""

    path: str
    size: int
    reason: str | None
    data: bytes


def suffix(path: Path) -> str:
    """The archive suffix of ``path`` (".tar.gz", ".whl", …), or "" if it is no archive."""
    name = path.name.lower()
    return next((one for one in (*OPEN, *ZIPS) if name.endswith(one)), "")


def members(path: Path, bounds: Bounds) -> Iterator[Member]:
    """Each file, link and device of an archive in its order.

    Raises ``Refused``: archive-broken (truncated, damaged, not an archive) or archive-bomb.
    """
    kind = suffix(path)
    seen: set[str] = set()
    try:
        room = min(bounds.total, max(FREE, bounds.ratio * path.stat().st_size))
    except OSError as fault:
        raise Refused("unreadable") from fault
    try:
        found = _zip(path, bounds, room) if kind in ZIPS else _tar(path, OPEN[kind], bounds, room)
        for count, member in enumerate(found):
            if count >= bounds.members:
                raise Refused("archive-bomb")
            if member.path in seen and not member.reason:
                member = Member(member.path, member.size, "duplicate-name", b"")
            seen.add(member.path)
            yield member
    except FAULTS as fault:
        raise Refused("archive-broken") from fault


class _Bounded:
    """A forward-only view of an unpacked tar that refuses to go past ``room`` bytes."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room, self.last = file, room, b""

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, position: int) -> int:
        self._within(position)
        return self.file.seek(position)

    def read(self, size: int) -> bytes:
        self._within(self.tell() + size)
        self.last = self.file.read(size)
        return self.last

    def _within(self, position: int) -> None:
        if position > self.room:
            raise Refused("archive-bomb")


def _tar(path: Path, open_: Callable[[Path], Any], bounds: Bounds, room: int) -> Iterator[Member]:
    with open_(path) as file:
        stream = _Bounded(file, room)
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as tar:  # pyrefly: ignore
            while (info := tar.next()) is not None:
                tar.members.clear()  # tarfile remembers every member
                if info.isdir():
                    continue
                name, reason = place(info.name)
                reason = reason or _tar_kind(info) or _size(info.size, bounds)
                part = None if reason else tar.extractfile(info)
                yield Member(name, info.size, reason, part.read() if part else b"")
            # tarfile takes any bad header for the end; the true end is a block of zeros
            if stream.last != bytes(tarfile.BLOCKSIZE):
                raise Refused("archive-broken")
        while file.read(CHUNK):  # the packer's own checksum comes last
            stream._within(file.tell())


def _tar_kind(info: tarfile.TarInfo) -> str | None:
    if info.issym():
        return "symlink"
    if info.islnk():
        return "hard-link"
    return None if info.isfile() else "special"


def _zip(path: Path, bounds: Bounds, room: int) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > room:
            raise Refused("archive-bomb")
        for info in infos:
            if info.is_dir():
                continue
            name, reason = place(info.filename)
            reason = reason or _zip_kind(info) or _size(info.file_size, bounds)
            yield Member(name, info.file_size, reason, b"" if reason else archive.read(info))


def _zip_kind(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "symlink"
    if kind not in (0, stat.S_IFREG):
        return "special"
    return "encrypted" if info.flag_bits & 1 else None


def _size(size: int, bounds: Bounds) -> str | None:
    return "too-large" if size > bounds.file else None
