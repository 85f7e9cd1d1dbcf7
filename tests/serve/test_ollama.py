"""Ollama's protocol: llm-ls, Continue, Twinny, and the ollama client itself."""

import json
from collections.abc import Iterator

import ollama
import pytest
from starlette.testclient import TestClient

from editors import LSP, NEW, continue_ollama, llm_ls, twinny
from starkiln.model.engine import Engine
from starkiln.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.timeout(90)

SURE = {"temperature": 0, "num_predict": NEW}


def streamed(client: TestClient, body: dict) -> list[dict]:
    with client.stream("POST", "/api/generate", json=body) as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        return [json.loads(line) for line in answer.iter_lines()]


def test_every_client_gets_the_same_infill(client: TestClient) -> None:
    """Continue's structured one; llm-ls' and Twinny's rendered ones."""
    told = streamed(client, continue_ollama(options=SURE))
    assert [one["done"] for one in told] == [False] * (len(told) - 1) + [True]
    assert told[-1]["done_reason"] == "length"
    assert told[-1]["eval_count"] == NEW
    text = "".join(one["response"] for one in told)
    path, body = llm_ls("ollama", {"options": SURE})
    whole = client.post(path, json=body, headers=LSP).json()
    assert (whole["response"], whole["done"]) == (text, True)
    assert whole["prompt_eval_count"] == told[-1]["prompt_eval_count"]
    assert "".join(one["response"] for one in streamed(client, twinny(options=SURE))) == text


def test_continue_asks_first_whether_the_model_infills(client: TestClient) -> None:
    told = client.post("/api/show", json={"name": "tiny"}).json()
    assert ".Suffix" in told["template"]
    assert told["parameters"] == "num_ctx 512"
    assert client.post("/api/show", json={"model": "other"}).status_code == 404


def test_a_request_without_text_is_done_at_once(client: TestClient) -> None:
    told = client.post("/api/generate", json={"model": "tiny", "keep_alive": -1}).json()
    assert (told["response"], told["done"], told["done_reason"]) == ("", True, "load")


def test_what_is_served(client: TestClient) -> None:
    [model] = client.get("/api/tags").json()["models"]
    assert model["name"] == "tiny"
    assert client.get("/api/version").json()["version"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("model", "llama3", 404),
        ("model", None, 400),
        ("prompt", 5, 400),
        ("suffix", {}, 400),
        ("options", {"temperature": -1}, 400),
        ("options", {"num_predict": 100_000}, 400),
        ("options", {"num_predict": "all"}, 400),
        ("options", {"top_p": 0}, 400),
        ("options", {"stop": 5}, 400),
        ("options", [], 400),
    ],
)
def test_bad_values_are_refused(
    client: TestClient, field: str, value: object, status: int, stream: bool
) -> None:
    body = continue_ollama(**{"suffix": None, field: value, "stream": stream})
    answer = client.post("/api/generate", json=body)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("stream", [True, False])
def test_times_are_of_the_tokens(client: TestClient, engine, stream: bool) -> None:
    """Also where the answer is whole: pauses lie between its tokens."""
    engine.pause = 0.01
    body = continue_ollama(suffix=None, stream=stream)
    told = json.loads(client.post("/api/generate", json=body).text.splitlines()[-1])
    assert told["eval_count"] == NEW
    assert told["eval_duration"] >= 0.01 * 1e9
    spent = told["prompt_eval_duration"] + told["eval_duration"]
    assert 0 < told["prompt_eval_duration"] < spent <= told["total_duration"]


@pytest.fixture
def client_of_ollama(live) -> Iterator[ollama.Client]:
    with ollama.Client(host=live.url, trust_env=False) as made:
        yield made


def test_the_ollama_client(client_of_ollama, twin: Engine, tokenizer: Tokenizer) -> None:
    [found] = twin.generate(tokenizer.encode("class"), max_new_tokens=12)
    how = {"model": "tiny", "options": {"temperature": 0, "num_predict": 12}}
    assert client_of_ollama.generate(prompt="class", **how).response == found.text
    parts = list(client_of_ollama.generate(prompt="class", stream=True, **how))
    assert "".join(part.response for part in parts) == found.text
    assert parts[-1].eval_count == NEW
    infilled = client_of_ollama.generate(prompt="def add(", suffix="):\n", **how)
    assert infilled.done_reason == "length"
    assert [model.model for model in client_of_ollama.list().models] == ["tiny"]
    assert "insert" in client_of_ollama.show("tiny").capabilities
    with pytest.raises(ollama.ResponseError, match="does not exist"):
        client_of_ollama.generate(model="llama3", prompt="x")
