import base64
import json
import re
import tomllib
import zlib
from importlib.resources import files

import pytest

from starkiln.code.spans import SURE, Span, resolve
from starkiln.core import keyed
from starkiln.curate.pii import providers
from starkiln.curate.pii.detect import candidates

_B62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALPHABETS = {
    "10": "123456789",
    "16": "0123456789abcdef",
    "32": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "36": "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "62": _B62,
    "64": _B62 + "-_",
    "a0": "abcdefghijklmnopqrstuvwxyz0123456789",
    "Aa": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    "bech": "023456789ACDEFGHJKLMNPQRSTUVWXYZ",
}
_TABLE = tomllib.loads(files("starkiln.curate.pii").joinpath("keys.toml").read_text("utf-8"))


def draw(alphabet: str, size: int, item: str = "") -> str:
    """So many letters of an alphabet; none of them beside itself, none in a row."""
    letters = _ALPHABETS[alphabet]
    numbers = keyed.generator("sample", 0, alphabet, size, item)
    out = ""
    while len(out) < size:
        one = letters[int(numbers.integers(len(letters)))]
        if not out or abs(ord(one) - ord(out[-1])) > 1:
            out += one
    return out if alphabet == "10" or any(c.isdigit() for c in out) else out[:-1] + "7"


def mint(template: str, cut: int = 0) -> str:
    """A sample of a row of keys.toml; with ``cut``, its last drawn field is that much shorter."""
    fields = list(re.finditer(r"\{(\w+)(?::(\d+))?\}", template))
    drawn = [m for m in fields if m[2]]
    out, end = "", 0
    for match in fields:
        out += template[end : match.start()]
        end = match.end()
        if match[1] == "crc62":
            body = out.rpartition("_")[2]
            out += providers.base62(zlib.crc32(body.encode())).rjust(6, "0")
        elif match[1] == "macaroon":
            body = b"\x02\x01\x08pypi.org\x02\x02\x10" + draw("64", 60).encode()
            out += base64.urlsafe_b64encode(body).decode().rstrip("=")
        elif match[1] == "Aa":
            out += "".join(c for c in draw("Aa", 90) if c.isalpha())[: int(match[2]) - cut]
        else:
            short = cut if match is drawn[-1] else 0
            out += draw(match[1], int(match[2]) - short, str(match.start()))
    return out + template[end:]


def told(text: str) -> list[Span]:
    return candidates([text], ["KEY"])[0]


def found(text: str, sure: bool = True) -> list[str]:
    """The values that the rules are sure of (or all), by place."""
    return [text[s.start : s.end] for s in resolve(told(text)) if s.confidence >= SURE or not sure]

    assert len(_TABLE) >= 40


def test_there_are_many_providers():
    assert len(_TABLE) >= 40


@pytest.mark.parametrize("name", _TABLE)
def test_provider(name):
    sample = mint(_TABLE[name]["sample"])
    text = f"x = [\n  {sample}\n]"
    spans = [s for s in told(text) if s.reason == name]
    assert len(spans) == 1, sample
    value = text[spans[0].start : spans[0].end]
    assert value in sample
    assert spans[0].confidence >= SURE
    tail = sample[sample.index(value) + len(value) :]
    assert not tail or not tail[0].isalnum()


@pytest.mark.parametrize("name", _TABLE)
def test_provider_knows_near_misses(name):
    row = _TABLE[name]
    sizes = re.findall(r":(\d+)\}", row["sample"])
    misses = [row["sample"].replace("{crc62}", "").replace("{macaroon}", "AgEIcHlw")]
    misses = [mint(misses[0], cut=max(int(sizes[-1]) - 5, 3))] if sizes else misses
    misses.append(re.sub(r"[A-Za-z0-9_-]", "x", mint(row["sample"])))
    if not row.get("loose") and not re.match(r".*[/$(]", row["pattern"]):
        misses.append("a1" + mint(row["sample"]))
    for miss in misses:
        text = f"x = [\n  {miss}\n]"
        assert not [s for s in told(text) if s.reason == name], miss


def test_a_checksum_makes_sure():
    right = mint(_TABLE["github"]["sample"])
    wrong = right[:-1] + ("a" if right[-1] != "a" else "b")
    assert providers.crc62(right)
    assert not providers.crc62(wrong)
    text = f"{right} {wrong}"
    sure = {s.start: s.confidence for s in told(text) if s.reason == "github"}
    assert sure[0] > 0.9 > sure[len(right) + 1]


