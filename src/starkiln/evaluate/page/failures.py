"""What came of the samples of a page: verdicts, the commonest faults, and what was not judged."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

VERDICTS = (  # in the order of a bar, with their colours
    ("passed", "good"),
    ("wrong", "c2"),
    ("error", "c1"),
    ("timeout", "c4"),
    ("memory", "c5"),
    ("limit", "c3"),
    ("violation", "c8"),
    ("infrastructure", "c9"),
)
_KINDS = 15  # that are shown
_LONGEST = 140  # characters of one
_ALIKE = (  # what differs between two messages of one kind
    (r"^AssertionError\b.*", "AssertionError"),
    (r"(^|\W)'[^']*(?:'|$)", "${1}'…'"),
    (r'"[^"]*(?:"|$)', '"…"'),
    (r"\b\d[\d.]*\b", "N"),
    (r"\s+", " "),
    (r"-?N(, ?-?N)+", "N, …"),
)


def labelled(passes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``passes``, each with a ``label``: its task, and its temperature where it has several."""
    tasks = Counter(one["task"] for one in passes)
    return [
        {**one, "label": f"{one['task']}, T {one['draw']['temperature']}"}
        if tasks[one["task"]] > 1
        else {**one, "label": one["task"]}
        for one in passes
    ]


def told(passes: Sequence[Mapping[str, Any]], frame: pl.DataFrame) -> dict[str, Any]:
    """``fates`` (verdicts by pass), ``kinds`` of faults, and what needs a word of its own."""
    ran = [one for one in passes if one.get("samples")]
    groups = kinds(frame)
    return {
        "fates": [_fate(one) for one in ran],
        "colours": [pair for pair in VERDICTS if any(pair[0] in one["verdicts"] for one in ran)],
        "kinds": groups.head(_KINDS).to_dicts(),
        "more_kinds": max(0, groups.height - _KINDS),
        "not_run": [one for one in passes if "not_run" in one],
        "in_process": [one for one in ran if one["in_process"]],
        "no_room": [one for one in ran if one["no_room"]],
        "refused": [one for one in ran if one.get("refused")],
        "unjudged": [row for one in ran for row in _unjudged(one, frame)],
    }


def _fate(one: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(VERDICTS)
    names = [*known, *(name for name in one["verdicts"] if name not in known)]
    parts = [
        {"name": name, "count": n, "share": n / one["samples"], "colour": known.get(name, "c9")}
        for name in names
        if (n := one["verdicts"].get(name, 0))
    ]
    return {"label": one["label"], "samples": one["samples"], "parts": parts}


def kinds(frame: pl.DataFrame) -> pl.DataFrame:
    """``verdict``, ``kind`` (a message without its names and numbers), ``samples``, ``problems``,
    and the first ``problem`` and ``detail``; most samples first.
    """
    kind = pl.col("detail").fill_null("").str.strip_chars().str.split("\n").list.first()
    for pattern, same in _ALIKE:
        kind = kind.str.replace_all(pattern, same)
    failed = frame.filter(pl.col("verdict") != "passed")
    return (
        failed.with_columns(kind.str.slice(0, _LONGEST).alias("kind"))
        .group_by("verdict", "kind", maintain_order=True)
        .agg(
            pl.len().alias("samples"),
            pl.struct("task", "problem").n_unique().alias("problems"),
            pl.col("problem", "detail").first(),
        )
        .sort("samples", "verdict", "kind", descending=[True, False, False])
    )


def _unjudged(one: Mapping[str, Any], frame: pl.DataFrame) -> list[dict[str, str]]:
    """The problems of a pass without a judged sample, and why."""
    rows = frame.filter(pl.col("task") == one["task"], pl.col("verdict") == "infrastructure")
    why = dict(rows.unique("problem", keep="first").select("problem", "detail").iter_rows())
    reasons = {**why, **one["broken"]}
    names = dict.fromkeys([*one["broken"], *one["not_judged"]])
    return [
        {"label": one["label"], "problem": name, "why": reasons.get(name) or "no sample"}
        for name in names
    ]
