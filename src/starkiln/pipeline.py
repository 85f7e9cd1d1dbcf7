"""Recipe -> plan -> run: which artefacts are fresh, and how the others are made.

A step builds its folder beside the old one (``.name.partial``) and swaps on success. After a kill
the partial folder is taken up where it was; a stale table is made anew; a stale checkpoint or
report is never overwritten.
"""

import difflib
import errno
import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from rich.console import Console

from starkiln import builders, steps
from starkiln.builders import Job, model, tune
from starkiln.catalogue import Recipe
from starkiln.core import atomic, launch, log, manifest, recipe, units
from starkiln.core.errors import UserError
from starkiln.core.pool import Pool
from starkiln.steps import Step
from starkiln.train.settings import STATE


@dataclass(frozen=True)
class Status:
    """Where one step stands: fresh, stale, partial or missing, and why."""

    state: str
    why: str = ""
    rows: int = 0
    seconds: float = 0.0


def load(path: Path, overrides: Sequence[str] = ()) -> recipe.Resolved[Recipe]:
    """Read and check the recipe at ``path``, or the shipped one of that name."""
    if not path.exists() and path.name in recipe.presets():
        path = recipe.PRESETS / f"{path.name}.toml"
    return recipe.load(path, Recipe, overrides)


def plan(path: Path, overrides: Sequence[str] = ()) -> list[tuple[Step, Status]]:
    """Every step of the recipe with its status; nothing is changed."""
    found = load(path, overrides)
    work = path.resolve().parent
    return [(step, status(work, step)) for step in _wanted_steps(found.value, path.resolve())]


def cost(
    path: Path, gpus: int, chip: str, overrides: Sequence[str] = ()
) -> list[tuple[str, str, str]]:
    """(label, value, note) of what training costs; a layout of the recipe's own is checked."""
    from starkiln.train import memory, plan
    from starkiln.train.cost import chip_named

    found = load(path, overrides)
    if found.value.makes != "decoder":
        what = f"it makes '{found.value.makes}', and a decoder's training alone is priced"
        raise UserError(path, what, "plan it without --gpus")
    settings, vocab_size = tune.sized(found.value, path.resolve().parent)
    run, train = settings.run, settings.train
    what = settings.decoder, train, vocab_size, gpus
    own = ("run.parallel.", "run.micro_batch")
    asked = {origin for key, origin in found.origins.items() if key.startswith(own)}
    layout, its = memory.laid_out(run.parallel, run.micro_batch or 1, train, gpus), chip_named(chip)
    if not run.micro_batch:
        layout = plan.widened(layout, *what[:3], its.memory, its.room)
    presets = {f"preset {name}" for name in recipe.presets()}
    if not path.exists() or path.resolve().parent == recipe.PRESETS.resolve():
        presets |= {f"{name}.toml" for name in recipe.presets()}
    if not asked or (asked <= presets and any(memory.faults(layout, *what))):
        layout = None  # a preset's is for the paper's machine: choose one for this
    return plan.rows(plan.estimate(*what, chip, layout))


def _wanted_steps(settings: Recipe, path: Path) -> list[Step]:
    """The chain as far as ``run.until``."""
    chain = steps.chain(settings, path)
    names = [step.name for step in chain]
    if settings.run.until not in names:
        raise UserError(path, f"run.until: no step '{settings.run.until}'", ", ".join(names))
    return chain[: names.index(settings.run.until) + 1]


def status(work: Path, step: Step) -> Status:
    """Compare what lies on the disk with what the recipe wants."""
    folder, partial = work / step.name, partial_folder(work, step)
    have = manifest.read(folder)
    if have is not None and have.identity == step.identity:
        missing = [s["name"] for s in have.shards if not _intact(folder, s)]
        if not missing:
            seconds = log.last_event(folder, "done").get("seconds", 0.0)
            return Status("fresh", rows=have.rows, seconds=seconds)
        return Status("stale", f"{missing[0]} is missing or damaged", rows=have.rows)
    wanted = _wanted(partial)
    if wanted == step.identity:
        done = units.finished(partial)
        return Status("partial", f"{done} units done" if done else "begun")
    if have is None and _trained(partial):
        changes = manifest.difference(wanted, step.identity) if wanted else ["not known which"]
        return Status("stale", "; ".join(changes))
    if have is None:
        return Status("missing", "damaged" if folder.exists() else "")
    return Status("stale", "; ".join(manifest.difference(have.identity, step.identity)), have.rows)