BEGIN, END = (f"-----{word} RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
HEX32, HEX64, B62_24, B62_40 = draw("16", 32), draw("16", 64), draw("62", 24), draw("62", 40)
UUID = "-".join(draw("16", n, "u") for n in (8, 4, 4, 4, 12))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('API_KEY = "{}"', B62_24),
        ('{{"access_token": "{}", "expires_in": 3600}}', B62_40),
        ("{{'client_secret' => '{}'}}", B62_24),
        ('const apiKey: string = "{}";', HEX32),
        ("export SECRET_KEY={}", HEX64),
        ("secret_key: {}\n", B62_40),
        ("X-Api-Key: {}\r\n", HEX32),
        ("https://h/x?access_token={}&v=1", B62_24),
        ("Authorization: token {}", HEX64[:40]),
        ('curl -H "Authorization: Bearer {}"', B62_40),
        ("<add key='a' secretKey='{}' />", B62_24),
        ("<AuthToken>{}</AuthToken>", B62_40),
        ('token = b"{}"', HEX32),
        ('key = bytes.fromhex("{}")  # hmac', HEX64),
        ('totp = TOTP("{}")', draw("32", 32)),
        ('self.assertEqual(session["auth_token"], "{}")', HEX32),
        ('  secret "{}";\n  algorithm hmac-md5;', B62_24),
        ('{{"client_token": "{}"}}', UUID),
        ('\\"token\\": \\"{}\\"', B62_24),
        ("api_key" + " " * 60 + "= '{}'", B62_24),
        ('\\\\\\"token\\\\\\": \\\\\\"{}\\\\\\"', B62_24),
        ("secret_key: |\n  {}\n", B62_40),
        ("<AuthToken><![CDATA[{}]]></AuthToken>", B62_40),
        ("https://{}@github.com/x/y.git", HEX64[:40]),
        ("git+https://{}:x-oauth-basic@github.com/x", HEX64[:40]),
        ("https://{}:@api.host.io/v1", B62_24),
        ("DEPLOYER_PK={}\n", "0x" + HEX64),
        ("private_key: {}\n", "0x" + HEX64),
        ("SECRET_KEY = '{}'", "dj-r#k8(q&z!7w=p@x2v)m9t^b4"),
        ("AccountKey={};EndpointSuffix=x", draw("62", 86) + "=="),
        ('hmac_key = b"{}"', "".join(f"\\x{n:02x}" for n in keyed.digest("bytes", 0)[:16])),
    ],
)
def test_context(text, value):
    assert value in found(text.format(value)), text


@pytest.mark.parametrize(
    "text",
    [
        f'"integrity": "sha512-{draw("62", 86)}=="',
        f'md5 = "{HEX32}"',
        f'"sha256": "{HEX64}"',
        f"commit {HEX64[:40]}",
        f'"ETag": "{HEX32}"',
        f'cache_key = "{HEX32}"',
        f'public_key = "{B62_40}"',
        f'csrf_token = "{B62_40}"',
        f'next_page_token: "{B62_24}"',
        f'key_id = "{B62_24}"',
        f'"id": "{UUID}"',
        f'key = "{UUID}"',
        f'password_hash = "$2b$12${draw("62", 53)}"',
        f"ssh-rsa AAAAB3NzaC1yc2E{draw('62', 200)} a@b",
        f"known_hosts key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{draw('62', 44)}'",
        f"token = 'SHA256:{draw('62', 43)}'",
        'token = "AKIA' + 'IOSFODNN7EXAMPLE"',
        'api_key = "your-api-key-here"',
        'api_key = "xxxxxxxxxxxxxxxxxxxxxxxx"',
        'api_key = "${API_KEY}"',
        'secret = "<your secret>"',
        'token_type = "urn:ietf:params:oauth:token-type:jwt"',
        "token = self.tokenizer.nextToken2()",
        'SECRET_NAME = "prod/app/db-credentials-v2"',
        'token_url = "https://auth.host.io/oauth2/token"',
        'key = "getElementsByTagName2"',
        'secret = "theappssecret"',
        'KeyFactory.getInstance("PBKDF2WithHmacSHA256")',
        'algorithm_key = "ECDHE-RSA-AES128-GCM-SHA256"',
        "-----BEGIN PUBLIC KEY-----\n" + draw("62", 64) + "\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\n" + draw("62", 64) + "\n-----END CERTIFICATE-----",
        f"{BEGIN}\n...\n{END}",
        f"src='data:image/png;base64,{draw('62', 400)}'",
        f"secret_key = 0x{HEX32}\n",
        f"#define SECRET_KEY 0x{HEX32}\n",
        f"private_key = 0x{HEX64}\n",
        f"f(private_key=0x{HEX64})",
        f"{{private_key: 0x{HEX64}, x: 1}}",
        "https://a-page-of-words-that-says-nothing-2@github.com/x",
        f"https://{HEX32}@o4507.ingest.sentry.io/77",
        f"https://h.io/{HEX32}@github.com/x",
        f"integrity-{HEX32}@github.com",
        'token = "some-package@4.17.21-beta2"',
        "authors of the monkey keyboard token secretary",
    ],
)
def test_no_key(text):
    assert found(text) == []


