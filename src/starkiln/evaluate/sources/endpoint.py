"""Completions by an OpenAI-compatible endpoint: completions or chat, however it fails.

Every answer is told as soon as it is there. A request that fails for good ends the run, but not
before the others under way are answered: what is paid for is kept. An answer that has no text is
asked for again, and then told as what it is: it says nothing of the model.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.evaluate.sources import background, chat, wire
from starkiln.evaluate.sources.ask import NO_ANSWER, NO_ROOM, REFUSED, Ask, Sample, unanswered
from starkiln.evaluate.sources.fitting import around
from starkiln.evaluate.sources.settings import SourceSettings

KEY = "OPENAI_API_KEY"  # environment
_LATER = (408, 409, 425, 429)  # and 5xx: may go well later
_FIRST_S, _LONGEST_S = 0.5, 60.0  # of a wait that the endpoint does not set
_PATIENCE_S = 900.0  # with a wait that it does
_SILENCES = 3  # further tries after an answer without a text
_REST = "run it again: only what is missing is asked for"
Tell = Callable[[list[Sample]], None]
Part = tuple[Ask, list[int]]  # what one request asks for


class _Later(Exception):
    """A request that may go well in ``wait`` seconds (None: the endpoint does not say)."""

    def __init__(self, told: str, wait: float | None) -> None:
        self.wait = wait
        super().__init__(told)


class _TooLong(Exception):
    """Prompt and completion exceed the context."""


class _Filtered(Exception):
    """A prompt that the endpoint will not answer."""


class Gate:
    """Lets requests through one by one, at their rate, and none while the endpoint says wait.

    Times are in seconds by any clock.
    """

    def __init__(self, per_minute: float) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def turn(self, now: float) -> float:
        """When the next request may be sent."""
        at = max(now, self._next)
        self._next = at + self._gap
        return at

    def hold(self, until: float) -> None:
        """Let nothing through before then."""
        self._next = max(self._next, until)


class Endpoint:
    """``url`` ends before ``/completions``; ``model`` "" is the only one that it lists.

    ``usage``: requests (retries among them), retries, prompt_tokens, completion_tokens and their
    cost. The key is that of the environment's OPENAI_API_KEY.
    """

    def __init__(self, url: str, model: str, how: SourceSettings) -> None:
        where = urlsplit(url)
        if where.username or where.password or where.query:
            raise UserError("model", "its URL holds a key", f"put it into {KEY}")
        self.name = model or where.netloc
        self.usage: dict[str, int | float] = dict.fromkeys(
            ("requests", "retries", "prompt_tokens", "completion_tokens"), 0
        )
        self.usage["cost"] = 0.0
        self._url, self._model, self._how = url.rstrip("/"), model, how
        _client(self._url, how)  # fails early where the package is missing

    @property
    def identity(self) -> str:
        """A digest of URL, model and how it is asked."""
        how = self._how
        wording = (how.chat_prompt, how.chat_infill, chat.RULES) if how.backend == "chat" else ()
        fixed = (how.backend, how.max_stops, sorted(how.body.items()), sorted(how.omit))
        return keyed.digest("endpoint", self._url, self._model, *fixed, *wording).hex()

    def draw(self, asks: Iterable[Ask]) -> Iterator[list[Sample]]:
        """A list of samples an answer; then the UserError that ended it, if one did."""
        todo = list(asks)
        return background.told(lambda tell: self._all(todo, tell))

    async def _all(self, asks: list[Ask], tell: Tell) -> None:
        async with _client(self._url, self._how) as client:
            session = _Session(client, self._url, self._model, self._how, self.usage)
            if asks and not self._model:
                session.model = await session.only_model()
            parts = iter([part for ask in asks for part in _parts(ask, self._how.per_request)])
            async with asyncio.TaskGroup() as group:
                for _ in range(self._how.concurrency):
                    group.create_task(session.work(parts, tell))
        if session.fault:
            raise session.fault


def _client(url: str, how: SourceSettings) -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError(url, "openai is not installed", "pip install 'starkiln[api]'") from error
    key = os.environ.get(KEY) or "none"
    wait = how.request_timeout_s
    return openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=wait)


def _characters(ask: Ask) -> int:
    return len(ask.prompt) + len(ask.suffix or "")


def _parts(ask: Ask, most: int) -> list[Part]:
    wanted = ask.wanted
    return [(ask, wanted[at : at + most]) for at in range(0, len(wanted), most)]


class _Session:
    """Requests to one endpoint, and the first fault that ends them all."""

    def __init__(
        self, client: Any, url: str, model: str, how: SourceSettings, usage: dict[str, Any]
    ) -> None:
        self.model = model
        self.fault: UserError | None = None
        self._client, self._url, self._how, self._usage = client, url, how, usage
        self._gate, self._answered = Gate(how.requests_per_minute), False
        self._failed = asyncio.Event()
        self._counts: dict[str, int] = {}  # tokens of prompts, by problem
        self._counting: dict[str, asyncio.Lock] = {}

    async def work(self, parts: Iterator[Part], tell: Tell) -> None:
        """Ask for one part after the other until none is left or one fails for good."""
        for ask, indices in parts:
            if self.fault:
                return
            try:
                await self._part(ask, indices, tell)
            except UserError as error:
                self.fault = self.fault or error
                self._failed.set()

    async def _part(self, ask: Ask, indices: list[int], tell: Tell) -> None:
        try:
            most = ask.new_tokens(await self._prompt_tokens(ask))
            left, end = await self._answers(ask, indices, most, tell)
        except _Filtered:
            left, end = set(indices), REFUSED
        if missing := [sample for sample in unanswered(ask, end) if sample.index in left]:
            tell(missing)

    async def _answers(
        self, ask: Ask, indices: list[int], most: int, tell: Tell
    ) -> tuple[set[int], str]:
        """Tell the answers as they come; the samples that are still without one, and why."""
        silent = 0
        while indices and most > 0:
            asked = wire.body(ask, self.model, indices[0], len(indices), most, self._how)
            try:
                found = await self._asked(asked, ask.problem)
            except _TooLong:
                if (size := _characters(ask)) and ask.trim:
                    ask = around(ask, _characters, size // 2)
                else:
                    most //= 2
                continue
            made = wire.samples(ask, indices, found, self._how)
            if made:
                tell(made)
                told = {sample.index for sample in made}
                indices = [i for i in indices if i not in told]  # some answer with less than asked
            elif silent == min(self._how.retries, _SILENCES):
                return set(indices), NO_ANSWER
            else:
                await self._wait(ask.problem, silent)
                silent += 1
        return set(indices), NO_ROOM

    async def _prompt_tokens(self, ask: Ask) -> int:
        """How many tokens the prompt has, by a request for one more, where that matters."""
        if ask.max_total_tokens is None or self._how.backend == "chat":
            return 0
        async with self._counting.setdefault(ask.problem, asyncio.Lock()):
            if ask.problem not in self._counts:
                self._counts[ask.problem] = await self._counted(ask)
            return self._counts[ask.problem]

    async def _counted(self, ask: Ask) -> int:
        try:
            found = await self._asked(wire.body(ask, self.model, 0, 1, 1, self._how), ask.problem)
        except _TooLong:
            return ask.max_total_tokens or 0
        if not found.usage.prompt_tokens:
            what = "does not count the tokens of prompts"
            raise UserError(self._url, what, "set max_new_tokens instead of max_total_tokens")
        return found.usage.prompt_tokens

    async def _asked(self, body: dict[str, Any], problem: str) -> wire.Answer:
        """The answer to one request, tried as often as the settings say."""
        told, now = "", asyncio.get_running_loop().time
        for tried in range(self._how.retries + 1):
            await self._pause(self._gate.turn(now()) - now())
            self._usage["requests"] += 1
            self._usage["retries"] += tried > 0
            try:
                return self._paid(await self._sent(body))
            except _Later as later:
                told, wait = str(later), later.wait
            if wait is not None and wait > _PATIENCE_S:
                raise UserError(self._url, f"says to wait for {wait:.0f} s ({told})", _REST)
            if wait is not None:
                self._gate.hold(now() + wait)
            elif tried < self._how.retries:
                await self._wait(problem, tried)
        raise UserError(self._url, f"fails after {self._how.retries} retries ({told})", _REST)

    async def _wait(self, problem: str, tried: int) -> None:
        """Wait before another try, longer each time."""
        spread = 1 - keyed.uniform("wait", problem, tried) / 2
        await self._pause(min(_FIRST_S * 2**tried, _LONGEST_S) * spread)

    async def _pause(self, seconds: float) -> None:
        """Wait; where another request fails for good meanwhile, its fault."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._failed.wait(), max(0.0, seconds))
        if self.fault:
            raise self.fault

    def _paid(self, found: wire.Answer) -> wire.Answer:
        """Count what an answer has cost."""
        self._answered = True
        read, drawn = found.usage.prompt_tokens, found.usage.completion_tokens
        self._usage["prompt_tokens"] += read
        self._usage["completion_tokens"] += drawn
        price = read * self._how.input_price + drawn * self._how.output_price
        self._usage["cost"] += price / 1e6
        return found

    async def _sent(self, body: dict[str, Any]) -> wire.Answer:
        """One try; ``_Later``, ``_TooLong`` or ``UserError`` where it fails."""
        import openai

        chat, named = self._how.backend == "chat", ("model", "prompt", "messages")
        resource = self._client.chat.completions if chat else self._client.completions
        own = {name: body[name] for name in named if name in body}
        rest = {name: value for name, value in body.items() if name not in named}
        try:
            raw = await resource.with_raw_response.create(**own, extra_body=rest)
        except openai.APIStatusError as error:
            raise self._refused(error) from error
        except openai.APIConnectionError as error:  # a timeout too
            if not self._answered and _is_refused(error):
                what, mend = "no server answers there", "start it, or mend the URL"
                raise UserError(self._url, what, mend) from error
            raise _Later(str(error), None) from error
        if (found := wire.answer(raw.content)) is not None:
            return found
        told = _short(raw.content.decode(errors="replace"))
        if wire.is_error(raw.content) or self._answered:  # a gateway's; or damaged on its way
            raise _Later(told, None)
        mend = "give the URL of an OpenAI-compatible API: …/v1"
        raise UserError(self._url, f"answers with no completion: {told}", mend)

    def _refused(self, error: Any) -> Exception:
        """What an error of the endpoint's means."""
        status, told = error.status_code, _short(str(error.message))
        if wire.is_too_long(status, f"{error.code} {told}"):
            return _TooLong(told)
        if wire.is_filtered(error.code):
            return _Filtered(told)
        if error.code == "insufficient_quota":
            return UserError(self._url, f"no quota is left ({told})", f"pay, then {_REST}")
        if status in _LATER or status >= 500:
            return _Later(told, _wait(error.response.headers))
        if status in (401, 403):
            return UserError(self._url, f"refuses the key ({told})", f"set {KEY} to one of its")
        if status == 404:
            what = f"does not know the model {self.model!r} or the path ({told})"
            return UserError(self._url, what, "give URL#MODEL, with a URL that ends in /v1")
        mend = "see backend, max_stops, per_request, omit and body of the settings"
        return UserError(self._url, f"refuses a request ({told})", mend)

    async def only_model(self) -> str:
        """The model that is there if there is one; ``UserError`` naming them otherwise."""
        import openai

        try:
            names = [model.id async for model in self._client.models.list()]
        except openai.APIStatusError as error:
            raise self._refused(error) from error
        except (openai.APIError, ValueError, AttributeError, TypeError) as error:
            what = f"does not list its models ({_short(str(error))})"
            raise UserError(self._url, what, "start it, or give URL#MODEL") from error
        if len(names) != 1:
            listed = ", ".join(names[:10]) or "none"
            raise UserError(self._url, f"has not one model but {listed}", "give URL#MODEL")
        return names[0]


def _is_refused(error: BaseException) -> bool:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # pyrefly: ignore
        if isinstance(error, ConnectionRefusedError) or type(error).__name__ == "ConnectError":
            return True
    return False


def _wait(headers: Any) -> float | None:
    """The seconds that ``Retry-After`` says; None where it says none."""
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        if seconds >= 0:
            return seconds
    return None


def _short(told: str) -> str:
    told = " ".join(told.split())
    return told if len(told) <= 300 else f"{told[:300]}…"
