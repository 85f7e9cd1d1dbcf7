"""Keys, origins, metrics and refusals: what all protocols share."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from starkiln.core.errors import UserError
from starkiln.serve.server import application
from starkiln.serve.service import Service
from starkiln.serve.settings import ServeSettings, accepted_keys, check_open

SHORT = {"prompt": "x", "max_tokens": 2}


def test_health(serviced: Callable[..., Service]) -> None:
    service = serviced()
    client = TestClient(application(service))
    assert client.get("/health").json() == {"status": "ok"}
    service.close()
    assert client.get("/health").status_code == 503
    answer = client.post("/v1/completions", json=SHORT)
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/completions", 405),
    ],
)
def test_wrong_doors_are_named(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Bearer secret-1x", 401),
        ("Basic secret-1", 401),
        ("Bearer sécret", 401),
        ("Bearer secret-1", 200),
        ("bearer secret-2", 200),
    ],
)
def test_keys(serviced: Callable[..., Service], header: str | None, status: int) -> None:
    client = TestClient(application(serviced(keys=frozenset({"secret-1", "secret-2"}))))
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = client.post("/v1/completions", json=SHORT, headers=headers)
    assert answer.status_code == status
    assert client.get("/metrics", headers=headers).status_code == status
    assert client.get("/health").status_code == 200
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert "secret" not in answer.text


def test_keys_come_from_settings_and_environment() -> None:
    how = ServeSettings(api_keys=["a", " "])
    assert accepted_keys(how, {"STARKILN_API_KEYS": "b, c,,"}) == {"a", "b", "c"}
    assert accepted_keys(ServeSettings(), {}) == frozenset()


@pytest.mark.parametrize("key", ["kéy-ü", "ключ", "two words", "tab\tkey", "bell\a", "x\x7f"])
def test_keys_that_no_client_could_send_are_refused_at_start(key: str) -> None:
    for how, environment in (
        (ServeSettings(api_keys=[key]), {}),
        (ServeSettings(), {"STARKILN_API_KEYS": f"fine,{key}"}),
    ):
        with pytest.raises(UserError, match="ASCII") as told:
            accepted_keys(how, environment)
        assert key not in str(told.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    check_open(ServeSettings(host=host), frozenset())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "example.org", "127.1", "0"])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(UserError, match="no key"):
        check_open(ServeSettings(host=host), frozenset())
    check_open(ServeSettings(host=host), frozenset({"k"}))


def test_origins(serviced: Callable[..., Service]) -> None:
    page, other = {"Origin": "https://page.example"}, {"Origin": "https://other.example"}
    client = TestClient(application(serviced(cors=[page["Origin"]], keys=frozenset({"k"}))))
    wishes = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    fine = client.options("/v1/completions", headers={**page, **wishes})
    assert fine.status_code == 200
    assert fine.headers["access-control-allow-origin"] == page["Origin"]
    own = "authorization,content-type,x-stainless-arch,x-stainless-retry-count"  # openai's
    wide = {**wishes, "Access-Control-Request-Headers": own}
    fine = client.options("/v1/completions", headers={**page, **wide})
    assert fine.status_code == 200
    assert set(own.split(",")) <= set(fine.headers["access-control-allow-headers"].split(","))
    assert client.options("/v1/completions", headers={**other, **wide}).status_code == 400
    assert client.options("/v1/completions", headers={**other, **wishes}).status_code == 400
    refused = client.post("/v1/completions", json=SHORT, headers=page)
    assert refused.status_code == 401  # and a page may read why
    assert refused.headers["access-control-allow-origin"] == page["Origin"]
    closed = TestClient(application(serviced()))
    answer = closed.post("/v1/completions", json=SHORT, headers=page)
    assert "access-control-allow-origin" not in answer.headers


def value(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(f"starkiln:{name} ")]
    return float(line.rpartition(" ")[2])


def test_a_request_of_one_step_has_waited_too(client: TestClient) -> None:
    for most in (1, 1, 9):
        client.post("/v1/completions", json={"prompt": "x", "max_tokens": most})
    text = client.get("/metrics").text
    assert value(text, "time_to_first_token_seconds_count") == 3
    assert value(text, "request_queue_time_seconds_count") == 3


def test_metrics(client: TestClient) -> None:
    for _ in range(2):
        client.post("/v1/completions", json={"prompt": "class Adder" * 12, "max_tokens": 9})
    client.post("/v1/completions", json={"prompt": "x", "max_tokens": 10**6})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.text
    assert value(text, "generation_tokens_total") == 18
    assert value(text, "prompt_tokens_total") == value(text, "prefix_cache_queries_total")
    assert 0 < value(text, "prefix_cache_hits_total") < value(text, "prompt_tokens_total")
    assert value(text, "time_to_first_token_seconds_count") == 2
    assert value(text, "request_queue_time_seconds_count") == 2
    assert value(text, "e2e_request_latency_seconds_count") == 2
    assert 0 < value(text, "inter_token_latency_seconds_count") <= 16  # drafts come at once
    assert value(text, "num_samples_running") == value(text, "num_requests_waiting") == 0
    assert value(text, 'request_success_total{finished_reason="length"}') == 2
    answered = 'http_requests_total{path="/v1/completions",status='
    assert value(text, answered + '"200"}') == 2
    assert value(text, answered + '"400"}') == 1
