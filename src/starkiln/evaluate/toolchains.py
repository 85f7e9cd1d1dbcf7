"""The languages whose files can be judged, by table (``runners.toml``): how a file is compiled and
run, what it may use, and which packages bring its toolchain.

Toolchains are looked for in the system's own folders only: a jail shows /usr, never a home.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.evaluate.jail import Toolchain
from starkiln.evaluate.sandbox import FileProgram, Limits, Steps

PATH = "/usr/local/bin:/usr/bin:/bin"
_HERE = Path(__file__).parent
_LAUNCH = _HERE / "inside" / "launch"
_PLACES = ("/usr", "/bin", "/etc/alternatives", "/etc/ld.so.cache")
_ENVIRONMENT = {"PATH": PATH, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
_VERSION_S, _READY_S = 60, 600
_STEPS = {one.name for one in fields(Steps)} - {"env", "beside", "version"}


@dataclass(frozen=True)
class Runner:
    """A language: its name, how a file of it is judged, and what must be installed for that."""

    code: str  # MultiPL-E's
    language: str
    steps: Steps  # without version
    limits: Limits
    version: tuple[str, ...]  # the command that prints it
    seal: tuple[tuple[str, str], ...]  # (pattern, text): how the tests come to print the proof
    claims: tuple[tuple[str, str, int], ...]  # see counter.of_file
    check: dict[str, str] = field(hash=False)  # source and tests, right for FACTOR = 2, not 3
    before: str = ""  # what comes between source and tests
    ready: tuple[tuple[str, ...], ...] = ()  # what is made once, outside the walls
    places: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    elsewhere: str = ""  # where it comes from, if Debian has no package


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _runner(code: str, row: dict[str, Any]) -> Runner:
    row = {name: _tuples(value) for name, value in row.items()}
    cpu_s = row.pop("cpu_s", 5)
    limits = Limits(cpu_s, 10.0 * cpu_s, row.pop("memory_mb", 1024), 256, row.pop("processes", 32))
    env = {**_ENVIRONMENT, **row.pop("env", {})}
    beside = row.pop("beside", {})
    steps: dict[str, Any] = {"file": "", **{name: row.pop(name) for name in _STEPS & row.keys()}}
    pairs = {"env": tuple(env.items()), "beside": tuple(beside.items())}
    return Runner(code=code, steps=Steps(**steps, **pairs), limits=limits, **row)


_TABLE = tomllib.loads((_HERE / "runners.toml").read_text())
RUNNERS = {code: _runner(code, row) for code, row in _TABLE.items()}


def runner(language: str) -> Runner:
    """The row of a language by MultiPL-E's code or by its name; ``UserError`` for others."""
    named = {one.language.lower(): one for one in RUNNERS.values()}
    found = RUNNERS.get(language) or named.get(language.lower())
    if found is None:
        known = ", ".join(one.language for one in RUNNERS.values())
        raise UserError("language", f"no runner for {language!r}", f"one of {known}")
    return found


def install(row: Runner) -> str:
    """The command that brings a toolchain, or where it comes from."""
    return f"apt-get install {' '.join(row.apt)}" if row.apt else row.elsewhere


@functools.cache
def version(row: Runner) -> str:
    """The first line that the toolchain says of its version, "" where it is not there."""
    tool = shutil.which(row.version[0], path=PATH)
    if tool is None:
        return ""
    try:
        told = subprocess.run(
            [tool, *row.version[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": PATH, "HOME": "/nonexistent", "LANG": "C.UTF-8"},
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (told.stdout + told.stderr).strip().splitlines()
    return lines[0].strip() if lines and told.returncode == 0 else ""


@functools.cache
def toolchain(row: Runner) -> Toolchain:
    """What the jail of a language shows; ``UserError`` where its toolchain is not there."""
    if not version(row):
        raise UserError(row.language, "its toolchain is not here", install(row))
    places = [place for pattern in (*_PLACES, *row.places) for place in _glob(pattern)]
    return Toolchain(places=tuple(places), ready=_ready(row) if row.ready else None)


def _glob(pattern: str) -> list[Path]:
    return sorted(Path("/").glob(pattern.lstrip("/")))


def _ready(row: Runner) -> Path:
    """The folder of what is made once for a toolchain, in the user's cache."""
    used = re.findall(r"\{launch\}/([\w.]+)", repr(row.ready))
    launch = [(_LAUNCH / file).read_text() for file in used]
    name = keyed.digest("ready", row.ready, version(row), launch).hex()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "starkiln" / "toolchains" / f"{row.code}-{name}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, ignore_cleanup_errors=True) as made:
            folder = Path(made, "ready")
            folder.mkdir()
            folder.chmod(0o755)
            for words in row.ready:
                _make(row, [word.replace("{launch}", str(_LAUNCH)) for word in words], folder)
            try:
                folder.rename(place)
            except OSError:  # another process was first
                if not place.is_dir():
                    raise
    return place


def _make(row: Runner, words: list[str], folder: Path) -> None:
    env = {"PATH": PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
    try:
        made = subprocess.run(
            words,
            cwd=folder,
            env=env,
            capture_output=True,
            timeout=_READY_S,
            umask=0o022,  # a jail's unprivileged user reads it
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(row.language, f"cannot be made ready ({error})", install(row)) from error
    if made.returncode != 0:
        said = made.stderr.decode(errors="replace").strip()[:400]
        raise UserError(row.language, f"cannot be made ready ({said})", install(row))


def program(row: Runner, source: str, tests: str) -> FileProgram:
    """A file to judge: ``source`` is nobody's, ``tests`` are trusted and come after it."""
    return FileProgram(
        source + row.before, _sealed(row, tests), replace(row.steps, version=version(row))
    )


def _sealed(row: Runner, tests: str) -> str:
    for pattern, text in row.seal:
        found = re.search(pattern, tests)
        if found:
            return f"{tests[: found.start()]}\n{found.expand(text)}{tests[found.end() :]}"
    raise UserError(row.language, "its tests end in no way that can be proved", "see runners.toml")
