"""The chain of one recipe: every step, with what it is made from."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from starkiln.builders import Job, data, encoder, lookup, model, pii, tune
from starkiln.catalogue import STAGES, Recipe, Use, marked, sources, stages
from starkiln.core import atomic, stage
from starkiln.core import recipe as recipes
from starkiln.core.errors import UserError
from starkiln.core.manifest import Identity, Manifest
from starkiln.core.settings import FILE, PLACE
from starkiln.train.settings import POLICY


@dataclass(frozen=True)
class Step:
    """One artefact of the chain."""

    name: str  # its folder, relative to the work folder
    identity: Identity
    build: Callable[[Job], Manifest]
    precious: bool = False  # a stale one is never overwritten
    ready: tuple[Callable[[], object], ...] = ()  # UserError where something that it needs is not
    together: bool = False  # made by all processes of a run; the others by its first


def uses(recipe: Recipe, path: Path) -> list[Use]:
    """The curate stages of a recipe, checked; a stage that draws takes the recipe's seed."""
    found = stages(recipe.curate, path)
    return [_seeded(use, recipe.curate.get(use.name, {}), recipe.seed) for use in found]


def _seeded(use: Use, table: dict[str, Any], seed: int) -> Use:
    """``use`` with the recipe's seed, where it draws and its own table names none."""
    if "seed" not in use.settings or "seed" in table:
        return use
    return use.model_copy(update={"settings": {**use.settings, "seed": seed}})


def meanings(use: Use) -> dict[str, tuple[str, str]]:
    """(meaning, paper section) of each setting of a stage; else its docstring's first line."""
    function = stage.load(use.use, use.name)
    lines = (inspect.getdoc(function) or "").splitlines()[:1]
    known = recipes.meanings(stage.settings_model(function))
    return {
        f"curate.{use.name}.{name}": (meaning or "".join(lines), paper)
        for name, (meaning, paper) in known.items()
    }


def chain(recipe: Recipe, path: Path) -> list[Step]:
    """Every step from raw input to the report, each with its identity."""
    return _CHAINS[recipe.makes](recipe, path)


def _decoder(recipe: Recipe, path: Path) -> list[Step]:
    """A language model of code, scored."""
    recipe = tune.settled(recipe, path.parent)
    *found, curated = _data(recipe, path)
    *base, tokenizer = _tokenizer(recipe, path, curated)
    tokens = _tokens(recipe, curated, tokenizer)
    checkpoint = _checkpoint(recipe, path, [*base, tokenizer, tokens])
    evaluation = _step(
        "evaluation",
        "evaluation",
        [_stage("evaluate", 1, _dump(recipe, "seed", "evaluate"))],
        [checkpoint],
        model.evaluate,
        precious=True,
    )
    audits = _audit(recipe, path)
    report = _step(
        "report",
        "report",
        [_stage("report", 2, _dump(recipe, "seed", "mixture"))],
        [found[0], *audits, curated, tokens, checkpoint, evaluation],
        model.report,
    )
    data_ = [*found, *audits, curated, tokenizer, tokens, *_lookup(recipe, curated)]
    return [*base, *data_, checkpoint, evaluation, report]  # a base's faults come first


def _encoder(recipe: Recipe, path: Path) -> list[Step]:
    """StarEncoder, by masked words and by what follows."""
    *found, curated = _data(recipe, path)
    made_by = [_stage("fit_tokenizer", 1, _dump(recipe, "seed", "tokenizer", "pack"))]
    tokenizer = _step("tokenizer", "tokenizer", made_by, [curated], data.fit_tokenizer)
    tokens = _tokens(recipe, curated, tokenizer)
    settings = _dump(recipe, "name", "seed", "encoder", "pairs", "train")
    checkpoint = _trained("train_encoder", settings, [tokenizer, tokens], encoder.train)
    return _reported([*found, curated, tokenizer, tokens, checkpoint])


def _tagger(recipe: Recipe, path: Path) -> list[Step]:
    """What tags personal information: an encoder, fine-tuned on synthetic and weak labels."""
    *found, curated = _data(recipe, path)
    stamps = encoder.stamps(recipe, path.parent)
    made_by = [_stage("examples", 1, _dump(recipe, "seed", "synthesis"))]
    examples = _step("examples", "examples", made_by, [curated], pii.examples)
    settings = _dump(recipe, "name", "seed", "tagger", "train") | {"base": stamps}
    checkpoint = _trained("train_tagger", settings, [examples], encoder.tag)
    return _reported([*found, curated, examples, checkpoint])


