"""OpenAI's completions protocol, with ``suffix`` as an infill: wire to asks, parts to wire.

Beyond it: ``top_k``, ``min_p``; ``repo``, ``path`` and ``mode`` of an infill; and ``attribution``
in each choice.
"""

import codecs
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starkiln.serve.ask import Ask, Part, rendered
from starkiln.serve.errors import Fault, openai_shape
from starkiln.serve.forms import (
    MAX_ITEMS,
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
    listed,
)
from starkiln.serve.service import Service
from starkiln.serve.wire import Row, Stream, event
from starkiln.tokenizer.fim import Mode

_FINISHES = {"end": "stop", "stop": "stop", "blocked": "content_filter"}  # others: length

Prompts = Annotated[
    list[Prompt],
    Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(listed),
]


class StreamOptions(Form):
    """``stream_options``."""

    include_usage: bool = False


class CompletionForm(Form):
    """The fields of ``POST /v1/completions`` that are answered."""

    model: str | None = None
    prompt: Prompts = Field([""])
    suffix: str | None = None
    repo: str | None = None
    path: str | None = None
    mode: Mode | None = None
    max_tokens: Count | None = None
    n: Positive = 1
    best_of: Positive | None = None
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: Limit = 0
    min_p: MinP = 0.0
    seed: Seed | None = None
    stop: Stops = Field([])
    presence_penalty: float = 0.0  # these three: no other value
    frequency_penalty: float = 0.0
    logit_bias: dict[str, Any] = Field({})
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()


class _Places:
    """Where in a choice's text its tokens begin, in characters."""

    def __init__(self) -> None:
        self.decoder, self.at = codecs.getincrementaldecoder("utf-8")("replace"), 0

    def next(self, piece: bytes) -> int:
        """The place of the next token, ``piece``; of what goes on with a character, behind it."""
        place = self.at + bool(self.decoder.getstate()[0])
        self.at += len(self.decoder.decode(piece))
        return place


