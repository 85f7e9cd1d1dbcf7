"""The OpenAI completions protocol over one engine, with ``suffix`` infilling that is right.

``suffix`` builds StarCoder's own prompt (PSM) from ids; text of the caller never becomes a
special token. The engine answers one request at a time; those who wait hold no thread, and the
leaving of a client ends its stream.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from starkiln.core.errors import UserError
from starkiln.model.engine import Engine
from starkiln.serve.settings import ServeSettings
from starkiln.tokenizer import fim, layout
from starkiln.tokenizer.tokenizer import Tokenizer

MAX_BODY = 4 << 20  # bytes of one request

Result = TypeVar("Result")


class CompletionRequest(BaseModel):
    """The fields of ``POST /v1/completions`` that are answered; others are ignored."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = ""
    suffix: str | None = None
    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1)
    stop: str | list[str] | None = None
    seed: int = 0
    stream: bool = False


class Service:
    """One engine behind a lock, and what the protocol says of it."""

    def __init__(
        self, name: str, engine: Engine, tokenizer: Tokenizer, settings: ServeSettings
    ) -> None:
        self.name, self.engine, self.tokenizer, self.settings = name, engine, tokenizer, settings
        self.lock = asyncio.Lock()

    def prompt(self, asked: CompletionRequest) -> list[int]:
        """The ids of the request's prompt, trimmed to leave room for the completion."""
        limit = self.engine.model.config.n_positions - asked.max_tokens
        if limit < 1:
            raise UserError("max_tokens", f"{asked.max_tokens} leave no room", "ask for fewer")
        if asked.suffix is None:
            return layout.prompt(asked.prompt, self.tokenizer, limit=limit)
        return fim.prompt(asked.prompt, asked.suffix, self.tokenizer, mode="psm", limit=limit)

    def sampling(self, asked: CompletionRequest) -> dict[str, Any]:
        """The engine's settings for the request."""
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        if asked.max_tokens > self.settings.max_new_tokens or asked.n > self.settings.max_samples:
            most = f"{self.settings.max_new_tokens} tokens, {self.settings.max_samples} samples"
            raise UserError("request", f"asks for more than {most}", "ask for less")
        return {
            "max_new_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
            "stop": stop,
        }

    def answer(self, asked: CompletionRequest) -> dict[str, Any]:
        """The whole response body."""
        ids, sampling = self.prompt(asked), self.sampling(asked)
        found = self.engine.generate(ids, n=asked.n, **sampling)
        choices = [
            {"index": i, "text": c.text, "finish_reason": _reason(c.finish), "logprobs": None}
            for i, c in enumerate(found)
        ]
        made = sum(len(c.tokens) for c in found)
        usage = {
            "prompt_tokens": len(ids),
            "completion_tokens": made,
            "total_tokens": len(ids) + made,
        }
        return {**self._head(), "choices": choices, "usage": usage}

    def stream(self, asked: CompletionRequest) -> Iterator[str]:
        """Server-sent events, a piece of text each."""
        ids, sampling = self.prompt(asked), self.sampling(asked)
        head, pieces, reason = self._head(), self.engine.stream(ids, **sampling), None
        while reason is None:
            try:
                piece = next(pieces)
            except StopIteration as end:
                piece, reason = "", _reason(end.value.finish)
            choice = {"index": 0, "text": piece, "finish_reason": reason, "logprobs": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
        yield "data: [DONE]\n\n"

    async def alone(self, request: Request, work: Callable[[], Result]) -> Result:
        """``work()`` in a thread, when the engine is free.

        Raises ClientDisconnect if the client left while it waited.
        """
        async with self.lock:
            if await request.is_disconnected():
                raise ClientDisconnect
            return await run_in_threadpool(work)

    async def events(self, request: Request, asked: CompletionRequest) -> AsyncGenerator[str, None]:
        """What ``stream`` gives; the engine waits for no reader and stops soon after ``aclose``."""
        loop, left = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        def run() -> None:
            for event in self.stream(asked):
                if left.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, event)

        task = asyncio.create_task(self.alone(request, run))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            await task  # raises what it raised
        finally:
            left.set()

    def _head(self) -> dict[str, Any]:
        created = int(time.time())
        return {
            "id": f"cmpl-{time.time_ns():x}",
            "object": "text_completion",
            "created": created,
            "model": self.name,
        }


def application(service: Service) -> Starlette:
    """The ASGI application."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> Response:
        model = {"id": service.name, "object": "model", "owned_by": "starkiln"}
        return JSONResponse({"object": "list", "data": [model]})

    async def completions(request: Request) -> Response:
        try:
            asked = CompletionRequest.model_validate_json(await request.body())
            if not asked.stream:
                whole = await service.alone(request, lambda: service.answer(asked))
                return JSONResponse(whole)
            if asked.n != 1:
                raise UserError("n", "streams hold one completion", "set n to 1")
            events = service.events(request, asked)
            first = await anext(events)  # faults become a status, not a torn stream
            return _EventStream(first, events)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except (UserError, ValidationError) as error:
            body = {"error": {"message": str(error), "type": "invalid_request_error"}}
            return JSONResponse(body, status_code=400)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/completions", completions, methods=["POST"]),
        ],
        max_body_size=MAX_BODY,
    )


class _EventStream(StreamingResponse):
    """Server-sent events that close their source when the client leaves."""

    def __init__(self, first: str, rest: AsyncGenerator[str, None]) -> None:
        self.rest, self.joined = rest, _chain(first, rest)
        super().__init__(self.joined, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.rest), aclosing(self.joined):
            await super().__call__(scope, receive, send)


async def _chain(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    yield first
    async for event in rest:
        yield event


def _reason(finish: str) -> str:
    return "length" if finish == "length" else "stop"
