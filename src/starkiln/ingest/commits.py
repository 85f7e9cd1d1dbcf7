"""Source ``commits``: of a repository's history the commits that change one file (rules §6)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from starkiln.code.change import change, window
from starkiln.code.document import document, set_aside
from starkiln.code.languages import detect
from starkiln.code.licences import above
from starkiln.core.keyed import digest, uniform
from starkiln.core.stage import source
from starkiln.ingest.repository import (
    LISTING,
    MODES,
    Broken,
    Repository,
    ask,
    blobs,
    examined,
    governed,
    halved,
    repositories,
    sizes,
)
from starkiln.ingest.rows import cut, decode, place

PIECE = 32 << 20  # bytes of blobs that are held at a time
RECORD = 4096  # bytes of documents that a commit gives on average
# The record of a commit begins with two NULs; its fields, and each side of an entry, end with one.
# The subject's "S" keeps it from being empty, so that three NULs stand between two records only.
FORMAT = "--format=%x00%x00%H %P%x00S%s"
HISTORY = ("diff-tree", "--stdin", "--root", "--always", "-r", "-z", "--no-abbrev", "--no-renames",
           "--ignore-submodules=none", "--encoding=UTF-8", FORMAT)  # fmt: skip
ALL = ("--branches", "--remotes")


class Commit(NamedTuple):
    """One commit; ``reason`` says why it gives no document."""

    name: str
    reason: str | None
    path: bytes = b""
    subject: bytes = b""
    before: str = ""  # blobs; "" for a file that was not there
    after: str = ""

    @property
    def place(self) -> str:
        """As git spells it: the commit, or the commit's file."""
        return f"{self.name}:{place(_path(self.path))[0]}" if self.path else self.name

    def aside(self, reason: str) -> "Commit":
        """The same commit, with the reason why it gives no document."""
        return self._replace(reason=reason)


def read(unit: dict) -> Iterator[dict]:
    """The rows of one unit of ``commits``, in the order of the history."""
    root, repo = Path(unit["root"]), unit["repo"]
    if unit["broken"]:
        yield set_aside(repo, "", 0, unit["broken"])
        return
    commits = history(root, unit["commits"].split(), unit["shallow"])
    try:
        own = list(dict.fromkeys(name for _, name in unit["licences"]))
        table = governed(unit["licences"], blobs(root, own, unit["max_bytes"] * len(own)))
    except Broken as fault:
        commits = [one if one.reason else one.aside(str(fault)) for one in commits]
        table = {}
    for commit, before, after in contents(root, commits, unit["max_bytes"]):
        if commit.reason:
            yield set_aside(repo, commit.place, len(after), commit.reason)
        else:
            yield _row(commit, before, after, unit, table)


@source(version=2, read=read)
def commits(
    *,
    paths: list[str],
    names: dict[str, str] = {},  # noqa: B006 (never written to)
    stars: dict[str, int] = {},  # noqa: B006
    heads: Annotated[
        Literal["all", "HEAD"], Field(description="history of all branches, or of HEAD alone")
    ] = "all",
    whole: Annotated[float, Field(ge=0, le=1, description="share shown as whole files")] = 0.2,
    context: Annotated[
        int, Field(ge=0, description="else: at most so many lines above and below the change")
    ] = 31,
    max_before: Annotated[
        int, Field(gt=0, description="characters of the file before that are too many")
    ] = 100_000,
    max_bytes: Annotated[int, Field(gt=0, description="of a file before or after")] = 1_000_000,
    unit_commits: Annotated[int, Field(gt=0, description="commits read at a time")] = 2000,
    seed: int = 0,
) -> list[dict]:
    """The commits of git repositories that change one file: before, subject, after (rules §6).

    ``paths``, ``names`` and ``stars`` as for the source ``git``. A renamed file is two changed
    files. The whole file is shown with probability ``whole``, else 0 to ``context`` lines above
    and below the changed lines, drawn once by (seed, commit) for both sides. A file's licences
    are those that govern its path at HEAD. All other commits are set aside, each with a reason.
    """
    settings = {"whole": whole, "context": context, "max_before": max_before,
                "max_bytes": max_bytes, "seed": seed}  # fmt: skip
    found = (examined(folder, names, max_bytes) for folder in repositories(paths))
    units = [unit for one in found for unit in _units(one, stars, heads, unit_commits)]
    return [{"name": f"{k:05d} {unit['repo']}", **unit, **settings} for k, unit in enumerate(units)]


def _units(
    found: Repository, stars: dict[str, int], heads: str, unit_commits: int
) -> Iterator[dict]:
    listed, broken, shallow = b"", found.broken, frozenset()
    if broken in ("", "git-no-commit"):
        try:
            listed = _listed(found, heads)
            shallow = _shallow(found.root)
            broken = "" if listed else "git-no-commit"
        except Broken as fault:
            broken = str(fault)
    names, known = listed.decode().split(), stars.get(found.name)
    for start in range(0, len(names) or 1, unit_commits):
        piece = names[start : start + unit_commits]
        lines, cut = "\n".join(piece), sorted(shallow.intersection(piece))
        yield {
            "bytes": len(piece) * RECORD,
            "stamp": digest(found.name, lines, cut, found.licences, known, broken).hex(),
            "root": str(found.root),
            "repo": found.name,
            "stars": known,
            "commits": lines,
            "shallow": cut,
            "licences": found.licences,
            "broken": broken,
        }


def _listed(found: Repository, heads: str) -> bytes:
    """The names of the commits, newest first, one a line."""
    words = [*(ALL if heads == "all" else ()), *([found.head] if found.head else ())]
    return ask(found.root, "rev-list", *words, room=LISTING) if words else b""