def _copy(recipe: Recipe, path: Path) -> list[Step]:
    """The sources' files again, as the curated table has them: redacted."""
    *found, curated = _data(recipe, path)
    copy = _step("copy", "copy", [_stage("copy", 2, {})], [curated], pii.copy)
    return _reported([*found, curated, copy])


_CHAINS = {"decoder": _decoder, "encoder": _encoder, "tagger": _tagger, "copy": _copy}


def _data(recipe: Recipe, path: Path) -> list[Step]:
    """Documents, decisions and, last, the curated table."""
    found = [_documents(recipe, path)]
    decisions: list[str] = []
    used = uses(recipe, path)
    for local, group in groupby(used, lambda use: _is_local(use)):
        for batch in [list(group)] if local else [[use] for use in group]:
            step = _decisions(batch, local, decisions, found)
            found.append(step)
            decisions.append(step.name)
    policies = [use.settings for use in used if use.use == STAGES["redact"]]
    mix = partial(data.mix, decisions=decisions, policies=policies)
    return [*found, _step("curated", "table", [_stage("mix", 4, {})], list(found), mix)]


def _tokens(recipe: Recipe, curated: Step, tokenizer: Step) -> Step:
    made_by = [_stage("pack", 2, _dump(recipe, "seed", "pack", "layout"))]
    return _step("tokens", "tokens", made_by, [curated, tokenizer], data.pack)


def _lookup(recipe: Recipe, curated: Step) -> list[Step]:
    """The index for attribution, if the recipe has the section."""
    if "lookup" not in recipe.model_fields_set:
        return []
    made_by = [_stage("lookup", 1, _dump(recipe, "lookup"))]
    return [_step("lookup", "lookup", made_by, [curated], lookup.lookup)]


def _trained(
    name: str, settings: dict[str, Any], inputs: list[Step], build: Callable[[Job], Manifest]
) -> Step:
    made_by = [_stage(name, 1, settings)]
    step = _step("checkpoint", "checkpoint", made_by, inputs, build, precious=True)
    return replace(step, together=True)


def _reported(steps: list[Step]) -> list[Step]:
    """``steps``, and the page of them."""
    made_by = [_stage("report", 2, {})]
    return [*steps, _step("report", "report", made_by, steps[-1:], model.page)]


def _tokenizer(recipe: Recipe, path: Path, curated: Step) -> list[Step]:
    """The tokenizer's step; before it that of the base, if the recipe goes on from one."""
    folder = tune.named(recipe, path.parent)
    if folder is None:
        made_by = [_stage("fit_tokenizer", 1, _dump(recipe, "seed", "tokenizer", "pack"))]
        return [_step("tokenizer", "tokenizer", made_by, [curated], data.fit_tokenizer)]
    from starkiln.model import checkpoint

    stamps = checkpoint.stamps(folder)
    base = _step("base", "base", [_stage("adopt", 1, stamps)], [], tune.adopt)
    base = replace(base, ready=(partial(tune.ready, recipe, path.parent),))
    # Other weights with the same tokenizer are no reason to pack anew.
    made_by = [_stage("base_tokenizer", 1, {"tokenizer.json": stamps["tokenizer.json"]})]
    return [base, _step("tokenizer", "tokenizer", made_by, [], tune.tokenizer)]


def _checkpoint(recipe: Recipe, path: Path, inputs: list[Step]) -> Step:
    settings = _dump(recipe, "name", "seed", "decoder", "train", "fim", "mixture")
    if recipe.base.checkpoint:  # what it holds is an input; where it lies is of no account
        settings["base"] = recipe.base.model_dump(mode="json", exclude={"checkpoint"})
    made_by = [_stage("train", 3, settings)]
    step = _step("checkpoint", "checkpoint", made_by, inputs, model.train, precious=True)
    fits = partial(model.ready, *tune.sized(recipe, path.parent))
    return replace(step, together=True, ready=(fits, *tune.unready(recipe)))