def run(path: Path, overrides: Sequence[str], console: Console) -> Path:
    """Make everything that is not fresh, in order; returns the work folder.

    Of several processes that ``torchrun`` started, the first does so, and all train together.
    """
    found = load(path, overrides)
    path = path.resolve()
    work = path.parent
    if launch.rank():
        _train_along(work, _wanted_steps(found.value, path), found.value)
        return work
    with _lock(work):
        chain = _wanted_steps(found.value, path)
        states = [status(work, step) for step in chain]
        _refuse_stale(work, chain, states)
        _refuse_unready(work, chain, states)
        for step, now in zip(chain, states, strict=True):
            for ready in step.ready if now.state != "fresh" else ():
                ready()
        with builders.pool(found.value) as pool:
            for step, now in zip(chain, states, strict=True):
                if now.state == "fresh":
                    atomic.forget_old(work / step.name)
                    console.print(f"{step.name:<24} fresh  {now.rows:>12,} rows")
                    continue
                try:
                    build(work, step, found.value, pool, console)
                except UserError:
                    if step.name == "evaluation":  # the page is worth having without scores
                        _page(work, found.value, pool)
                    raise
            if chain[-1].name != "report":
                _page(work, found.value, pool)
    return work


def _train_along(work: Path, chain: list[Step], settings: Recipe) -> None:
    """What the other processes do: train with the first, if there is something to train."""
    made = {step.name: manifest.read(partial_folder(work, step)) for step in chain if step.together}
    states = [status(work, step) for step in chain]  # after that: a swap in between makes it fresh
    _refuse_unready(work, chain, states)
    for step, now in zip(chain, states, strict=True):
        if not step.together or now.state == "fresh":
            continue
        if (done := made[step.name]) and done.identity == step.identity:
            continue  # the first process has but to swap it in
        quiet, out = log.Line(Console(quiet=True), step.name), partial_folder(work, step)
        with builders.pool(settings) as pool:
            step.build(Job(work, out, settings, step.identity, pool, quiet))


def _refuse_unready(work: Path, chain: list[Step], states: list[Status]) -> None:
    """Several processes train together; one makes the data before."""
    if launch.world() == 1:
        return
    names = [step.name for step in chain if step.together]
    before = list(takewhile(lambda pair: not pair[0].together, zip(chain, states)))
    late = next((step.name for step, now in before if now.state != "fresh"), None)
    if late is not None or not names:
        raise UserError(
            work,
            f"'{late or chain[-1].name}' is for one process to make, and {launch.world()} are here",
            "make the data first: starkiln run RECIPE --set run.until=tokens",
        )


def _page(work: Path, settings: Recipe, pool: Pool) -> None:
    """A page of what there is, where the chain does not come to its own."""
    (work / "report").mkdir(exist_ok=True)
    model.write_page(work, work / "report", settings, {}, pool)


def _refuse_stale(work: Path, chain: list[Step], states: list[Status]) -> None:
    """Before any work: a checkpoint or report that would be overwritten is an error."""
    for step, now in zip(chain, states, strict=True):
        folder = work / step.name
        inside = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        if manifest.read(folder) is None and inside - {model.PAGE}:
            raise UserError(
                folder, "was not made by starkiln", "move it, or put the recipe in another folder"
            )
        begun = partial_folder(work, step)
        if step.precious and (folder / manifest.NAME).exists() and now.state != "fresh":
            raise UserError(
                folder,
                f"is stale ({now.why}) and is never overwritten",
                "move or remove that folder, or use another work folder, then run again",
            )
        if now.state == "stale" and _trained(begun):
            raise UserError(
                begun / STATE,
                f"is of an interrupted training with other settings or data ({now.why})",
                "run with those to go on, or move or remove that folder to begin anew",
            )


def build(work: Path, step: Step, settings: Recipe, pool: Pool, console: Console) -> None:
    """Build one step in its partial folder and swap it in."""
    partial = partial_folder(work, step)
    done = manifest.read(partial) if partial.is_dir() else None
    if done is not None and done.identity == step.identity:  # killed just before the swap
        _finish(work, step, partial)
        console.print(f"{step.name:<24} done")
        return
    if _wanted(partial) != step.identity:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        atomic.write_json(partial / units.WANTED, asdict(step.identity))
    for leftover in partial.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    if step.precious:
        pool.close()  # the model needs the memory and has no work for them
    began, used = time.monotonic(), log.usage()["cpu_seconds"]
    elsewhere, pool.peak_mb = pool.cpu_seconds, 0.0
    try:
        with log.Line(console, step.name) as line:
            job = Job(work, partial, settings, step.identity, pool, line)
            made = step.build(job)
            note = line.note
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            work,
            f"the disk is full ({step.name})",
            "free space and run again: finished work is kept",
        ) from error
    seconds, usage = time.monotonic() - began, log.usage()
    log.Events(partial).write(
        "done",
        seconds=round(seconds, 2),
        cpu_seconds=round(usage["cpu_seconds"] - used + pool.cpu_seconds - elsewhere, 2),
        peak_mb=round(max(usage["peak_mb"], pool.peak_mb)),
    )
    manifest.write(partial, made)
    _finish(work, step, partial)
    console.print(f"{step.name:<24} done   {seconds:8.1f} s  {note}", markup=False)


