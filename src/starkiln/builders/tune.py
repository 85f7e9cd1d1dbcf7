"""Going on from a checkpoint: what it must be, its tokenizer, and what of it a recipe may change.

The folder that ``base.checkpoint`` names stays where it is: weights are read from it when training
begins. Only one whose vocabulary is not laid out as ours is made over, in the step ``base``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starkiln.builders import Job, recorded
from starkiln.catalogue import Recipe
from starkiln.core import keyed, manifest, units
from starkiln.core.errors import UserError
from starkiln.core.manifest import Manifest
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.tokenizer import NAME, Tokenizer

_OWN = {"resid_pdrop", "embd_pdrop", "attn_pdrop"}  # are the fine-tuning's: no weight depends on it
_UNUSED = {"initializer_range", "sinusoids"}  # no weight is drawn


def named(recipe: Recipe, work: Path) -> Path | None:
    """The folder of ``base.checkpoint``, which starts at the recipe's own; None without one."""
    name = recipe.base.checkpoint
    if not name:
        return None
    try:
        folder = (work / Path(name).expanduser()).resolve()
        found = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # nobody's home, a NUL
        raise UserError("base.checkpoint", f"no path: {name!r} ({error})", "mend it") from error
    if not found:
        mend = "make it first, or name the folder of a StarCoder-family checkpoint"
        raise UserError("base.checkpoint", f"no such folder: {folder}", mend)
    return folder


def weights(recipe: Recipe, work: Path) -> Path | None:
    """The folder whose weights training begins with: the named one, or it made over."""
    made_over = work / "base"
    return made_over if (made_over / NAME).is_file() else named(recipe, work)


def settled(recipe: Recipe, work: Path) -> Recipe:
    """``recipe`` with the shape of the decoder that it goes on from; itself if there is none.

    UserError where the checkpoint is not there, cannot be read, or is not what the recipe says.
    """
    folder = named(recipe, work)
    if folder is None:
        return recipe
    from starkiln.model import checkpoint

    shape, entries, _ = checkpoint.reader(folder)
    asked, words = recipe.decoder, recipe.tokenizer
    if "vocab_size" in words.model_fields_set and words.vocab_size != entries:
        what = f"{words.vocab_size} in the recipe, {entries} in {folder}"
        raise UserError("tokenizer.vocab_size", what, "take it out: the checkpoint has its own")
    if recipe.base.lora_rank > shape.n_embd:
        what = f"{recipe.base.lora_rank} is more than the {shape.n_embd} that a matrix can have"
        raise UserError("base.lora_rank", what, "8 to 64 are usual")
    for key in sorted(asked.model_fields_set - _OWN - _UNUSED):
        told, has = _meant(asked, key), _meant(shape, key)
        if told != has:
            what = f"{told} in the recipe, {has} in {folder}"
            raise UserError(f"decoder.{key}", what, "take it out: the checkpoint has its shape")
    if recipe.train.sequence_length > shape.n_positions:
        what = f"{recipe.train.sequence_length} is more than the {shape.n_positions} of {folder}"
        raise UserError("train.sequence_length", what, "shorten the sequences")
    own = {key: getattr(asked, key) for key in _OWN & asked.model_fields_set}
    return recipe.model_copy(update={"decoder": shape.model_copy(update=own)})


def sized(recipe: Recipe, work: Path) -> tuple[Recipe, int]:
    """``settled``, and the entries of the vocabulary that the model will have."""
    folder = named(recipe, work)
    if folder is None:
        return recipe, recipe.tokenizer.vocab_size
    from starkiln.model import checkpoint

    return settled(recipe, work), checkpoint.reader(folder)[1]


def _meant(settings: DecoderSettings, key: str) -> Any:
    meant = {"n_inner": settings.inner, "num_key_value_heads": settings.kv_heads}
    return meant.get(key, getattr(settings, key))


def ready(recipe: Recipe, work: Path) -> None:
    """UserError where tokenizer and model disagree, or the base has seen what is held out here."""
    folder = named(recipe, work)
    assert folder is not None
    _refuse_seen(recipe, folder)
    if not _is_ours(folder):
        return
    from starkiln.model import checkpoint

    _, vocab_size, _ = checkpoint.reader(folder)
    found = Tokenizer.load(folder).vocab_size
    if found > vocab_size:
        what = f"has {found} entries, the model {vocab_size}"
        raise UserError(folder / NAME, what, "put the model's own tokenizer.json there")


def _refuse_seen(recipe: Recipe, folder: Path) -> None:
    """A split is a keyed draw, so the one of a base made here is known, and nests by its share."""
    made = manifest.read(folder)
    before = made.facts.get("held_out") if made else None
    if before is None:
        return
    mend = "or its score would be of files that it was trained on"
    if recipe.seed != before["seed"]:
        what = f"{recipe.seed}, but {folder} held out other files with {before['seed']}"
        raise UserError("seed", what, f"set seed = {before['seed']}, {mend}")
    if recipe.pack.validation > before["share"]:
        what = f"{recipe.pack.validation} is more than {folder} held out, {before['share']}"
        raise UserError("pack.validation", what, f"set at most {before['share']}, {mend}")


def held_out(recipe: Recipe) -> dict[str, Any]:
    """What decides which documents a training does not see."""
    return {"seed": recipe.seed, "share": recipe.pack.validation}


def order(recipe: Recipe) -> int:
    """The root of the training's draws: a fine-tuning sees the windows in an order of its own."""
    if not recipe.base.checkpoint:
        return recipe.seed
    return int.from_bytes(keyed.digest(recipe.seed, "fine-tune")[:4], "little")


def adopt(job: Job) -> Manifest:
    """Make the base over if its vocabulary is not laid out as ours; else there is nothing to do."""
    folder = named(job.recipe, job.work)
    assert folder is not None
    if _is_ours(folder):
        job.line.advance(1, "as it is")
        return recorded(job, [])
    from starkiln.model.adopt import adopt

    facts = adopt(folder, job.out)
    files = [path for path in sorted(job.out.iterdir()) if _is_part(path)]
    return recorded(job, [units.hashed(job.out, {"files": files})], facts)


def tokenizer(job: Job) -> Manifest:
    """The base's tokenizer, in place of one that is trained."""
    folder = weights(job.recipe, job.work)
    assert folder is not None
    words = Tokenizer.load(folder)
    words.save(job.out)
    job.line.advance(1, f"{words.vocab_size:,} entries")
    files = sorted(job.out.glob("*token*.json"))
    facts = {"vocab_size": words.vocab_size}
    return recorded(job, [units.hashed(job.out, {"files": files})], facts)


def _is_ours(folder: Path) -> bool:
    try:
        Tokenizer.load(folder)
    except UserError:
        return False
    return True


def _is_part(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors") and path.name != units.WANTED


def unready(recipe: Recipe) -> list[Callable[[], None]]:
    """What to ask before a training begins that is long."""
    asked: list[Callable[[], None]] = []
    if recipe.base.lora_rank:
        from starkiln.train import lora

        asked.append(lora.ready)
    if recipe.run.dtype == "fp8":
        from starkiln.train import fp8

        asked.append(fp8.ready)
    return asked
