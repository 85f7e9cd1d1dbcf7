"""Commits of one file with both blobs: ours against pygit2, by CPU seconds of the process tree.

Takes repositories as arguments; without any, the histories in the shared data are joined, several
times over, to one repository with each copy in a folder of its own, as large repositories are.
Both must yield the same commits, paths and contents of the file before and after.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from starkiln.ingest.commits import commits, contents, history

COPIES = 8
ROUNDS = 3
SHARED = Path(__file__).parents[1] / ".." / "shared"
BUNDLES = Path(os.environ.get("STARKILN_DATA", SHARED)) / "corpora" / "git"
FILE = re.compile(rb'(M \S+ \S+ |D )("?)(.*)', re.DOTALL)
MARK = re.compile(rb"(mark|from|merge) :(\d+)")


def ours(path):
    found = {}
    for unit in commits(paths=[path]):
        root = Path(unit["root"])
        listed = history(root, unit["commits"].split(), unit["shallow"])
        for commit, before, after in contents(root, listed, unit["max_bytes"]):
            if not commit.reason:
                found[commit.name] = (commit.path, before, after)
    return found


def pygit2s(path):
    import pygit2
    from pygit2.enums import FileMode, SortMode

    repository, found = pygit2.Repository(path), {}
    branches = [repository.branches[name].peel(pygit2.Commit).id for name in repository.branches]
    walk = repository.walk(repository.head.target, SortMode.NONE)
    for branch in branches:
        walk.push(branch)
    for commit in walk:
        parents = commit.parents
        if len(parents) > 1:
            continue
        tree = parents[0].tree if parents else None
        diff = tree.diff_to_tree(commit.tree) if tree else commit.tree.diff_to_tree(swap=True)
        if len(diff) != 1:
            continue
        delta = next(diff.deltas)
        old, new = delta.old_file, delta.new_file
        if delta.status_char() == "D" or old.id == new.id:
            continue
        if {old.mode, new.mode} & {FileMode.LINK, FileMode.COMMIT}:
            continue
        sides = [repository[one.id].data if one.mode else b"" for one in (old, new)]
        if max(map(len, sides)) <= 1_000_000:
            found[str(commit.id)] = (new.raw_path, *sides)
    return found


def joined(folder):
    """One bare repository of all the bundles' histories, ``COPIES`` times end to end."""
    git(folder, "init", "-q", "--bare", "-b", "main")
    streams = {}
    for bundle in sorted(BUNDLES.glob("*.bundle")):
        ref = f"refs/parts/{bundle.stem}"
        git(folder, "fetch", "-q", str(bundle), f"refs/heads/main:{ref}")
        streams[bundle.stem] = git(folder, "fast-export", "--no-data", "--reencode=no", ref)
    marks, feed = 0, []
    for copy in range(COPIES):
        for name, stream in streams.items():
            feed.append(placed(stream, f"copy{copy}/{name}/".encode(), marks))
            marks += stream.count(b"\nmark :")
    git(folder, "fast-import", "--quiet", "--force", feed=b"".join(feed))
    for name in streams:
        git(folder, "update-ref", "-d", f"refs/parts/{name}")
    git(folder, "repack", "-adq")


def placed(stream, prefix, marks):
    """A fast-export stream with its files below ``prefix`` and its marks after ``marks``.

    All goes on one branch, so that the first commit follows the last of the stream before.
    """
    moved, rest = [], stream
    while rest:
        line, _, rest = rest.partition(b"\n")
        size = int(line[5:]) if line.startswith(b"data ") else 0
        if line.startswith(b"commit "):
            line = b"commit refs/heads/main"
        elif mark := MARK.fullmatch(line):
            line = b"%s :%d" % (mark[1], marks + int(mark[2]))
        elif file := FILE.fullmatch(line):
            line = file[1] + file[2] + prefix + file[3]
        if not line.startswith(b"reset "):
            moved += [line, b"\n", rest[:size]]
        rest = rest[size:]
    return b"".join(moved)


def git(folder, *words, feed=b""):
    done = subprocess.run(["git", *words], cwd=folder, input=feed, capture_output=True, check=True)
    return done.stdout


def clock(function, path):
    begin = seconds()
    found = function(path)
    return seconds() - begin, found


def seconds():
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def compare(path):
    runs = {f: [clock(f, path) for _ in range(ROUNDS)] for f in (ours, pygit2s)}
    found = runs[ours][0][1]
    same = found == runs[pygit2s][0][1]
    size = sum(len(side) for one in found.values() for side in one[1:]) / 1e6
    mine, theirs = (min(spent for spent, _ in runs[f]) for f in (ours, pygit2s))
    count = int(git(path, "rev-list", "--count", "--branches", "--remotes", "HEAD"))
    print(f"{Path(path).name}: {count} commits, {len(found)} of one file, {size:.0f} MB of blobs; "
          f"same: {same}")  # fmt: skip
    print(f"pygit2  {theirs:6.2f} CPU-s  {count / theirs:6.0f} commits/CPU-s")
    print(f"ours    {mine:6.2f} CPU-s  {count / mine:6.0f} commits/CPU-s  {theirs / mine:.1f} x")
    if not same:
        raise SystemExit("the two yield different commits")


def main():
    if not sys.argv[1:] and not BUNDLES.is_dir():
        print(f"{BUNDLES} is absent: name repositories, or set STARKILN_DATA")
        return
    with tempfile.TemporaryDirectory() as folder:
        if not sys.argv[1:]:
            joined(folder)
        for path in sys.argv[1:] or [folder]:
            compare(path)


if __name__ == "__main__":
    main()
