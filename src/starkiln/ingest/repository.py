"""Git repositories, whoever made them: found, and read by git with the repository's will off."""

import os
import re
import resource
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from starkiln.code.licences import governing
from starkiln.core.errors import UserError
from starkiln.ingest.distributions import licence_files
from starkiln.ingest.rows import decode, place

PATIENCE = 300  # seconds that one git command may take
MEMORY = 1 << 30  # bytes that one git command may hold
FAULTS = 8  # broken things that are looked for one by one
LISTING = 256 << 20  # bytes of a listing; a tree that names itself has no end
MODES = {b"120000": "symlink", b"160000": "submodule"}
OWNER_NAME = re.compile(  # https://host/owner/name.git, git@host:owner/name; not a local path
    r"(?:(?:https?|ssh|git)://[^/]+/|[^/:@]+@[^/:]+:)(?:[^:]*/)?([\w.-]+/[\w.-]+?)(?:\.git)?/?"
)
Item = TypeVar("Item")
Answer = TypeVar("Answer")

# What a repository's own configuration could make git run or fetch, switched off: settings given
# on the command line win over the repository's. Content filters and textconv have no switch; the
# commands that the sources give never ask for them.
SWITCHES = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.attributesFile=/dev/null",
    "core.pager=cat", "core.askPass=false", "core.sshCommand=false",
    "core.alternateRefsCommand=false", "credential.helper=", "protocol.allow=never",
)  # fmt: skip
ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "LC_ALL": "C",
}


class Broken(Exception):
    """What was asked of a repository cannot be had; the message is the reason."""


class Blob(NamedTuple):
    """One entry of HEAD's tree: where it lies, and its name as an object."""

    path: str
    name: str
    size: int
    reason: str | None


class Repository(NamedTuple):
    """A repository as a source found it; ``broken`` is the reason to set it aside, or ""."""

    root: Path  # the folder with the objects
    name: str
    head: str  # the commit
    entries: list[Blob]  # HEAD's, sorted
    licences: list[tuple[str, str]]  # (governed folder, blob)
    broken: str


# ---- which repositories


def repositories(paths: list[str]) -> list[Path]:
    """The repositories that ``paths`` are or hold; ``UserError`` where there is none."""
    return [folder for path in paths for folder in _found(path)]


def _found(path: str) -> list[Path]:
    folder = Path(path).expanduser().resolve()
    if folder.is_file() and folder.suffix == ".bundle":
        mend = f"'git clone --mirror {folder.name} FOLDER' makes one; name that folder"
        raise UserError(path, "a bundle is no repository yet", mend)
    if not folder.is_dir():
        raise UserError(path, "there is no such folder", "mend the path in the recipe")
    if _is_repository(folder):
        return [folder]
    inside = sorted(folder.iterdir())
    found = [one for one in inside if one.is_dir() and not one.is_symlink() and _is_repository(one)]
    if inside and not found:
        raise UserError(path, "holds no git repository", "name one, or use the source 'files'")
    return found


def _is_repository(folder: Path) -> bool:
    bare = (folder / "objects").is_dir() and (folder / "refs").is_dir()
    return os.path.lexists(folder / ".git") or (bare and os.path.lexists(folder / "HEAD"))


def examined(folder: Path, names: Mapping[str, str], max_bytes: int) -> Repository:
    """What lies at HEAD of the repository in ``folder``; files over ``max_bytes`` have a reason.

    ``names``: folder name -> repository name; else owner/name of the origin URL, else the folder's.
    """
    name, head, root = names.get(folder.name, folder.name), "", folder
    entries: list[Blob] = []
    try:
        root = _git_folder(folder)
        name = names.get(folder.name) or _origin(root) or folder.name
        head = _head(root)
        entries = _listing(root, max_bytes)
    except Broken as fault:
        return Repository(root, name, head, [], [], str(fault))
    named = {entry.path: entry.name for entry in entries if not entry.reason}
    licences = [(under, named[path]) for under, path in licence_files(list(named))]
    return Repository(root, name, head, entries, licences, "")


def _git_folder(folder: Path) -> Path:
    """The folder with the objects, if the repository is whole and keeps to its own folder."""
    place_ = folder / ".git" if os.path.lexists(folder / ".git") else folder
    objects = place_ / "objects"
    if place_.is_symlink() or place_.is_file() or (place_ / "commondir").exists():
        raise Broken("git-outside")  # a linked worktree, or a path chosen by the repository
    if any(one.is_symlink() for one in (objects, objects / "pack", objects / "info")):
        raise Broken("git-outside")
    if any((objects / "info" / one).exists() for one in ("alternates", "http-alternates")):
        raise Broken("git-alternates")
    return place_


