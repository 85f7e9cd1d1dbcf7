"""Training by many processes from the command line: as one does it, and when one of them dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import corpus
from starkiln import pipeline

# No dropout in 'tiny'; fp32 and Adam, so that layouts differ by rounding alone.
TRAIN = """
[fim]
rate = 0.5

[train]
optimizer = "adam"
lr = 1e-3
batch_size = 8
steps = 20
checkpoint_every = 5

[run]
until = "checkpoint"
device = "cpu"
dtype = "fp32"
micro_batch = 2
threads = 1
"""
LAYOUTS = {
    "data 2": (2, {}),
    "tensor 2, pipeline 2": (4, {"tensor": 2, "pipeline": 2}),
    "data 2, context 2": (4, {"context": 2}),
}
CASES = ["data 2", *(pytest.param(name, marks=pytest.mark.slow) for name in list(LAYOUTS)[1:])]


def command(world: int, recipe: Path, *sets: str) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "-m"]
    chosen = [word for one in sets for word in ("--set", one)]
    first = [sys.executable, *(launch if world > 1 else ["-m"]), "starkiln", "run", str(recipe)]
    return [*first, *chosen]


def run(world: int, recipe: Path, *sets: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(world, recipe, *sets), capture_output=True, text=True, timeout=200, check=False
    )


def layout(parallel: dict[str, int]) -> list[str]:
    return [f"run.parallel.{name}={size}" for name, size in parallel.items()]


def metrics(recipe: Path) -> list[dict]:
    lines = (recipe.parent / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose data is made, and nothing trained."""
    repositories = corpus.make(tmp_path_factory.mktemp("repositories"))
    recipe = tmp_path_factory.mktemp("packed") / "recipe.toml"
    source = f'[[source]]\nuse = "files"\npaths = ["{repositories}"]\n'
    recipe.write_text(f'extends = "tiny"\n{source}{TRAIN}')
    done = run(1, recipe, "run.until=tokens")
    assert done.returncode == 0, done.stderr
    return recipe