LINES = [draw("62", 64, str(n)) for n in range(4)] + [draw("62", 22) + "=="]


@pytest.mark.parametrize("join", ["\n", "\r\n", "\\n", "\\r\\n", "\n    ", "\\\n"])
def test_pem_is_one_span_between_its_markers(join):
    text = f"key: |{join}{join.join([BEGIN, *LINES, END])}{join}"
    assert found(text) == [join.join([BEGIN, *LINES, END])]


def test_pem_in_string_literals_line_by_line():
    body = "".join(f'    "{line}\\n"\n' for line in [BEGIN, *LINES, END])
    assert found(f"k = (\n{body})") == [body[body.index("-") : body.rindex("-") + 1]]
    comments = "\n".join(f"# {line}" for line in [BEGIN, *LINES, END])
    assert found(comments) == [comments[2:]]


@pytest.mark.parametrize("kind", ["OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK", "PRIVATE KEY"])
def test_pem_kinds_and_headers(kind):
    headers = f"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,{HEX32.upper()}\n\n"
    text = f"-----BEGIN {kind}-----\n{headers}{chr(10).join(LINES)}\n-----END {kind}-----\n"
    assert found(text) == [text.strip()]


def test_pem_cut_at_either_end():
    body = "\n".join(LINES[:3])
    assert found(f"{BEGIN}\n{body}") == [body]
    assert found(f"{body}\n{END}\n") == [body]


def test_raw_private_keys():
    assert found(f'DEPLOYER_PK="0x{HEX64}"') == [f"0x{HEX64}"]
    assert found(f"pkey: {HEX64}\n") == [HEX64]
    assert found(f'private_key = "{HEX64}"') == [HEX64]
    assert found(f'pk = "{HEX64}"\nPUBLIC_K="{HEX64}"') == []


def test_what_belongs_to_a_key():
    text = f'accessKeyId: "q8Zt4nW2kLp0VdRy", accessKeySecret: "{B62_24}"'
    assert found(text) == ["q8Zt4nW2kLp0VdRy", B62_24]
    assert found('accessKeyId: "q8Zt4nW2kLp0VdRy"') == []
    assert found(f'token = "{B62_24}"\n# Default: {B62_24}\n') == [B62_24] * 2
    assert found(f'token = "{B62_24}" +\n  "Zk39dLpw7QxB"') == [B62_24, "Zk39dLpw7QxB"]
    assert found(f'token = "{B62_24}" + "/path/of/it"') == [B62_24]


def test_short_tokens_in_a_query():
    assert found("https://h.io/x?api_key=h7gk2l9&x=1") == ["h7gk2l9"]
    assert found("https://h.io/x?a=b&token=h7gk2l9q") == ["h7gk2l9q"]
    assert found("https://h.io/x?token=abc123") == []
    assert found("https://h.io/x?token=1234567") == []


def test_escaped_members_without_a_blank():
    assert found(f'"{{\\"token\\":\\"{B62_24}\\"}}"') == [B62_24]


def test_putty_key():
    body = "\n".join(LINES[:2])
    assert found(f"PuTTY-User-Key-File-3: x\nPrivate-Lines: 2\n{body}\nPrivate-MAC: 1\n") == [body]


