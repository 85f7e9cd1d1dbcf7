"""The scores of a page, beside what was published."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from starkiln.evaluate import charts, printed
from starkiln.evaluate.charts import Curve
from starkiln.evaluate.compare import differences
from starkiln.evaluate.protocol import PROTOCOLS, Draw, draws
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.tasks import PERPLEXITY, Task
from starkiln.problems.multiple import LANGUAGES

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[1] / "published.toml").read_text()
)
MARKED = ("StarCoderBase", "StarCoder")
_EXACT = ("infill", "return-types")  # families whose pass@1 is the share of exact matches
_TABLES = (  # tasks that make one table, a row each
    ("multiple-mbpp-", "MultiPL-E, MBPP, by language"),
    ("multiple-", "MultiPL-E, HumanEval, by language"),
)
_PUBLISHED_AS = {"edit similarity": None, "F1": (), "F1 without None": ("groups", "non-None")}


def told(passes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``lines`` (a score each), ``tables`` (scores by group) and ``contexts`` (perplexity)."""
    together = _together(passes)
    alone = [one for one in passes if not any(one in own for _, own in together)]
    tables = [table for one in alone for table in _groups(one, settings)]
    return {
        "lines": [line for one in alone for line in _lines(one, settings)],
        "tables": tables + [t for title, own in together for t in _table(title, own, settings)],
        "contexts": [_context(e[PERPLEXITY]) for p in passes if PERPLEXITY in (e := _extra(p))],
    }


def drawn(one: Mapping[str, Any]) -> str:
    """How a pass was drawn, in words."""
    return printed.drawn(one["draw"])


def remarks(one: Mapping[str, Any], k: int, settings: Mapping[str, Any]) -> list[str]:
    """What in a pass is not as the paper has it (the paper's in brackets); none: like with like."""
    each = one["samples"] / max(1, one["problems"])
    family = Task(one["task"], (), EvaluateSettings()).family
    paper = _paper(family, k, bool(one["draw"]["prefix"]))
    if not one["draw"]["n"]:
        found = [f"drawn elsewhere, {each:.4g} a problem"]
        if paper and paper.returns and not one["draw"]["returns"]:
            found.append("the edition of 2024 (the first)")
    else:
        found = differences(one["draw"], asdict(paper)) if paper else ["no such draw"]
    if one["problems"] and settings.get("limit") == one["problems"]:
        found.append(f"the first {one['problems']:,} problems only")
    return found + ([f"prelude {printed.brief(own)}"] if (own := settings.get("prelude")) else [])


def asides(one: Mapping[str, Any]) -> list[str]:
    """What else a score of a pass is made of: prompts that fill the context, refused answers."""
    counts = {"no_room": "a prompt that fills the context", "refused": "a refused answer"}
    return [f"{len(own):,} with {what}" for name, what in counts.items() if (own := one.get(name))]


@cache
def _paper(family: str, k: int, prompted: bool) -> Draw | None:
    prompted = prompted and family in PROTOCOLS["prompted"]
    how = EvaluateSettings(protocol="prompted" if prompted else "paper")
    return next((draw for draw in draws(family, how) if k in draw.k), None)


def _extra(one: Mapping[str, Any]) -> Mapping[str, Any]:
    return one.get("extra", {})


