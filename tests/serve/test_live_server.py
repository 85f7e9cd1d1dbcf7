"""What only a real server with real sockets shows: clients that leave, wait or crowd."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from starkiln.model.decoder import Decoder
from starkiln.model.engine import Engine
from starkiln.model.settings import DecoderSettings
from starkiln.serve.server import MAX_BODY, Service, application
from starkiln.serve.settings import ServeSettings
from starkiln.tokenizer.tokenizer import Tokenizer, fit

pytestmark = pytest.mark.timeout(90)

LONG = 1900  # tokens
ASKED = {"prompt": "def add(", "max_tokens": LONG, "temperature": 1.0}
SHORT = {"prompt": "class", "max_tokens": 4, "temperature": 0}


class Slow(Engine):
    """An engine that takes its time for each token, as large models do, and counts them."""

    steps = 0
    pause = 0.005

    def _next(self, tokens, tails, position):
        self.steps += 1
        time.sleep(self.pause)
        return super()._next(tokens, tails, position)


@pytest.fixture(scope="module")
def parts():
    tokenizer = fit(["def add(first, second):\n    return first + second\n"] * 3, 320)
    shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=2048)
    return Decoder(shape, tokenizer.vocab_size, seed=3), tokenizer


@pytest.fixture
def engine(parts) -> Slow:
    return Slow(*parts, end=-1)  # no token ends a text


@contextmanager
def running(
    engine: Engine, tokenizer: Tokenizer, name: str = "tiny"
) -> Iterator[tuple[uvicorn.Server, threading.Thread, str]]:
    service = Service(name, engine, tokenizer, ServeSettings(max_new_tokens=LONG))
    config = uvicorn.Config(application(service), port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server, thread, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        server.force_exit = True
        thread.join(5)


@pytest.fixture
def live(engine, parts) -> Iterator[tuple[uvicorn.Server, threading.Thread, str]]:
    with running(engine, parts[1]) as found:
        yield found


@pytest.fixture
def client(live) -> Iterator[httpx.Client]:
    with calling(live[2]) as made:
        yield made


def calling(url: str) -> httpx.Client:
    limits = httpx.Limits(max_connections=None)
    return httpx.Client(base_url=url, timeout=30, limits=limits, trust_env=False)


def wait_for(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def ask(client: httpx.Client, **body: object) -> httpx.Response:
    return client.post("/v1/completions", json=body)


@contextmanager
def stream(client: httpx.Client, **body: object) -> Iterator[Iterator[str]]:
    """The events of a stream that has begun; the connection is cut at the end of the block."""
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = (line for line in answer.iter_lines() if line)
        assert json.loads(next(lines).removeprefix("data: "))["choices"]
        yield lines


def left_waiting(url: str, **body: object) -> None:
    """Send a request and leave without its answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head.encode() + content)
        time.sleep(0.2)


def test_the_next_client_is_served_when_one_leaves_its_stream(client, engine):
    for _ in range(3):
        with stream(client, **ASKED):
            pass
        assert ask(client, **SHORT).status_code == 200
    assert engine.steps < LONG  # the three streams ended early


def test_a_stream_and_a_crowd_are_all_answered(client, engine):
    engine.pause = 0.001
    with stream(client, **{**ASKED, "max_tokens": 300}) as events, ThreadPoolExecutor(50) as crowd:
        asked = [crowd.submit(ask, client, **SHORT) for _ in range(50)]
        assert client.get("/health").status_code == 200
        assert list(events)[-1] == "data: [DONE]"
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1


def test_a_crowd_of_streams_is_answered_in_turn(client, engine):
    engine.pause = 0

    def whole(seed: int) -> list[str]:
        with stream(client, **{**ASKED, "max_tokens": 20, "seed": seed}) as events:
            return list(events)

    with ThreadPoolExecutor(45) as crowd:
        assert {events[-1] for events in crowd.map(whole, range(45))} == {"data: [DONE]"}


def test_who_leaves_while_waiting_is_passed_over(live, client, engine):
    with stream(client, **ASKED):
        for streams in (False, True):
            left_waiting(live[2], **{**ASKED, "stream": streams})
    assert ask(client, **SHORT).status_code == 200
    assert engine.steps < LONG


def test_who_reads_no_more_keeps_nobody_waiting(engine, parts):
    engine.pause, name = 0, "x" * (1 << 14)  # in each event: more than the sockets hold
    with (
        running(engine, parts[1], name) as (_, _, url),
        calling(url) as client,
        stream(client, **ASKED),
    ):
        assert ask(client, **SHORT).status_code == 200


def test_faults_are_a_status_while_another_streams(client, engine):
    engine.pause = 0.001
    with stream(client, **{**ASKED, "max_tokens": 100}):
        for streams in (False, True):
            answer = ask(client, prompt="x", max_tokens=2000, stream=streams)
            assert answer.status_code == 400
            assert "more than 1900 tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize("length", [True, False])
def test_a_huge_body_is_refused(client, length):
    parts = [b'{"prompt": "', *[b"x" * (1 << 16)] * (MAX_BODY >> 16), b'"}']
    try:
        answer = client.post("/v1/completions", content=b"".join(parts) if length else iter(parts))
    except httpx.NetworkError:
        pass  # refused before all was sent
    else:
        assert answer.status_code == 413
    assert ask(client, **SHORT).status_code == 200


def test_the_server_ends_when_told(live, client):
    server, thread, url = live
    with stream(client, **{**ASKED, "max_tokens": 100}) as events:
        server.should_exit = True
        assert list(events)[-1] == "data: [DONE]"
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_the_server_ends_after_clients_left(live, client):
    server, thread, _ = live
    with stream(client, **ASKED):
        pass
    server.should_exit = True
    thread.join(5)  # a whole stream takes twice as long
    assert not thread.is_alive()
