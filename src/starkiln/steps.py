"""The chain of one recipe, and what each of its steps does with its folder."""

import inspect
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.catalogue import Recipe, Use, sources, stages
from starkiln.core import log, stage, table, units
from starkiln.core.errors import UserError
from starkiln.core.log import Sink
from starkiln.core.manifest import Identity, Manifest
from starkiln.core.pool import Pool
from starkiln.core.table import View


@dataclass(frozen=True)
class Job:
    """What a step's builder works with."""

    work: Path  # the recipe's folder, with the finished artefacts
    out: Path  # the folder to fill
    recipe: Recipe
    identity: Identity
    pool: Pool
    line: Sink


@dataclass(frozen=True)
class Step:
    """One artefact of the chain."""

    name: str  # its folder, relative to the work folder
    identity: Identity
    build: Callable[[Job], Manifest]
    precious: bool = False  # a stale one is never overwritten


def workers(recipe: Recipe) -> int:
    """Worker processes of the data stages."""
    return recipe.run.workers or os.cpu_count() or 1


def uses(recipe: Recipe, path: Path) -> list[Use]:
    """The curate stages of a recipe, checked; a stage that draws takes the recipe's seed."""
    found = stages(recipe.curate, path)
    return [_seeded(use, recipe) for use in found]


def _seeded(use: Use, recipe: Recipe) -> Use:
    if "seed" not in use.settings or "seed" in recipe.curate.get(use.name, {}):
        return use
    return use.model_copy(update={"settings": {**use.settings, "seed": recipe.seed}})


def meanings(use: Use) -> dict[str, tuple[str, str]]:
    """Meaning of each setting of a stage: the first line of its docstring."""
    lines = (inspect.getdoc(stage.load(use.use, use.name)) or "").splitlines()
    return {f"curate.{use.name}.{k}": (lines[0] if lines else "", "") for k in use.settings}


def chain(recipe: Recipe, path: Path) -> list[Step]:
    """Every step from raw input to the report, each with its identity."""
    documents = _documents(recipe, path)
    found = [documents]
    decisions: list[str] = []
    for local, group in groupby(uses(recipe, path), lambda use: _is_local(use)):
        for batch in [list(group)] if local else [[use] for use in group]:
            step = _decisions(batch, local, decisions, found)
            found.append(step)
            decisions.append(step.name)
    curated = _step(
        "curated",
        "table",
        [_stage("mix", 1, {})],
        list(found),
        partial(_mix, decisions=decisions),
    )
    tokenizer = _step(
        "tokenizer",
        "tokenizer",
        [_stage("fit_tokenizer", 1, _dump(recipe, "seed", "tokenizer", "pack"))],
        [curated],
        _fit_tokenizer,
    )
    tokens = _step(
        "tokens",
        "tokens",
        [_stage("pack", 1, _dump(recipe, "seed", "pack", "layout"))],
        [curated, tokenizer],
        _pack,
    )
    checkpoint = _step(
        "checkpoint",
        "checkpoint",
        [_stage("train", 1, _dump(recipe, "name", "seed", "decoder", "train", "fim"))],
        [tokenizer, tokens],
        _train,
        precious=True,
    )
    report = _step(
        "report",
        "report",
        [_stage("evaluate", 1, _dump(recipe, "seed", "evaluate"))],
        [checkpoint],
        _report,
        precious=True,
    )
    return [*found, curated, tokenizer, tokens, checkpoint, report]


def _dump(recipe: Recipe, *sections: str) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json")
    return {name: whole[name] for name in sections}


