"""What a client asks for and what it gets, whatever its protocol; text in it is only ever text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starkiln.code.sentinels import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, SENTINELS
from starkiln.tokenizer.fim import Mode


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request for completions.

    ``prompt`` is text, or ids of the model. With ``suffix`` (text) it is an infill: what stands
    between the two. ``repo``, ``path`` and further ``files`` (path, text) are its metadata and
    context. ``sampling`` are fields of ``model.sampling.Sampling``; ``max_new_tokens`` may be 0
    (the prompt is only read, for the next request's sake) or lack (the server's default).
    ``most_read`` bounds the prompt's tokens, of which the last are kept.
    ``echo`` asks for the prompt before each completion, with its log-probabilities if
    ``logprobs``; ``best_of`` for the ``n`` likeliest a token of so many; ``trim`` cuts what
    repeats the suffix; ``seconds`` bounds the time from the first token on, but not
    within the first line; ``single_line`` ends at that, ``indent`` before the first line
    indented by fewer characters.
    """

    prompt: str | list[int] = ""
    suffix: str | None = None
    repo: str | None = None
    path: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    mode: Mode | None = None  # order of an infill; none is the server's
    most_read: int | None = None
    n: int = 1
    best_of: int | None = None
    echo: bool = False
    logprobs: bool = False
    trim: bool = True
    single_line: bool = False
    indent: int | None = None
    seconds: float | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is new of choice ``index`` of an answer; or, in a whole answer, all of it.

    ``finish``, in a choice's last part, is ``end`` (the model ended it), ``stop`` (a stop string,
    or the lines asked for are full), ``length``, ``time`` or ``blocked`` (found in the training
    data); ``shared`` are then the spans found there, None where nothing was searched.
    ``tokens`` with ``logprobs`` (nats, None for a prompt's first) and ``top`` are those drawn;
    what a stop string or trimming cut from ``text`` is among them. ``read`` counts the prompt's
    tokens, ``drawn`` those of ``tokens`` that are no echo of it; ``first`` and ``last`` are when
    the request's first and the choice's last token came (seconds of ``time.monotonic``).
    """

    index: int
    text: str
    tokens: list[int]
    logprobs: Sequence[float | None] = ()
    top: Sequence[list[tuple[int, float]]] = ()
    finish: str = ""
    shared: list[dict[str, Any]] | None = None
    read: int = 0
    drawn: int = 0
    first: float = math.inf
    last: float = -math.inf


def joined(parts: Sequence[Part]) -> Part:
    """One choice of its parts."""
    last = parts[-1]
    return Part(
        index=last.index,
        text="".join(part.text for part in parts),
        tokens=[token for part in parts for token in part.tokens],
        logprobs=[one for part in parts for one in part.logprobs],
        top=[one for part in parts for one in part.top],
        finish=last.finish,
        shared=last.shared,
        read=last.read,
        drawn=sum(part.drawn for part in parts),
        first=min(part.first for part in parts),
        last=max(part.last for part in parts),
    )


def rendered(prompt: str) -> tuple[str, str] | None:
    """(prefix, suffix) of a prompt that is an infill in StarCoder's own layout, as editors send it.

    Each sentinel must stand in it exactly once, in the order of PSM or SPM; None for other text.
    """
    names = {i: SENTINELS[i] for i in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)}
    if any(prompt.count(name) != 1 for name in names.values()):
        return None
    before, _, rest = prompt.partition(names[FIM_PREFIX])
    first, found, rest = rest.partition(names[FIM_SUFFIX])
    suffix, _, last = rest.partition(names[FIM_MIDDLE])
    if before or not found or (first and last):
        return None
    return (first or last), suffix


def infill(ask: Ask) -> Ask:
    """``ask``, as an infill if its prompt is one in StarCoder's own layout."""
    if ask.suffix is not None or not isinstance(ask.prompt, str):
        return ask
    parts = rendered(ask.prompt)
    return replace(ask, prompt=parts[0], suffix=parts[1]) if parts else ask
