"""Git repositories for tests: made, committed to, and set with traps."""

import os
import subprocess
from pathlib import Path

from licence_texts import BSD0

TREE = {"LICENSE": BSD0, "src/a.py": "a = 1\n", "b.c": "int b;\n"}
QUIET = ("user.name=a", "user.email=a@b", "init.defaultBranch=main", "protocol.file.allow=always")
HOOKS = (
    "post-checkout", "post-index-change", "pre-auto-gc", "reference-transaction",
    "fsmonitor-watchman", "query-watchman",
)  # fmt: skip
PROGRAMS = (  # settings whose value git may run
    "core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.gitProxy",
    "core.askPass", "core.alternateRefsCommand", "credential.helper", "diff.external",
    "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv",
    "diff.evil.command", "merge.evil.driver", "gpg.program", "uploadpack.packObjectsHook",
    "remote.origin.uploadpack", "alias.ls-tree", "alias.cat-file", "alias.rev-parse",
    "alias.rev-list", "alias.diff-tree", "pager.ls-tree", "pager.cat-file", "pager.rev-list",
    "pager.diff-tree",
)  # fmt: skip


def run(folder: Path, *words: str, feed: str | bytes = "") -> str:
    """What git prints, with no configuration but the repository's."""
    quiet = [word for setting in QUIET for word in ("-c", setting)]
    keep = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment = keep | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *quiet, *words],
        cwd=folder,
        env=environment,
        input=feed.encode() if isinstance(feed, str) else feed,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip()


def make(folder: Path, tree: dict[str, str | bytes] = TREE) -> Path:
    """A repository in ``folder`` with one commit of ``tree``."""
    folder.mkdir(parents=True)
    run(folder, "init", "-q")
    save(folder, tree, "one")
    return folder


def save(root: Path, tree: dict[str, str | bytes | None], subject: str) -> str:
    """Commit what ``tree`` says (None removes a file); the commit's name."""
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data.encode() if isinstance(data, str) else data)
    run(root, "add", "-A")
    run(root, "commit", "-q", "--allow-empty", "--allow-empty-message", "-m", subject)
    return run(root, "rev-parse", "HEAD")


def objects(root: Path) -> dict[str, Path]:
    """The loose objects by name."""
    return {"".join(p.parts[-2:]): p for p in (root / ".git/objects").glob("??/*")}


def harm(root: Path, name: str, how: str) -> None:
    """Make a loose object ``gone``, ``empty`` or ``damaged``."""
    path = objects(root)[name]
    path.chmod(0o600)
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else path.read_bytes()[:-4])


def planted(folder: Path, root: Path) -> Path:
    """The folder in which each trap leaves a mark that was set in ``root`` and has sprung."""
    marks, hooks = folder / "marks", folder / "hooks"
    marks.mkdir()
    hooks.mkdir()
    for name in HOOKS:
        for place in (hooks, root / ".git/hooks"):
            place.mkdir(exist_ok=True)
            (place / name).write_text(f"#!/bin/sh\ntouch {marks}/hook-{name}\n")
            (place / name).chmod(0o755)
    for key in PROGRAMS:
        path = folder / f"trap-{key}"
        path.write_text(f"#!/bin/sh\ntouch {marks}/{key}\ncat\n")
        path.chmod(0o755)
        run(root, "config", key, f"!{path}" if key.startswith("alias") else str(path))
    run(root, "config", "core.hooksPath", str(hooks))
    run(root, "config", "filter.evil.required", "true")
    for one in marks.iterdir():
        one.unlink()
    return marks
