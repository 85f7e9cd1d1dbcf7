"""The libraries of DS-1000: pinned, installed once in the user's cache, shown to its jails.

``ds1000.txt`` names the versions under which the reference solutions pass. PyTorch is the one
that starkiln itself runs on: a second one would be gigabytes.
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.evaluate.jail import Toolchain
from starkiln.evaluate.sandbox import Limits, Program
from starkiln.problems.problem import Problem

PINS = Path(__file__).with_name("ds1000.txt")
DRAWS = "Matplotlib"
LIMITS = Limits(cpu_s=60, wall_s=180.0, memory_mb=4096, disk_mb=64, processes=64)
_PYTHON = (3, 11)  # the last that all the pinned versions have wheels for
_TORCH = ("torch", "torchgen", "functorch", "nvidia", "triton")
_DATA_SETS = ("exercise.csv", "penguins.csv", "planets.csv", "tips.csv")
# Modules of our own in the jail: imported first, and TensorFlow with its kernels loaded, for which
# it looks itself up in the /proc that candidates do not have.
_SETTINGS, _VALUES, _KERNELS = "starkiln_ds1000", "starkiln_values", "starkiln_kernels"
_CROSSING = Path(__file__).with_name("values.py")
_READY = Path("/starkiln/ready")  # where a jail shows ``Toolchain.ready``
_LOAD = """
from tensorflow.python.framework import kernels

kernels.get_registered_kernels_for_op("Const")
"""
_FRAMES = ("numpy", "pandas")
_FITS = ("scipy.optimize", "scipy.stats", "scipy.sparse", "scipy.integrate", "scipy.interpolate")
_PRELOAD = {
    DRAWS: (*_FRAMES, "matplotlib.pyplot", "seaborn", "PIL.Image", "mpl_toolkits.mplot3d"),
    "Numpy": (*_FRAMES, "scipy.stats", _KERNELS),
    "Pandas": _FRAMES,
    "Pytorch": (*_FRAMES, "torch", "torch.distributed.tensor"),
    "Scipy": (*_FRAMES, *_FITS, "scipy.ndimage", "scipy.spatial"),
    "Sklearn": (*_FRAMES, "sklearn.ensemble", "sklearn.feature_extraction.text", "sklearn.svm",
                "sklearn.cluster", "sklearn.model_selection", "sklearn.pipeline"),
    "Tensorflow": (*_FRAMES, _KERNELS),
}  # fmt: skip
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HOME": "/tmp",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/tmp",
    "SEABORN_DATA": f"{_READY}/seaborn-data",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    **{f"{who}_NUM_THREADS": "1" for who in ("MKL", "NUMEXPR", "OMP", "OPENBLAS")},
}

_CANDIDATE = f"""
import {_VALUES}

def run(code, given):
    environment = {{"test_input": {_VALUES}.receive(given)}}
    exec(code, environment)
    return {_VALUES}.dump(environment["result"])
"""
_JUDGE = f"""
import os, shutil, {_VALUES}

shutil.rmtree("/tmp/test", ignore_errors=True)  # some tests write files
os.mkdir("/tmp/test")
os.chdir("/tmp/test")

def exec(code, environment):
    answer = run(code, {_VALUES}.send(environment["test_input"]))
    environment["result"] = {_VALUES}.load(answer)

"""


@functools.cache
def toolchain(library: str, data: Path | None = None) -> Toolchain:
    """What a jail for the problems of ``library`` (a ``Problem.group``) needs.

    ``data`` is the folder with seaborn's data sets, which those of ``DRAWS`` load. Installs the
    libraries first where they are not yet there (minutes): ``UserError`` if that fails.
    """
    files = _data_sets(data) if data else {}
    installed, torch = install(PINS), _torch()
    beside = ready(installed.with_name(f"{installed.name}.ready"), torch[0].parent, files)
    return Toolchain(
        places=torch,
        packages=(_READY, installed),
        preload=(_SETTINGS, _VALUES, *_PRELOAD.get(library, _FRAMES)),
        ready=beside,
    )


def _data_sets(data: Path) -> dict[str, bytes]:
    try:
        return {f"seaborn-data/{name}": (data / name).read_bytes() for name in _DATA_SETS}
    except OSError as error:
        mend = "put it there from the repository seaborn-data of seaborn's author"
        raise UserError(data, f"lacks a data set that DS-1000 draws ({error})", mend) from error


def ready(place: Path, torch: Path, files: Mapping[str, bytes]) -> Path:
    """A folder in ``place`` with ``files`` and the modules that the fork server imports first.

    It is named by what it holds. ``torch`` is the folder that is searched last for packages.
    """
    settings = f"""# PyTorch {importlib.metadata.version("torch")}
import os, sys

os.environ.update({_QUIET!r})
sys.path.append({str(torch)!r})
"""
    texts = {_SETTINGS: settings, _KERNELS: _LOAD, _VALUES: _CROSSING.read_text()}
    whole = {**files, **{f"{name}.py": text.encode() for name, text in texts.items()}}
    folder = place / hashlib.sha256(repr(sorted(whole.items())).encode()).hexdigest()[:16]
    for name, content in whole.items():
        if not (folder / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(folder / name, content)
    return folder


def program(problem: Problem, completion: str, strict: bool) -> Program:
    """The program that judges ``completion`` of a problem whose ``judge`` is ``script``.

    With ``strict`` the test's own ``exec``, the one place where it runs the completion, sends it
    with its input to the candidate's process and takes back plain data (``values``). Where that
    is not possible (a figure, a model), both share one process.
    """
    solution = f"solution = {completion!r}\n"
    if not strict:
        return Program(solution, problem.tests, "", strict=False)
    return Program(_CANDIDATE, f"{_JUDGE}{solution}{problem.tests}", "run")


def install(pins: Path) -> Path:
    """The folder of packages with all that ``pins`` lists, made by pip where it is not yet there.

    It is whole or absent, and named by the pins, the Python version and the machine; processes
    that ask at once wait for one of them. ``UserError`` where pip fails.
    """
    about = f"{pins.read_text()}\n{sys.implementation.cache_tag} {platform.machine()}"
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "starkiln" / pins.stem
    )
    place = cache / hashlib.sha256(about.encode()).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.is_dir():
                _make(pins, place)
    except OSError as error:
        raise UserError(cache, f"cannot be written ({error})", "set XDG_CACHE_HOME") from error
    return place


def _make(pins: Path, place: Path) -> None:
    if sys.version_info[:2] != _PYTHON:
        what = f"its pinned libraries run on Python {'.'.join(map(str, _PYTHON))} only"
        raise UserError(pins.stem, what, "install starkiln there to score it")
    scratch = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process: the lock is ours
    wanted = ["--no-deps", "--only-binary", ":all:", "-r", str(pins)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*pip, "install", "--quiet", *wanted, "-t", str(scratch)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = "".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-1:])
            what = f"its libraries cannot be installed ({said[-300:]})"
            mend = f"see what '{' '.join([*pip[:3], 'download', *wanted])}' needs"
            raise UserError(pins.stem, what, mend)
        scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    atomic.sync_folder(place.parent)


def _torch() -> tuple[Path, ...]:
    """The folders of the running interpreter's PyTorch; its package comes first."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise UserError("ds1000", "there is no PyTorch", "install starkiln with its dependencies")
    around = Path(found.origin).resolve().parents[1]
    return tuple(around / name for name in _TORCH if (around / name).is_dir())
