"""llama.cpp's own protocol: ``/infill`` as its editor plugins ask it, ``/completion``, ``/props``.

An infill without temperature is greedy, or drawn at 0.8 if several are wanted.
Source: tools/server/README.md of llama.cpp; autoload/llama.vim.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starkiln import __version__
from starkiln.serve.ask import Ask, Part, joined
from starkiln.serve.errors import openai_shape
from starkiln.serve.forms import (
    Count,
    Form,
    Limit,
    MinP,
    Positive,
    Prompt,
    Seed,
    Stops,
    Temperature,
    TopP,
    few,
)
from starkiln.serve.service import Service
from starkiln.serve.slots import replaceable
from starkiln.serve.wire import Row, Stream, event

_STOPS = {"end": "eos", "stop": "word", "replaced": "replaced"}  # others: limit
_TEMPERATURE = 0.8

Fields = Annotated[
    list[Annotated[str, Field(max_length=200)]], Field(max_length=100, fail_fast=True)
]


class Extra(Form):
    """A further piece of text with the name of its file."""

    filename: str = ""
    text: str = ""


class CompletionForm(Form):
    """The fields of ``POST /completion`` that are answered."""

    prompt: Prompt = ""
    n_predict: Limit = -1
    n_cmpl: Positive = 1
    temperature: Temperature | None = None
    top_k: Limit = 40
    top_p: TopP = 0.95
    min_p: MinP = 0.05
    seed: Seed = -1
    stop: Stops = Field([])
    n_indent: Count = 0
    t_max_predict_ms: float = Field(-1, ge=-1)
    stream: bool = False
    id_slot: Limit = -1
    response_fields: Fields | None = None

    def ask(self) -> Ask:
        """What the request asks for."""
        sampling = {
            "max_new_tokens": None if self.n_predict < 0 else self.n_predict,
            "temperature": _TEMPERATURE if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "top_k": max(0, self.top_k),
            "min_p": self.min_p,
            "stop": self.stop,
            "seed": None if self.seed < 0 else self.seed,
        }
        return Ask(
            prompt=self.prompt,
            n=self.n_cmpl,
            indent=self.n_indent or None,
            seconds=self.t_max_predict_ms / 1000 if self.t_max_predict_ms > 0 else None,
            sampling=sampling,
        )


class InfillForm(CompletionForm):
    """The fields of ``POST /infill``; ``prompt`` is the cursor's line as far as the cursor."""

    prompt: str = ""
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[Extra] = few()

    def ask(self) -> Ask:
        """What the request asks for."""
        ask, sampling = super().ask(), {}
        if self.temperature is None and self.n_cmpl == 1:
            sampling = {"temperature": 0.0}
        return replace(
            ask,
            prompt=self.input_prefix + self.prompt,
            suffix=self.input_suffix,
            files=tuple((extra.filename, extra.text) for extra in self.input_extra),
            sampling={**ask.sampling, **sampling},
        )


class _Wire:
    """The answer to one request, in events or whole, with its times."""

    def __init__(self, service: Service, form: CompletionForm) -> None:
        self.service, self.form = service, form
        self.begun, self.first = time.monotonic(), math.inf
        self.drawn: Counter[int] = Counter()
        self.last: dict[int, float] = {}

    def hear(self, part: Part) -> None:
        """Count a part, and note its time."""
        self.first = min(self.first, part.first)
        self.drawn[part.index] += part.drawn
        self.last[part.index] = max(part.last, self.last.get(part.index, part.last))

    def result(self, part: Part) -> dict[str, Any]:
        """A choice that has ended, in the fields that were asked for."""
        found: dict[str, Any] = {
            "index": part.index,
            "content": part.text,
            "tokens": part.tokens,
            "id_slot": self.form.id_slot,
            "stop": True,
            "model": self.service.name,
            "tokens_predicted": self.drawn[part.index],
            "tokens_evaluated": part.read,
            "tokens_cached": part.read + self.drawn[part.index],
            "generation_settings": {"n_ctx": self.service.context},
            "truncated": False,
            "stop_type": _STOPS.get(part.finish, "limit"),
            "timings": self._timings(part),
        }
        if part.shared is not None:
            found["attribution"] = part.shared
        wanted = self.form.response_fields
        return found if wanted is None else _chosen(found, wanted)

    def event(self, part: Part) -> str:
        """What is new of a choice, as events."""
        self.hear(part)
        told = {"index": part.index, "content": part.text, "tokens": part.tokens, "stop": False}
        new = event(told) if part.text else ""
        return new + (event(self.result(replace(part, text=""))) if part.finish else "")

    def _timings(self, part: Part) -> dict[str, float]:
        first = min(self.first, time.monotonic())
        passed = {
            "prompt": (part.read, first - self.begun),
            "predicted": (self.drawn[part.index], max(self.last[part.index], first) - first),
        }
        timings: dict[str, float] = {}
        for name, (count, seconds) in passed.items():
            timings[f"{name}_n"] = count
            timings[f"{name}_ms"] = 1000 * seconds
            timings[f"{name}_per_token_ms"] = 1000 * seconds / max(1, count)
            timings[f"{name}_per_second"] = count / seconds if seconds else 0.0
        return timings


def _chosen(found: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """Of nested ``found`` the values at the paths ``wanted``, by their path."""
    chosen = {}
    for path in wanted:
        value: Any = found
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            chosen[path] = value
    return chosen


def _parts(service: Service, form: CompletionForm, request: Request) -> AsyncGenerator[Part, None]:
    """The parts of the answer; those of an infill end when its editor asks anew from the slot."""
    ask = form.ask()
    warms = form.n_predict == 0  # and disturbs nobody
    if not isinstance(form, InfillForm) or form.id_slot < 0 or warms:
        return service.run(ask)
    client = request.client.host if request.client else None
    place = client, request.headers.get("authorization"), form.id_slot, ask.suffix
    parts = replaceable(service.run(ask), ask.n, service, place, str(ask.prompt))
    return _read(parts, service, ask)


async def _read(
    parts: AsyncGenerator[Part, None], service: Service, ask: Ask
) -> AsyncGenerator[Part, None]:
    """``parts`` with the length of the prompt also where another took the answer's place."""
    async with aclosing(parts):
        async for part in parts:
            if part.finish == "replaced":
                part = replace(part, read=await service.length(ask))
            yield part


async def completion(service: Service, form: CompletionForm, request: Request) -> Response:
    """``POST /infill`` and ``POST /completion``: an object, or a list if several are wanted."""
    wire, parts = _Wire(service, form), _parts(service, form, request)
    if form.stream:
        failed, headers = (lambda fault: event(openai_shape(fault))), service.headers()
        return await Stream(parts, wire.event, failed=failed, headers=headers).begin()
    kept: defaultdict[int, list[Part]] = defaultdict(list)
    async with aclosing(parts):
        async for part in parts:
            wire.hear(part)
            kept[part.index].append(part)
    choices = [joined(kept[index]) for index in sorted(kept)]
    found = [wire.result(choice) for choice in choices]
    answer = found[0] if form.n_cmpl == 1 else found
    return JSONResponse(answer, headers=service.headers(choices))


async def props(service: Service, form: None, request: Request) -> Response:
    """``GET /props``."""
    told = {
        "default_generation_settings": {"n_ctx": service.context},
        "total_slots": service.settings.max_samples,
        "model_alias": service.name,
        "build_info": f"starkiln {__version__}",
    }
    return JSONResponse(told)


ROWS = (
    Row("/infill", completion, InfillForm),
    Row("/completion", completion, CompletionForm),
    Row("/completions", completion, CompletionForm),
    Row("/props", props),
)
