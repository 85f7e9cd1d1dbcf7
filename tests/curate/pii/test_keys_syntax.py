"""Keys in the syntax of many languages and tools."""

import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii.detect import candidates

VALUE = "Zt47kwQ9rHmXb2LpVn63sYcD"  # nobody's


def found(text: str) -> list[str]:
    (spans,) = candidates([text], ["KEY"])
    return [text[s.start : s.end] for s in resolve(spans) if s.confidence >= SURE]


@pytest.mark.parametrize(
    "text",
    [
        'const API_KEY: &str = "{}";',
        'static SECRET: &\'static str = "{}";',
        'const char api_key[] = "{}";',
        'api_key <- "{}"',
        'Const API_KEY As String = "{}"',
        "API_TOKEN := {}\n",
        "API_TOKEN ?= {}\n",
        'const apiKey = process.env.API_KEY ?? "{}";',
        'const token = process.env.API_TOKEN || "{}";',
        'token = os.environ.get("API_TOKEN") or "{}"',
        "$token = getenv('API_TOKEN') ?: '{}';",
        "ENV['API_TOKEN'] ||= '{}'",
        "TOKEN=${{TOKEN:-{}}}\n",
        ': "${{TOKEN:={}}}"\n',
        'variable "api_token" {{ default = "{}" }}',
        "- name: API_KEY\n  value: {}\n",
        '{{"name": "API_KEY", "value": "{}"}}',
        "<key>ApiSecret</key><string>{}</string>",
        '<add key="ApiKey" value="{}"/>',
        '<property name="api.secret" value="{}"/>',
        '<meta-data android:name="io.corp.API_KEY" android:value="{}"/>',
        "INSERT INTO keys (id, api_key) VALUES (1, '{}');",
        'var secretKey = []byte("{}")',
        "API key: {}\n",
        "**API key**: {}\n",
        'let key = ApiKey {{ secret: String::from("{}") }};',
        'app.config[\'X_TOTP_SECRETS\'] = {{"1": "{}"}}',
        'config["API_KEYS"] = {{\n    "one": "{}",\n}}',
        'secrets: {{ "one": "-", "two": "{}" }}',
        """token_json = ('{{   "access_token":"{}",'\n  '"x": 1}}')""",
    ],
)
def test_syntax(text):
    assert found(text.format(VALUE)) == [VALUE]


def test_base64_that_begins_with_a_slash():
    value = "/tQ9rSwzkIZOq4dcq1RM2vzyfwArfTD7Q4yXEF3NCiU="
    assert found(f'API_KEY = "{value}"') == [value]
    assert found('SECRET_KEY = "/run/secrets/v2/ClientSecret/production/current"') == []


@pytest.mark.parametrize(
    "text",
    [
        "token = x9f8e7d6c5b4a3\n",
        "- name: API_KEY\n  value: production\n",
        '{"name": "API_KEY", "value": "your-api-key-here"}',
        'const apiKey = process.env.API_KEY ?? "none";',
        "INSERT INTO keys (id, api_key) VALUES (1, NULL);",
        'cache_key ?? "Zt47kwQ9rHmXb2LpVn63sYcD"',
        'secrets = {"id": "Zt47kwQ9rHmXb2LpVn63sYcD", "key_hash": "Zt47kwQ9rHmXb2LpVn63sYcD"}',
        'colours = {"1": "Zt47kwQ9rHmXb2LpVn63sYcD"}',
        "see bearer Sha256Hash and Bearer IPv4Address",
    ],
)
def test_none(text):
    assert found(text) == []


def test_short_tokens_behind_bearer():
    assert found("{'Authorization': 'Bearer  kT8dXw2qmR'}") == ["kT8dXw2qmR"]


@pytest.mark.parametrize("head", ["aeyJhbGciOiAiSFMyNTYifQ", "eyJhbGciOiAiSFMyNTYifQ=="])
def test_the_last_part_of_a_broken_token(head):
    last = "Zt47kwQ9rHmXb2LpVn63sYcDHq85mcW3tJkYd6NsFb2"
    text = f'("{head}"\n ".eyJoZWxsbyI6ICJ3b3JsZCJ9"\n ".{last}")'
    assert found(text)[-1:] == [last]
    assert found(f'(".words"\n ".{last}")') == []
