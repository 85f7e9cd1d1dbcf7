"""The page that a run ends with: one self-contained HTML file, made of what lies on the disk."""

from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from starkiln.core import atomic
from starkiln.evaluate import account, charts, curation
from starkiln.evaluate.charts import Curve
from starkiln.evaluate.highlight import voices
from starkiln.evaluate.wording import clock, count, percent, short, size, toml
from starkiln.model import layouts
from starkiln.model.settings import parameter_count

NAME = "report.html"


def write(
    work: Path,
    out: Path,
    *,
    recipe: dict[str, Any],
    samples: Sequence[Mapping[str, Any]] = (),
    mixture: Sequence[Mapping[str, Any]] = (),
    versions: Mapping[str, str] | None = None,
    machine: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
    each: account.Each = starmap,
) -> None:
    """Write ``out/report.html`` from the artefacts under ``work``, atomically.

    ``recipe`` is the checked recipe as plain values. Each of ``samples`` has ``prompt`` and
    ``completion``, for an infill also ``suffix``; ``title``, ``note`` and ``language`` (a lexer
    of pygments, default python) are optional. ``mixture`` is the table of weights that training
    gives to the sources. A part that is missing says so on the page. The
    clock times are those of ``events.jsonl``; all else is a function of the recipe and its input.
    """
    page = _template().render(
        recipe=recipe,
        toml=toml(_complete(recipe, account.stages(work))),
        samples=[_sample(one) for one in samples],
        versions=versions or {},
        machine=machine or {},
        commands=commands,
        costs=_costs(work),
        **curation.data(work, each),
        tokens=_tokens(work),
        mixture=mixture,
        **_model(work),
        infill=account.read_json(out / "samples.json").get("infill", {}),
        **_scores(work),
    )
    atomic.write_bytes(out / NAME, page.encode("utf-8", "backslashreplace"))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {f.__name__: f for f in (count, short, size, percent, clock)}
    return environment.get_template(NAME)