def _shallow(root: Path) -> frozenset[str]:
    """The commits at which a shallow clone was cut: their parents are not known."""
    path = root / "shallow"
    if not path.is_file():
        return frozenset()
    with path.open("rb") as file:
        return frozenset(file.read(LISTING).decode("ascii", "replace").split())


# ---- what the commits changed


def history(root: Path, names: list[str], shallow: list[str]) -> list[Commit]:
    """Each commit, with the reason why not or with the one file that it changed."""
    cut = set(shallow)
    found = halved(lambda some: _compared(root, some), names)
    commits = [
        Commit(name, str(one)) if isinstance(one, Broken) else one
        for name, one in zip(names, found, strict=True)
    ]
    return [one.aside("commit-shallow") if one.name in cut else one for one in commits]


def _compared(root: Path, names: list[str]) -> list[Commit]:
    out = ask(root, *HISTORY, feed="".join(f"{one}\n" for one in names).encode(), room=LISTING)
    try:
        found = [_commit(record) for record in out[2:].split(b"\0\0\0")]
    except ValueError:  # a message that decodes to NULs
        found = []
    if [one.name for one in found] != names:
        raise Broken("git-broken")
    return found


def _commit(record: bytes) -> Commit:
    """From ``commit parents NUL S subject NUL [LF :modes blobs status NUL path NUL ...]``."""
    head, _, rest = record.partition(b"\0")
    name, *parents = head.decode().split()
    if len(parents) > 1:
        return Commit(name, "commit-merge")
    subject, *entries = rest.removesuffix(b"\0").split(b"\0", 3)
    if not entries:
        return Commit(name, "commit-empty")
    facts, path, *more = entries
    if more:
        return Commit(name, "commit-many-files")
    old, new, before, after, status = facts.split()
    found = Commit(name, None, path, subject[1:], *(_blob(one) for one in (before, after)))
    reason = MODES.get(new) or MODES.get(old.removeprefix(b":"))
    if status == b"D":
        reason = "commit-deletion"
    elif before == after:
        reason = "commit-mode"
    return found.aside(reason) if reason else found


def _blob(name: bytes) -> str:
    return name.decode() if name.strip(b"0") else ""


# ---- what their files hold


def contents(
    root: Path, commits: list[Commit], max_bytes: int
) -> Iterator[tuple[Commit, bytes, bytes]]:
    """Each commit with its file before and after; at most ``PIECE`` bytes of blobs are held."""
    wanted = [name for one in commits if not one.reason for name in _names(one)]
    known: dict[str, int] = {}
    with suppress(Broken):  # then none is at hand
        known = sizes(root, list(dict.fromkeys(wanted)))
    sized = [_sized(one, known, max_bytes) for one in commits]
    for piece in cut(sized, lambda one: _held(one, known), PIECE):
        found = halved(lambda some: _filled(root, some), piece)
        for commit, one in zip(piece, found, strict=True):
            if isinstance(one, Broken):
                yield commit.aside(str(one)), b"", b""
            else:
                yield commit, *one


def _names(commit: Commit) -> list[str]:
    return [name for name in (commit.before, commit.after) if name]


def _sized(commit: Commit, known: dict[str, int], max_bytes: int) -> Commit:
    if commit.reason:
        return commit
    found = [known.get(name, -1) for name in _names(commit)]
    if min(found) < 0:
        return commit.aside("git-missing")
    return commit.aside("too-large") if max(found) > max_bytes else commit


def _held(commit: Commit, known: dict[str, int]) -> int:
    return 0 if commit.reason else sum(known[name] for name in _names(commit))


def _filled(root: Path, commits: list[Commit]) -> list[tuple[bytes, bytes]]:
    wanted = dict.fromkeys(name for one in commits if not one.reason for name in _names(one))
    found = {"": b"", **blobs(root, list(wanted), 2 * PIECE)}
    none = (b"", b"")
    return [none if one.reason else (found[one.before], found[one.after]) for one in commits]


# ---- the document


def _row(commit: Commit, before: bytes, after: bytes, unit: dict, table: dict) -> dict:
    """The document of a commit, or the row that sets it aside."""
    path, misplaced = place(_path(commit.path))
    texts, reasons = zip(*map(decode, (before, after, commit.subject)), strict=True)
    wrong = [reason for reason in reasons if reason not in (None, "empty")]
    found = change(texts[0], texts[1])
    if misplaced or wrong:
        reason = misplaced or wrong[0]
    elif len(texts[0]) >= unit["max_before"]:
        reason = "commit-long"
    elif not found.span:
        reason = "commit-unchanged"
    else:
        reason = None if texts[1] else "commit-emptied"
    if reason:
        return set_aside(unit["repo"], commit.place, len(after), reason)
    shown = texts[:2]
    if uniform(unit["seed"], "commit-whole", commit.name) >= unit["whole"]:
        shown = window(found, *(_offset(commit, unit, side) for side in ("above", "below")))
    return document(
        "commit",
        [
            ("<commit_before>", shown[0]),
            ("<commit_msg>", texts[2].strip()),
            ("<commit_after>", shown[1]),
        ],
        repo=unit["repo"],
        path=path,
        language=detect(path, texts[1]),
        licences=above(table, path),
        stars=unit["stars"],
    )


def _offset(commit: Commit, unit: dict, side: str) -> int:
    return int(uniform(unit["seed"], f"commit-{side}", commit.name) * (unit["context"] + 1))


def _path(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
