"""The thread that owns the engine: what it says, when it cancels, what it survives."""

import asyncio
import math
from collections.abc import Callable

import pytest

from starkiln.core.errors import UserError
from starkiln.model.engine import Engine
from starkiln.model.sampling import Piece
from starkiln.serve.errors import Busy, Fault
from starkiln.serve.service import Service
from starkiln.serve.worker import Ticket, Worker

HOW = {"max_new_tokens": 20, "temperature": 1.0, "seed": 3}
LONG = {**HOW, "max_new_tokens": 400}


@pytest.fixture
def worker(serviced: Callable[..., Service]) -> Worker:
    return serviced(max_waiting=3).worker


async def gathered(worker: Worker, ids: list[int], **how: object) -> list[Piece]:
    return [piece async for piece in worker.ask(ids, **how)]


def test_pieces_are_the_engines(worker: Worker, twin: Engine) -> None:
    pieces = asyncio.run(gathered(worker, [40, 50], n=3, **HOW))
    for sample, expected in enumerate(twin.generate([40, 50], n=3, **HOW)):
        own = [piece for piece in pieces if piece.sample == sample]
        assert "".join(piece.text for piece in own) == expected.text
        assert [token for piece in own for token in piece.tokens] == expected.tokens
        assert [piece.finish for piece in own if piece.finish] == ["length"]
        assert own[-1].finish


@pytest.mark.parametrize("n", [1, 4])
def test_a_cancelled_request_is_gone_at_the_next_step(worker: Worker, wait_for, n: int) -> None:
    engine = worker.engine
    engine.pause = 0.02

    async def leave() -> int:
        ask = worker.ask([30], n=n, **LONG)
        await anext(ask)
        assert engine.load.live == n
        await ask.aclose()
        return engine.steps

    left = asyncio.run(leave())
    wait_for(lambda: engine.load.live == 0)
    assert engine.steps <= left + 1
    assert engine.load.drawn_tokens <= n * (engine.steps + 1)


def test_one_sample_of_a_request_can_be_ended(worker: Worker, twin: Engine, wait_for) -> None:
    """It leaves its slot before the next step; the others are what they are without it."""
    engine = worker.engine
    engine.pause = 0.02
    how = {**HOW, "max_new_tokens": 12}
    told: dict[int, list[Piece]] = {0: [], 1: [], 2: []}

    async def ask() -> None:
        ticket = Ticket(3)
        async for piece in worker.ask([30], ticket=ticket, **how):
            told[piece.sample].append(piece)
            if piece.sample == 1:
                left = engine.steps
                worker.end(ticket, "stop", 1)
                worker.end(ticket, "stop", 1)
                await asyncio.to_thread(wait_for, lambda: engine.load.live == 2)
                assert engine.steps <= left + 1

    asyncio.run(ask())
    expected = twin.generate([30], n=3, **how)
    assert len(told[1]) == 1
    for sample in (0, 2):
        assert "".join(piece.text for piece in told[sample]) == expected[sample].text
    counted = worker.metrics.text().decode()
    assert 'request_success_total{finished_reason="stop"} 1.0' in counted
    assert 'request_success_total{finished_reason="length"} 2.0' in counted
    assert "requests_cancelled_total 0.0" in counted
    assert "e2e_request_latency_seconds_count 1.0" in counted


def test_a_cancelled_task_cancels_its_request(worker: Worker, wait_for) -> None:
    worker.engine.pause = 0.01

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gathered(worker, [30], n=2, **LONG), 0.3)

    asyncio.run(leave())
    wait_for(lambda: worker.engine.load.live == 0)
    assert worker.engine.steps < 300


def test_the_queue_is_bounded_and_empties(worker: Worker) -> None:
    worker.engine.pause = 0.05

    async def crowd() -> list[object]:
        asks = [gathered(worker, [30 + i], **HOW) for i in range(8)]
        found = await asyncio.gather(*asks, return_exceptions=True)
        assert worker.waiting == 0
        worker.engine.pause = 0
        assert await gathered(worker, [30], **HOW)
        return found

    found = asyncio.run(crowd())
    refused = [one for one in found if isinstance(one, Busy)]
    assert len(refused) == 5
    assert all(one.status == 429 and one.headers["Retry-After"] for one in refused)
    assert all(isinstance(one, list | Busy) for one in found)


