"""What each step of a recipe does with its folder."""

import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.catalogue import Recipe, Use
from starkiln.core import atomic, log, manifest, stage, table, units
from starkiln.core.errors import UserError
from starkiln.core.log import Sink
from starkiln.core.manifest import Identity, Manifest
from starkiln.core.pool import Pool
from starkiln.core.table import View

PAGE = "report.html"
SCATTERED = "scattered"  # in a documents folder while it is made


@dataclass(frozen=True)
class Job:
    """What a step's builder works with."""

    work: Path  # the recipe's folder, with the finished artefacts
    out: Path  # the folder to fill
    recipe: Recipe
    identity: Identity
    pool: Pool
    line: Sink


def workers(recipe: Recipe) -> int:
    """Worker processes of the data stages."""
    return recipe.run.workers or os.cpu_count() or 1


def pool(recipe: Recipe) -> Pool:
    """Who does the data stages: processes of this machine, or a cluster."""
    if recipe.run.cluster:
        from starkiln.core.cluster import Cluster

        return Cluster(recipe.run.cluster, workers(recipe))
    return Pool(workers(recipe))


def ingest(job: Job, listed: list[tuple[Use, list[dict]]]) -> Manifest:
    """Read every unit of the sources into documents shards."""
    from starkiln.ingest.shard import fold_shard, group, read_shard

    size = job.recipe.ingest.shard_mb << 20
    work: list[tuple] = []  # function, and its arguments behind the folder and the shard's name
    for number, (use, found) in enumerate(listed):
        groups = group(found, size)
        if stage.spec(stage.load(use.use, use.name)).fold is None:
            work += [(read_shard, use.use, shard, use.licences) for shard in groups]
            continue
        parts = -(-sum(unit["bytes"] for unit in found) // size) or 1
        scattered = _scatter(job, number, use, groups, parts)
        rest = (parts, use.licences)
        work += [
            (fold_shard, use.use, use.settings, scattered, part, *rest) for part in range(parts)
        ]
    calls = [
        (f"{i:05d}", (function, job.out, f"{i:05d}", *rest))
        for i, (function, *rest) in enumerate(work)
    ]
    results = units.run(job.out, _apply, calls, job.pool, job.line)
    shutil.rmtree(job.out / SCATTERED, ignore_errors=True)
    made = _manifest(job, results)
    if not made.rows:
        aside = ", ".join(f"{n} {reason}" for reason, n in made.drops.items()) or "no files found"
        raise UserError("source", f"no documents were read ({aside})", "check the paths")
    return made


def _scatter(job: Job, number: int, use: Use, groups: list[list[dict]], parts: int) -> list[Path]:
    """The first pass over a source whose records must be brought together: one file a group."""
    from starkiln.ingest.shard import scatter

    folder = job.out / SCATTERED / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    calls = [
        (f"{i:05d}", (folder, f"{i:05d}", use.use, shard, parts)) for i, shard in enumerate(groups)
    ]
    units.run(folder, scatter, calls, job.pool, job.line)
    return [folder / f"{name}.bin" for name, _ in calls]


def _apply(function: Callable[..., dict], *arguments: Any) -> dict[str, Any]:
    return function(*arguments)


def decide(job: Job, batch: list[Use], decisions: list[str]) -> Manifest:
    """One pass of consecutive row-local stages over every shard."""
    listed = [(use.name, use.use, use.settings, use.kinds) for use in batch]
    documents = job.work / "documents"
    calls = []
    for name in table.shard_names(documents):
        earlier = [job.work / folder / name for folder in decisions]
        calls.append((name, (documents / name, earlier, listed, job.out / name)))
    return _manifest(job, units.run(job.out, decide_shard, calls, job.pool, job.line))


def decide_shard(documents: Path, earlier: list[Path], listed: list, out: Path) -> dict[str, Any]:
    """One unit of a row-local step."""
    return {"files": [str(out)], **table.decide(documents, earlier, listed, out)}


def decide_globally(job: Job, batch: list[Use], decisions: list[str]) -> Manifest:
    """One global stage over all shards."""
    (use,) = batch
    function = stage.load(use.use, use.name)
    scratch = job.out / "scratch"
    scratch.mkdir(exist_ok=True)  # what a killed run finished in it is not done again
    folders = [job.work / folder for folder in decisions]
    view = View(job.work / "documents", folders, scratch, job.pool, job.line, use.kinds)
    job.line.total(2 * len(view))  # most global stages map once over all shards, then decide
    results = []
    dropped = 0
    for i, frame in enumerate(_yielded(use.name, function(view, **use.settings), len(view))):
        path = job.out / view.shards[i]
        drops = Counter(frame["reason"].drop_nulls() if "reason" in frame.columns else ())
        full = view.expand(i, use.name, stage.spec(function), frame)
        table.write(path, full)
        result = {"files": [path], "rows": full.height, "drops": _under(use.name, drops)}
        results.append(units.hashed(job.out, result))
        dropped += sum(drops.values())
        job.line.advance(1, f"{dropped:,} dropped")
    shutil.rmtree(scratch)
    return _manifest(job, results)


def _yielded(name: str, frames: Iterable[pl.DataFrame], shards: int) -> Iterator[pl.DataFrame]:
    """The frames of a global stage; a fault in it, or a wrong number of them, is one sentence."""
    count = 0
    try:
        for frame in frames:
            count += 1
            if count <= shards:
                yield frame
    except UserError:
        raise
    except Exception as error:
        raise UserError(name, f"the stage failed ({error!r})", "mend the stage") from error
    if count != shards:
        what = f"the stage yielded {count} frames for {shards} shards"
        raise UserError(name, what, "yield one frame a shard, in order")


def _under(name: str, drops: Counter) -> dict[str, int]:
    return {f"{name}:{reason}": n for reason, n in sorted(drops.items())}


def mix(job: Job, decisions: list[str]) -> Manifest:
    """Make the curated table: documents, minus the dropped, with spans replaced."""
    documents = job.work / "documents"
    calls = []
    for name in table.shard_names(documents):
        shards = [(folder, job.work / folder / name) for folder in decisions]
        calls.append((name, (documents / name, shards, job.out / name)))
    results = units.run(job.out, mix_shard, calls, job.pool, job.line)
    volumes: dict[str, list[int]] = {}
    for source, documents_, size in (row for result in results for row in result["volumes"]):
        have = volumes.get(source, [0, 0])
        volumes[source] = [have[0] + documents_, have[1] + size]
    redactions = sum(result["redactions"] for result in results)
    made = _manifest(job, results, {"redactions": redactions, "volumes": volumes})
    if not made.rows:
        worst = sorted(made.drops.items(), key=lambda item: -item[1])[:3]
        reasons = ", ".join(f"{n} by {reason}" for reason, n in worst)
        raise UserError(
            "curate", f"every document was dropped ({reasons})", "loosen or remove that stage"
        )
    return made


def mix_shard(documents: Path, decisions: list[tuple[str, Path]], out: Path) -> dict[str, Any]:
    """One unit of the curated table: what is kept, and beside it what is not, with the reason."""
    from starkiln.curate.mix import mix

    kept, dropped = mix(table.read(documents), [(name, table.read(p)) for name, p in decisions])
    aside = out.with_suffix(".dropped.parquet")
    table.write(out, kept)
    table.write(aside, dropped)
    counts = dropped.group_by("stage", "reason").len().sort("stage", "reason")
    texts = pl.element().struct.field("text").str.len_bytes()
    source = pl.when(pl.col("kind") == "code").then("language").otherwise("kind")
    sized = kept.select(source.alias("source"), pl.col("segments").list.eval(texts).list.sum())
    volumes = sized.group_by("source").agg(pl.len(), pl.sum("segments")).sort("source")
    return {
        "files": [str(out), str(aside)],
        "rows": kept.height,
        "bytes": volumes["segments"].sum(),
        "volumes": volumes.rows(),
        "drops": {f"{stage}:{reason}": n for stage, reason, n in counts.iter_rows()},
        "redactions": kept["redactions"].sum(),
    }


def audit(job: Job, files: dict[str, Path], settings: dict[str, dict[str, Any]]) -> Manifest:
    """Score the recipe's own deduplication and decontamination on labelled files."""
    from starkiln.curate.audit_contamination import contamination
    from starkiln.curate.audit_duplicates import near_duplicates

    facts: dict[str, Any] = {}
    if "pairs" in files:
        scratch = job.out / "scratch"
        given = (files["documents"], files["pairs"], settings["near_dedup"], scratch, job.pool)
        facts["near_duplicates"] = near_duplicates(*given)
        shutil.rmtree(scratch, ignore_errors=True)
    if "contamination" in files:
        facts["contamination"] = contamination(files["contamination"], settings["decontaminate"])
    return _manifest(job, [], facts)


def _curated(job: Job) -> list[Path]:
    folder = job.work / "curated"
    return [folder / name for name in table.shard_names(folder)]


def fit_tokenizer(job: Job) -> Manifest:
    """Train the tokenizer on a sample of the training documents."""
    from starkiln.train.fit_tokenizer import fit_tokenizer

    recipe = job.recipe
    facts = fit_tokenizer(
        _curated(job), job.out, settings=recipe.tokenizer, pack=recipe.pack, seed=recipe.seed
    )
    job.line.advance(1, f"{facts['vocab_size']:,} entries")
    files = sorted(job.out.glob("*token*.json"))
    sample = {key: sum(row[key] for row in facts["sample"]) for key in ("documents", "bytes")}
    result = {"files": files, "rows": sample["documents"], "bytes": sample["bytes"]}
    return _manifest(job, [units.hashed(job.out, result)], facts)


def pack(job: Job) -> Manifest:
    """Tokenise the curated table into memory-mapped shards."""
    from starkiln.train.pack import pack_shard

    recipe = job.recipe
    rest = (job.out, job.work / "tokenizer", recipe.layout, recipe.pack, recipe.seed)
    calls = [(path.name, (path, *rest)) for path in _curated(job)]
    results = units.run(job.out, pack_shard, calls, job.pool, job.line)
    encoders = sorted({result["encoder"] for result in results})
    log.Events(job.out).write("encoders", names=encoders)  # the ids are the same with any
    rows = [row for result in results for row in result["counts"]]
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        place = (row["split"], row["source"])
        total = totals.setdefault(
            place, dict(zip(("split", "source"), place), documents=0, tokens=0, bytes=0)
        )
        for key in ("documents", "tokens", "bytes"):
            total[key] += row[key]
    return _manifest(job, results, {"counts": [totals[place] for place in sorted(totals)]})


def train(job: Job) -> Manifest:
    """Train the decoder; a partial folder goes on from its newest state."""
    from starkiln.train.decoder import train_decoder

    recipe, line = job.recipe, job.line
    events = log.Events(job.out)

    def on_event(event: str, **fields: Any) -> None:
        if event == "training":
            line.total(fields["steps"])
            line.advance(0, f"{fields['parameters']:,} parameters")
        elif event == "step":
            rate = recipe.train.batch_size * recipe.train.sequence_length / fields["seconds"]
            line.reach(fields["step"], f"loss {fields['loss']:.3f}  {rate:,.0f} tokens/s")
        if event != "step":
            events.write(event, **fields)

    facts = train_decoder(
        tokens=job.work / "tokens",
        tokenizer=job.work / "tokenizer",
        out=job.out,
        decoder=recipe.decoder,
        train=recipe.train.model_copy(update={"weights": _weights(job)}),
        fim=recipe.fim,
        run=recipe.run,
        seed=recipe.seed,
        on_event=on_event,
    )
    files = [path for path in sorted(job.out.iterdir()) if _is_artefact(path)]
    return _manifest(job, [units.hashed(job.out, {"files": files})], facts)


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

    made = manifest.read(work / "curated")
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
    from starkiln.evaluate.evaluation import evaluate

    found = evaluate(
        job.work / "checkpoint",
        job.recipe.evaluate,
        job.out,
        seed=job.recipe.seed,
        workers=workers(job.recipe),
        line=job.line,
    )
    files = [job.out / "report.json", job.out / "samples.parquet"]
    facts = {key: found[key] for key in ("scores", "verdicts", "problems", "samples")}
    return _manifest(job, [units.hashed(job.out, {"files": files})], facts)


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
    return _manifest(job, [units.hashed(job.out, {"files": [path]})], {"infill": shown["infill"]})


def write_page(work: Path, out: Path, recipe: Recipe, shown: dict[str, Any], pool: Pool) -> None:
    """Write ``out/report.html`` from what lies in the work folder."""
    from starkiln.evaluate import report

    packages = ("starkiln", "torch", "polars", "tokenizers", "numpy")
    report.write(
        work,
        out,
        recipe=recipe.model_dump(mode="json"),
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


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _manifest(job: Job, results: list[dict], facts: dict[str, Any] | None = None) -> Manifest:
    drops: Counter = Counter()
    for result in results:
        drops.update(result.get("drops", {}))
    shards = [
        {
            "name": name,
            "rows": result.get("rows", 0),
            "bytes": (job.out / name).stat().st_size,
            "sha256": digest,
        }
        for result in results
        for name, digest in result["files"].items()
    ]
    return Manifest(
        job.identity,
        rows=sum(r.get("rows", 0) for r in results),
        bytes=sum(r.get("bytes", 0) for r in results),
        drops=dict(sorted(drops.items())),
        shards=shards,
        facts=facts or {},
    )