def _lines(one: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a score and further figure of a pass; what was published gives a ``ladder``."""
    family = Task(one["task"], (), EvaluateSettings()).family
    found = []
    for row in one["scores"]:
        published = () if row["k"] == 1 and family != "return-types" else None
        found.append(_line(one, row, _measure(family, row["k"]), published, settings))
    for measure, own in printed.figures(one):
        row = {"k": 1, "problems": own.get("functions", one["problems"]), **own}
        found.append(_line(one, row, measure, _PUBLISHED_AS[measure], settings))
    return found


def _measure(family: str, k: int) -> str:
    return "exact match" if family in _EXACT and k == 1 else f"pass@{k}"


def _line(
    one: Mapping[str, Any],
    row: Mapping[str, Any],
    measure: str,
    published: tuple[str, ...] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    figures = {} if published is None else _published(one["task"], *published)
    own = {"name": "this model", "score": row["score"], "own": True}
    others = [{"name": name, "score": f, "own": False} for name, f in figures.items()]
    return {
        **row,
        "task": one["task"],
        "measure": measure,
        "drawn": drawn(one),
        "asides": asides(one),
        "marks": _marks(figures),
        "ladder": sorted([own, *others], key=lambda bar: -bar["score"]) if others else [],
        "differs": remarks(one, row["k"], settings) if figures else [],
    }


def _published(task: str, *groups: str) -> dict[str, float]:
    """Model -> share, as published for a task or a group of it."""
    found: Any = PUBLISHED.get(task, {})
    for group in groups:
        found = found.get(group, {})
    return {name: figure / 100 for name, figure in found.items() if not isinstance(figure, dict)}


def _marks(figures: Mapping[str, float]) -> list[tuple[str, float | None]]:
    return [(name, figures.get(name)) for name in MARKED]


def _groups(one: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table a k of the groups of a pass."""
    found = []
    for score in one["scores"] if one.get("groups") else ():
        k, rows = score["k"], []
        for name, own in one["groups"].items():
            figures = _published(one["task"], "groups", name) if k == 1 else {}
            rows += [
                {**row, "name": name or "no group", "marks": _marks(figures)}
                for row in own
                if row["k"] == k
            ]
        measure = _measure(Task(one["task"], (), EvaluateSettings()).family, k)
        found.append(_titled(f"{one['task']}, {measure}", [one], k, rows, settings))
    return found


def _titled(
    title: str,
    passes: Sequence[Mapping[str, Any]],
    k: int,
    rows: list[dict[str, Any]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """A table; what differs in the draws of its passes is told once where figures are published."""
    marked = [
        name
        for at, name in enumerate(MARKED)
        if any(row["marks"][at][1] is not None for row in rows)
    ]
    said = [remark for one in passes for remark in remarks(one, k, settings)] if marked else []
    return {
        "title": title,
        "drawn": drawn(passes[0]),
        "rows": rows,
        "marked": marked,
        "differs": list(dict.fromkeys(said)),
    }


def _together(passes: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Passes over the tasks of one family that were drawn alike, where there are several."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in passes:
        title = next((title for start, title in _TABLES if one["task"].startswith(start)), None)
        if title and "not_run" not in one:
            found.setdefault((title, repr(one["draw"])), []).append(one)
    return [(title, own) for (title, _), own in found.items() if len(own) > 1]


def _table(
    title: str, passes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A table a k of several tasks."""
    found = []
    for k in passes[0]["draw"]["k"]:
        rows = [
            {
                **row,
                "name": LANGUAGES.get(code := one["task"].rpartition("-")[2], code),
                "marks": _marks(_published(one["task"]) if k == 1 else {}),
            }
            for one in passes
            for row in one["scores"]
            if row["k"] == k
        ]
        found.append(_titled(f"{title}, pass@{k}", passes, k, rows, settings))
    return found


def _context(found: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexity by context: a chart of all code over its languages, and a table beside it."""
    languages, lines = found["languages"], []
    for name, one in languages.items():
        x, y = ([row[key] for row in one["windows"]] for key in ("window", "perplexity"))
        whole = name == "all"
        ink, width = ("accent", 2.2) if whole else ("muted", 0.9)
        lines.append(Curve(x, y, "all" if whole else "", ink, width, dots=whole))
    return {
        **found,
        "svg": Markup(charts.curves("perplexity by context", lines)),
        "rows": [
            {"name": name, "published": PUBLISHED[PERPLEXITY].get(name, {}), **one}
            for name, one in languages.items()
        ],
    }
