"""Two evaluations of the same problems: how far apart they are, and how sure of it one may be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from starkiln.core.errors import UserError
from starkiln.evaluate import bootstrap
from starkiln.evaluate.evaluation import REPORT, SAMPLES
from starkiln.evaluate.grade import tally
from starkiln.evaluate.passk import pass_at_k
from starkiln.evaluate.printed import brief

COLUMNS = ("task", "this", "other", "points", "95 % interval", "problems", "drawn")
_READ = ["task", "temperature", "problem", "prompt", "verdict"]
_MEND = "name a folder that 'starkiln evaluate' has written"
Counts = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation's folder holds: the report, and the columns of its samples needed here."""

    report: dict[str, Any]
    frame: pl.DataFrame

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.report["model"])


def load(folder: Path) -> Evaluation:
    """The evaluation in ``folder``; ``UserError`` where there is none, or none that is whole."""
    try:
        report = json.loads((folder / REPORT).read_text())
        frame = pl.read_parquet(folder / SAMPLES, columns=_READ)
        for one in report["passes"]:
            one["task"], [(row["k"], float(one["draw"]["temperature"])) for row in one["scores"]]
        report["model"]
    except FileNotFoundError as error:
        raise UserError(folder, "holds no evaluation", _MEND) from error
    except (OSError, ValueError, LookupError, TypeError, pl.exceptions.PolarsError) as error:
        what = f"holds no evaluation that can be read ({type(error).__name__}: {error})"
        raise UserError(folder, what, _MEND) from error
    return Evaluation(report, frame)


def rows(folder: Path, against: Path) -> list[tuple[str, ...]]:
    """What the command line says of two folders, under ``COLUMNS``; ``UserError`` as of ``load``.

    Of two draws that differ it says how; ``UserError`` where no score is in both.
    """
    return [_row(one) for one in compare(load(folder), load(against))]


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    counts = f"{one['problems']:,}: {len(one['better'])} better, {len(one['worse'])} worse"
    return (
        f"{one['task']} pass@{one['k']}",
        f"{100 * one['score']:.1f} %",
        f"{100 * one['other']:.1f} %",
        f"{100 * one['difference']:+.1f}",
        f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}",
        counts,
        "; ".join(one["differs"]) or "alike",
    )


def compare(one: Evaluation, other: Evaluation) -> list[dict[str, Any]]:
    """The scores that both have, over the problems that both have samples enough of.

    For each task and k: ``score`` and ``other``, their ``difference`` with the 95 % interval of a
    bootstrap over problems (``low``, ``high``), the problems that are ``better`` and ``worse``,
    those that one ``alone`` or ``other_alone`` has solved at all, and what ``differs`` in how they
    were drawn. ``UserError`` where nothing is common.
    """
    pairs = [
        (mine, theirs, row["k"])
        for mine in one.report["passes"]
        for row in mine["scores"]
        if (theirs := _partner(mine, row["k"], other.report["passes"]))
    ]
    found = [_compared(one, other, *pair) for pair in pairs]
    if kept := [row for row in found if row]:
        return kept
    what = f"{one.name} and {other.name} have no problem with a score in common"
    raise UserError("against", what, "name an evaluation of the same tasks and k")


def _partner(mine: dict, k: int, passes: Sequence[dict]) -> dict | None:
    """The pass over the same task, with a score for k, that was drawn most like ``mine``."""
    same = [p for p in passes if p["task"] == mine["task"] and k in [s["k"] for s in p["scores"]]]
    return min(same, key=lambda p: len(differences(mine["draw"], p["draw"])), default=None)


def differences(draw: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs in how two passes were drawn: ``n 20 (200)``; the second's in brackets."""
    aside = {"k"}
    if not (draw["n"] and other.get("n")):  # 0: stored, drawn as somebody else chose
        aside = draw.keys() - {"returns"}
    found = [] if bool(draw["n"]) == bool(other.get("n")) else ["one of them as stored"]
    return found + [
        f"{_NAMES.get(name, name)} {_told(draw[name])} ({_told(other.get(name))})"
        for name in draw
        if name not in aside and (draw[name] or None) != (other.get(name) or None)
    ]


def _judged(report: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs in how two runs judged: ``timeout s 9 (the task's)``."""
    one, two = (run.get("settings", {}) for run in (report, other))
    found = [
        f"{name.replace('_', ' ')} {_or(one.get(name), plain)} ({_or(two.get(name), plain)})"
        for name, plain in _JUDGING.items()
        if (one.get(name) or None) != (two.get(name) or None)
    ]
    alone = report.get("isolated", True) != other.get("isolated", True)
    return [*found, "one of them without isolation"] if alone else found


def _or(value: Any, plain: str) -> str:
    return brief(value) if value and isinstance(value, str) else f"{value or plain}"


_JUDGING = {"prelude": "none", "timeout_s": "the task's", "memory_mb": "the task's"}
_NAMES = {
    "temperature": "T",
    "top_p": "top-p",
    "max_new_tokens": "new tokens",
    "max_total_tokens": "tokens with the prompt",
    "returns": "the first edition's returns",
}


def _told(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "any", True: "on", False: "off"}[value]
    return repr(value) if isinstance(value, str) else f"{value}"


def _compared(
    one: Evaluation, other: Evaluation, mine: dict, theirs: dict, k: int
) -> dict[str, Any] | None:
    (counts, prompts), (others, other_prompts) = _counts(one, mine), _counts(other, theirs)
    common = [p for p in counts if p in others and min(counts[p][0], others[p][0]) >= k]
    if not common:
        return None
    values, other_values = _values(counts, common, k), _values(others, common, k)
    apart = values - other_values
    changed = sum(prompts[p] != other_prompts[p] for p in common)
    differs = differences(mine["draw"], theirs["draw"]) + _judged(one.report, other.report)
    if changed:
        differs.append(f"{changed:,} of the prompts")
    low, high = _interval(apart, mine["task"], k)
    return {
        "task": mine["task"],
        "k": k,
        "score": float(values.mean()),
        "other": float(other_values.mean()),
        "difference": float(apart.mean()),
        "low": low,
        "high": high,
        "problems": len(common),
        "better": [p for p, by in zip(common, apart) if by > 0],
        "worse": [p for p, by in zip(common, apart) if by < 0],
        "alone": [p for p in common if counts[p][1] and not others[p][1]],
        "other_alone": [p for p in common if others[p][1] and not counts[p][1]],
        "differs": differs,
    }


def _interval(apart: np.ndarray, *key: object) -> tuple[float, float]:
    """Where no problem tells the two apart, draws say nothing: then what N of N leave open."""
    if not apart.any():
        rest = 1.0 - 0.025 ** (1 / len(apart))
        return -rest, rest
    return bootstrap.interval(apart[:, None], lambda s: s[:, 0] / len(apart), "paired", *key)


def _counts(one: Evaluation, passed: dict) -> tuple[Counts, dict[str, str]]:
    """Of each problem of a pass: its judged and right samples, and its prompt."""
    task, temperature = pl.col("task"), pl.col("temperature")
    rows = one.frame.filter(
        task == passed["task"], temperature == float(passed["draw"]["temperature"])
    )
    prompts = rows.unique("problem", keep="first").select("problem", "prompt")
    return tally(rows.select("problem", "verdict").iter_rows(named=True)), dict(prompts.iter_rows())


def _values(counts: Counts, problems: Sequence[str], k: int) -> np.ndarray:
    return np.array([pass_at_k(*counts[problem], k) for problem in problems])
