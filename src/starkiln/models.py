"""What the command line does with a finished model: complete, evaluate, serve, export."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from rich.console import Console

from starkiln.core import atomic, manifest, recipe
from starkiln.core.errors import UserError
from starkiln.core.settings import Settings, key
from starkiln.serve.settings import ServeSettings

M = TypeVar("M", bound=BaseModel)

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class CompleteSettings(Settings):
    """How ``starkiln complete`` samples."""

    max_new_tokens: int = key(64, "most tokens to add", gt=0)
    temperature: float = key(0.0, "0 takes the likeliest token each time", ge=0)
    top_p: float = key(0.95, "nucleus of the sampling", "§6.1", gt=0, le=1)
    seed: int = key(0, "root of the draws")
    stop: list[str] = key([], "texts that end the completion")
    mode: Literal["psm", "spm"] = key("psm", "prompt order of an infill", "§5.4; rules §13")
    repo: str | None = key(None, "repository name to put before the code")
    path: str | None = key(None, "file path to put before the code")


def checkpoint(model: Path) -> Path:
    """The checkpoint folder that ``model`` means: itself, or that of a recipe's work folder."""
    folder = model.parent / "checkpoint" if model.suffix == ".toml" else model
    if not (folder / "config.json").is_file():
        raise UserError(
            folder, "no checkpoint here", "name a folder with config.json, or run the recipe first"
        )
    return folder


def settings(model: type[M], overrides: Sequence[str]) -> M:
    """A settings model from ``key=value`` texts alone."""
    raw, origins = recipe.overridden({}, overrides)
    return recipe.check(model, raw, "--set", origins)


def stream(model: Path, prefix: str, suffix: str, overrides: Sequence[str]) -> Iterator[str]:
    """Pieces of the completion of ``prefix``, or of the text between it and ``suffix``."""
    how = settings(CompleteSettings, overrides)
    folder = checkpoint(model)
    from starkiln.model.checkpoint import load
    from starkiln.model.engine import Engine
    from starkiln.tokenizer import fim, layout

    decoder, tokenizer = load(folder)
    metadata = layout.metadata_ids(tokenizer, repo=how.repo, path=how.path)
    limit = decoder.config.n_positions - how.max_new_tokens
    if limit < 1:
        raise UserError(
            "max_new_tokens", f"no room in a context of {decoder.config.n_positions}", "lower it"
        )
    if suffix:
        ids = fim.prompt(prefix, suffix, tokenizer, mode=how.mode, metadata=metadata, limit=limit)
    else:
        ids = layout.prompt(prefix, tokenizer, metadata=metadata, limit=limit)
    yield from Engine(decoder, tokenizer).stream(
        ids,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        seed=how.seed,
        stop=how.stop,
    )


def serve(model: Path, overrides: Sequence[str]) -> None:
    """Serve the checkpoint until interrupted; only on this machine."""
    how = settings(ServeSettings, overrides)
    if how.host not in LOOPBACK:
        raise UserError(
            "host", f"{how.host} is open to other machines", f"use one of {', '.join(LOOPBACK)}"
        )
    folder = checkpoint(model)
    try:
        import uvicorn

        from starkiln.serve.server import Service, application
    except ImportError as error:
        raise UserError("serve", str(error), "pip install 'starkiln[serve]'") from error
    from starkiln.model.checkpoint import load
    from starkiln.model.engine import Engine

    decoder, tokenizer = load(folder)
    name = folder.resolve().parent.name if folder.name == "checkpoint" else folder.name
    service = Service(name, Engine(decoder, tokenizer), tokenizer, how)
    uvicorn.run(
        application(service),
        host=how.host,
        port=how.port,
        log_level="info",
        timeout_graceful_shutdown=10,
    )


def export(model: Path, out: Path) -> Path:
    """Copy the weights and the tokenizer to ``out`` with a model card from the manifests."""
    folder = checkpoint(model)
    if out.exists():
        raise UserError(out, "exists already", "name a new folder")
    from starkiln.model.checkpoint import only_ours, reader

    if why := only_ours(reader(folder)[0]):
        raise UserError(folder, "is nothing to export", why)
    new = out.with_name(f".{out.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    keep = shutil.ignore_patterns("state", "manifest.json", "*.jsonl", ".*")
    shutil.copytree(folder, new, ignore=keep)
    atomic.write_bytes(new / "README.md", card(folder).encode())
    atomic.swap(new, out)
    return out


def card(folder: Path) -> str:
    """The model card: what the manifests beside the checkpoint say of data, training, scores."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [code]"]
    lines += ["---", "", "# Model card", ""]
    trained = manifest.read(folder)
    if trained is None:
        return "\n".join([*lines, "Exported by starkiln from a checkpoint made elsewhere.", ""])
    lines += ["Trained with starkiln.", "", "## Training", "", *_listed(trained.facts)]
    for name in ("documents", "curated", "tokens"):
        made = manifest.read(folder.parent / name)
        if made is not None:
            lines += ["", f"## {name.capitalize()}", "", f"- rows: {made.rows:,}"]
            lines += [f"- dropped by {reason}: {n:,}" for reason, n in made.drops.items()]
    scored = manifest.read(folder.parent / "evaluation")
    if scored is not None:
        benchmark = scored.identity.stages[0]["settings"]["evaluate"]["problems"]
        lines += ["", "## Evaluation", ""]
        lines += [_score(benchmark, one) for one in scored.facts["scores"]]
    return "\n".join([*lines, ""])


def _listed(facts: dict[str, Any]) -> list[str]:
    plain = {name: v for name, v in facts.items() if isinstance(v, int | float | str)}
    return [f"- {name}: {value}" for name, value in plain.items()]


def _score(benchmark: str, one: dict[str, Any]) -> str:
    interval = f"95 % interval {one['low']:.1%} to {one['high']:.1%}, {one['problems']} problems"
    return f"- {benchmark} pass@{one['k']}: {one['score']:.1%} ({interval})"


def evaluate(model: Path, overrides: Sequence[str], console: Console) -> dict[str, Any]:
    """Score a checkpoint; samples and report are kept beside it, in ``<name>-evaluation/``."""
    from starkiln.core.log import Line
    from starkiln.evaluate.evaluation import evaluate as score
    from starkiln.evaluate.settings import EvaluateSettings

    how = settings(EvaluateSettings, overrides)
    folder = checkpoint(model)
    out = folder.resolve().with_name(f"{folder.resolve().name}-evaluation")
    with Line(console, "evaluation") as line:
        found = score(folder, how, out, workers=os.cpu_count() or 1, line=line)
    return {"folder": str(out), **{key: found[key] for key in ("scores", "verdicts", "settings")}}
