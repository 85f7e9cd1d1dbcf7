"""Keys within base64."""

import base64
import json

import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.core import keyed
from starkiln.curate.pii.detect import candidates
from starkiln.curate.pii.veiled import holds, shifted

GITHUB = "ghp_" + "D7N2kHD9FSUuErsEz5jhy0I9lO7F3vlfFrGY"
LINES = [base64.b64encode(keyed.digest("line", n) * 2)[:64].decode() for n in range(6)]
BEGIN, END = (f"-----{word} RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
PEM = "\n".join([BEGIN, *LINES, END, ""])


def veil(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def found(text: str, label: str = "KEY") -> list[str]:
    spans = candidates([text], [label])[0]
    return [text[s.start : s.end] for s in resolve(s for s in spans if s.confidence >= SURE)]


def test_what_base64_makes_of_a_word_behind_others():
    for shift in range(3):
        assert shifted("-----BEGIN ", shift) in veil("x" * (3 + shift) + "-----BEGIN RSA")


@pytest.mark.parametrize(
    "text", ["{}", "tls.key: {}\n", "KEY='{}'\n", "data:\n  ssh-privatekey: {}\n", "echo {} | x"]
)
@pytest.mark.parametrize("before", ["", "#\n", "a: ", '{"type": "x", "private_key": "'])
def test_a_private_key(text, before):
    whole = veil(before + PEM)
    assert found(text.format(whole)) == [whole]


@pytest.mark.parametrize("join", ["\n", "\r\n", "\n    ", "\\n", '"\n  "', '" +\n  "'])
def test_a_private_key_on_lines(join):
    whole = veil(PEM)
    lines = [whole[n : n + 76] for n in range(0, len(whole), 76)]
    text = f'x: "{join.join(lines)}"\ny: word\n'
    (one,) = found(text)
    assert one == join.join(lines)


def test_public_ones_are_none():
    for word in ("CERTIFICATE", "PUBLIC KEY", "CERTIFICATE REQUEST"):
        assert found(f"ca.crt: {veil(PEM.replace('RSA PRIVATE KEY', word))}\n") == []
    assert found(veil("-----BEGIN the tale-----\n" + "of words that say nothing\n" * 9)) == []


def test_a_provider_s_key():
    live = "sk_live_" + "D7N2kHD9FSUuErsEz5jhy0I9"
    for key in (GITHUB, GITHUB + "\n", live, "AKIA" + "Q3EGRIZJ7W2A5XLN"):
        assert found(f"x: {veil(key)}\n") == [veil(key)], key
    pair = veil("x-access-token:" + GITHUB)
    assert found(f'token = "{pair}"') == [pair]
    for key in ("ghp_token", "AKIA and more of it", "sk_live_is_where"):
        assert found(f"x: {veil(key)}\n") == [], key


def test_files_of_credentials():
    file = {"auths": {"r.io": {"auth": veil("kim:" + "qT7wYzM8")}}}
    for indent in (None, 2):
        whole = veil(json.dumps(file, indent=indent))
        assert found(f"kind: Secret\ndata:\n  .dockerconfigjson: {whole}\n") == [whole]
    plain = veil(json.dumps({"type": "create", "challenge": "qT7wYzM8vK7hb9x", "n": [1] * 9}))
    assert found(f"clientData: {plain}\n") == []
    assert holds(veil("//r.io/:_authToken=" + "qT7wYzM8vK7hb9x"))
    assert not holds(veil("the token is not told here, nor the password"))


@pytest.mark.parametrize("value", ["qT7wYzM8!9", "sommerwind9"])
@pytest.mark.parametrize(
    "text",
    [
        "kind: Secret\ndata:\n  password: {}\n",
        'kind: Secret\ndata:\n  db-password: "{}"\n',
        "kind: Secret\ndata:\n  password: |\n    {}\n",
        '{{"kind": "Secret", "data": {{"password": "{}"}}}}',
        "//registry.npmjs.org/:_password={}\n",
        "_password={}\n",
    ],
)
def test_a_password_in_base64(text, value):
    assert found(text.format(veil(value)), "PASSWORD") == [veil(value)]


@pytest.mark.parametrize("value", ["password", "secret", "admin"])
def test_a_trivial_one_stays(value):
    assert found(f"kind: Secret\ndata:\n  password: {veil(value)}\n", "PASSWORD") == []


def test_cipher_text_and_pictures_are_none():
    noise = base64.b64encode(b"".join(keyed.digest("noise", n) for n in range(12))).decode()
    sealed = f"spec:\n  encryptedData:\n    token: Ag{noise}\n    password: Ag{noise}\n"
    assert found(sealed) == found(sealed, "PASSWORD") == []
    assert found(f"token: Ag{noise}\n") == [f"Ag{noise}"]
    for magic in (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"<svg xmlns=", b"wOFF"):
        picture = base64.b64encode(magic).decode().rstrip("=")[:-1] + noise
        assert found(f'"apikey_icon": "{picture}", "token_image": "{picture}"') == []
    assert found(f'"apikey_value": "{noise}"') == [noise]


@pytest.mark.parametrize("unit", ["LS0tLS1CRUdJTi", "QUtJQ", "eyJ", "ewog", "key: " + "QUtJ" * 8])
def test_nothing_is_decoded_again_and_again(unit, amid):
    assert found(amid(unit, "Q")) == found(amid(unit + " ", " ")) == []