def test_a_bad_request_is_its_own_fault(worker: Worker) -> None:
    async def ask() -> None:
        good = asyncio.create_task(gathered(worker, [30], **HOW))
        for ids, how in (([10**6], HOW), ([30], {**HOW, "top_p": 3}), ([30] * 600, HOW)):
            with pytest.raises(UserError):
                await gathered(worker, ids, **how)
        assert len(await good) > 0

    asyncio.run(ask())


def test_a_failing_engine_fails_its_requests_and_lives(worker: Worker, caplog) -> None:
    engine = worker.engine

    async def ask() -> None:
        engine.fails = RuntimeError("a fault in a kernel")
        asks = (gathered(worker, [30 + i], **HOW) for i in range(3))
        for error in await asyncio.gather(*asks, return_exceptions=True):
            assert isinstance(error, Fault)
            assert error.status == 500
        engine.fails = None
        assert await gathered(worker, [30], **HOW)

    asyncio.run(ask())
    assert "a fault in a kernel" in caplog.text
    assert engine.load.live == engine.load.waiting == 0
    assert b"starkiln:requests_failed_total 3.0" in worker.metrics.text()


def test_a_model_without_numbers_is_a_fault_of_the_server(
    worker: Worker, decoder, monkeypatch
) -> None:
    head = decoder.head
    monkeypatch.setattr(decoder, "head", lambda hidden: head(hidden) * math.nan)
    with pytest.raises(Fault) as found:
        asyncio.run(gathered(worker, [30], **HOW))
    assert found.value.status == 500


def counting(engine, pieces, told):
    for _ in range(pieces):
        told.append(engine.steps)
        yield
    return engine


def test_calls_run_piece_by_piece_between_steps(worker: Worker) -> None:
    engine, told = worker.engine, []

    async def ask() -> None:
        assert await worker.call(lambda engine: counting(engine, 9, told)) is engine
        assert told == [0] * 9  # nobody is live
        told.clear()
        asked = asyncio.create_task(gathered(worker, [30], **HOW))
        while not engine.load.live:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(worker.call(lambda e: counting(e, 3, told))) for _ in "ab"]
        await asyncio.gather(asked, *others)
        first, second = told[:3], told[3:]  # one piece a step, one work at a time
        assert first == list(range(first[0], first[0] + 3))
        assert second == list(range(second[0], second[0] + 3))
        assert second[0] > first[-1] > 0
        assert worker.waiting == 0

    engine.pause = 0.01
    asyncio.run(ask())


def test_calls_that_fail_are_told_and_those_who_leave_are_forgotten(worker: Worker, caplog) -> None:
    async def ask() -> None:
        with pytest.raises(UserError, match="nothing"):
            await worker.call(lambda engine: (_ for _ in ()).throw(UserError("x", "nothing", "y")))
        with pytest.raises(Fault):
            await worker.call(lambda engine: 1 / 0)
        told: list[int] = []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.call(lambda e: counting(e, 10**9, told)), 0.05)
        assert told
        assert await worker.call(lambda e: counting(e, 1, told)) is worker.engine
        assert worker.waiting == 0

    asyncio.run(ask())
    assert "division by zero" in caplog.text


def test_calls_wait_in_the_same_queue_and_end_with_it(worker: Worker) -> None:
    async def ask() -> None:
        asked = [asyncio.create_task(worker.call(lambda e: counting(e, 10**9, []))) for _ in "abc"]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await worker.call(lambda e: counting(e, 1, []))
        await asyncio.to_thread(worker.close)
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, Fault)
            assert error.status == 503

    asyncio.run(ask())


def test_who_waits_when_it_closes_is_told(worker: Worker) -> None:
    worker.engine.pause = 0.02

    async def ask() -> None:
        asked = asyncio.create_task(gathered(worker, [30], **LONG))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(worker.close)
        with pytest.raises(Fault) as found:
            await asked
        assert found.value.status == 503
        with pytest.raises(Fault):
            await gathered(worker, [30], **HOW)

    asyncio.run(ask())
    assert not worker.alive
    worker.close()  # twice does no harm


def test_a_loop_that_ended_hurts_nobody(worker: Worker) -> None:
    """Its client can no longer be told; the request still ends, and others go on."""
    worker.engine.pause = 0.01
    loop = asyncio.new_event_loop()
    ask = worker.ask([30], **LONG)
    loop.run_until_complete(anext(ask))
    loop.close()
    assert asyncio.run(gathered(worker, [30], **HOW))