def fresh(packed: Path, folder: Path) -> Path:
    shutil.copytree(packed.parent, folder)
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def alone(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe trained by one process."""
    recipe = fresh(packed, tmp_path_factory.mktemp("alone") / "work")
    done = run(1, recipe)
    assert done.returncode == 0, done.stderr
    return recipe


@pytest.mark.parametrize("name", CASES)
def test_many_processes_train_what_one_does(packed, alone, tmp_path, name) -> None:
    import torch
    from safetensors.torch import load_file

    world, parallel = LAYOUTS[name]
    recipe = fresh(packed, tmp_path / "work")
    done = run(world, recipe, *layout(parallel))
    assert done.returncode == 0, done.stderr
    for one, many in zip(metrics(alone), metrics(recipe), strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert many["tokens"] == one["tokens"]
        assert many["sources"] == pytest.approx(one["sources"], rel=1e-4)
    ours, theirs = (
        load_file(path.parent / "checkpoint" / "model.safetensors") for path in (alone, recipe)
    )
    for key, weight in ours.items():
        torch.testing.assert_close(theirs[key], weight, rtol=1e-3, atol=1e-4, msg=key)
    curves = [path.parent / "checkpoint" / "validation.jsonl" for path in (alone, recipe)]
    a, b = ([json.loads(line) for line in curve.read_text().splitlines()] for curve in curves)
    for one, many in zip(a, b, strict=True):
        assert many["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=1e-4)
        assert many["bytes"] == one["bytes"]
        assert many["targets"] == one["targets"]


def test_a_process_that_dies_loses_at_most_the_interval(packed, alone, tmp_path) -> None:
    """One rank of four is killed; the same recipe goes on with two processes, then with one."""
    recipe = fresh(packed, tmp_path / "work")
    child = subprocess.Popen(
        command(4, recipe, "run.parallel.tensor=2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    states = recipe.parent / ".checkpoint.partial" / "state"
    while child.poll() is None and not list(states.glob("step-*")):
        time.sleep(0.02)
    victims = children(child.pid)
    assert len(victims) == 4
    os.kill(victims[2], signal.SIGKILL)
    _, errors = child.communicate(timeout=120)
    assert child.returncode != 0
    assert "Traceback" not in starkilns(errors), errors
    held = max(int(path.name[5:]) for path in states.glob("step-*"))
    assert held % 5 == 0
    done = run(2, recipe)
    assert done.returncode == 0, done.stderr
    rows = metrics(recipe)
    assert [row["step"] for row in rows] == list(range(1, 21))
    for one, many in zip(metrics(alone), rows, strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_signal_to_the_launcher_saves_the_step_in_hand(packed, tmp_path) -> None:
    recipe = fresh(packed, tmp_path / "work")
    once = ("train.steps=12", "train.checkpoint_every=100", "train.validation_tokens=4096")
    child = subprocess.Popen(
        command(2, recipe, *once), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    partial = recipe.parent / ".checkpoint.partial"
    journal = partial / "metrics.jsonl"
    while child.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    ours = starkilns(errors)
    assert "Traceback" not in ours, errors
    assert ours.count("stopped; the same command continues where this one was") == 1, errors
    made = len(journal.read_text().splitlines())
    assert made < 12
    assert [path.name for path in (partial / "state").iterdir()] == [f"step-{made:06d}"]
    done = run(1, recipe, *once)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in metrics(recipe)] == list(range(1, 13))
    events = (recipe.parent / "checkpoint" / "events.jsonl").read_text().splitlines()
    resumed = [row for row in map(json.loads, events) if row["event"] == "resumed"]
    assert [row["step"] for row in resumed] == [made]


def test_a_training_that_wants_but_its_swap_keeps_nobody(packed, alone, tmp_path, monkeypatch):
    """The first process only swaps it in, so another that took its place would wait for ever."""
    recipe = fresh(alone, tmp_path / "work")
    (recipe.parent / "checkpoint").rename(recipe.parent / ".checkpoint.partial")
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)  # and no address to meet the others at
    pipeline.run(recipe, [], Console(quiet=True))
    monkeypatch.setenv("RANK", "0")
    pipeline.run(recipe, [], Console(quiet=True))
    assert (recipe.parent / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize("world", [1, 2])
def test_of_many_one_that_fails_ends_at_once(tmp_path, world) -> None:
    code = (
        "import atexit, sys; from starkiln.cli import main\n"
        "atexit.register(print, 'what waits for the others')\n"
        f"sys.argv = ['starkiln', 'run', {str(tmp_path / 'none.toml')!r}]\n"
        "main()"
    )
    given = {**os.environ, "WORLD_SIZE": str(world)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=given, check=False
    )
    assert done.returncode == 2
    assert "starkiln: " in done.stderr
    assert ("what waits" in done.stdout) == (world == 1)


def children(pid: int) -> list[int]:
    """The processes that ``torchrun`` started, in the order of their ranks."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return sorted(map(int, found.stdout.split()))


def starkilns(errors: str) -> str:
    """What our own processes wrote, without the launcher's account of a failure."""
    return errors.partition('Traceback (most recent call last):\n  File "<frozen runpy>"')[0]


def test_data_is_made_before_by_one_process(packed, tmp_path) -> None:
    recipe = fresh(packed, tmp_path / "work")
    shutil.rmtree(recipe.parent / "tokens")
    done = run(2, recipe)
    assert done.returncode != 0
    assert "make the data first: starkiln run RECIPE --set run.until=tokens" in done.stderr


def test_a_layout_that_does_not_divide_is_refused(packed, tmp_path) -> None:
    recipe = fresh(packed, tmp_path / "work")
    done = run(2, recipe, "run.parallel.tensor=3")
    assert done.returncode != 0
    assert "set run.parallel.tensor to " in done.stderr
    done = run(1, recipe, "run.parallel.tensor=2")
    assert done.returncode == 2
    assert "2 processes share this model; here is one" in done.stderr
    assert "torchrun --nproc-per-node 2 -m starkiln run" in done.stderr
