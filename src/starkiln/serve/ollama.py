"""Ollama's protocol: ``/api/generate`` with ``suffix``, and what clients ask before it."""

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starkiln import __version__
from starkiln.code.sentinels import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, SENTINELS
from starkiln.serve.ask import Ask, Part
from starkiln.serve.errors import Fault
from starkiln.serve.forms import Form, Limit, MinP, Seed, Stops, Temperature, TopP
from starkiln.serve.openai import check_model
from starkiln.serve.service import Service
from starkiln.serve.wire import Row, Stream

_FINISHES = {"end": "stop", "stop": "stop", "load": "load"}  # others: length
_TEMPLATE = "{}{{{{ .Prompt }}}}{}{{{{ .Suffix }}}}{}".format(
    *(SENTINELS[i] for i in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
)
_DETAILS = {"format": "safetensors", "family": "gpt_bigcode", "families": ["gpt_bigcode"]}


class Options(Form):
    """``options``."""

    num_predict: int = Field(-1, ge=-2, lt=1 << 31)
    temperature: Temperature = 0.8
    top_k: Limit = 40
    top_p: TopP = 0.9
    min_p: MinP = 0.0
    seed: Seed | None = None
    stop: Stops = Field([])


class GenerateForm(Form):
    """The fields of ``POST /api/generate`` that are answered."""

    model: str
    prompt: str = ""
    suffix: str | None = None
    options: Options = Options()
    stream: bool = True

    def ask(self) -> Ask:
        """What the request asks for."""
        how = self.options
        sampling = {
            "max_new_tokens": None if how.num_predict < 0 else how.num_predict,
            "temperature": how.temperature,
            "top_k": max(0, how.top_k),
            "top_p": how.top_p,
            "min_p": how.min_p,
            "stop": how.stop,
            "seed": how.seed,
        }
        return Ask(prompt=self.prompt, suffix=self.suffix or None, sampling=sampling)


class ShowForm(Form):
    """The fields of ``POST /api/show`` that are answered; ``name`` is the older one."""

    model: str | None = None
    name: str | None = None


class _Wire:
    """The answer to one request, in lines or whole, with its times."""

    def __init__(self, service: Service) -> None:
        self.name, self.begun, self.drawn = service.name, time.monotonic(), 0
        self.first = math.inf

    def body(self, part: Part) -> dict[str, Any]:
        """What is new; in the last one also what it took, in nanoseconds."""
        self.first, self.drawn = min(self.first, part.first), self.drawn + part.drawn
        told = {
            "model": self.name,
            "created_at": datetime.now(UTC).isoformat(),
            "response": part.text,
            "done": bool(part.finish),
        }
        if not part.finish:
            return told
        now = time.monotonic()
        first = min(self.first, now)
        shared = {} if part.shared is None else {"attribution": part.shared}
        return {
            **told,
            "done_reason": _FINISHES.get(part.finish, "length"),
            "total_duration": _nanoseconds(now - self.begun),
            "load_duration": 0,
            "prompt_eval_count": part.read,
            "prompt_eval_duration": _nanoseconds(first - self.begun),
            "eval_count": self.drawn,
            "eval_duration": _nanoseconds(max(part.last, first) - first),
            **shared,
        }

    def line(self, part: Part) -> str:
        """A line of a stream."""
        return json.dumps(self.body(part)) + "\n"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _check(service: Service, name: str | None) -> None:
    """Fault (404) if ``name``, with or without a tag, is another model."""
    if name != f"{service.name}:latest":
        check_model(service, name)


async def generate(service: Service, form: GenerateForm, request: Request) -> Response:
    """``POST /api/generate``; without text it only asks that the model be loaded."""
    _check(service, form.model)
    ask, wire = form.ask(), _Wire(service)
    if not form.prompt and not form.suffix:
        nothing = Part(index=0, text="", tokens=[], finish="load")
        return JSONResponse(wire.body(nothing))
    if form.stream:
        stream = Stream(
            service.run(ask),
            wire.line,
            failed=lambda fault: json.dumps(_shape(fault)) + "\n",
            media_type="application/x-ndjson",
            headers=service.headers(),
        )
        return await stream.begin()
    [choice] = await service.answer(ask)
    return JSONResponse(wire.body(choice), headers=service.headers([choice]))


async def tags(service: Service, form: None, request: Request) -> Response:
    """``GET /api/tags``."""
    made = datetime.fromtimestamp(service.created, UTC).isoformat()
    model = {"name": service.name, "model": service.name, "modified_at": made, "size": 0}
    return JSONResponse({"models": [{**model, "digest": "", "details": _DETAILS}]})


async def show(service: Service, form: ShowForm, request: Request) -> Response:
    """``POST /api/show``; from the template clients see that the model infills."""
    _check(service, form.model or form.name)
    length = {"gpt_bigcode.context_length": service.context}
    told = {
        "parameters": f"num_ctx {service.context}",
        "template": _TEMPLATE,
        "details": _DETAILS,
        "model_info": {"general.architecture": "gpt_bigcode", **length},
        "capabilities": ["completion", "insert"],
    }
    return JSONResponse(told)


async def version(service: Service, form: None, request: Request) -> Response:
    """``GET /api/version``."""
    return JSONResponse({"version": __version__})


def _shape(fault: Fault) -> dict[str, Any]:
    """``{"error": message}``."""
    return {"error": fault.message}


ROWS = (
    Row("/api/generate", generate, GenerateForm, shape=_shape),
    Row("/api/tags", tags, shape=_shape),
    Row("/api/show", show, ShowForm, shape=_shape),
    Row("/api/version", version, shape=_shape),
)
