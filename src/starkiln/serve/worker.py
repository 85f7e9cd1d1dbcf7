"""The one thread that owns the engine, and the asyncio side of it.

Requests wait in a queue of no thread; the thread takes what came between two steps, so a
cancelled request has left its slots before the next one. What a step gives is handed over to the
event loop at once, in one call: a client that reads slowly keeps nobody waiting, and at most
its own tokens are kept for it.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from starkiln.core.errors import UserError
from starkiln.model.engine import Engine
from starkiln.model.sampling import Piece
from starkiln.serve.errors import Busy, Fault
from starkiln.serve.metrics import Metrics

Result = TypeVar("Result")
News = Piece | Exception

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """A request for ``n`` samples: where its news go, and what is measured of it."""

    n: int
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    request: int | None = None  # the engine's number
    asked: float = field(default_factory=time.monotonic)
    heard: dict[int, float] = field(default_factory=dict)  # sample: time of its last piece
    first: float = math.inf  # time of the first one

    def __post_init__(self) -> None:
        self.left = set(range(self.n))  # samples that have not ended, as the thread knows
        self.wanted = set(self.left)  # and as the event loop does


@dataclass(eq=False)
class _Chore:
    """Other work of the engine's thread, a piece at a time, and who waits for its end."""

    loop: asyncio.AbstractEventLoop
    done: asyncio.Future
    pieces: Generator[None, None, Any]

    def settle(self, settle: Callable[[Any], None], value: object) -> None:
        _hand(self.loop, partial(_settle, self.done, settle, value))


