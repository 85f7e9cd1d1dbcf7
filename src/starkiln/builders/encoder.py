"""The model steps of encoders: StarEncoder, and the tagger that is made of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starkiln.builders import Job, log_events, recorded, tune
from starkiln.builders.model import artefacts
from starkiln.catalogue import Recipe
from starkiln.core import units
from starkiln.core.errors import UserError
from starkiln.core.manifest import Manifest


def train(job: Job) -> Manifest:
    """Train an encoder on pairs of segments; a partial folder goes on from its newest state."""
    from starkiln.train.encoder import train_encoder

    recipe = job.recipe
    return _made(
        job,
        lambda heard: train_encoder(
            tokens=job.work / "tokens",
            tokenizer=job.work / "tokenizer",
            out=job.out,
            encoder=recipe.encoder,
            pairs=recipe.pairs,
            train=recipe.train,
            run=recipe.run,
            seed=recipe.seed,
            on_event=heard,
        ),
    )


def tag(job: Job) -> Manifest:
    """Fine-tune the base encoder on the examples; its scores are among the facts."""
    from starkiln.train.tagger import train_tagger

    recipe = job.recipe
    return _made(
        job,
        lambda heard: train_tagger(
            examples=job.work / "examples",
            encoder=folder(recipe, job.work),
            out=job.out,
            tagger=recipe.tagger,
            train=recipe.train,
            run=recipe.run,
            seed=recipe.seed,
            on_event=heard,
        ),
    )


def _made(job: Job, call: Callable[[Callable[..., None]], dict[str, Any]]) -> Manifest:
    facts = call(log_events(job))
    if not facts:  # another process of this run records what was made
        return Manifest(job.identity)
    return recorded(job, [units.hashed(job.out, {"files": artefacts(job.out)})], facts)


def folder(recipe: Recipe, work: Path) -> Path:
    """The encoder that a tagger begins with."""
    found = tune.named(recipe, work)
    if found is None:
        mend = "name the folder of the encoder to fine-tune, made by a recipe like 'starencoder'"
        raise UserError("base.checkpoint", "a tagger needs one", mend)
    return found


def stamps(recipe: Recipe, work: Path) -> dict[str, str]:
    """What tells that encoder from another."""
    from starkiln.model import checkpoint

    return checkpoint.stamps(folder(recipe, work))
