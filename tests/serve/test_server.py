import json

import pytest
from starlette.testclient import TestClient

from starkiln.model.decoder import Decoder
from starkiln.model.engine import Engine
from starkiln.model.settings import DecoderSettings
from starkiln.serve.server import Service, application
from starkiln.serve.settings import ServeSettings
from starkiln.tokenizer import fim
from starkiln.tokenizer.tokenizer import Tokenizer, fit

TEXT = "def add(first, second):\n    return first + second\n\n\nclass Adder:\n    total = 0\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return fit([TEXT] * 3, 320)


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    shape = DecoderSettings(n_layer=2, n_embd=32, n_head=2, n_positions=128)
    return Engine(Decoder(shape, tokenizer.vocab_size, seed=3), tokenizer)


@pytest.fixture(scope="module")
def client(engine: Engine, tokenizer: Tokenizer) -> TestClient:
    service = Service("tiny", engine, tokenizer, ServeSettings(max_new_tokens=64, max_samples=4))
    return TestClient(application(service))


def post(client: TestClient, **body: object) -> dict:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_health_and_models(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_greedy_equals_the_engine(client: TestClient, engine: Engine, tokenizer: Tokenizer) -> None:
    answer = post(client, prompt="def add(", max_tokens=12, temperature=0)
    (expected,) = engine.generate(tokenizer.encode("def add("), max_new_tokens=12)
    assert answer["choices"][0]["text"] == expected.text
    assert answer["usage"]["completion_tokens"] == len(expected.tokens)


def test_suffix_is_an_infill(client: TestClient, engine: Engine, tokenizer: Tokenizer) -> None:
    answer = post(client, prompt="def add(", suffix="return", max_tokens=8, temperature=0)
    ids = fim.prompt("def add(", "return", tokenizer)
    assert answer["choices"][0]["text"] == engine.generate(ids, max_new_tokens=8)[0].text
    assert answer["usage"]["prompt_tokens"] == len(ids)


def test_text_never_becomes_a_special_token(client: TestClient, tokenizer: Tokenizer) -> None:
    text = "<fim_prefix><|endoftext|>"
    answer = post(client, prompt=text, max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(text)) > 10


def test_the_stream_is_the_whole_answer(client: TestClient) -> None:
    asked = {"prompt": "class", "max_tokens": 16, "temperature": 0.8, "seed": 5}
    whole = post(client, **asked)["choices"][0]
    with client.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines]
    assert "".join(c["text"] for c in choices) == whole["text"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]


def test_seed_and_n(client: TestClient) -> None:
    asked = {"prompt": "x", "max_tokens": 8, "temperature": 1.0, "seed": 7, "n": 3}
    first, second = (post(client, **asked)["choices"] for _ in range(2))
    assert first == second
    assert len({c["text"] for c in first}) > 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 65}, "more than 64 tokens"),
        ({"prompt": "x", "max_tokens": 500}, "no room"),
        ({"prompt": "x", "n": 5}, "more than"),
        ({"prompt": "x", "n": 2, "stream": True}, "streams hold one"),
        ({"prompt": "x", "max_tokens": 65, "stream": True}, "more than 64 tokens"),
        ({"prompt": 5}, "string"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
    ],
)
def test_bad_requests_are_400_with_the_reason(client: TestClient, body: dict, words: str) -> None:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