def _origin(root: Path) -> str | None:
    """owner/name out of the URL of the remote "origin"."""
    try:
        url = ask(root, "config", "--get", "remote.origin.url").decode("utf-8", "replace").strip()
    except Broken:
        return None
    found = OWNER_NAME.fullmatch(url)
    return found[1] if found and ".." not in found[1] else None


def _head(root: Path) -> str:
    try:
        return ask(root, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    except Broken:
        ask(root, "rev-parse", "--git-dir")  # fails where there is no repository at all
        raise Broken("git-no-commit") from None


def _listing(root: Path, max_bytes: int) -> list[Blob]:
    lines = ask(root, "ls-tree", "-r", "-z", "-l", "--full-tree", "HEAD", room=LISTING)
    entries = []
    for line in lines.split(b"\0")[:-1]:
        facts, _, raw = line.partition(b"\t")
        mode, _, name, length = facts.split()
        path, reason = place(raw.decode("utf-8", "surrogateescape"))
        size = int(length) if length.isdigit() else 0
        reason = reason or MODES.get(mode) or ("too-large" if size > max_bytes else None)
        entries.append(Blob(path, name.decode(), size, reason))
    return sorted(entries)


# ---- what git says


def governed(
    licences: list[tuple[str, str]], contents: Mapping[str, bytes]
) -> dict[str, list[str]]:
    """For each folder the licences in force there, from (folder, blob) pairs."""
    return governing((folder, decode(contents[name])[0]) for folder, name in licences)


def sizes(root: Path, names: list[str]) -> dict[str, int]:
    """The sizes in bytes of those of ``names`` that are blobs at hand."""
    if not names:
        return {}
    out = ask(root, "cat-file", "--buffer", "--batch-check", feed=_lines(names), room=LISTING)
    facts = (line.split() for line in out.splitlines())
    return {one[0].decode(): int(one[2]) for one in facts if len(one) == 3 and one[1] == b"blob"}


def blobs(root: Path, names: list[str], room: int) -> dict[str, bytes]:
    """The contents of blobs by name; ``Broken`` if one is missing, damaged, or beyond ``room``."""
    found: dict[str, bytes] = {}
    if not names:
        return found
    with _asked(root, ("cat-file", "--buffer", "--batch"), _lines(names)) as out:
        for name in names:
            head = out.readline(256).split()
            if len(head) != 3 or head[1] != b"blob":
                raise Broken("git-broken")
            size = int(head[2])
            room -= size
            if room < 0:
                raise Broken("git-too-large")
            found[name] = out.read(size)
            if len(found[name]) + len(out.read(1)) != size + 1:
                raise Broken("git-broken")
    return found


def ask(root: Path, *words: str, feed: bytes = b"", room: int = 1 << 20) -> bytes:
    """What a git command prints; ``Broken`` if it fails, takes too long or prints over ``room``."""
    with _asked(root, words, feed) as out:
        data = out.read(room + 1)
        if len(data) > room:
            raise Broken("git-too-large")
    return data


def halved(
    ask_all: Callable[[list[Item]], list[Answer]], items: list[Item]
) -> Iterator[Answer | Broken]:
    """An answer for each of ``items``, asked together; halves are asked anew to find a broken one.

    ``Broken`` stands for the answer of an item that cannot be had by itself either; after
    ``FAULTS`` of them no more halves are asked.
    """
    waiting, faults = [items], 0
    while waiting:
        some = waiting.pop()
        half = len(some) // 2
        try:
            yield from ask_all(some)
        except Broken as fault:
            if half and faults < FAULTS:
                waiting += [some[half:], some[:half]]
            else:
                faults += 1
                yield from [fault] * len(some)


def _lines(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


@contextmanager
def _asked(root: Path, words: tuple[str, ...], feed: bytes) -> Iterator[IO[bytes]]:
    """The output of a git command, which is ended if it is left early; ``Broken`` if it fails."""
    switches = [word for switch in SWITCHES for word in ("-c", switch)]
    command = ["git", "--no-pager", f"--git-dir={root}", *switches, *words]
    with tempfile.TemporaryFile() as given:
        given.write(feed)
        given.seek(0)
        process = _started(command, root, given)
    alarm = threading.Timer(PATIENCE, process.kill)
    alarm.start()
    assert process.stdout is not None
    try:
        yield process.stdout
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        status = process.wait()
        alarm.cancel()
    if status:
        raise Broken("git-broken")


def _started(command: list[str], root: Path, given: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = ENVIRONMENT | {"PATH": os.environ.get("PATH", os.defpath)}
    pipes = {"stdin": given, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        process = subprocess.Popen(command, bufsize=1 << 16, cwd=root, env=environment, **pipes)
    except FileNotFoundError as fault:
        if root.is_dir():
            raise UserError("git", "is not installed", "install git") from fault
        raise Broken("git-broken") from fault
    if hasattr(resource, "prlimit"):  # Linux
        with suppress(ProcessLookupError):  # it may have ended already
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
    return process
