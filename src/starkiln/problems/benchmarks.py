"""The benchmarks by name: where their files are found, or fetched from once."""

import difflib
import gzip
import hashlib
import importlib.util
import os
import re
import tomllib
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.problems import (
    apps,
    ds1000,
    gsm8k,
    humaneval,
    infilling,
    mbpp,
    multiple,
    own,
    santacoder,
)
from starkiln.problems.problem import Needle, Problem

_TIMEOUT_S = 60


@dataclass(frozen=True)
class Benchmark:
    """A publisher's files (``published.toml``), and what training data must not hold of them."""

    folder: str  # below a folder of benchmarks
    url: str  # of the folder that holds the files
    files: dict[str, str]  # name -> SHA-256 of the content, or "" where it is too large to fetch
    needles: Callable[[list[Path]], list[Needle]] | None = None  # None: it has none of its own
    package: str = ""  # an installed package that may hold a file as data/NAME
    some: bool = False  # a folder need not hold all files


class Task(NamedTuple):
    """What a model is scored on: a file of a benchmark and how it is read."""

    benchmark: str
    file: str
    read: Callable[[Path], list[Problem]]


_NEEDLES: dict[str, Callable[[list[Path]], list[Needle]]] = {
    "humaneval": humaneval.needles,
    "mbpp": mbpp.needles,
    "ds1000": ds1000.needles,
    "multiple": multiple.needles,
    "gsm8k": gsm8k.needles,
    "apps": apps.needles,
}
_PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("published.toml").read_text()
)
_ORDER = dict.fromkeys([*_NEEDLES, *_PUBLISHED])
BENCHMARKS = {name: Benchmark(**_PUBLISHED[name], needles=_NEEDLES.get(name)) for name in _ORDER}
_TRANSLATED = re.compile(r"(?:humaneval|(mbpp))-(\w+)-reworded\.json")
TASKS: dict[str, Task] = {
    "humaneval": Task("humaneval", "HumanEval.jsonl.gz", humaneval.humaneval),
    "mbpp": Task("mbpp", "mbpp.jsonl", mbpp.mbpp),
    "mbpp-sanitized": Task("mbpp", "sanitized-mbpp.json", mbpp.sanitized),
    "ds1000": Task("ds1000", "ds1000.jsonl.gz", ds1000.completion),
    "ds1000-insert": Task("ds1000", "ds1000.jsonl.gz", ds1000.insertion),
    **{
        f"infill-{task}": Task("infilling", f"HumanEval-{name}.jsonl.gz", infilling.infilling)
        for task, name in (
            ("single", "SingleLineInfilling"),
            ("multi", "MultiLineInfilling"),
            ("random", "RandomSpanInfilling"),
            ("random-light", "RandomSpanInfillingLight"),
        )
    },
    "infill": Task("santacoder", "train.parquet", santacoder.lines),
    **{
        f"infill-{name}": Task(
            "santacoder", "train.parquet", partial(santacoder.lines, languages=(name,))
        )
        for name in santacoder.LANGUAGES
    },
    **{
        f"multiple-{'mbpp-' if found[1] else ''}{found[2]}": Task(
            "multiple", file, multiple.problems
        )
        for file in BENCHMARKS["multiple"].files
        if (found := _TRANSLATED.fullmatch(file))
    },
}
OTHERS = ("perplexity", "return-types")  # tasks of an evaluation that have no file here


def tasks() -> list[str]:
    """The names of all tasks that ``load`` knows."""
    return list(TASKS)


def load(task: str, folder: Path | None = None) -> list[Problem]:
    """The problems of ``task``; see ``locate`` for where they come from.

    A task that is the name of a ``.jsonl`` or ``.jsonl.gz`` file is the user's own.
    """
    if task.endswith((".jsonl", ".jsonl.gz")):
        return own.problems(Path(task))
    if task not in TASKS:
        near = difflib.get_close_matches(task.lower(), [*TASKS, *OTHERS], 3)
        known = [name for name in (*TASKS, *OTHERS) if not name.startswith("multiple-")]
        known += ["multiple-LANG", "multiple-mbpp-LANG", "your own FILE.jsonl"]
        mend = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise UserError(task, "no such task", mend)
    benchmark, file, read = TASKS[task]
    return read(_place(benchmark, file, folder))


