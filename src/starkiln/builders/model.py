"""The model steps: checkpoint, evaluation and report."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from starkiln.builders import Job, log_events, recorded, tune, workers
from starkiln.catalogue import Recipe
from starkiln.core import atomic, launch, log, manifest, units
from starkiln.core.errors import UserError
from starkiln.core.manifest import Manifest
from starkiln.core.pool import Pool

PAGE = "report.html"


def train(job: Job) -> Manifest:
    """Train the decoder; a partial folder goes on from its newest state."""
    from starkiln.train.decoder import train_decoder

    recipe = tune.settled(job.recipe, job.work)
    facts = train_decoder(
        tokens=job.work / "tokens",
        tokenizer=job.work / "tokenizer",
        out=job.out,
        decoder=recipe.decoder,
        train=recipe.train.model_copy(update={"weights": _weights(job)}),
        fim=recipe.fim,
        run=recipe.run,
        seed=tune.order(recipe),
        base=tune.weights(recipe, job.work),
        tune=recipe.base if recipe.base.checkpoint else None,
        on_event=log_events(job),
    )
    if not facts:  # another process of this run records what was made
        return Manifest(job.identity)
    facts["held_out"] = tune.held_out(recipe)
    return recorded(job, [units.hashed(job.out, {"files": artefacts(job.out)})], facts)


def artefacts(folder: Path) -> list[Path]:
    """The files of a finished training that its manifest answers for."""
    found = [*folder.iterdir(), *folder.glob("adapter/*")]
    return [path for path in sorted(found) if _is_artefact(path)]


def ready(recipe: Recipe, vocab_size: int) -> None:
    """UserError, before any work, where the processes that were started do not fit the layout."""
    from starkiln.train import memory

    if not recipe.pack.validation:
        what = "0 holds nothing out, and a training is measured by that"
        raise UserError("pack.validation", what, "set a share above 0")
    shared, world, train = recipe.run.parallel, launch.world(), recipe.train
    needed = shared.tensor * shared.pipeline * shared.context
    if world == 1 and needed > 1:
        start = f"torchrun --nproc-per-node {needed} -m starkiln run RECIPE"
        mend = f"make the data with --set run.until=tokens, then start {start}"
        raise UserError("run.parallel", f"{needed} processes share this model; here is one", mend)
    layout = memory.laid_out(shared, recipe.run.micro_batch, train, world)
    if world > 1:
        memory.check(layout, recipe.decoder, train, vocab_size, world)


def _weights(job: Job) -> dict[str, float]:
    """The mixture's weights, times those of the training recipe, of the sources with tokens."""
    made = manifest.read(job.work / "tokens")
    counts = made.facts["counts"] if made else []
    trained = {row["source"] for row in counts if row["split"] == "train" and row["tokens"]}
    mixed = {row["source"]: row["weight"] for row in mixture(job.work, job.recipe)}
    own = job.recipe.train.weights
    return own | {source: mixed[source] * own.get(source, 1.0) for source in sorted(trained)}


def mixture(work: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """What each source of the curated table weighs in training; empty before there is one."""
    from starkiln.curate import mixture as mixtures

    made = manifest.current(work, "curated")
    volumes = {k: (n, size) for k, (n, size) in made.facts["volumes"].items()} if made else {}
    its = recipe.mixture
    return mixtures.mixture(volumes, its.caps, its.factors).to_dicts()


def _is_artefact(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix in (".json", ".safetensors", ".jsonl")
        and (path.name not in (log.EVENTS, units.WANTED))
    )


def evaluate(job: Job) -> Manifest:
    """Sample and judge the benchmark's problems."""
    from starkiln.evaluate.evaluation import JOURNALS, evaluate
    from starkiln.evaluate.sources import open_source

    found = evaluate(
        open_source(str(job.work / "checkpoint"), job.recipe.evaluate.source),
        job.recipe.evaluate,
        job.out,
        seed=job.recipe.seed,
        workers=workers(job.recipe),
        line=job.line,
    )
    for name in JOURNALS:  # they hold the clock, and a finished step is never taken up
        (job.out / name).unlink(missing_ok=True)
    files = [job.out / "report.json", job.out / "samples.parquet"]
    facts = {key: found[key] for key in ("scores", "verdicts", "samples")}
    return recorded(job, [units.hashed(job.out, {"files": files})], facts)


def report(job: Job) -> Manifest:
    """Draw samples from held-out files and write the page."""
    from starkiln.evaluate.showcase import showcase

    shown = showcase(
        job.work / "checkpoint", job.work / "tokens" / "validation", seed=job.recipe.seed
    )
    path = job.out / "samples.json"
    atomic.write_json(path, shown)
    write_page(job.work, job.out, job.recipe, shown, job.pool)
    # The page holds clock times, so it is no part of what two runs have in common.
    return recorded(job, [units.hashed(job.out, {"files": [path]})], {"infill": shown["infill"]})


def page(job: Job) -> Manifest:
    """Write the page of a chain that ends without a language model."""
    write_page(job.work, job.out, job.recipe, {}, job.pool)
    return recorded(job, [])


def write_page(work: Path, out: Path, recipe: Recipe, shown: dict[str, Any], pool: Pool) -> None:
    """Write ``out/report.html`` from what lies in the work folder."""
    from starkiln.evaluate import report

    packages = ("starkiln", "torch", "polars", "tokenizers", "numpy")
    report.write(
        work,
        out,
        recipe=_settled(recipe, work).model_dump(mode="json"),
        samples=shown.get("samples", []),
        mixture=mixture(work, recipe),
        versions={"python": platform.python_version()} | {p: version(p) for p in packages},
        machine={
            "processor": _processor(),
            "cores": str(os.cpu_count()),
            "system": platform.platform(),
        },
        commands=["starkiln plan recipe.toml", "starkiln run recipe.toml"],
        each=pool.map,
    )


def _settled(recipe: Recipe, work: Path) -> Recipe:
    return tune.settled(recipe, work) if recipe.makes == "decoder" else recipe


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