def _part(fields: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


TOKEN = [_part({"alg": "HS256", "typ": "JWT"}), _part({"sub": "7f3", "n": 5}), draw("64", 43)]


def test_web_token_whole_and_split():
    whole = ".".join(TOKEN)
    assert found(f"verify('{whole}', k)") == [whole]
    split = f'token = "{TOKEN[0]}." \\\n  "{TOKEN[1]}."\n  "{TOKEN[2]}"'
    assert "".join(found(split)).replace(".", "") == "".join(TOKEN)
    assert TOKEN[2] in found(f'x = ("{TOKEN[0]}" ".{TOKEN[1]}" ".{TOKEN[2]}")')


def test_base64_of_other_json_is_no_token():
    assert found(f"clientData = '{_part({'type': 'create', 'challenge': 'q7'})}'") == []


def test_web_key_has_private_members_only():
    n, d, q = draw("64", 86, "n"), draw("64", 86, "d"), draw("64", 43, "q")
    text = json.dumps({"kty": "RSA", "kid": "a-1", "n": n, "d": d, "q": q})
    assert found(text) == [d, q]
    k = draw("64", 22)
    assert found(f"{{'kty': 'oct', 'k': '{k}'}}") == [k]


def test_basic_credentials():
    value = base64.b64encode(b"deploy:" + b"vT9x-" + b"quux41").decode()
    assert found(f"Authorization: Basic {value}") == [value]
    trivial = base64.b64encode(b"user:password").decode()
    spans = told(text := f"Authorization: Basic {trivial}")
    assert [s.reason for s in spans if text[s.start : s.end] == trivial] == ["weak"]


def test_candidates_are_wide_but_below_sure():
    text = f'def sign(token, x):\n    return compute("{HEX32}", x)\n'
    assert found(text) == []
    assert found(text, sure=False) == [HEX32]
    assert found(f'compute("{HEX32}")', sure=False) == []  # nothing near speaks of keys


def test_offsets_are_code_points():
    text = f'имя = "Ω"  # 🔑\nAPI_KEY = "{B62_24}"'
    assert found(text) == [B62_24]


@pytest.mark.parametrize("mark", "\u200b\u200d\u2060\ufeff\u202e\u2066\u2069")
def test_a_mark_that_cannot_be_seen_hides_no_value(mark):
    for text in (
        f"api_token{mark} = '{B62_24}'",
        f"api_token {mark}={mark} '{B62_24}'",
        f"'api_token'{mark}: '{B62_24}'",
        f"API_TOKEN{mark}={mark}{B62_24}",
    ):
        assert found(text) == [B62_24], ascii(text)


def test_a_fragment_is_no_part_of_a_key():
    assert found(f"https://x.okoro.net/a?token={B62_24}#part") == [B62_24]
    assert found(f"https://x.okoro.net/a?b=1&token={B62_24}#part/2") == [B62_24]


@pytest.mark.parametrize(
    ("unit", "filler", "wanted"),
    [
        ("auth:", ":", None),
        ('key="', '"', None),
        ("token/", "/", None),
        (BEGIN, "-", None),
        (END + "\n", "\n", None),
        ("eyJ", "J", None),
        (".eyJ.", ".", None),
        (f'"k":"{B62_24}"', ",", None),
        ("secret(", "(", None),
        (f'secret = "{B62_24}"\n', "\n", B62_24),
        ("x_pk=", "=", None),
        ("key ", " ", None),
        ("secret\t", "\t", None),
        (f"Default: {B62_24}\n", "\n", None),
    ],
)
def test_no_rule_reads_on_without_end(unit, filler, wanted, amid):
    text = amid(unit, filler)
    assert found(text) == ([wanted] * text.count(unit) if wanted else [])


def test_parts_and_prefixes_without_end():
    parts = [f'secret = "{B62_24}"', *['"Zk39dLpw7QxB"'] * 100_000]
    assert found(" ".join(parts))[0] == B62_24
    assert len(found("token=" + draw("62", 1000) * 10_000)) == 1
    assert {*"".join(found("ya29." * 1_000_000))} == {*"ya29."}


@pytest.mark.parametrize(
    "before", ["\\n", "x\\r\\n", "\\t", "id%3D", "%0A", "\x1b[32m", "\\x1b[1;31m"]
)
def test_an_escape_before_a_key_is_no_part_of_it(before):
    key = "AKIA" + draw("32", 16, "escape")
    text = f'out = "{before}{key}\\n{key}"'
    found = [text[s.start : s.end] for s in candidates([text])[0] if s.label == "KEY"]
    assert found == [key, key]
    assert not [s for s in candidates([f'out = "x{key}"'])[0] if s.label == "KEY"]


@pytest.mark.parametrize("text", ["token_{}", "_{}_", "{}_old", "GH_{}", "backup_{}.txt"])
def test_a_word_may_be_glued_to_a_key(text):
    for name in ("aws-key-id", "github", "gitlab", "stripe"):
        key = mint(_TABLE[name]["sample"])
        glued = name == "gitlab" and not text.endswith("}")  # whose keys hold such signs themselves
        assert len(found(text.format(key))) == 1
        assert glued or found(text.format(key)) == [key]


def test_a_word_that_is_glued_to_a_prefix_is_no_key():
    for text in ("conf_hf_" + "convertAllOfTheseNamesToLowerCases"[:34], "npm_config_user_agent"):
        assert found(f"x = {text}\n") == []
    assert found("xAKIA" + draw("32", 16)) == []
