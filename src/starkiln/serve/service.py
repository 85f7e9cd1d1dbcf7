"""What every protocol calls: asks in, parts of choices out."""

import asyncio
import contextlib
import math
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, TypeVar

from starkiln.model.engine import Engine
from starkiln.model.sampling import Piece
from starkiln.serve.ask import Ask, Part, infill, joined
from starkiln.serve.errors import Fault
from starkiln.serve.metrics import Metrics
from starkiln.serve.settings import ServeSettings
from starkiln.serve.shaping import Shape
from starkiln.serve.worker import Ticket, Worker
from starkiln.tokenizer import context
from starkiln.tokenizer.tokenizer import Tokenizer

Result = TypeVar("Result")


class Attribution(Protocol):
    """Finds what a text shares with the training data."""

    def report(self, text: str) -> list[dict[str, Any]]:
        """One JSON object for each span found."""
        ...


@dataclass(frozen=True)
class Job:
    """An ask as the engine takes it; ``warms`` if only the prompt is wanted."""

    ids: list[int]
    samples: int
    how: Mapping[str, Any]
    warms: bool


class Service:
    """One model, its worker, and what the server says of it; for any number of event loops."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        tokenizer: Tokenizer,
        settings: ServeSettings,
        *,
        keys: frozenset[str] = frozenset(),
        attribution: Attribution | None = None,
    ) -> None:
        """``keys`` are those of which a client must send one; none lets anybody ask."""
        self.name, self.tokenizer, self.settings, self.keys = name, tokenizer, settings, keys
        self.attribution = None if settings.attribution == "off" else attribution
        self.context, self.pieces = engine.model.config.n_positions, engine.pieces
        self.created, self.metrics = int(time.time()), Metrics()
        self.worker = Worker(engine, max_waiting=settings.max_waiting, metrics=self.metrics)
        self._longest = int(tokenizer.byte_lengths.max())  # bytes of a token
        self._aside = ThreadPoolExecutor(1, "aside")

    def close(self) -> None:
        """End the worker."""
        self._aside.shutdown(wait=False, cancel_futures=True)
        self.worker.close()

    async def aside(self, work: Callable[..., Result], *given: Any) -> Result:
        """``work(*given)``, one at a time: it takes seconds, and short works need threads too."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *given)

    async def run(self, *asks: Ask) -> AsyncGenerator[Part, None]:
        """The parts of all choices as they come, those of a second ask numbered after the first's.

        Closing the generator cancels the requests. Raises Busy, Fault or UserError, all but a
        failing engine's before the first part.
        """
        first = [0, *accumulate(ask.n for ask in asks)]
        async with aclosing(together([self._run(ask) for ask in asks])) as parts:
            async for i, part in parts:
                yield replace(part, index=first[i] + part.index)

    async def _run(self, ask: Ask) -> AsyncGenerator[Part, None]:
        ask = infill(ask)
        job = await asyncio.to_thread(self._job, ask)
        for head in await self._echo(ask, job):
            yield head
        if ask.echo and job.warms:
            return
        ticket = Ticket(job.samples)
        end = partial(self.worker.end, ticket)
        async with aclosing(self.worker.ask(job.ids, ticket=ticket, **job.how)) as pieces:
            timed = _timed(pieces, ask.seconds, partial(end, "time"))
            parts = _dated(_shaped(timed, ask, job, end), ticket)
            if job.samples > ask.n:
                parts = _best(parts, ask.n)
            elif self.attribution and self.settings.attribution == "block":
                parts = _whole(parts)
            texts: defaultdict[int, str] = defaultdict(str)
            async for part in parts:
                texts[part.index] += part.text
                yield await self._searched(part, texts[part.index])

    async def answer(self, *asks: Ask) -> list[Part]:
        """All choices, whole, in their order; cancelling cancels the request. Raises as ``run``."""
        async with aclosing(self.run(*asks)) as parts:
            choices = [choice async for choice in _whole(parts)]
        return sorted(choices, key=lambda choice: choice.index)

    async def length(self, ask: Ask) -> int:
        """Tokens of its prompt. Raises as ``run``."""
        return len((await asyncio.to_thread(self._job, infill(ask))).ids)

    def headers(self, choices: Sequence[Part] = ()) -> dict[str, str]:
        """The header that tells of attribution, where it is on, with what was found."""
        if self.attribution is None:
            return {}
        found = sum(len(choice.shared or ()) for choice in choices)
        value = self.settings.attribution + (f"; found={found}" if choices else "")
        return {"X-Starkiln-Attribution": value}

    def _job(self, ask: Ask) -> Job:
        """The engine's form of ``ask``; raises Fault or UserError if it cannot be answered."""
        limits, asked = self.settings, ask.sampling.get("max_new_tokens")
        samples = max(ask.n, ask.best_of or 0)
        if samples > limits.max_samples:
            raise Fault(400, f"at most {limits.max_samples} completions", param="n")
        if ask.suffix is not None or ask.repo or ask.path or ask.files:
            # An editor's: its prompt is trimmed, its wish lowered.
            most = limits.new_tokens if asked is None else asked
            most = min(most, limits.max_new_tokens, self.context // 2)
            limit = self.context - max(1, most)
            ids = self._around(ask, min(limit, ask.most_read or limit))
        else:
            ids = self._read(ask)
            ids = ids[-ask.most_read :] if ask.most_read else ids
            left = self.context - len(ids)
            most = min(limits.new_tokens, limits.max_new_tokens, left) if asked is None else asked
            if most > limits.max_new_tokens:
                message = f"at most {limits.max_new_tokens} new tokens"
                raise Fault(400, message, param="max_tokens")
            least = most if ask.echo else max(1, most)
            if least > left:
                raise self._too_long(f"{len(ids)} tokens", least)
        return Job(ids, samples, self._how(ask, max(1, most)), warms=most == 0)

    def _how(self, ask: Ask, most: int) -> dict[str, Any]:
        """The engine's settings; without a seed, one that nobody else has."""
        how = {name: value for name, value in ask.sampling.items() if value is not None}
        stop = [*how.get("stop", ()), *(["\n"] if ask.single_line else [])]
        return {"seed": secrets.randbits(32), **how, "stop": stop, "max_new_tokens": most}

    def _read(self, ask: Ask) -> list[int]:
        """The ids of a plain prompt, whole."""
        if isinstance(ask.prompt, list):
            return ask.prompt
        if len(ask.prompt) > self.context * self._longest:
            raise self._too_long(f"{len(ask.prompt)} characters", 1)  # and is not tokenised
        return self.tokenizer.encode(ask.prompt)

    def _around(self, ask: Ask, limit: int) -> list[int]:
        """The ids of a prompt built around a cursor."""
        if isinstance(ask.prompt, list):
            raise Fault(400, "ids have no suffix and no metadata; give text", param="prompt")
        return context.prompt(
            ask.prompt,
            ask.suffix,
            self.tokenizer,
            limit=limit,
            mode=ask.mode or self.settings.mode,
            repo=ask.repo,
            path=ask.path,
            files=ask.files,
        )

    def _too_long(self, has: str, most: int) -> Fault:
        room = f"the model's context is {self.context} tokens"
        message = f"{room}; the prompt has {has}, and at least {most} are to come"
        return Fault(400, message, param="prompt", code="context_length_exceeded")

    async def _echo(self, ask: Ask, job: Job) -> list[Part]:
        """The prompt before each completion, if asked for."""
        if not ask.echo:
            return []
        part = Part(index=0, text=self.tokenizer.decode(job.ids), tokens=job.ids)
        if ask.logprobs and job.ids:
            top = job.how.get("top", 0)
            scores = await self.worker.call(lambda engine: engine.scoring(job.ids, top))
            part = replace(part, logprobs=[None, *scores.logprobs[1:]], top=scores.top)
        part = replace(part, read=len(job.ids), finish="length" if job.warms else "")
        return [replace(part, index=i) for i in range(ask.n)]

    async def _searched(self, part: Part, text: str) -> Part:
        """A choice's last part with what its ``text`` shares with the training data."""
        if not part.finish or self.attribution is None:
            return part
        shared = await asyncio.to_thread(self.attribution.report, text)
        if shared and self.settings.attribution == "block":
            part = replace(part, text="", tokens=[], logprobs=[], top=[], finish="blocked")
        return replace(part, shared=shared)


async def together(
    runs: Sequence[AsyncGenerator[Part, None]],
) -> AsyncGenerator[tuple[int, Part], None]:
    """What ``runs`` give, as it comes, with the number of its run; closing it closes them."""
    if len(runs) == 1:
        async with aclosing(runs[0]) as run:
            async for part in run:
                yield 0, part
        return
    waits = {asyncio.ensure_future(anext(run)): i for i, run in enumerate(runs)}
    try:
        while waits:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i = waits.pop(task)
                with contextlib.suppress(StopAsyncIteration):
                    part = task.result()
                    waits[asyncio.ensure_future(anext(runs[i]))] = i
                    yield i, part
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        for run in runs:
            await run.aclose()


async def _shaped(
    pieces: AsyncIterator[Piece], ask: Ask, job: Job, end: Callable[[str, int], object]
) -> AsyncIterator[Part]:
    """Each sample's news as its client sees them; calls ``end`` for those that end here."""
    suffix = ask.suffix if ask.trim and ask.suffix else ""
    prefix = ask.prompt if isinstance(ask.prompt, str) else ""
    shapes = {i: Shape(prefix, suffix, ask.indent) for i in range(job.samples)}
    async for piece in pieces:
        text, ends = shapes[piece.sample].feed(piece.text, bool(piece.finish))
        finish = piece.finish or ("stop" if ends else "")
        if ends:
            end(finish, piece.sample)
            del shapes[piece.sample]
        drawn = piece.tokens, piece.logprobs, piece.top
        if job.warms:
            text, drawn, finish = "", ([], [], []), finish and "length"
        yield _part(piece.sample, text, drawn, finish, job)
    for index, shape in shapes.items():  # their time is up
        yield _part(index, shape.feed("", True)[0], ([], [], []), "time", job)


def _part(index: int, text: str, drawn: tuple, finish: str, job: Job) -> Part:
    tokens, logprobs, top = drawn
    part = Part(index=index, text=text, tokens=tokens, logprobs=logprobs, top=top, finish=finish)
    return replace(part, read=len(job.ids), drawn=len(tokens))


async def _dated(parts: AsyncIterator[Part], ticket: Ticket) -> AsyncIterator[Part]:
    """``parts`` with the times at which the worker heard of the first and the last token."""
    async for part in parts:
        last = ticket.heard.get(part.index, part.last)
        yield replace(part, first=ticket.first, last=last)


async def _timed(
    pieces: AsyncIterator[Piece], seconds: float | None, late: Callable[[], object]
) -> AsyncIterator[Piece]:
    """``pieces`` until a line of them is whole and ``seconds`` have passed since the first.

    Calls ``late`` before it ends so.
    """
    end, line = math.inf, False
    while seconds is not None:
        left = max(0.0, end - time.monotonic()) if line else None
        coming = asyncio.ensure_future(anext(pieces))
        try:
            await asyncio.wait([coming], timeout=left)
            if not coming.done():
                late()
                return
            piece = coming.result()
        except StopAsyncIteration:
            return
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        end, line = min(end, time.monotonic() + seconds), line or "\n" in piece.text
        yield piece
    async for piece in pieces:
        yield piece


async def _whole(parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
    """Each choice in one part, when it is done."""
    kept: defaultdict[int, list[Part]] = defaultdict(list)
    async for part in parts:
        kept[part.index].append(part)
        if part.finish:
            yield joined(kept.pop(part.index))


async def _best(parts: AsyncIterator[Part], n: int) -> AsyncIterator[Part]:
    """The ``n`` choices whose tokens are the likeliest on average, likeliest first."""
    choices = [choice async for choice in _whole(parts)]
    choices.sort(key=lambda one: (-_mean(one.logprobs), one.index))
    for index, choice in enumerate(choices[:n]):
        yield replace(choice, index=index)


def _mean(logprobs: Sequence[float | None]) -> float:
    return sum(one or 0.0 for one in logprobs) / max(1, len(logprobs))