def contaminants(name: str, folder: Path | None = None) -> list[Needle]:
    """What training data must not hold of benchmark ``name``; ``folder`` as for ``locate``."""
    benchmark = _known(name)
    if benchmark.needles is None:
        what = "holds no problems of its own to search for"
        raise UserError(name, what, f"one of {', '.join(_NEEDLES)}")
    return benchmark.needles(locate(name, folder))


def locate(name: str, folder: Path | None = None) -> list[Path]:
    """The files of benchmark ``name``.

    ``folder`` (or the file itself) if given, which must hold them; else ``benchmarks`` in
    ``$STARKILN_DATA``; else the publisher's installed package; else the user's cache, which is
    filled once from the publisher. The last two are checked by their SHA-256.
    """
    benchmark = _known(name)
    if benchmark.some and (there := _languages(benchmark, folder)):
        return there
    return [_place(name, file, folder) for file in benchmark.files]


def stamp(names: list[str], folder: Path | None = None) -> str:
    """Changes when what ``locate`` finds changes; what would be fetched is as published."""
    digest = hashlib.sha256()
    for name in names:
        benchmark = _known(name)
        there = _languages(benchmark, folder) if benchmark.some else []
        for file, published in benchmark.files.items():
            place = _local(benchmark, file, folder)
            if place is not None or not there:
                digest.update(f"{name}/{file} {_digest(place) if place else published}\n".encode())
    return digest.hexdigest()[:16]


def _known(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise UserError(name, "no such benchmark", f"known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def _languages(benchmark: Benchmark, folder: Path | None) -> list[Path]:
    places = [_local(benchmark, file, folder) for file in benchmark.files]
    return [place for place in places if place is not None]


def _local(benchmark: Benchmark, file: str, folder: Path | None) -> Path | None:
    """Where the user keeps a file; any edition will do."""
    below = f"{benchmark.folder}/{file}"
    if folder is not None:
        places = [folder / file, folder / below, folder / "benchmarks" / below]
        # the file itself is as good; by any name, where it can only be the first
        first = file == next(iter(benchmark.files)) and folder.name not in benchmark.files
        places += [folder] if first or folder.name == file else []
    else:
        data = os.environ.get("STARKILN_DATA")
        places = [Path(data) / "benchmarks" / below] if data else []
    return next((place for place in places if place.is_file()), None)


def _place(name: str, file: str, folder: Path | None) -> Path:
    benchmark = BENCHMARKS[name]
    if (place := _local(benchmark, file, folder)) is not None:
        return place
    if folder is not None:
        raise UserError(folder, f"holds no {file}", f"put it there as {benchmark.folder}/{file}")
    for place in _packaged(benchmark, file):
        if place.is_file() and _digest(place) == benchmark.files[file]:
            return place
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "starkiln" / benchmark.folder / file
    if not place.is_file():
        _fetch(benchmark.url + file, benchmark.files[file], place)
    return place


def _packaged(benchmark: Benchmark, file: str) -> list[Path]:
    """Where the package keeps its data, wherever it can be imported from; it is not imported."""
    try:
        found = importlib.util.find_spec(benchmark.package) if benchmark.package else None
    except (ImportError, ValueError):  # ValueError: imported already, and without a spec
        return []
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    # the publisher's own checkout has the data beside the package
    return [place / "data" / file for folder in folders for place in (folder, folder.parent)]


def _digest(place: Path) -> str:
    return _content_digest(place.read_bytes()) if place.suffix == ".gz" else atomic.sha256(place)


def _content_digest(data: bytes) -> str:
    """SHA-256 of what a file holds: packed anew, it is the same file."""
    try:
        return hashlib.sha256(gzip.decompress(data)).hexdigest()
    except (OSError, EOFError, ValueError):
        return hashlib.sha256(data).hexdigest()


def _fetch(url: str, sha256: str, place: Path) -> None:
    mend = f"get it from {url} and put it at {place}"
    if not sha256:
        raise UserError(place.name, "not here, and too large to be fetched unasked", mend)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            data = answer.read()
    except (OSError, HTTPException) as error:
        raise UserError(place.name, f"not here, and no download: {error}", mend) from error
    if _content_digest(data) != sha256:
        raise UserError(url, "its content is not what was published", mend)
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(place, data)
