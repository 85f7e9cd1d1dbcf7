"""What the command line says of an evaluation: a row a score, with all its settings."""

from collections.abc import Mapping
from typing import Any

_FIGURES = (  # a pass's further figures: where they lie, and what they are
    (("closeness",), "edit similarity"),
    (("return_types", "all"), "F1"),
    (("return_types", "non_none"), "F1 without None"),
)
_BRIEF = 40  # characters
_LIMITS = {"max_new_tokens": "new tokens", "max_total_tokens": "tokens with the prompt"}


def scores(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Task and k, score, interval, problems, how it was drawn, and verdicts, for each score.

    A task that could not be run has its reason; one without a score its verdicts alone.
    """
    prelude = report["settings"].get("prelude")
    more = f", prelude {brief(prelude)}" if prelude else ""
    return [row for one in report["passes"] for row in _rows(one, more)]


def figures(one: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What is scored beside pass@k: the measure, and its ``score``, ``low`` and ``high``."""
    found = []
    for place, measure in _FIGURES:
        row: Any = one.get("extra", {})
        for key in place:
            row = row.get(key, {})
        if row:
            found.append((measure, row))
    return found


def used(usage: Mapping[str, int | float]) -> str:
    """What the source counted, in a line."""
    told = [f"{name.replace('_', ' ')} {n:,}" for name, n in usage.items() if n]
    return ", ".join(told) or "nothing"


def _rows(one: dict[str, Any], more: str) -> list[tuple[str, ...]]:
    if curve := one.get("extra", {}).get("perplexity"):
        return _curve(one["task"], curve)
    if "not_run" in one:
        return [(one["task"], "not run", "", "", "", one["not_run"])]
    counts = {**one["verdicts"], "problems without room": len(one["no_room"])}
    counts["problems refused"] = len(one["refused"])
    verdicts = ", ".join(f"{name} {n:,}" for name, n in counts.items() if n)
    how, most = drawn(one["draw"]) + more, one["asked"]
    told = [(f"pass@{row['k']}", row) for row in one["scores"]] + figures(one)
    return [
        (
            f"{one['task']} {measure}",
            f"{100 * row['score']:.1f} %",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            f"{n:,}" + (f" of {most:,}" if n < most else ""),
            how,
            verdicts,
        )
        for measure, row in told
        for n in [row.get("functions", row.get("problems", one["problems"]))]
    ] or [(one["task"], "none", "", f"{one['problems']:,}", how, verdicts)]


def _curve(task: str, curve: dict[str, Any]) -> list[tuple[str, ...]]:
    whole = curve["languages"]["all"]
    return [
        (
            f"{task}, {row['window']:,} tokens",
            f"{row['perplexity']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            f"{whole['documents']:,}",
            f"the last {curve['scored']:,} tokens",
            f"{row['bits_per_byte']:.3f} bits per byte",
        )
        for row in whole["windows"]
    ]


def drawn(draw: dict[str, Any]) -> str:
    """How the completions of a pass were drawn."""
    edition = ["the first edition's returns"] if draw["returns"] else []
    if not draw["n"]:
        return ", ".join(["as stored", *edition])
    told = [f"n {draw['n']}", f"T {draw['temperature']}", f"top-p {draw['top_p']}"]
    told += [f"{draw[name]:,} {meaning}" for name, meaning in _LIMITS.items() if draw[name]]
    told += [f"{name} {draw[name]!r}" for name in ("path", "prefix") if draw[name]]
    return ", ".join(told + edition)


def brief(code: str) -> str:
    """Code as a setting in a line: as it is where it is short."""
    told = repr(code)
    return told if len(told) <= _BRIEF else f"{told[:_BRIEF]}…'"
