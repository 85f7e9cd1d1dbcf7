"""Hostile and broken requests: a right status in OpenAI's shape, and the server lives on."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from starkiln.model.decoder import Decoder
from starkiln.model.engine import Engine
from starkiln.serve.server import application
from starkiln.serve.service import Service
from starkiln.serve.settings import ServeSettings
from starkiln.tokenizer.tokenizer import Tokenizer

FINE = {"prompt": "x", "max_tokens": 2}


@pytest.fixture(scope="module")
def any_client(decoder: Decoder, tokenizer: Tokenizer) -> Iterator[TestClient]:
    service = Service("tiny", Engine(decoder, tokenizer), tokenizer, ServeSettings())
    yield TestClient(application(service))
    service.close()


def refused(client: TestClient, content: bytes | dict, status: int = 400) -> dict:
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    answer = client.post("/v1/completions", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert client.post("/v1/completions", json=FINE).status_code == 200
    return error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "x"',
        b"[]",
        b"null",
        b'"text"',
        b"prompt=x",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "suffix": "\\udfff"}',
        b'{"prompt": "x", "stop": ["\\ud83d"]}',
        b"\x00" * 100,
        b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"other": ' + b'{"a":' * 50_000,
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "top_p": NaN}',
        b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "seed": ' + b"9" * 400 + b"}",
    ],
)
def test_what_is_no_request(client: TestClient, content: bytes) -> None:
    refused(client, content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("logit_bias", [5]),
        ("max_tokens", -1),
        ("max_tokens", 65),
        ("max_tokens", 2**31),
        ("max_tokens", 1.5),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("n", 0),
        ("n", -3),
        ("n", 5),
        ("n", 10**9),
        ("best_of", 5),
        ("best_of", 0),
        ("temperature", -0.1),
        ("temperature", 1e300),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1),
        ("seed", 2**64),
        ("seed", 0.5),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stop", [1]),
        ("stop", {"a": 1}),
        ("stop", "x" * 1001),
        ("logprobs", 21),
        ("logprobs", -1),
        ("echo", "yes"),
        ("stream", "yes"),
        ("stream_options", [1]),
        ("suffix", 5),
        ("mode", "middle"),
        ("path", 5),
        ("repo", ["x"]),
        ("prompt", 5),
        ("prompt", []),
        ("prompt", [[]] * 5),
        ("prompt", ["x", 5]),
        ("prompt", [1, "x"]),
        ("prompt", [True]),
        ("prompt", [1.5]),
        ("prompt", [[[1]]]),
        ("prompt", {"text": "x"}),
        ("prompt", ["x"] * 5),
        ("prompt", [-1]),
        ("prompt", [10**6]),
        ("prompt", [2**80]),
        ("prompt", [5] * 511),
    ],
)
def test_known_fields_with_bad_values(client: TestClient, field: str, value: object) -> None:
    for streams in (False, True):
        error = refused(client, {**FINE, "stream": streams, field: value})
        assert error["type"] == "invalid_request_error"
        assert error["param"].split(".")[0] == field or field == "best_of", error


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "best_of": 2},
        {"best_of": 2, "stream": True},
        {"echo": True, "suffix": "y"},
        {"echo": True, "path": "a.py"},
        {"echo": True, "prompt": "<fim_prefix>a<fim_suffix>b<fim_middle>"},
        {"echo": True, "prompt": ["x", "<fim_prefix><fim_suffix>b<fim_middle>a"]},
        {"prompt": [20, 30], "path": "a.py"},
        {"path": "p" * 100_000},
        {"prompt": ["a", "b"], "best_of": 3},
        {"prompt": ["a"] * 4, "best_of": 4},
        {"prompt": [20, 30], "suffix": "y"},
        {"prompt": ["a", "b", "c"], "n": 2},
    ],
)
def test_fields_that_do_not_go_together(client: TestClient, fields: dict) -> None:
    refused(client, {**FINE, **fields})


def test_what_is_not_supported_may_be_neutral(client: TestClient) -> None:
    """As clients send it that send all fields."""
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    for body in (neutral, dict.fromkeys(neutral)):
        assert client.post("/v1/completions", json={**FINE, **body}).status_code == 200


def test_more_prompts_than_may_wait_can_never_be_answered(serviced) -> None:
    """That is no matter of trying again."""
    client = TestClient(application(serviced(max_waiting=2)))
    answer = client.post("/v1/completions", json={**FINE, "prompt": ["a", "b", "c"]})
    assert answer.status_code == 400
    assert "at most 2 prompts at once (max_waiting)" in answer.json()["error"]["message"]
    answer = client.post("/v1/completions", json={**FINE, "prompt": ["a", "b"]})
    assert answer.status_code == 200


@pytest.mark.parametrize("field", ["repo", "path"])
def test_the_longer_name_is_the_one_that_is_told(client: TestClient, field: str) -> None:
    names = {"repo": "o/r", "path": "a.py", field: "x" * 100_000}
    assert refused(client, {**FINE, **names})["param"] == field


def test_an_unknown_model(client: TestClient) -> None:
    error = refused(client, {**FINE, "model": "gpt-5"}, 404)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"


def test_a_plain_prompt_over_the_context(client: TestClient) -> None:
    """Nothing of it is dropped in silence: only what an editor sends is trimmed."""
    for prompt in ("word " * 2000, [30] * 520, "x" * 3_000_000):
        error = refused(client, {"prompt": prompt, "max_tokens": 2})
        assert error["code"] == "context_length_exceeded"
        assert "512" in error["message"]


def test_prompt_and_completion_fill_the_context_exactly(client: TestClient) -> None:
    for count, status in ((500, 200), (501, 400)):
        answer = client.post("/v1/completions", json={"prompt": [30] * count, "max_tokens": 12})
        assert answer.status_code == status
    answer = client.post("/v1/completions", json={"prompt": [30] * 505})
    assert answer.json()["usage"]["completion_tokens"] == 7  # who names no number gets what is left


def test_an_editors_prompt_over_the_context_is_trimmed(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    lines = "".join(f"value_{i} = {i}\n" for i in range(3000))
    asked = {"prompt": lines, "suffix": lines, "max_tokens": 10**6}
    answer = client.post("/v1/completions", json=asked)
    assert answer.status_code == 200
    usage = answer.json()["usage"]
    assert usage["completion_tokens"] == 64  # the server's most
    assert 300 < usage["prompt_tokens"] <= 512 - 64


def test_unknown_fields_are_ignored(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={**FINE, "provider": {"only": []}, "user": None})
    assert answer.status_code == 200


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "suffix", "n", "stop", "logprobs", "echo", "seed", "top_p"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_json_is_answered_or_refused(any_client: TestClient, fields: dict) -> None:
    answer = any_client.post("/v1/completions", content=json.dumps({"max_tokens": 1, **fields}))
    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or answer.json()["error"]["message"]