class _Wire:
    """The answer to one request, in chunks or whole."""

    def __init__(self, service: Service, form: CompletionForm) -> None:
        self.service, self.form = service, form
        self.usage_in_stream = form.stream_options.include_usage
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.name,
        }
        self.read, self.drawn = {}, 0  # by prompt; in all
        self.places: defaultdict[int, _Places] = defaultdict(_Places)  # by choice

    def choice(self, part: Part) -> dict[str, Any]:
        """A choice, or what is new of it."""
        self.read[part.index // self.form.n] = part.read
        self.drawn += part.drawn
        finish = _FINISHES.get(part.finish, "length") if part.finish else None
        choice: dict[str, Any] = {"index": part.index, "text": part.text, "finish_reason": finish}
        choice["logprobs"] = None if self.form.logprobs is None else self._logprobs(part)
        return choice if part.shared is None else {**choice, "attribution": part.shared}

    def usage(self) -> dict[str, int]:
        """Tokens read and drawn so far."""
        read = sum(self.read.values())
        counts = {"prompt_tokens": read, "completion_tokens": self.drawn}
        return {**counts, "total_tokens": read + self.drawn}

    def whole(self, choices: Sequence[Part]) -> dict[str, Any]:
        """The body of an answer."""
        listed = [self.choice(part) for part in choices]
        return {**self.head, "choices": listed, "usage": self.usage()}

    def chunk(self, part: Part) -> str:
        """An event of a stream."""
        usage = {"usage": None} if self.usage_in_stream else {}
        return event({**self.head, "choices": [self.choice(part)], **usage})

    def end(self) -> str:
        """The last events of a stream."""
        usage = event({**self.head, "choices": [], "usage": self.usage()})
        return (usage if self.usage_in_stream else "") + "data: [DONE]\n\n"

    def _logprobs(self, part: Part) -> dict[str, Any]:
        pieces = [self.service.pieces[token] for token in part.tokens]
        rows = zip(pieces, part.logprobs, part.top) if self.form.logprobs else ()
        return {
            "tokens": [_printed(piece) for piece in pieces],
            "token_logprobs": list(part.logprobs),
            "top_logprobs": [self._top(*row) for row in rows] if self.form.logprobs else None,
            "text_offset": [self.places[part.index].next(piece) for piece in pieces],
        }

    def _top(
        self, piece: bytes, logprob: float | None, top: list[tuple[int, float]]
    ) -> dict[str, float] | None:
        """The likeliest tokens, and the one that stands there."""
        if logprob is None:
            return None
        likeliest = {_printed(self.service.pieces[token]): value for token, value in top}
        return {**likeliest, _printed(piece): logprob}


def _printed(piece: bytes) -> str:
    """A token's text; ``bytes:\\x..`` where it is a part of characters."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _ask(form: CompletionForm, prompt: Prompt) -> Ask:
    """What the request asks of one of its prompts."""
    sampling = {
        "max_new_tokens": form.max_tokens,
        "temperature": form.temperature,
        "top_p": form.top_p,
        "top_k": max(0, form.top_k),
        "min_p": form.min_p,
        "stop": form.stop,
        "seed": form.seed,
        "top": form.logprobs or 0,
    }
    return Ask(
        prompt=prompt,
        suffix=form.suffix,
        repo=form.repo,
        path=form.path,
        mode=form.mode,
        n=form.n,
        best_of=form.best_of,
        echo=form.echo,
        logprobs=form.logprobs is not None,
        sampling=sampling,
    )


def _check(service: Service, form: CompletionForm) -> None:
    """Fault where fields do not go together."""
    check_model(service, form.model)
    if len(form.prompt) * max(form.n, form.best_of or 0) > service.settings.max_samples:
        message = f"at most {service.settings.max_samples} completions"
        param = "n" if form.n > 1 else "best_of" if form.best_of else "prompt"
        raise Fault(400, message, param=param)
    if form.best_of is not None and (form.best_of < form.n or form.stream):
        raise Fault(400, "best_of is at least n, and is not streamed", param="best_of")
    if len(form.prompt) > service.settings.max_waiting:
        message = f"at most {service.settings.max_waiting} prompts at once (max_waiting)"
        raise Fault(400, message, param="prompt")
    infills = any(isinstance(prompt, str) and rendered(prompt) for prompt in form.prompt)
    if form.echo and (form.suffix is not None or form.repo or form.path or infills):
        message = "echo is of a prompt without suffix, repo and path, and of no infill"
        raise Fault(400, message, param="echo")
    for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
        if getattr(form, name):
            raise Fault(400, f"{name} is not supported; leave it out", param=name)


def check_model(service: Service, name: str | None) -> None:
    """Fault (404) if ``name`` is another model than the one that is served."""
    if name not in (None, "", service.name):
        message = f"the model '{name}' does not exist; this is '{service.name}'"
        raise Fault(404, message, param="model", code="model_not_found")


async def completions(service: Service, form: CompletionForm, request: Request) -> Response:
    """``POST /v1/completions``."""
    _check(service, form)
    asks, wire = [_ask(form, prompt) for prompt in form.prompt], _Wire(service, form)
    if not form.stream:
        choices = await service.answer(*asks)
        return JSONResponse(wire.whole(choices), headers=service.headers(choices))
    stream = Stream(
        service.run(*asks),
        wire.chunk,
        end=wire.end,
        failed=lambda fault: event(openai_shape(fault)) + "data: [DONE]\n\n",
        headers=service.headers(),
    )
    return await stream.begin()


async def models(service: Service, form: None, request: Request) -> Response:
    """``GET /v1/models``."""
    return JSONResponse({"object": "list", "data": [_model(service)]})


async def model(service: Service, form: None, request: Request) -> Response:
    """``GET /v1/models/NAME``."""
    check_model(service, request.path_params["name"])
    return JSONResponse(_model(service))


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "starkiln",
        "max_model_len": service.context,
    }


ROWS = (
    Row("/v1/completions", completions, CompletionForm),
    Row("/v1/models", models),
    Row("/v1/models/{name:path}", model),
)
