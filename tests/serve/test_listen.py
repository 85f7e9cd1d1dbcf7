"""Connections on which nothing moves, requests refused before they were read, open files."""

import json
import logging
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from starkiln.model.engine import Engine

pytestmark = pytest.mark.timeout(120)

SHORT = {"prompt": "class", "max_tokens": 4, "temperature": 0}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def impatient(serviced, running) -> Callable[..., Any]:
    """``impatient(patience=0.5, ...)``: a live server that waits no longer."""

    @contextmanager
    def serving(patience: float = 0.5, **how: Any) -> Iterator[Any]:
        with running(serviced(patience=patience, **how)) as live:
            yield live

    return serving


def ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.settimeout(30)
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def send(connection: socket.socket, part: bytes, times: int, pause: float = 0.0) -> None:
    for _ in range(times):
        connection.sendall(part)
        time.sleep(pause)


def test_connections_without_a_request_are_closed(impatient) -> None:
    with ExitStack() as stack:
        live = stack.enter_context(impatient(1.0))
        address = "127.0.0.1", live.port
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(300)]
        for connection in idle[100:]:
            connection.sendall(HEAD)
        answer = httpx.post(f"{live.url}/v1/completions", json=SHORT, trust_env=False)
        assert answer.status_code == 200
        assert all(ended(connection) for connection in idle)
        assert not live.server.server_state.connections


def test_a_head_that_trickles_in_is_not_waited_for(impatient) -> None:
    with impatient() as live, socket.create_connection(("127.0.0.1", live.port)) as slow:
        with pytest.raises(ConnectionError):
            send(slow, b"X", 600, pause=0.05)
        assert httpx.get(f"{live.url}/health", trust_env=False).status_code == 200


def test_the_head_of_a_second_request_is_not_waited_for_either(impatient) -> None:
    with impatient() as live, socket.create_connection(("127.0.0.1", live.port)) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        assert ended(slow)


def test_a_long_answer_is_waited_for(impatient, engine) -> None:
    """Patience is for who is silent without cause: not for who waits, or comes again in time."""
    engine.pause = 0.3
    with impatient() as live, httpx.Client(base_url=live.url, trust_env=False) as client:
        for _ in range(2):
            assert client.post("/v1/completions", json=SHORT, timeout=60).status_code == 200


def test_who_reads_nothing_is_closed_with_one_line(
    impatient, decoder, tokenizer, wait_for, caplog
) -> None:
    engine = Engine(decoder, tokenizer, end=())
    with impatient(engine=engine, max_new_tokens=400) as live:
        log = logging.getLogger("uvicorn.error")
        log.addHandler(caplog.handler)
        log.setLevel(logging.INFO)
        live.service.name = "x" * (1 << 14)  # in each event: more than the sockets hold
        body = json.dumps({"prompt": "x", "max_tokens": 400, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", live.port)) as deaf:
            deaf.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: any("read nothing" in line for line in caplog.messages))
            wait_for(lambda: engine.load.live == 0)
        answer = httpx.post(f"{live.url}/v1/completions", json=SHORT, trust_env=False)
        assert answer.status_code == 200
        log.removeHandler(caplog.handler)
    assert [r.levelname for r in caplog.records if r.name == "uvicorn.error"] == ["INFO"]


@pytest.mark.parametrize(
    ("path", "key", "times", "status"),
    [
        ("/v1/completions", "k", 1.2, 413),
        ("/v1/completions", "k", 8, 413),
        ("/v1/completions", "wrong", 0.9, 401),
        ("/nowhere", "k", 0.9, 404),
        ("/health", "k", 0.9, 405),
    ],
)
def test_who_reads_only_when_all_is_sent_is_told_why(
    serviced, running, path: str, key: str, times: float, status: int
) -> None:
    """urllib asks for the connection to be closed, and sends all before it reads."""
    service = serviced(keys=frozenset({"k"}))
    headers = {"Authorization": f"Bearer {key}"}
    with running(service) as live:
        content = b"x" * int(times * service.settings.max_body)
        for _ in range(5):
            request = urllib.request.Request(live.url + path, content, headers)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            assert refused.value.status == status
            assert json.loads(refused.value.read())["error"]["message"]
            refused.value.close()


def test_an_endless_body_is_not_read_to_its_end(impatient) -> None:
    with (
        impatient(60.0, max_body=1000) as live,
        socket.create_connection(("127.0.0.1", live.port)) as endless,
    ):
        endless.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n")
        with pytest.raises(ConnectionError):
            send(endless, b"x" * (1 << 16), 10_000)


SERVER = """
import resource, sys
from starkiln.model.decoder import Decoder
from starkiln.model.engine import Engine
from starkiln.model.settings import DecoderSettings
from starkiln.serve.listen import listen
from starkiln.serve.service import Service
from starkiln.serve.settings import ServeSettings
from starkiln.tokenizer.tokenizer import fit

resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
tokenizer = fit(["def add(first, second):"] * 3, 300)
shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=64)
engine = Engine(Decoder(shape, tokenizer.vocab_size, seed=3), tokenizer)
listen(Service("tiny", engine, tokenizer, ServeSettings(port=int(sys.argv[1]))))
"""


def test_a_process_listens_until_interrupted(wait_for) -> None:
    """And has as many open files, and so connections, as it may have."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = "127.0.0.1", port

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as tried:
            return tried.connect_ex(address) == 0

    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
    try:
        wait_for(listens, 100)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/completions", json=SHORT, trust_env=False, timeout=60
        )
        assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT, 130)
    finally:
        process.kill()
        process.wait()
