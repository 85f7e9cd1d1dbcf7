"""What the command line does with a finished model: complete, evaluate, serve."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from rich.console import Console

from starkiln.core import recipe
from starkiln.core.errors import UserError
from starkiln.core.settings import Settings, key
from starkiln.serve.settings import ServeSettings, accepted_keys, check_open

M = TypeVar("M", bound=BaseModel)


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
    device: str = key("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    weights: Literal["auto", "fp32", "bf16", "int8"] = key(
        "auto", "of matrices: auto is as stored; int8 is half of bf16, and rounds"
    )


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


def stream(model: Path, prefix: str, suffix: str | None, overrides: Sequence[str]) -> Iterator[str]:
    """Pieces of the completion of ``prefix``, or of the text between it and ``suffix``.

    As the server does, it leaves out what repeats the suffix.
    """
    how = settings(CompleteSettings, overrides)
    folder = checkpoint(model)
    from starkiln.model.engine import Engine
    from starkiln.model.ready import ready
    from starkiln.serve.shaping import Shape
    from starkiln.tokenizer import context

    decoder, tokenizer = ready(folder, how.device, how.weights)
    limit = decoder.config.n_positions - how.max_new_tokens
    if limit < 1:
        raise UserError(
            "max_new_tokens", f"no room in a context of {decoder.config.n_positions}", "lower it"
        )
    ids = context.prompt(
        prefix,
        suffix,
        tokenizer,
        limit=limit,
        mode=how.mode,
        repo=how.repo,
        path=how.path,
    )
    shape = Shape(prefix, suffix or "")
    pieces = Engine(decoder, tokenizer).stream(
        ids,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        seed=how.seed,
        stop=how.stop,
    )
    for piece in pieces:
        yield shape.feed(piece, last=False)[0]
    yield shape.feed("", last=True)[0]


def name(folder: Path) -> str:
    """What the model of a checkpoint's folder is called: as that, or as the work folder."""
    whole = folder.resolve()
    return (whole.parent if whole.name == "checkpoint" else whole).name or "model"


def serve(model: Path, overrides: Sequence[str]) -> None:
    """Serve the checkpoint until interrupted; beyond this machine only to those who have a key.

    The index of its training data (``lookup``) is opened where there is one.
    """
    how = settings(ServeSettings, overrides)
    keys = accepted_keys(how, os.environ)
    check_open(how, keys)
    folder = checkpoint(model)
    try:
        from starkiln.serve.attribution import Attribution
        from starkiln.serve.listen import listen
        from starkiln.serve.service import Service
    except ImportError as error:
        raise UserError("serve", str(error), "pip install 'starkiln[serve]'") from error
    from starkiln.model.engine import Engine
    from starkiln.model.ready import ready

    beside = folder.resolve().with_name("lookup")
    lookup = Path(how.lookup) if how.lookup else beside if beside.is_dir() else None
    found = (
        Attribution.open(lookup, how.least_match) if lookup and how.attribution != "off" else None
    )
    decoder, tokenizer = ready(folder, how.device, how.weights)
    called = name(folder)
    engine = Engine(decoder, tokenizer, slots=how.slots)
    service = Service(called, engine, tokenizer, how, keys=keys, attribution=found)
    listen(service)


def evaluate(
    model: str,
    tasks: Sequence[str],
    overrides: Sequence[str],
    console: Console,
    isolate: bool = True,
) -> tuple[Path, dict[str, Any], list[tuple[str, ...]]]:
    """Score ``model`` on ``tasks`` (none: as the settings say): the results' folder, the report,
    and the rows of the comparison that was asked for.

    ``model`` is a checkpoint or a Hugging Face folder, a recipe, stored completions, or the URL
    of an endpoint (``http://…/v1#NAME``). Results lie beside a model of files, in
    ``<name>-evaluation/``, and for a URL in the current folder.
    """
    from starkiln.core.log import Line
    from starkiln.evaluate import compare
    from starkiln.evaluate.evaluation import evaluate as score
    from starkiln.evaluate.settings import EvaluateSettings
    from starkiln.evaluate.sources import open_source

    how = settings(EvaluateSettings, [one.removeprefix("evaluate.") for one in overrides])
    how = how.model_copy(update={"tasks": list(tasks)}) if tasks else how
    if how.against:
        compare.load(Path(how.against))  # a typo is told before hours are spent
    remote = "://" in model
    place = Path(model)
    if not remote and (place.suffix == ".toml" or (place / "config.json").is_file()):
        model = str(checkpoint(place))
    source = open_source(model, how.source)
    beside = Path() if remote else Path(model).resolve().parent
    out = Path(how.out) if how.out else beside / f"{_file_name(source.name)}-evaluation"
    with Line(console, "evaluation") as line:
        found = score(source, how, out, workers=os.cpu_count() or 1, line=line, isolate=isolate)
    return out, found, compare.rows(out, Path(how.against)) if how.against else []


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"
