"""Prompts without what is too far from the gap, where a model has no room for all of it."""

import re
from collections.abc import Callable
from dataclasses import replace

from starkiln.evaluate.sources.ask import Ask

_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def fitted(ask: Ask, size: Callable[[Ask], int], context: int | None) -> Ask:
    """``ask`` with as many whole lines around its gap as a model of ``context`` tokens has room
    for, taken in turns from both sides, where it may be trimmed; else as it is.

    ``size`` gives the tokens of its prompt. What does not fit line by line is left as it is.
    """
    room = _room(ask, context) if ask.trim else None
    return ask if room is None or size(ask) <= room else around(ask, size, room)


def around(ask: Ask, size: Callable[[Ask], int], room: int) -> Ask:
    """``ask`` with the nearest lines of its prompt and suffix that have ``room`` in all."""
    sides = _LINE.findall(ask.prompt)[::-1], _LINE.findall(ask.suffix or "")
    least = size(_of(ask, "", ""))
    kept, used, open_ = ([], []), [0, 0], {0, 1}
    while open_:
        side = min(open_, key=lambda one: (used[one], one))
        line = next(iter(sides[side][len(kept[side]) :]), None)
        more = 0 if line is None else size(_of(ask, line, "")) - least
        if line is None or least + sum(used) + more > room:
            open_.discard(side)
        else:
            kept[side].append(line)
            used[side] += more
    return _of(ask, "".join(kept[0][::-1]), "".join(kept[1]))


def _of(ask: Ask, prompt: str, suffix: str) -> Ask:
    return replace(ask, prompt=prompt, suffix=None if ask.suffix is None else suffix)


def _room(ask: Ask, context: int | None) -> int | None:
    """The most tokens of a prompt that leave some for its completion; None: no limit."""
    whole = min((most for most in (context, ask.max_total_tokens) if most), default=None)
    return None if whole is None else whole - (ask.max_new_tokens or whole // 8)