def _stage(name: str, version: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": version, "settings": settings}


def _step(
    name: str,
    kind: str,
    made_by: list[dict],
    inputs: list[Step],
    build: Callable[[Job], Manifest],
    precious: bool = False,
) -> Step:
    fingerprints = {step.name: step.identity.fingerprint for step in inputs}
    return Step(name, Identity(kind, made_by, fingerprints), build, precious)


def _is_local(use: Use) -> bool:
    return stage.spec(stage.load(use.use, use.name)).kind in ("local", "document")


def _identity_of(use: Use, name: str) -> dict[str, Any]:
    paths = ("paths",)  # places are no part of an identity
    settings = {k: v for k, v in use.settings.items() if k not in paths}
    return _stage(name, stage.spec(stage.load(use.use, use.name)).version, settings)


def _documents(recipe: Recipe, path: Path) -> Step:
    used = sources(recipe.source, path)
    if not used:
        raise UserError(path, "source: nothing to read", "add a [[source]] with use = 'files'")
    listed = [(use, stage.load(use.use, use.name)(**use.settings)) for use in used]
    made_by = [_identity_of(use, f"source.{i}.{use.name}") for i, use in enumerate(used)]
    made_by.append(_stage("ingest", 1, _dump(recipe, "ingest")))
    inputs = {f"{i}/{u['name']}": u["stamp"] for i, (_, found) in enumerate(listed) for u in found}
    digest = Identity("units", [], inputs).fingerprint
    identity = Identity("documents", made_by, {"files": digest})
    return Step("documents", identity, partial(_ingest, listed=listed))


def _decisions(batch: list[Use], local: bool, decisions: list[str], before: list[Step]) -> Step:
    made_by = [_identity_of(use, use.name) for use in batch]
    build = partial(_decide if local else _decide_globally, batch=batch, decisions=list(decisions))
    return _step(f"decisions/{batch[0].name}", "decisions", made_by, before, build)


def _ingest(job: Job, listed: list[tuple[Use, list[dict]]]) -> Manifest:
    from starkiln.ingest.shard import group, read_shard

    size = job.recipe.ingest.shard_mb << 20
    groups = [(use.use, shard) for use, found in listed for shard in group(found, size)]
    calls = [
        (f"{i:05d}", (job.out, f"{i:05d}", use, shard)) for i, (use, shard) in enumerate(groups)
    ]
    results = units.run(job.out, read_shard, calls, job.pool, job.line)
    made = _manifest(job, results)
    if not made.rows:
        aside = ", ".join(f"{n} {reason}" for reason, n in made.drops.items()) or "no files found"
        raise UserError("source", f"no documents were read ({aside})", "check the paths")
    return made


def _decide(job: Job, batch: list[Use], decisions: list[str]) -> Manifest:
    listed = [(use.name, use.use, use.settings) for use in batch]
    documents = job.work / "documents"
    calls = []
    for name in table.shard_names(documents):
        earlier = [job.work / folder / name for folder in decisions]
        calls.append((name, (documents / name, earlier, listed, job.out / name)))
    return _manifest(job, units.run(job.out, decide_shard, calls, job.pool, job.line))


def decide_shard(documents: Path, earlier: list[Path], listed: list, out: Path) -> dict[str, Any]:
    """One unit of a row-local step."""
    return {"files": [str(out)], **table.decide(documents, earlier, listed, out)}


def _decide_globally(job: Job, batch: list[Use], decisions: list[str]) -> Manifest:
    (use,) = batch
    function = stage.load(use.use, use.name)
    scratch = job.out / "scratch"
    scratch.mkdir(exist_ok=True)
    folders = [job.work / folder for folder in decisions]
    view = View(job.work / "documents", folders, scratch, job.pool, job.line)
    job.line.total(2 * len(view))  # most global stages map once over all shards, then decide
    results = []
    for i, frame in enumerate(function(view, **use.settings)):
        path = job.out / view.shards[i]
        drops = Counter(frame["reason"].drop_nulls())
        full = view.expand(i, use.name, stage.spec(function), frame)
        table.write(path, full)
        result = {"files": [path], "rows": full.height, "drops": _under(use.name, drops)}
        results.append(units.hashed(job.out, result))
        job.line.advance(1, f"{sum(drops.values()):,} dropped")
    for leftover in scratch.iterdir():
        leftover.unlink()
    scratch.rmdir()
    return _manifest(job, results)


def _under(name: str, drops: Counter) -> dict[str, int]:
    return {f"{name}:{reason}": n for reason, n in sorted(drops.items())}


def _mix(job: Job, decisions: list[str]) -> Manifest:
    documents = job.work / "documents"
    calls = []
    for name in table.shard_names(documents):
        shards = [(folder, job.work / folder / name) for folder in decisions]
        calls.append((name, (documents / name, shards, job.out / name)))
    results = units.run(job.out, mix_shard, calls, job.pool, job.line)
    made = _manifest(job, results, {"redactions": sum(r["redactions"] for r in results)})
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
    return {
        "files": [str(out), str(aside)],
        "rows": kept.height,
        "bytes": kept["segments"].list.eval(texts).list.sum().sum(),
        "drops": {f"{stage}:{reason}": n for stage, reason, n in counts.iter_rows()},
        "redactions": kept["redactions"].sum(),
    }


def _curated(job: Job) -> list[Path]:
    folder = job.work / "curated"
    return [folder / name for name in table.shard_names(folder)]


def _fit_tokenizer(job: Job) -> Manifest:
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


def _pack(job: Job) -> Manifest:
    from starkiln.train.pack import pack_shard

    recipe = job.recipe
    rest = (job.out, job.work / "tokenizer", recipe.layout, recipe.pack, recipe.seed)
    calls = [(path.name, (path, *rest)) for path in _curated(job)]
    results = units.run(job.out, pack_shard, calls, job.pool, job.line)
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


def _train(job: Job) -> Manifest:
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
        train=recipe.train,
        fim=recipe.fim,
        run=recipe.run,
        seed=recipe.seed,
        on_event=on_event,
    )
    files = [path for path in sorted(job.out.iterdir()) if _is_artefact(path)]
    return _manifest(job, [units.hashed(job.out, {"files": files})], facts)


def _is_artefact(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix in (".json", ".safetensors", ".jsonl")
        and (path.name not in (log.EVENTS, units.WANTED))
    )


def _report(job: Job) -> Manifest:
    raise NotImplementedError


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
