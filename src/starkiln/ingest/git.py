"""Source ``git``: a repository's files at HEAD, read by git with the repository's own will off."""

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from starkiln.code.document import set_aside
from starkiln.code.licences import above, governing
from starkiln.core.errors import UserError
from starkiln.core.keyed import digest
from starkiln.core.stage import source
from starkiln.ingest.distributions import licence_files
from starkiln.ingest.rows import decode, place, row

PATIENCE = 300  # seconds that one git command may take
LISTING = 256 << 20  # bytes of a file listing; a tree that names itself has no end
MODES = {b"120000": "symlink", b"160000": "submodule"}
OWNER_NAME = re.compile(  # https://host/owner/name.git, git@host:owner/name; not a local path
    r"(?:(?:https?|ssh|git)://[^/]+/|[^/:@]+@[^/:]+:)(?:[^:]*/)?([\w.-]+/[\w.-]+?)(?:\.git)?/?"
)

# What a repository's own configuration could make git run or fetch, switched off: settings given
# on the command line win over the repository's. Content filters and textconv have no switch; the
# commands below never ask for them.
SWITCHES = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.attributesFile=/dev/null",
    "core.pager=cat", "core.askPass=false", "core.sshCommand=false",
    "core.alternateRefsCommand=false", "credential.helper=", "protocol.allow=never",
)  # fmt: skip
ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "LC_ALL": "C",
}


class Broken(Exception):
    """The repository is set aside; the message is the reason."""


def read(unit: dict) -> Iterator[dict]:
    """The rows of one unit of ``git``: the blobs are fetched together, then decoded in order."""
    repo = unit["repo"]
    try:
        if unit["broken"]:
            raise Broken(unit["broken"])
        wanted = [name for _, name, _, reason in unit["entries"] if not reason]
        wanted += [name for _, _, name in unit["licences"]]
        blobs = _blobs(Path(unit["root"]), list(dict.fromkeys(wanted)), unit["room"])
    except Broken as fault:
        yield set_aside(repo, "", unit["bytes"], str(fault))
        return
    table = governing((folder, decode(blobs[name])[0]) for folder, _, name in unit["licences"])
    for path, name, size, reason in unit["entries"]:
        if reason:
            yield set_aside(repo, path, size, reason)
        else:
            licences = above(table, path)
            yield row(blobs[name], repo=repo, path=path, licences=licences, stars=unit["stars"])


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
    found = [folder for path in paths for folder in _repositories(path)]
    units = [u for folder in found for u in _units(folder, names, stars, max_bytes, unit_bytes)]
    return [{"name": f"{k:05d} {unit['repo']}", **unit} for k, unit in enumerate(units)]


# ---- which repositories


def _repositories(path: str) -> list[Path]:
    folder = Path(path).expanduser().resolve()
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


def _units(
    folder: Path, names: dict[str, str], stars: dict[str, int], max_bytes: int, unit_bytes: int
) -> Iterator[dict]:
    repo, head, entries, broken = names.get(folder.name, folder.name), "", [], ""
    licences: list[tuple[str, str, str]] = []
    try:
        root = _git_folder(folder)
        _git(root, "rev-parse", "--git-dir")
        repo = names.get(folder.name) or _origin(root) or folder.name
        head = _git(root, "rev-parse", "--verify", "HEAD^{commit}", fault="git-no-commit").decode()
        entries = _listing(root, max_bytes)
        blobs = {path: name for path, name, _, reason in entries if not reason}
        licences = [(under, path, blobs[path]) for under, path in licence_files(list(blobs))]
    except Broken as fault:
        root, broken = folder, str(fault)
    for piece in _pieces(entries, unit_bytes):
        yield {
            "bytes": sum(size for _, _, size, reason in piece if not reason),
            "stamp": digest(repo, head.strip(), stars.get(repo), broken).hex(),
            "root": str(root),
            "repo": repo,
            "stars": stars.get(repo),
            "entries": piece,
            "licences": licences,
            "room": unit_bytes + max_bytes * (len(licences) + 1),
            "broken": broken,
        }


def _pieces(entries: list[tuple], unit_bytes: int) -> Iterator[list[tuple]]:
    """``entries`` in order, cut so that each piece holds at most ``unit_bytes``; at least one."""
    piece: list[tuple] = []
    filled = 0
    for entry in entries:
        size = 0 if entry[3] else entry[2]
        if piece and filled + size > unit_bytes:
            yield piece
            piece, filled = [], 0
        piece.append(entry)
        filled += size
    yield piece


def _origin(root: Path) -> str | None:
    """owner/name out of the URL of the remote "origin"."""
    try:
        url = _git(root, "config", "--get", "remote.origin.url").decode("utf-8", "replace").strip()
    except Broken:
        return None
    found = OWNER_NAME.fullmatch(url)
    return found[1] if found and ".." not in found[1] else None


# ---- what git says


def _listing(root: Path, max_bytes: int) -> list[tuple[str, str, int, str | None]]:
    """(path, blob, bytes, reason) of every entry of HEAD's tree, sorted by path."""
    lines = _git(root, "ls-tree", "-r", "-z", "-l", "--full-tree", "HEAD", room=LISTING)
    entries = []
    for line in lines.split(b"\0")[:-1]:
        facts, _, raw = line.partition(b"\t")
        mode, _, name, length = facts.split()
        path, reason = place(raw.decode("utf-8", "surrogateescape"))
        size = int(length) if length.isdigit() else 0
        reason = reason or MODES.get(mode) or ("too-large" if size > max_bytes else None)
        entries.append((path, name.decode(), size, reason))
    return sorted(entries)


def _blobs(root: Path, names: list[str], room: int) -> dict[str, bytes]:
    """The contents of blobs by name; ``Broken`` if one is missing or damaged."""
    if not names:
        return {}
    out = _git(
        root, "cat-file", "--batch", feed="\n".join(names).encode(), room=room + 128 * len(names)
    )
    blobs, start = {}, 0
    for name in names:
        end = out.find(b"\n", start)
        head = out[start:end].split()
        if end < 0 or len(head) != 3 or head[1] != b"blob":
            raise Broken("git-broken")
        stop = end + 1 + int(head[2])
        blobs[name], start = out[end + 1 : stop], stop + 1
    return blobs


def _git(
    root: Path, *words: str, feed: bytes = b"", room: int = 1 << 20, fault: str = "git-broken"
) -> bytes:
    """What a git command prints; ``Broken`` if it fails, takes too long or prints over ``room``."""
    switches = [word for switch in SWITCHES for word in ("-c", switch)]
    command = ["git", "--no-pager", f"--git-dir={root}", *switches, *words]
    environment = ENVIRONMENT | {"PATH": os.environ.get("PATH", os.defpath)}
    with tempfile.TemporaryFile() as given:
        given.write(feed)
        given.seek(0)
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            out = process.stdout.read(room + 1)
            if len(out) > room:
                process.kill()
                raise Broken("git-too-large")
        finally:
            process.stdout.close()
            status = process.wait()
            alarm.cancel()
    if status:
        raise Broken(fault)
    return out
