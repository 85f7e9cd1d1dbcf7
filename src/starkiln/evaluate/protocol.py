"""How often and how completions are drawn for a task: the paper's protocol and others, by name."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starkiln.core.errors import UserError
from starkiln.evaluate.settings import EvaluateSettings

PROTOCOLS: dict[str, dict[str, list[dict[str, Any]]]] = tomllib.loads(
    Path(__file__).with_name("protocols.toml").read_text()
)
_LIMITS = ("max_new_tokens", "max_total_tokens")
_CHOSEN = ("n", "temperature", "top_p", "k", *_LIMITS, "prefix", "path", "returns")


@dataclass(frozen=True)
class Draw:
    """One pass over a task: ``n`` samples a problem, scored as pass@k for each of ``k``.

    ``n`` = 0: those that are stored, drawn as somebody else chose.

    ``max_new_tokens`` counts a completion and ``max_total_tokens`` its prompt too (None: no such
    limit). ``prefix`` stands before each prompt, and ``path`` is told as the file's name. With
    ``returns`` DS-1000 is judged as in its first edition (``ds1000.returning``).
    """

    n: int
    temperature: float
    k: tuple[int, ...]
    top_p: float = 0.95
    max_new_tokens: int | None = None
    max_total_tokens: int | None = None
    prefix: str = ""
    path: str | None = None
    returns: bool = False


def stored(family: str, settings: EvaluateSettings) -> list[Draw]:
    """The pass over completions of ``family`` that are there already."""
    returns = family == "ds1000" and bool(settings.returns)
    return [Draw(n=0, temperature=0.0, k=tuple(settings.k or (1, 10, 100)), returns=returns)]


def draws(family: str, settings: EvaluateSettings) -> list[Draw]:
    """The passes of ``settings.protocol`` over tasks of ``family``, with what the user set.

    A temperature of the user's makes one pass of them. Without a ``k`` of the user's, those above
    n are left out. ``UserError`` where a k is above n, n completions would be equal, or the
    protocol is for other tasks.
    """
    table = PROTOCOLS[settings.protocol]
    if (told := table.get(family, table.get("*"))) is None:
        what = f"is for {' and '.join(table)}, not for {family}"
        mend = "leave that out of the tasks, or take another protocol"
        raise UserError(f"evaluate.protocol = {settings.protocol}", what, mend)
    rows = [_row(**row) for row in told]
    chosen = {name: given for name in _CHOSEN if (given := getattr(settings, name)) is not None}
    if family != "ds1000":
        chosen.pop("returns", None)
    if "k" in chosen:
        chosen["k"] = tuple(sorted(set(chosen["k"])))
    if chosen.keys() & set(_LIMITS):
        rows = [replace(row, max_new_tokens=None, max_total_tokens=None) for row in rows]
    if "temperature" in chosen or "k" in chosen:
        rows = rows[:1]
    return [draw for row in rows if (draw := _checked(replace(row, **chosen), "k" in chosen)).k]


def _row(k: list[int], **rest: Any) -> Draw:
    return Draw(k=tuple(k), **rest)


def _checked(draw: Draw, asked: bool) -> Draw:
    if asked and max(draw.k) > draw.n:
        what = f"pass@{max(draw.k)} needs as many completions, and n is {draw.n}"
        raise UserError("evaluate.k", what, "raise evaluate.n, or lower k")
    if draw.temperature == 0 and draw.n > 1:
        what = f"gives {draw.n} equal completions"
        raise UserError("evaluate.temperature = 0", what, "raise it, or set evaluate.n=1")
    return replace(draw, k=tuple(k for k in draw.k if k <= draw.n))
