"""What each step of a recipe does with its folder: ``data`` up to the tokens, ``model`` after."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starkiln.catalogue import Recipe
from starkiln.core.log import Events, Sink
from starkiln.core.manifest import Identity, Manifest
from starkiln.core.pool import Pool


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


def recorded(job: Job, results: list[dict], facts: dict[str, Any] | None = None) -> Manifest:
    """The manifest of a step, from the results of its units."""
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


def log_events(job: Job) -> Callable[..., None]:
    """What a training calls with its events: the live line, and the artefact's journal."""
    events, train = Events(job.out), job.recipe.train

    def heard(event: str, **fields: Any) -> None:
        if event == "training":
            job.line.total(fields["steps"])
            job.line.advance(0, f"{fields['parameters']:,} parameters")
        elif event == "step":
            rate = train.batch_size * train.sequence_length / fields["seconds"]
            job.line.reach(fields["step"], f"loss {fields['loss']:.3f}  {rate:,.0f} tokens/s")
        if event != "step":
            events.write(event, **fields)

    return heard