class Worker:
    """Runs ``engine`` in a thread of its own until ``close``."""

    def __init__(self, engine: Engine, *, max_waiting: int, metrics: Metrics) -> None:
        self.engine, self.max_waiting, self.metrics = engine, max_waiting, metrics
        self.waiting = 0  # requests without a first token; counted on the event loop
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._live: set[Ticket] = set()  # the thread's own, as are the next three
        self._queued: dict[Ticket, None] = {}  # in the order of their coming
        self._said: list[tuple[Ticket, News]] = []
        self._chores: deque[_Chore] = deque()
        self._closed = False
        self._load = engine.load
        metrics.watch(lambda: self._load)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests can be answered."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """End the thread after its present step; whoever waits still gets a Fault (503)."""
        self._inbox.put(self._end)
        self._thread.join()
        while not self._inbox.empty():
            self._inbox.get()()
        self._tell()

    def check(self) -> None:
        """Busy, or Fault (503), if no request can be taken now."""
        if self.waiting >= self.max_waiting:
            raise Busy(self.waiting)
        if not self.alive:
            raise _ending()

    async def ask(
        self, ids: Sequence[int], *, n: int = 1, ticket: Ticket | None = None, **how: Any
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of ``n`` samples as they come; closing the generator cancels the request.

        With a ``ticket``, of as many samples, these can be ended one by one (``end``). ``how`` are
        fields of ``Sampling``. Raises Busy, UserError for a bad request, and Fault (500) if the
        engine failed.
        """
        self.check()
        ticket = ticket or Ticket(n)
        wanted, begun = ticket.wanted, False
        self.waiting += 1
        self._inbox.put(partial(self._submit, ticket, ids, how))
        try:
            while wanted:
                news = await ticket.news.get()
                self.waiting -= not begun
                begun = True
                if isinstance(news, Exception):
                    wanted.clear()
                    raise news
                if news.sample in wanted:
                    wanted -= {news.sample} if news.finish else set()
                    yield news
        finally:
            self.waiting -= not begun
            if wanted:
                self._inbox.put(partial(self._cancel, ticket))

    def end(self, ticket: Ticket, finish: str, sample: int | None = None) -> None:
        """No more is wanted of a sample, or of any: its slot is free before the next step.

        It is counted as one that finished so. What has ended is ignored.
        """
        gone = ticket.wanted & ({sample} if sample is not None else ticket.wanted)
        ticket.wanted -= gone
        for one in gone:
            self._inbox.put(partial(self._cut, ticket, one, finish))

    async def call(self, work: Callable[[Engine], Generator[None, None, Result]]) -> Result:
        """What ``work(engine)`` returns; each of its pieces is done between two steps.

        Such works are done one after the other. Raises as ``ask``.
        """
        self.check()
        chore = _Chore(asyncio.get_running_loop(), asyncio.Future(), _pieces(work, self.engine))
        self.waiting += 1
        self._inbox.put(partial(self._take, chore))
        try:
            return await chore.done
        finally:
            self.waiting -= 1

    def _run(self) -> None:
        while not self._closed:
            if not (self._live or self._chores):
                self._inbox.get()()
            while not self._inbox.empty():
                self._inbox.get()()
            if self._live:
                self._step()
            if self._chores and self._is_done(self._chores[0]):
                self._chores.popleft()
            self._load = self.engine.load
            self._tell()

    def _take(self, chore: _Chore) -> None:
        self._chores.append(chore)
        if self._closed:
            self._end()

    def _is_done(self, chore: _Chore) -> bool:
        """Whether nothing of it is left after one more piece."""
        if chore.done.cancelled():
            return True
        try:
            next(chore.pieces)
            return False
        except StopIteration as end:
            chore.settle(chore.done.set_result, end.value)
        except UserError as error:
            chore.settle(chore.done.set_exception, error)
        except Exception:
            LOG.exception("the engine failed at a call")
            chore.settle(chore.done.set_exception, _failure())
        return True

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception:
            LOG.exception("the engine failed; its %d requests end", len(self._live))
            for ticket in list(self._live):
                self._fail(ticket, _failure())
        for ticket in list(self._queued)[: len(self._queued) - self.engine.load.waiting]:
            self._begun(ticket)

    def _submit(self, ticket: Ticket, ids: Sequence[int], how: dict[str, Any]) -> None:
        self._live.add(ticket)
        self._queued[ticket] = None
        if self._closed:
            return self._end()
        try:
            listen = partial(self._hear, ticket)
            ticket.request = self.engine.submit(ids, listen, n=ticket.n, **how)
        except UserError as error:
            self._fail(ticket, error)
        except Exception:
            LOG.exception("the engine failed to take a request")
            self._fail(ticket, _failure())

    def _hear(self, ticket: Ticket, piece: Piece) -> None:
        """What a step says of a sample."""
        if piece.sample not in ticket.left or ticket not in self._live:
            return  # it was cancelled
        now, metrics = time.monotonic(), self.metrics
        if not ticket.heard:
            metrics.first_token.observe(now - ticket.asked)
            ticket.first = now
        if before := ticket.heard.get(piece.sample):
            metrics.next_token.observe((now - before) / max(1, len(piece.tokens)))
        ticket.heard[piece.sample] = now
        if piece.fault:
            return self._fail(ticket, _failure(piece.fault.what))
        if piece.finish:
            self._finished(ticket, piece.sample, piece.finish)
        self._said.append((ticket, piece))

    def _finished(self, ticket: Ticket, sample: int, finish: str) -> None:
        self.metrics.finished.labels(finish).inc()
        ticket.left.remove(sample)
        if not ticket.left:
            self.metrics.whole.observe(time.monotonic() - ticket.asked)
            self._live.discard(ticket)
            if ticket in self._queued:  # it began and ended in one step
                self._begun(ticket)

    def _begun(self, ticket: Ticket) -> None:
        del self._queued[ticket]
        self.metrics.queue.observe(time.monotonic() - ticket.asked)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self.metrics.failed.inc()
        self._drop(ticket)
        self._said.append((ticket, error))

    def _cancel(self, ticket: Ticket) -> None:
        if ticket in self._live:
            self.metrics.cancelled.inc()
            self._drop(ticket)

    def _cut(self, ticket: Ticket, sample: int, finish: str) -> None:
        if ticket in self._live and sample in ticket.left:
            self._finished(ticket, sample, finish)
            self._stop(ticket, sample)

    def _drop(self, ticket: Ticket) -> None:
        self._live.discard(ticket)
        self._queued.pop(ticket, None)
        self._stop(ticket)

    def _stop(self, ticket: Ticket, sample: int | None = None) -> None:
        if ticket.request is not None:
            try:
                self.engine.cancel(ticket.request, sample)
            except Exception:
                LOG.exception("the engine failed to cancel a request")

    def _tell(self) -> None:
        """Hand over what was said, in one call for each event loop."""
        said: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, News]]] = defaultdict(list)
        for ticket, news in self._said:
            said[ticket.loop].append((ticket, news))
        self._said.clear()
        for loop, all_news in said.items():
            _hand(loop, partial(_deliver, all_news))

    def _end(self) -> None:
        self._closed = True
        for ticket in list(self._live):
            self._fail(ticket, _ending())
        while self._chores:
            chore = self._chores.popleft()
            chore.settle(chore.done.set_exception, _ending())


def _pieces(
    work: Callable[[Engine], Generator[None, None, Result]], engine: Engine
) -> Generator[None, None, Result]:
    return (yield from work(engine))


def _hand(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
        loop.call_soon_threadsafe(work)


def _deliver(said: list[tuple[Ticket, News]]) -> None:
    for ticket, news in said:
        ticket.news.put_nowait(news)


def _settle(done: asyncio.Future, settle: Callable[[Any], None], value: object) -> None:
    if not done.done():
        settle(value)


def _failure(what: str = "failed") -> Fault:
    return Fault(500, f"the engine {what}", code="engine_error")


def _ending() -> Fault:
    return Fault(503, "the server is ending", code="unavailable")