def _complete(recipe: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
    """The recipe with the settings of every stage that ran written out."""
    curate = recipe.get("curate", {})
    settings = {s["name"]: {**s["settings"], **curate.get(s["name"], {})} for s in stages}
    return {**recipe, "curate": {**curate, **settings}}


def _sample(one: Mapping[str, Any]) -> dict[str, Any]:
    parts = [("given", one["prompt"]), ("made", one["completion"]), ("given", one.get("suffix"))]
    code = voices([(who, text) for who, text in parts if text], one.get("language", "python"))
    title = one.get("title") or ("infill" if "suffix" in one else "completion")
    return {"title": title, "note": one.get("note", ""), "code": code}


def _tokens(work: Path) -> dict[str, Any] | None:
    found = account.tokens(work)
    if not found.height:
        return None
    total = found.sum().row(0, named=True)
    rows = found.head(12).to_dicts()
    largest = max(row["train"] for row in rows) or 1
    rows = [row | {"width": row["train"] / largest} for row in rows]
    return {"rows": rows, "total": total, "more": found.height - len(rows)}


def _model(work: Path) -> dict[str, Any]:
    made = account.manifest.current(work, "checkpoint")
    folder = work / ("checkpoint" if made else "")  # a model of other data is not shown
    config = account.read_json(folder / "config.json")
    model, facts = None, made.facts if made else {}
    encoder = config if config.get("model_type") == "bert" else None
    if config and not encoder:
        _, settings = layouts.parsed(config)
        size = config["vocab_size"]
        model = settings.model_dump() | {"kv_heads": settings.kv_heads, "vocab_size": size}
        model["parameters"] = parameter_count(settings, size)
    metrics = account.rows(folder / "metrics.jsonl")
    made_steps = [row for row in metrics if "skipped" not in row]
    validation = [r for r in account.rows(folder / "validation.jsonl") if "bits_per_byte" in r]
    return {
        "model": model,
        "encoder": encoder and encoder | {"parameters": facts.get("parameters", 0)},
        "tags": [row for row in facts.get("scores", []) if row["f1"] is not None],
        "judged_pairs": facts.get("validation", {}) if encoder else {},
        "machines": facts.get("machines", []),
        "last": metrics[-1] if metrics else None,
        "validation": validation,
        "by_source": _by_source(validation),
        "skipped": len(metrics) - len(made_steps),
        "charts": _charts(made_steps, validation),
    }


def _charts(metrics: list[dict], validation: list[dict]) -> list[dict[str, Any]]:
    found = []
    if len(metrics) > 1:
        found += [_loss(metrics), _rate(metrics)]
    if len(validation) > 1:
        found.insert(1, _bits(validation))
    return found


def _column(rows: list[dict], key: str) -> list[float]:
    return [row[key] for row in rows]


def _loss(metrics: list[dict]) -> dict[str, Any]:
    x, y = _column(metrics, "step"), _column(metrics, "loss")
    lines = [
        Curve(*charts.binned(x, y, 400), ink="muted", width=0.6),
        Curve(*charts.binned(x, y, 40), "train"),
    ]
    return _chart("Training loss", "nats a token, by step", charts.curves("loss", lines))


def _rate(metrics: list[dict]) -> dict[str, Any]:
    x, y = _column(metrics, "step"), _column(metrics, "lr")
    line = Curve(*charts.binned(x, y, 400), "lr")
    svg = charts.curves("learning rate", [line], digits=".2g", zero=True)
    return _chart("Learning rate", "by step", svg)


def _bits(validation: list[dict]) -> dict[str, Any]:
    x = _column(validation, "step")
    lines = [Curve(x, _column(validation, "bits_per_byte"), "as written", dots=True)]
    infills = [row["fim"] for row in validation if row.get("fim")]
    if len(infills) == len(validation):
        infill = _column(infills, "bits_per_byte")
        lines.append(Curve(x, infill, "infill", "second", dots=True))
    svg = charts.curves("bits per byte", lines, digits=".3f")
    return _chart("Bits per byte", "on held-out files, by step", svg)


def _by_source(validation: list[dict], most: int = 8) -> list[dict[str, Any]]:
    """The last validation by source, the largest by bytes first."""
    sources = validation[-1].get("sources", {}) if validation else {}
    rows = [{"name": name, **row} for name, row in sources.items() if row["bytes"]]
    rows = sorted(rows, key=lambda row: -row["bytes"])[:most]
    largest = max((row["bits_per_byte"] for row in rows), default=0) or 1
    return [row | {"width": row["bits_per_byte"] / largest} for row in rows]


def _chart(title: str, note: str, svg: str) -> dict[str, Any]:
    return {"title": title, "note": note, "svg": Markup(svg)}


def _costs(work: Path) -> list[dict[str, Any]]:
    found = account.costs(work)
    longest = max((row["seconds"] or 0 for row in found), default=0) or 1
    return [row | {"width": (row["seconds"] or 0) / longest} for row in found]


def _scores(work: Path) -> dict[str, Any]:
    folder = work / "evaluation"
    current = account.manifest.current(work, "evaluation")
    report = account.read_json(folder / "report.json") if current else {}
    path = folder / "samples.parquet"
    rows = account.table.read(path) if report and path.is_file() else None
    return {"scores": report, "judged": [] if rows is None else _judged(rows)}


def _judged(rows: pl.DataFrame, most: int = 4) -> list[dict[str, Any]]:
    """The first sample of each verdict, those that passed first, then the commonest verdict."""
    first = rows.group_by("verdict", maintain_order=True).agg(pl.all().first(), pl.len())
    passed = pl.col("verdict") == "passed"
    order = first.sort(passed, "len", "verdict", descending=[True, True, False]).head(most)
    return [
        row | {"code": voices([("given", row["prompt"]), ("made", row["completion"])])}
        for row in order.iter_rows(named=True)
    ]
