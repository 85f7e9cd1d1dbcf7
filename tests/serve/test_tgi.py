"""Text Generation Inference's protocol: llm-ls, Continue, and the huggingface_hub client itself."""

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from editors import LINE, LSP, NEW, PREFIX, RENDERED, SUFFIX, continue_tgi, llm_ls
from starkiln.model.engine import Engine
from starkiln.tokenizer import context
from starkiln.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.timeout(90)


def greedy(client: TestClient) -> str:
    """The structured infill."""
    body = {"prompt": PREFIX + LINE, "suffix": SUFFIX, "max_tokens": NEW, "temperature": 0}
    answer = client.post("/v1/completions", json=body)
    return answer.json()["choices"][0]["text"]


def asked(**rest: object) -> dict:
    return {"inputs": RENDERED, "parameters": {"max_new_tokens": NEW, **rest}}


@pytest.mark.parametrize("backend", ["tgi", "huggingface"])
def test_llm_ls(client: TestClient, backend: str) -> None:
    drawn = {"max_new_tokens": NEW, "temperature": 0.2, "top_p": 0.95}
    path, body = llm_ls(backend, {"parameters": drawn})
    assert client.post(path, json=body, headers=LSP).status_code == 200
    path, body = llm_ls(backend, {"parameters": {"max_new_tokens": NEW}})
    found = client.post(path, json=body, headers=LSP).json()
    assert found == {"generated_text": greedy(client)}


def test_what_names_no_way_to_draw_is_greedy(client: TestClient) -> None:
    ways = [{}, {"seed": 5}, {"temperature": 0}, {"do_sample": False}]
    texts = {client.post("/generate", json=asked(**way)).text for way in ways}
    assert len(texts) == 1
    drawn = {client.post("/generate", json=asked(do_sample=True, seed=i)).text for i in range(3)}
    assert len(drawn) == 3


def test_the_prompt_is_cut_to_its_last_tokens(
    client: TestClient, twin: Engine, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("class Adder:\n    total = ")
    [found] = twin.generate(ids[-5:], max_new_tokens=NEW)
    body = {"inputs": "class Adder:\n    total = ", "parameters": {"max_new_tokens": NEW}}
    body["parameters"]["truncate"] = 5
    assert client.post("/generate", json=body).json() == {"generated_text": found.text}
    body["parameters"]["truncate"] = 500
    [found] = twin.generate(ids, max_new_tokens=NEW)
    assert client.post("/generate", json=body).json() == {"generated_text": found.text}
    around = context.prompt(PREFIX + LINE, SUFFIX, tokenizer, limit=20, mode="spm")
    [found] = twin.generate(around, max_new_tokens=NEW)
    text = context.trim(found.text, SUFFIX, PREFIX + LINE)
    assert client.post("/generate", json=asked(truncate=20)).json() == {"generated_text": text}
    assert client.post("/generate", json=asked(truncate=2)).status_code == 400
    assert client.post("/generate", json=asked(truncate=0)).status_code == 400


def test_continue_streams(client: TestClient) -> None:
    assert client.get("/info").json()["model_id"] == "tiny"
    assert int(client.get("/info").json()["max_input_length"]) == 511
    body = continue_tgi(temperature=0)
    with client.stream("POST", "/generate_stream", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    told = [json.loads(line.removeprefix("data: ")) for line in lines]
    text = "".join(one["token"]["text"] for one in told)
    assert [one["generated_text"] for one in told] == [None] * (len(told) - 1) + [text]
    body["parameters"]["details"] = True
    whole = client.post("/generate", json=body).json()
    assert whole["generated_text"] == text
    for name in ("finish_reason", "generated_tokens"):
        assert told[-1]["details"][name] == whole["details"][name]


def test_details(client: TestClient, twin: Engine, tokenizer: Tokenizer) -> None:
    body = {"inputs": "class", "parameters": {"max_new_tokens": 9, "details": True}}
    answer = client.post("/generate", json=body).json()
    [found] = twin.generate(tokenizer.encode("class"), max_new_tokens=9)
    assert [token["id"] for token in answer["details"]["tokens"]] == found.tokens
    logprobs = [token["logprob"] for token in answer["details"]["tokens"]]
    assert logprobs == pytest.approx(found.logprobs, abs=1e-4)
    body["parameters"] = {"max_new_tokens": 9, "return_full_text": True}
    assert client.post("/generate", json=body).json() == {"generated_text": "class" + found.text}


def test_the_best_of_several(client: TestClient) -> None:
    body = asked(best_of=3, do_sample=True, seed=1)
    assert client.post("/generate", json=body).status_code == 200
    assert client.post("/generate_stream", json=body).status_code == 400


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": 5},
        {"inputs": "x", "parameters": []},
        *(
            {"inputs": "x", "parameters": parameters}
            for parameters in (
                *({"temperature": -1}, {"top_p": 0}, {"top_k": 0}, {"max_new_tokens": 0}),
                *({"max_new_tokens": 65}, {"stop": [""]}, {"stop": ["x"] * 17}, {"seed": 1 << 64}),
                *({"best_of": 0}, {"details": "yes"}),
            )
        ),
        {"inputs": "x " * 600},
    ],
)
def test_bad_values_are_refused(client: TestClient, path: str, body: dict) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)  # llm-ls reads a text here
    assert answer.json()["error_type"] == "validation"


hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hugging(live) -> Iterator["hub.InferenceClient"]:
    with hub.InferenceClient(model=live.url, token="any") as made:
        yield made
    hub.close_session()


def test_huggingface_hub(hugging, twin: Engine, tokenizer: Tokenizer) -> None:
    [found] = twin.generate(tokenizer.encode("class"), max_new_tokens=12)
    assert hugging.text_generation("class", max_new_tokens=12) == found.text
    told = hugging.text_generation("class", max_new_tokens=12, details=True)
    assert told.generated_text == found.text
    assert [token.id for token in told.details.tokens] == found.tokens
    texts = hugging.text_generation("class", max_new_tokens=12, stream=True)
    assert "".join(texts) == found.text
    *_, last = hugging.text_generation("class", max_new_tokens=12, stream=True, details=True)
    assert last.generated_text == found.text
    assert last.details.finish_reason == "length"
    with pytest.raises(hub.errors.ValidationError):
        hugging.text_generation("class", max_new_tokens=4000)