def _finish(work: Path, step: Step, partial: Path) -> None:
    for name in (units.JOURNAL, units.WANTED):
        (partial / name).unlink(missing_ok=True)
    (work / step.name).parent.mkdir(parents=True, exist_ok=True)
    atomic.swap(partial, work / step.name)


def partial_folder(work: Path, step: Step) -> Path:
    """Where a step is built before it is swapped in."""
    folder = work / step.name
    return folder.with_name(f".{folder.name}.partial")


def _wanted(partial: Path) -> manifest.Identity | None:
    """What a partial folder was begun for."""
    done = manifest.read(partial) if partial.is_dir() else None
    if done is not None:  # killed between the manifest and the swap
        return done.identity
    try:
        return manifest.Identity(**json.loads((partial / units.WANTED).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _trained(partial: Path) -> bool:
    """Whether there are states of an interrupted training, which may have cost weeks."""
    return any((partial / STATE).glob("step-*"))  # an unfinished one's name begins with a dot


def _intact(folder: Path, shard: dict) -> bool:
    file = folder / shard["name"]
    return file.is_file() and file.stat().st_size == shard["bytes"]


@contextmanager
def _lock(work: Path) -> Iterator[TextIO]:
    with (work / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                work, "another run is at work here", "wait for it, or stop it"
            ) from None
        yield handle


def explain(path: Path, prefix: str = "", overrides: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """(key, value, origin, meaning, paper) of every resolved value whose key has that prefix."""
    found = load(path, overrides)
    uses = steps.uses(found.value, path.resolve())
    told = dict(recipe.leaves(found.value.model_dump()))
    values = dict(told)
    with suppress(UserError):  # of a base that is not there yet nothing is known
        values = dict(recipe.leaves(tune.settled(found.value, path.resolve().parent).model_dump()))
    origins = {name: "base.checkpoint" for name in values if values[name] != told[name]}
    origins |= found.origins
    values |= {f"curate.{use.name}.{k}": v for use in uses for k, v in use.settings.items()}
    meanings = recipe.meanings(Recipe)
    for use in uses:
        meanings |= steps.meanings(use)
    rows: list[tuple[str, ...]] = [
        (
            name,
            json.dumps(value, ensure_ascii=False),
            origins.get(name, "default"),
            *meanings.get(name, ("", "")),
        )
        for name, value in values.items()
        if name.startswith(prefix)
    ]
    if not rows:
        near = difflib.get_close_matches(prefix, values, 1)
        raise UserError(path, f"no key '{prefix}'", f"did you mean '{(near or ['train'])[0]}'?")
    return rows


def start(folder: Path, sources: Sequence[str]) -> tuple[Path, bool]:
    """Write ``folder/recipe.toml`` for ``sources``; False when the same one is there already."""
    for source in sources:
        if not source.startswith("python:") and not Path(source).expanduser().exists():
            raise UserError(source, "no such folder or archive", "mend the path")
    paths = [s if s.startswith("python:") else str(Path(s).expanduser().resolve()) for s in sources]
    text = _recipe_text(folder.resolve().name, paths)
    path = folder / "recipe.toml"
    if path.exists():
        if path.read_text() == text:
            return path, False
        raise UserError(path, "exists and says something else", "edit it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, text.encode())
    return path, True


def _recipe_text(name: str, paths: list[str]) -> str:
    public = [p for p in paths if p.startswith("python:")]
    own = [p for p in paths if not p.startswith("python:")]
    text = f'extends = "laptop"\nname = {json.dumps(name)}\n'
    if public:
        text += f'\n[[source]]\nuse = "files"\npaths = {_listed(public)}\n'
    if own:
        text += (
            f'\n[[source]]\nuse = "files"\npaths = {_listed(own)}\n'
            "# What has no known licence here counts as yours; without this line it is dropped.\n"
            'licences = ["LicenseRef-own"]\n\n[curate.licences]\nallow = ["LicenseRef-own"]\n'
        )
    return text


def _listed(paths: list[str]) -> str:
    return "[" + "".join(f"\n  {json.dumps(p, ensure_ascii=False)}," for p in paths) + "\n]"
