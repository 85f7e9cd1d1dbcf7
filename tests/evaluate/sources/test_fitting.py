"""Prompts that are too long for their model, as every source trims them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import AutoTokenizer

from starkiln.evaluate.sources import vocabulary
from starkiln.evaluate.sources.ask import Ask
from starkiln.evaluate.sources.endpoint import Endpoint
from starkiln.evaluate.sources.engine import Checkpoint
from starkiln.evaluate.sources.fitting import fitted
from starkiln.evaluate.sources.huggingface import HuggingFace
from starkiln.evaluate.sources.settings import SourceSettings

ABOVE = "".join(f"line {i}\n" for i in range(60))
BELOW = "".join(f"    back {i}\n" for i in range(60))
ASK = Ask("a", f"{ABOVE}def f() ->", f":\n{BELOW}", max_new_tokens=16, trim=True)


def characters(ask: Ask) -> int:
    return len(ask.prompt) + len(ask.suffix or "")


def test_the_nearest_lines_of_both_sides_are_kept() -> None:
    made = fitted(ASK, characters, 116)
    assert made.prompt.endswith("line 59\ndef f() ->")
    assert ASK.prompt.endswith(made.prompt)
    assert ASK.suffix is not None
    assert made.suffix is not None
    assert ASK.suffix.startswith(made.suffix)
    assert made.suffix.startswith(":\n    back 0\n")
    assert 70 < characters(made) <= 100
    assert abs(len(made.prompt) - len(made.suffix)) < 20


def test_what_fits_or_may_not_be_trimmed_is_as_it_is() -> None:
    assert fitted(ASK, characters, 10_000) is ASK
    assert fitted(ASK, characters, None) is ASK
    whole = replace(ASK, trim=False)
    assert fitted(whole, characters, 100) is whole


def test_a_side_that_is_short_leaves_its_room_to_the_other() -> None:
    made = fitted(replace(ASK, suffix=":\n"), characters, 116)
    assert made.suffix == ":\n"
    assert 90 < characters(made) <= 100
    alone = fitted(replace(ASK, suffix=None), characters, 116)
    assert alone.suffix is None
    assert alone.prompt.endswith("line 59\ndef f() ->")


@given(st.text("ab\n\r", max_size=60), st.none() | st.text("ab\n", max_size=60), st.integers(2, 90))
def test_nothing_is_more_than_its_room(prompt: str, suffix: str | None, context: int) -> None:
    ask = Ask("a", prompt, suffix, max_new_tokens=1, trim=True)
    made = fitted(ask, characters, context)
    assert characters(made) <= max(0, context - 1)
    assert prompt.endswith(made.prompt)
    assert (suffix or "").startswith(made.suffix or "")


@pytest.mark.parametrize("source", [Checkpoint, HuggingFace])
def test_a_model_of_any_context_answers(folder, flat, source) -> None:
    [made] = flat(source(folder).draw([ASK]))  # of 160 positions
    assert made.finish != "no room"
    [whole] = flat(source(folder).draw([replace(ASK, trim=False)]))
    assert whole.finish == "no room"


def test_our_engine_and_transformers_trim_alike(folder, flat) -> None:
    assert flat(Checkpoint(folder).draw([ASK])) == flat(HuggingFace(folder).draw([ASK]))


def test_a_limit_of_both_bounds_the_prompt(folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ask = replace(ASK, max_new_tokens=None, max_total_tokens=80)
    assert 40 < len(vocabulary.prompt_ids(tokenizer, ask)) <= 70


def test_an_endpoint_that_says_too_long_gets_less(served, flat) -> None:
    from starlette.applications import Starlette

    prompts = []

    async def answer(request):
        body = await request.json()
        prompts.append(body["prompt"] + body["suffix"])
        if len(prompts[-1]) > 300:
            error = {"message": "maximum context length is 300", "code": None}
            return JSONResponse({"error": error}, 400)
        return JSONResponse({"choices": [{"text": " int", "finish_reason": "stop"}]})

    with served(Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])) as url:
        [made] = flat(Endpoint(url, "m", SourceSettings(backend="completions")).draw([ASK]))
    assert made.completion == " int"
    assert 100 < len(prompts[-1]) <= 300
    assert "def f() ->:\n" in prompts[-1]