def _audit(recipe: Recipe, path: Path) -> list[Step]:
    """A step that scores the recipe's own stages on labelled files, if it names some."""
    files = {name: path.parent / Path(p) for name, p in recipe.audit.model_dump().items() if p}
    stages_ = {use.name: use for use in uses(recipe, path)}
    needed = {"contamination": "decontaminate", "pairs": "near_dedup", "documents": "near_dedup"}
    for name, file in files.items():
        if not file.is_file():
            raise UserError(path, f"audit.{name}: no such file: {file}", "mend the path")
        if needed[name] not in stages_:
            what = f"audit.{name}: '{needed[name]}' is not in curate.stages"
            raise UserError(path, what, "add it, or take the audit out")
    if ("documents" in files) != ("pairs" in files):
        raise UserError(path, "audit: documents and pairs go together", "name both")
    if not files:
        return []
    scored = [stages_[name] for name in dict.fromkeys(needed[name] for name in files)]
    made_by = [_identity_of(use, use.name) for use in scored]
    made_by.append(_stage("audit", 1, {k: atomic.sha256(f)[:16] for k, f in files.items()}))
    build = partial(data.audit, files=files, settings={u.name: u.settings for u in scored})
    ready = partial(data.audit_ready, files=files, settings={u.name: u.settings for u in scored})
    return [Step("audit", Identity("audit", made_by, {}), build, ready=(ready,))]


def _dump(recipe: Recipe, *sections: str) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json", exclude={"train": POLICY})
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
    function_ = stage.load(use.use, name)
    spec = stage.spec(function_)
    places = {"paths"} | marked(function_, PLACE)  # are no part of an identity
    settings = {k: v for k, v in use.settings.items() if k not in places}
    if use.licences:
        settings["licences"] = use.licences
    if use.kinds is not None:
        settings["kinds"] = use.kinds
    if spec.stamp is not None:
        settings["inputs"] = spec.stamp(use.settings)
    for name_ in marked(function_, FILE) & settings.keys():
        if settings[name_] is not None:  # what the file holds, wherever it lies
            settings[name_] = atomic.sha256(Path(settings[name_]))[:16]
    place, _, function = use.use.rpartition(":")
    if place.endswith(".py"):  # a user's own file: an edit must show, version or no version
        settings["use"] = f"{Path(place).name}:{function}"
        settings["source"] = atomic.sha256(Path(place))[:16]
    elif not place.startswith("starkiln."):
        settings["use"] = use.use
    return _stage(name, spec.version, settings)


def _documents(recipe: Recipe, path: Path) -> Step:
    used = sources(recipe.source, path)
    if not used:
        raise UserError(path, "source: nothing to read", "add a [[source]] with use = 'files'")
    used = [_seeded(use, table, recipe.seed) for use, table in zip(used, recipe.source)]
    listed = [(use, _units(use)) for use in used]
    made_by = [_identity_of(use, f"source.{i}.{use.name}") for i, use in enumerate(used)]
    made_by.append(_stage("ingest", 1, _dump(recipe, "ingest")))
    inputs = {f"{i}/{u['name']}": u["stamp"] for i, (_, found) in enumerate(listed) for u in found}
    digest = Identity("units", [], inputs).fingerprint
    identity = Identity("documents", made_by, {"files": digest})
    return Step("documents", identity, partial(data.ingest, listed=listed))


def _units(use: Use) -> list[dict]:
    try:
        found = stage.load(use.use, use.name)(**use.settings)
        wrong = [unit for unit in found if not {"name", "bytes", "stamp"} <= unit.keys()]
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(use.name, f"the source failed ({error!r})", "mend the source") from error
    if wrong:
        what = f"a unit lacks name, bytes or stamp: {wrong[0]}"
        raise UserError(use.name, what, "mend the source")
    return found


def _decisions(batch: list[Use], local: bool, decisions: list[str], before: list[Step]) -> Step:
    made_by = [_identity_of(use, use.name) for use in batch]
    build = partial(
        data.decide if local else data.decide_globally,
        batch=batch,
        decisions=list(decisions),
    )
    step = _step(f"decisions/{batch[0].name}", "decisions", made_by, before, build)
    asked = [(stage.spec(stage.load(use.use, use.name)).ready, use.settings) for use in batch]
    return replace(step, ready=tuple(partial(ready, given) for ready, given in asked if ready))
