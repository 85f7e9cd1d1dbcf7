"""Endpoints that fail: a real application that answers badly first."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starkiln.core.errors import UserError
from starkiln.evaluate.sources import background
from starkiln.evaluate.sources.ask import Ask
from starkiln.evaluate.sources.endpoint import Endpoint, Gate
from starkiln.evaluate.sources.settings import SourceSettings

pytestmark = pytest.mark.timeout(120)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def right(body: dict[str, Any]) -> Response:
    """As many choices as are asked for, told apart by the seed."""
    texts = [f"{body.get('seed', 0)}-{i}" for i in range(body.get("n", 1))]
    chat = "messages" in body
    choices = [
        {"message": {"content": t}} if chat else {"text": t, "finish_reason": "length"}
        for t in texts
    ]
    return JSONResponse({"choices": choices, "usage": USAGE})


def fault(status: int, code: str = "", message: str = "no", **headers: str) -> Callable:
    error = {"error": {"message": message, "code": code}}
    return lambda body: JSONResponse(
        error, status, {k.replace("_", "-"): v for k, v in headers.items()}
    )


def said(value: Any) -> Callable:
    return lambda body: JSONResponse(value)


class Server:
    """Answers requests by ``plan``, then right; ``bodies`` are those that came."""

    def __init__(self, *plan: Callable) -> None:
        self.plan, self.bodies, self.models = list(plan), list[dict](), ["tiny"]
        self.together, self.most = 0, 0
        self.app = Starlette(
            routes=[
                Route("/v1/completions", self.answer, methods=["POST"]),
                Route("/v1/chat/completions", self.answer, methods=["POST"]),
                Route("/v1/models", self.listed),
            ]
        )

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.together += 1
        self.most = max(self.most, self.together)
        try:
            step = self.plan.pop(0) if self.plan else right
            made = step(body)
            return await made if asyncio.iscoroutine(made) else made
        finally:
            self.together -= 1

    async def listed(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": name} for name in self.models], "object": "list"})


async def hangs(body: dict[str, Any]) -> Response:
    await asyncio.sleep(30)
    return right(body)


def settings(**keys: Any) -> SourceSettings:
    fixed = {"backend": "completions", "per_request": 2, "concurrency": 1, "retries": 4}
    return SourceSettings(**{**fixed, **keys})


ASK = Ask("a", "x", n=4, temperature=1.0, max_new_tokens=9)


def test_what_fails_for_now_is_tried_again(served, flat) -> None:
    server = Server(
        fault(429, retry_after_ms="20"),
        fault(500),
        hangs,
        fault(503, retry_after="0"),
        right,
        said({"error": {"message": "the server behind is away", "code": 502}}),
    )
    with served(server.app) as url:
        source = Endpoint(url, "tiny", settings(request_timeout_s=4.0, retries=4))
        made = flat(source.draw([ASK]))
    assert [s.index for s in made] == [0, 1, 2, 3]
    assert len({s.completion for s in made}) == 4
    assert source.usage["requests"] == len(server.bodies) == 7
    assert source.usage["retries"] == 5
    assert source.usage["prompt_tokens"] == 2 * 3
    assert server.bodies[0] == server.bodies[4]  # the same request again


DAMAGED = [
    lambda body: Response('{"id":"x","choi', media_type="application/json"),
    lambda body: PlainTextResponse("<html>"),
    said([1, 2]),
    said({"choices": [{"text": 5}]}),
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_answer_between_good_ones_is_asked_for_again(served, flat, damaged) -> None:
    server = Server(right, damaged)
    with served(server.app) as url:
        source = Endpoint(url, "tiny", settings())
        made = flat(source.draw([ASK]))
    assert [s.index for s in made] == [0, 1, 2, 3]
    assert (source.usage["requests"], source.usage["retries"]) == (3, 1)


def test_damaged_answers_without_end_are_told(served) -> None:
    server = Server(right, *[said([1, 2])] * 9)
    told = r"after 1 retries \(\[1,2\]\); run it again"
    with served(server.app) as url, pytest.raises(UserError, match=told):
        list(Endpoint(url, "tiny", settings(retries=1)).draw([ASK]))


ODD_USAGES = [{"prompt_tokens": "many", "completion_tokens": -5}, {"prompt_tokens": 1e999}, 7, []]


@pytest.mark.parametrize("usage", [*ODD_USAGES, {"completion_tokens": 10**400}])
def test_a_good_text_is_kept_whatever_it_says_it_has_cost(served, flat, usage) -> None:
    text = json.dumps({"choices": [{"text": "one"}, {"text": "two"}], "usage": usage})
    server = Server(*[lambda body: Response(text, media_type="application/json")] * 2)
    with served(server.app) as url:
        source = Endpoint(url, "tiny", settings(input_price=1.0, output_price=1.0))
        made = flat(source.draw([ASK]))
    assert [s.completion for s in made] == ["one", "two"] * 2
    assert (source.usage["retries"], source.usage["cost"]) == (0, 0.0)


def test_what_was_drawn_before_a_failure_is_kept(served, flat) -> None:
    server = Server(right, fault(400, message="bad field"))
    got = []
    with served(server.app) as url:
        source = Endpoint(url, "tiny", settings())
        with pytest.raises(UserError, match=r"bad field.*omit"):
            got.extend(source.draw([ASK, Ask("b", "x")]))
        assert [s.index for s in flat(got)] == [0, 1]
        left = Ask(**{**ASK.__dict__, "have": frozenset({0, 1})})
        more = flat(Endpoint(url, "tiny", settings()).draw([left]))
    assert [s.index for s in more] == [2, 3]
    assert len(server.bodies) == 3
    assert not {s.completion for s in more} & {s.completion for s in flat(got)}


def test_requests_under_way_are_answered_before_a_fault_is_told(served, flat) -> None:
    begun = asyncio.Event()

    async def slow(body: dict[str, Any]) -> Response:
        await asyncio.wait_for(begun.wait(), 20)
        await asyncio.sleep(0.2)
        return right(body)

    async def bad(body: dict[str, Any]) -> Response:
        begun.set()
        return fault(400)(body)

    server, got = Server(slow, bad), []
    with served(server.app) as url, pytest.raises(UserError):
        got.extend(Endpoint(url, "tiny", settings(concurrency=2)).draw([ASK]))
    assert len(flat(got)) == 2


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (fault(429, code="insufficient_quota"), "quota"),
        (fault(429, retry_after="7200"), "7200"),
        (fault(401), "OPENAI_API_KEY"),
        (fault(404, message="no model tiny"), "#MODEL"),
        (said({"hello": 1}), "OpenAI-compatible"),
        (said({"choices": [{"text": 5}]}), "OpenAI-compatible"),
        (lambda body: PlainTextResponse("<html>"), "OpenAI-compatible"),
        (lambda body: Response("[" * 100_000, media_type="application/json"), "OpenAI-compatible"),
    ],
)
def test_what_will_never_go_well_ends_at_once(served, step, match) -> None:
    server = Server(step)
    with served(server.app) as url, pytest.raises(UserError, match=match):
        list(Endpoint(url, "tiny", settings()).draw([ASK]))
    assert len(server.bodies) == 1


def test_retries_end(served) -> None:
    server = Server(*[fault(500, message="broken")] * 3)
    told = r"after 2 retries \(.*broken.*run it again"
    with served(server.app) as url, pytest.raises(UserError, match=told):
        list(Endpoint(url, "tiny", settings(retries=2)).draw([ASK]))
    assert len(server.bodies) == 3


def test_nobody_there(served) -> None:
    with served(Server().app) as url:
        pass
    with pytest.raises(UserError, match="no server answers"):
        list(Endpoint(url, "tiny", settings()).draw([ASK]))


def test_the_only_model_is_found(served) -> None:
    server = Server()
    with served(server.app) as url:
        list(Endpoint(url, "", settings()).draw([ASK]))
        assert {body["model"] for body in server.bodies} == {"tiny"}
        server.models = ["one", "two"]
        with pytest.raises(UserError, match="one, two"):
            list(Endpoint(url, "", settings()).draw([ASK]))


def test_too_long_with_its_completion_is_shortened(served, flat) -> None:
    def limited(body: dict[str, Any]) -> Response:
        told = "This model's maximum context length is 20 tokens. However, you requested more."
        return right(body) if body["max_tokens"] <= 8 else fault(400, message=told)(body)

    server = Server(*[limited] * 9)
    ask = Ask("a", "x", n=1, max_new_tokens=32)
    with served(server.app) as url:
        [made] = flat(Endpoint(url, "tiny", settings()).draw([ask]))
    assert made.completion
    assert [body["max_tokens"] for body in server.bodies] == [32, 16, 8]


def test_servers_that_give_one_choice_whatever_n(served, flat) -> None:
    def one(body: dict[str, Any]) -> Response:
        return right({**body, "n": 1})

    server = Server(*[one] * 9)
    with served(server.app) as url:
        made = flat(Endpoint(url, "tiny", settings(per_request=4, omit=["n"])).draw([ASK]))
    assert [s.index for s in made] == [0, 1, 2, 3]
    assert len({s.completion for s in made}) == 4
    assert "n" not in server.bodies[0]


def test_more_choices_than_asked_are_left_out(served, flat) -> None:
    server = Server(lambda body: right({**body, "n": 7}))
    with served(server.app) as url:
        made = flat(Endpoint(url, "tiny", settings(per_request=4)).draw([ASK]))
    assert [s.index for s in made] == [0, 1, 2, 3]


def test_the_body_of_a_request(served) -> None:
    server = Server()
    stop = tuple(f"s{i}" for i in range(8))
    ask = Ask("a", "x", "y", stop=stop, n=2, max_new_tokens=9, path="a.py", temperature=0.2)
    with served(server.app) as url:
        how = settings(body={"min_p": 0.1}, omit=["top_p"])
        [[first, _]] = Endpoint(url, "tiny", how).draw([ask])
    [body] = server.bodies
    assert body == {
        "model": "tiny",
        "prompt": "<filename>a.py\nx",
        "suffix": "y",
        "stop": list(stop[:4]),
        "max_tokens": 9,
        "n": 2,
        "temperature": 0.2,
        "seed": ask.draws,
        "min_p": 0.1,
    }
    assert first.completion == f"{ask.draws}-0"


def test_answers_are_cut_at_all_stop_strings(served, flat) -> None:
    said = {"choices": [{"text": "good\nstop8 bad", "finish_reason": "length"}]}
    stop = (*(f"s{i}!" for i in range(7)), "\nstop8")
    server = Server(lambda body: JSONResponse(said))
    with served(server.app) as url:
        ask = Ask("a", "x", stop=stop, max_new_tokens=9)
        [made] = flat(Endpoint(url, "tiny", settings()).draw([ask]))
    assert (made.completion, made.finish) == ("good", "stop")


def test_refusals_and_surrogates(served, flat) -> None:
    raw = json.dumps({"choices": [{"text": "a\ud800b", "finish_reason": "content_filter"}]})
    server = Server(lambda body: Response(raw, media_type="application/json"))
    with served(server.app) as url:
        [made] = flat(Endpoint(url, "tiny", settings()).draw([Ask("a", "x", max_new_tokens=9)]))
    assert made.finish == "refused"
    assert made.completion == "a?b"


SILENT = [
    {"choices": []},
    {"choices": None, "usage": None},
    {"choices": [{"text": None, "finish_reason": "stop"}, {"finish_reason": "stop"}]},
    {"choices": [{"message": {"content": None, "tool_calls": []}}]},
]


@pytest.mark.parametrize("backend", ["completions", "chat"])
@pytest.mark.parametrize("silent", SILENT)
def test_an_answer_without_a_text_is_asked_for_again(served, flat, silent, backend) -> None:
    server = Server(said(silent), said(silent))
    with served(server.app) as url:
        made = flat(Endpoint(url, "tiny", settings(backend=backend)).draw([ASK]))
    assert [s.index for s in made] == [0, 1, 2, 3]
    assert all(s.completion and s.finish != "no answer" for s in made)
    assert len(server.bodies) == 4


@pytest.mark.parametrize("silent", SILENT)
def test_what_stays_without_a_text_is_told_and_the_others_are_drawn(served, flat, silent) -> None:
    def silent_for_a(body: dict[str, Any]) -> Response:
        return JSONResponse(silent) if body["prompt"] == "x" else right(body)

    server = Server(*[silent_for_a] * 20)
    with served(server.app) as url:
        source = Endpoint(url, "tiny", settings(retries=2))
        made = flat(source.draw([ASK, Ask("b", "y", n=2, max_new_tokens=9)]))
    assert [s.finish for s in made] == ["no answer"] * 4 + ["length"] * 2
    assert len(server.bodies) == 2 * 3 + 1  # each part of a three times


def test_choices_without_a_text_beside_others(served, flat) -> None:
    half = [{"text": "one", "finish_reason": "stop"}, {"text": None, "finish_reason": "stop"}]
    server = Server(said({"choices": half, "usage": USAGE}))
    with served(server.app) as url:
        made = flat(Endpoint(url, "tiny", settings()).draw([Ask("a", "x", n=2, max_new_tokens=9)]))
    assert [(s.index, s.completion == "one") for s in made] == [(0, True), (1, False)]
    assert [body["n"] for body in server.bodies] == [2, 1]


def test_a_thought_without_an_end_is_an_answer(served, flat) -> None:
    thinks = {"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"}
    server = Server(said({"choices": [thinks]}))
    with served(server.app) as url:
        ask = Ask("a", "x", max_new_tokens=9)
        [made] = flat(Endpoint(url, "tiny", settings(backend="chat")).draw([ask]))
    assert (made.completion, made.finish) == ("", "length")
    assert len(server.bodies) == 1


def test_a_filtered_prompt_is_refused_and_the_others_are_drawn(served, flat) -> None:
    server = Server(fault(400, code="content_filter", message="filtered"))
    with served(server.app) as url:
        asks = [Ask(name, name, n=2, max_new_tokens=9) for name in "ab"]
        made = flat(Endpoint(url, "tiny", settings()).draw(asks))
    assert [s.finish for s in made] == ["refused"] * 2 + ["length"] * 2


def test_no_more_requests_at_a_time_than_allowed(served, flat) -> None:
    async def slow(body: dict[str, Any]) -> Response:
        while server.most < 3:
            await asyncio.sleep(0.01)
        return right(body)

    server = Server(*[slow] * 12)
    with served(server.app) as url:
        how = settings(concurrency=3, per_request=1)
        made = flat(Endpoint(url, "tiny", how).draw([Ask("a", "x", n=12, max_new_tokens=9)]))
    assert len(made) == 12
    assert server.most == 3


def test_the_rate_of_requests() -> None:
    gate = Gate(60)
    assert [gate.turn(100.0), gate.turn(100.2), gate.turn(100.4)] == [100.0, 101.0, 102.0]
    assert gate.turn(110.0) == 110.0
    gate.hold(115.0)
    assert [gate.turn(111.0), gate.turn(111.0)] == [115.0, 116.0]
    free = Gate(0)
    assert [free.turn(1.0), free.turn(1.0)] == [1.0, 1.0]


def test_a_run_that_is_left_cancels_its_requests(served) -> None:
    server = Server(right, hangs, hangs)
    with served(server.app) as url:
        drawn = Endpoint(url, "tiny", settings(concurrency=2)).draw([ASK, Ask("b", "x", n=9)])
        assert len(next(drawn)) == 2
        drawn.close()  # returns while the endpoint hangs
        assert len(server.bodies) <= 3


def test_chat(served, flat) -> None:
    def talks(body: dict[str, Any]) -> Response:
        text = "Sure:\n```python\n    return x\n```\nDone."
        return said({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})(body)

    server = Server(talks, said({"choices": [{"message": {"content": None, "refusal": "no"}}]}))
    ask = Ask("a", "def f(x):\n", stop=("\ndef",), n=1, max_new_tokens=9, max_total_tokens=50)
    with served(server.app) as url:
        source = Endpoint(url, "tiny", settings(backend="chat", chat_prompt="go on:\n{prompt}"))
        made = flat(source.draw([ask, Ask("b", "x", max_new_tokens=9)]))
    assert [(s.completion, s.finish) for s in made] == [("    return x\n", "stop"), ("", "refused")]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "go on:\ndef f(x):\n"}]
    assert "stop" not in server.bodies[0]


def test_keys_do_not_belong_in_urls() -> None:
    for url in ("http://me:secret@127.0.0.1/v1", "http://127.0.0.1/v1?key=secret"):
        with pytest.raises(UserError, match="OPENAI_API_KEY") as error:
            Endpoint(url, "", settings())
        assert "secret" not in str(error.value)


def test_the_package_is_asked_for(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'starkiln\[api\]'"):
        Endpoint("http://127.0.0.1:1/v1", "", settings())


def test_work_in_the_background_goes_on_and_fails_in_the_caller() -> None:
    async def work(tell: Callable[[int], None]) -> None:
        for number in range(3):
            tell(number)
            await asyncio.sleep(0)
        raise KeyError("broken")

    told = background.told(work)
    assert [next(told), next(told), next(told)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(told)
