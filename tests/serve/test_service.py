"""What every protocol may ask for: warming, limits of time and lines, context, infills."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from starkiln.model.engine import Engine
from starkiln.serve.ask import Ask, Part, joined
from starkiln.serve.errors import Fault
from starkiln.serve.service import Service
from starkiln.tokenizer import context
from starkiln.tokenizer.tokenizer import Tokenizer

HOW = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3}


@pytest.fixture
def service(serviced: Callable[..., Service]) -> Service:
    return serviced(max_new_tokens=300)


def answer(service: Service, *asks: Ask) -> list[Part]:
    return asyncio.run(service.answer(*asks))


def test_the_parts_are_the_answer(service: Service) -> None:
    asks = [Ask(prompt=text, n=2, echo=True, sampling=HOW) for text in ("def", "class")]

    async def parts() -> list[Part]:
        return [part async for part in service.run(*asks)]

    found = asyncio.run(parts())
    whole = answer(service, *asks)
    assert [choice.index for choice in whole] == [0, 1, 2, 3]
    for choice in whole:
        again = joined([part for part in found if part.index == choice.index])
        assert (again.text, again.tokens) == (choice.text, choice.tokens)
        assert (again.read, again.drawn, again.finish) == (choice.read, 24, "length")
        assert again.text.startswith(("def", "class"))


def test_a_prompt_can_be_read_ahead(service: Service, tokenizer: Tokenizer) -> None:
    text = "def add(first, second):\n    return first + second\n" * 4
    [warmed] = answer(service, Ask(prompt=text, suffix="\n", sampling={"max_new_tokens": 0}))
    assert (warmed.text, warmed.tokens, warmed.finish) == ("", [], "length")
    known = service.worker.engine.load.cached_tokens
    [choice] = answer(service, Ask(prompt=text + "x", suffix="\n", sampling=HOW))
    assert service.worker.engine.load.cached_tokens - known > choice.read * 0.6


def test_time_is_bounded(service: Service) -> None:
    service.worker.engine.pause = 0.02
    ask = Ask(prompt="x", n=2, seconds=0.1, sampling={**HOW, "max_new_tokens": 300})
    choices = answer(service, ask)
    assert [choice.finish for choice in choices] == ["time", "time"]
    assert all(1 <= len(choice.tokens) < 300 for choice in choices)


def test_lines_are_bounded(service: Service) -> None:
    how = {**HOW, "max_new_tokens": 300}
    texts = {
        seed: answer(service, Ask(prompt="x", sampling={**how, "seed": seed}))[0].text
        for seed in range(8)
    }
    seed, text = next((s, t) for s, t in texts.items() if "\n" in t.strip("\n"))
    [line] = answer(service, Ask(prompt="x", single_line=True, sampling={**how, "seed": seed}))
    assert (line.text, line.finish) == (text.partition("\n")[0], "stop")
    [block] = answer(service, Ask(prompt="x", indent=300, sampling={**how, "seed": seed}))
    assert block.finish == "stop"
    assert text.startswith(block.text)
    assert not any(line.strip() for line in block.text.split("\n")[1:])


@pytest.mark.parametrize("mode", ["psm", "spm", None])
def test_context_is_built_around_the_cursor(
    service: Service, tokenizer: Tokenizer, twin: Engine, mode: str | None
) -> None:
    around = {"repo": "r/r", "path": "a.py", "files": (("b.py", "total = 0\n"),)}
    ask = Ask(prompt="def ", suffix="\npass", mode=mode, trim=False, sampling=HOW, **around)
    [choice] = answer(service, ask)
    ids = context.prompt("def ", "\npass", tokenizer, limit=512 - 24, mode=mode or "spm", **around)
    assert choice.text == twin.generate(ids, **HOW)[0].text
    assert choice.read == len(ids)


def test_samples_are_bounded(service: Service) -> None:
    for ask in (Ask(n=65, sampling=HOW), Ask(best_of=65, sampling=HOW)):
        with pytest.raises(Fault, match="at most 64"):
            answer(service, ask)


@pytest.mark.parametrize(
    ("ends", "finish"), [({"indent": 300}, "stop"), ({"seconds": 0.2}, "time")]
)
def test_what_the_server_ends_frees_its_slots_and_is_counted(
    service: Service, wait_for, ends: dict, finish: str
) -> None:
    """It is finished, not cancelled: no client left."""
    engine = service.worker.engine
    engine.pause = 0.01
    how = {**HOW, "max_new_tokens": 300}
    choices = answer(service, Ask(prompt="x", n=3, sampling=how, **ends))
    finishes = Counter(choice.finish for choice in choices)
    assert finishes[finish] >= 2
    wait_for(lambda: engine.load.live == 0)
    told = sum(len(choice.tokens) for choice in choices)
    assert engine.load.drawn_tokens < told + 200  # of 900: until the event loop has heard of it
    counted = service.metrics.text().decode()
    for reason, count in finishes.items():
        assert f'request_success_total{{finished_reason="{reason}"}} {count}.0' in counted
    assert "requests_cancelled_total 0.0" in counted
    assert "e2e_request_latency_seconds_count 1.0" in counted
