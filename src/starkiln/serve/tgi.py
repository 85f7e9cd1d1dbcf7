"""Text Generation Inference's protocol: ``/generate``, ``/generate_stream``, ``POST /``, ``/info``.

As there, a request that names no way to draw is greedy.
"""

from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starkiln import __version__
from starkiln.serve.ask import Ask, Part
from starkiln.serve.errors import Fault
from starkiln.serve.forms import MAX_STOPS, Form, Positive, Seed, Stops, Temperature, TopP
from starkiln.serve.service import Service
from starkiln.serve.wire import Row, Stream, event

_FINISHES = {"end": "eos_token", "stop": "stop_sequence"}  # others: length
_KINDS = {429: "overloaded", 500: "generation"}  # others: validation


class Parameters(Form):
    """``parameters``."""

    best_of: Positive | None = None
    details: bool = False
    do_sample: bool = False
    max_new_tokens: Positive | None = None
    return_full_text: bool = False
    seed: Seed | None = None
    stop: Stops = Field([])
    temperature: Temperature | None = None
    top_k: Positive | None = None
    top_p: TopP | None = None
    truncate: Positive | None = None

    def sampling(self) -> dict[str, Any]:
        """Fields of ``Sampling``."""
        ways = self.temperature, self.top_k, self.top_p
        draws = self.do_sample or any(way is not None for way in ways)
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature if self.temperature is not None else float(draws),
            "top_k": self.top_k,
            "top_p": self.top_p,
            "stop": self.stop,
            "seed": self.seed,
        }


class GenerateForm(Form):
    """A request for one completion; ``stream`` counts only at ``POST /``."""

    inputs: str
    parameters: Parameters = Parameters()
    stream: bool = False

    def ask(self) -> Ask:
        """What the request asks for."""
        how = self.parameters
        sampling = how.sampling()
        return Ask(
            prompt=self.inputs, best_of=how.best_of, most_read=how.truncate, sampling=sampling
        )


class _Wire:
    """The events of a stream."""

    def __init__(self, form: GenerateForm) -> None:
        self.form = form
        self.text = form.inputs if form.parameters.return_full_text else ""
        self.drawn = 0

    def event(self, part: Part) -> str:
        """What is new; the last one has the whole text and details."""
        self.text, self.drawn = self.text + part.text, self.drawn + part.drawn
        told: dict[str, Any] = {
            "index": self.drawn,
            "token": {
                "id": part.tokens[-1] if part.tokens else 0,
                "text": part.text,
                "logprob": sum(one or 0.0 for one in part.logprobs),
                "special": not part.text,
            },
            "generated_text": self.text if part.finish else None,
            "details": _details(self.form, part, self.drawn) if part.finish else None,
        }
        return event(told if part.shared is None else {**told, "attribution": part.shared})


def _details(form: GenerateForm, part: Part, drawn: int) -> dict[str, Any]:
    finish = _FINISHES.get(part.finish, "length")
    return {"finish_reason": finish, "generated_tokens": drawn, "seed": form.parameters.seed}


def _result(service: Service, form: GenerateForm, part: Part) -> dict[str, Any]:
    """The whole answer."""
    before = form.inputs if form.parameters.return_full_text else ""
    found: dict[str, Any] = {"generated_text": before + part.text}
    if form.parameters.details:
        tokens = [
            {
                "id": token,
                "text": service.pieces[token].decode(errors="replace"),
                "logprob": logprob,
                "special": not service.pieces[token],
            }
            for token, logprob in zip(part.tokens, part.logprobs)
        ]
        details = _details(form, part, part.drawn)
        found["details"] = {**details, "prefill": [], "tokens": tokens}
    return found if part.shared is None else {**found, "attribution": part.shared}


async def _whole(service: Service, form: GenerateForm) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers of an answer."""
    [choice] = await service.answer(form.ask())
    return _result(service, form, choice), service.headers([choice])


async def generate(service: Service, form: GenerateForm, request: Request) -> Response:
    """``POST /generate``."""
    body, headers = await _whole(service, form)
    return JSONResponse(body, headers=headers)


async def generate_stream(service: Service, form: GenerateForm, request: Request) -> Response:
    """``POST /generate_stream``."""
    ask, wire = form.ask(), _Wire(form)
    if ask.best_of and ask.best_of > 1:
        raise Fault(400, "best_of is not streamed", param="best_of")
    stream = Stream(
        service.run(ask),
        wire.event,
        failed=lambda fault: event(_shape(fault)),
        headers=service.headers(),
    )
    return await stream.begin()


async def either(service: Service, form: GenerateForm, request: Request) -> Response:
    """``POST /``: a stream, or a list of one answer."""
    if form.stream:
        return await generate_stream(service, form, request)
    body, headers = await _whole(service, form)
    return JSONResponse([body], headers=headers)


async def info(service: Service, form: None, request: Request) -> Response:
    """``GET /info``."""
    how = service.settings
    told = {
        "model_id": service.name,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": how.max_waiting,
        "max_best_of": how.max_samples,
        "max_stop_sequences": MAX_STOPS,
        "max_input_length": service.context - 1,
        "max_total_tokens": service.context,
        "version": __version__,
    }
    return JSONResponse(told)


def _shape(fault: Fault) -> dict[str, Any]:
    """``{"error": message, "error_type": kind}``."""
    return {"error": fault.message, "error_type": _KINDS.get(fault.status, "validation")}


ROWS = (
    Row("/generate", generate, GenerateForm, shape=_shape),
    Row("/generate_stream", generate_stream, GenerateForm, shape=_shape),
    Row("/", either, GenerateForm, shape=_shape),
    Row("/models/{name:path}", generate, GenerateForm, shape=_shape),
    Row("/info", info, shape=_shape),
)
