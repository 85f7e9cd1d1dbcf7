"""Each defect of the original's detector, and each known kind of false alarm, is a row here."""

import json
import random
import time

import polars as pl
import pytest

from starkiln.curate.pii.detect import GATES, detect
from starkiln.curate.pii.keys import entropy


def _found(text, label):
    return [text[s.start : s.end] for s in detect(text) if s.label == label]


EMAILS = [
    ("<email>kim.lee@corp.io</email>", ["kim.lee@corp.io"]),
    ("kim@corp.io,lee@corp.io;max@corp.io", ["kim@corp.io", "lee@corp.io", "max@corp.io"]),
    ("Kim <kim+tag@mail.corp.co.uk>.", ["kim+tag@mail.corp.co.uk"]),
    ('"Kim\\nkim@corp.io\\n"', ["kim@corp.io"]),
    ("写信给kim@corp.io谢谢", ["kim@corp.io"]),
    ("mailto:kim@corp.io?subject=x", ["kim@corp.io"]),
    ("kim@corp.io", ["kim@corp.io"]),
    ("(kim@corp.io)\r\n", ["kim@corp.io"]),
    ("kim@corp.io:", ["kim@corp.io"]),
    ("6035284+kim@users.noreply.forge.com", ["6035284+kim@users.noreply.forge.com"]),
    *(
        (text, [])
        for text in [
            "lodash@4.17.21.tgz",
            "pkg@1.2.3",
            "pkg@v1.2.3-beta.org",
            "git@github.com:org/repo.git",
            "https://user:pass@corp.io/x",
            "ssh://git@corp.io",
            "icon@2x.png",
            "getty@tty1.service",
            "@decorator.method",
            "@scope/pkg",
            "weights@matrix.transpose(0)",
            "a@b",
            "@example.com",
            "${user}@corp.io",
            "a..@corp.io",
            "kim@corp.c",
            "A" * 90 + "@corp.io",
        ]
    ),
]

IPS = [
    ("1.22.3.4,5.6.77.8,9.10.11.12", ["1.22.3.4", "5.6.77.8", "9.10.11.12"]),
    ("http://81.2.69.142/x", ["81.2.69.142"]),
    ("<ip>81.2.69.142</ip>", ["81.2.69.142"]),
    ("81.2.69.142:8080", ["81.2.69.142"]),
    ("81.2.69.0/24", ["81.2.69.0"]),
    ("81.2.69.142", ["81.2.69.142"]),
    ("at 81.2.69.142.", ["81.2.69.142"]),
    ("81.2.69.142-81.2.69.160", ["81.2.69.142", "81.2.69.160"]),
    ("[2a01:4f8:c17::2]:443", ["2a01:4f8:c17::2"]),
    ("fe80::1ff:fe23:4567:890a%eth2", ["fe80::1ff:fe23:4567:890a"]),
    ("2a01:4f8:c17::2/64", ["2a01:4f8:c17::2"]),
    ("::ffff:81.2.69.142", ["::ffff:81.2.69.142"]),
    ("2001:0DB8:0000:0000:0000:0000:1428:57AB", ["2001:0DB8:0000:0000:0000:0000:1428:57AB"]),
    ("2a01:4f8:c17::2: unreachable", ["2a01:4f8:c17::2"]),
    ('server = "4.4.4.4"', ["4.4.4.4"]),
    *(
        (text, [])
        for text in [
            "version 21.10.4.1",
            'Version = "21.10.4.1"',
            'AssemblyVersion("1.0.0.0")',
            "v21.10.4.1",
            "pkg==21.10.4.1",
            "pkg>=21.10.4.1",
            "pkg-21.10.4.1.tar.gz",
            "Chrome/91.0.4.12",
            "2.5.13.20",
            "OID 2.5.4.3",
            "1.3.6.1",
            "81.2.69.142.7",
            "256.1.1.1",
            "01.2.3.4",
            "3.1.4.1",
            "1.2.3.4 Introduction",
            "x[0::2]",
            "std::a::1",
            "cafe::babe",
            "a::b",
            "12:34:56",
            "00:1b:44:11:3a:b7",
            "00:11:22:33:44:55:66:77",
            "a::b::c",
            "1::2",
            "::",
        ]
    ),
]

HEX = "9f86d081884c7d65" + "9a2feaa0c55ad015"
RANDOM = "vQ7xTz2mKp9RwL4nYb8D"
BODY = "MIIEpAIBAAKCAQEA7bq2Ul1Z4x8Jk3mT\nq0Ygp1cVb9sWnE5rHd7fKa2LzXoC6uPi"
KEYS = [
    ("AKIA" + "Q3EGZ7LMWTN2VBXD", None),
    ("ghp_" + RANDOM + "abcdefghij123456", None),
    ("xoxb-" + "702816493051-" + RANDOM, None),
    ("sk_live_" + RANDOM, None),
    ("AIza" + "SyD4k9_Qm2xW7bN-eR1tZ6uH8vL3pJ5cYg0", None),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3In0." + RANDOM, None),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----", BODY),
    (f'"access_token": "{RANDOM}"', RANDOM),
    (f"API_KEY={RANDOM}", RANDOM),
    (f"client_secret => '{HEX}'", HEX),
    (f"https://x.io/?oauth_token={RANDOM}&y=1", RANDOM),
    (f'secret "{RANDOM}";', RANDOM),
    (f"set_token('{RANDOM}')", RANDOM),
    (f'"dq": "{RANDOM * 3}"', RANDOM * 3),
]
NO_KEYS = [
    f'"integrity": "sha512-{RANDOM * 4}=="',
    f"commit {HEX}",
    f'token_sha256 = "{HEX * 2}"',
    f'public_key = "{RANDOM}"',
    f'"uuid": "{HEX}"',
    "AKIAIOSFODNN7EXAMPLE",
    'api_key = "your-api-key-123"',
    'token = "xxxxxxxxxxxxxxxxxxxx1a"',
    'secret = "test_secret_key_1"',
    'token = self.tokenizer.next_token("abc")',
    'NextToken = "a1b2c3d4e5f6a7b8"',
    'key = "config/section1/value2b"',
    'secret_key_file = "/etc/app1a/key2b"',
    "-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----",
]


@pytest.mark.parametrize(("text", "values"), EMAILS)
def test_emails(text, values):
    assert _found(text, "EMAIL") == values


@pytest.mark.parametrize(("text", "values"), IPS)
def test_ips(text, values):
    assert _found(text, "IP_ADDRESS") == values


@pytest.mark.parametrize(("text", "value"), KEYS)
def test_keys(text, value):
    assert _found(text, "KEY") == [value or text]
    assert _found(f"é日 {text}\r\n", "KEY") == [value or text]


@pytest.mark.parametrize("text", NO_KEYS)
def test_no_keys(text):
    assert _found(text, "KEY") == []


def test_a_key_wins_over_what_lies_in_it():
    text = f"-----BEGIN PRIVATE KEY-----\n{BODY} kim@corp.io {BODY}\n-----END PRIVATE KEY-----"
    assert [s.label for s in detect(text)] == ["KEY"]


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\r\n", "\0", "\ufeff", "@", ":::::", "....", "日本"]
)
def test_nothing_in_nothing(text):
    assert detect(text) == []


def test_every_find_passes_its_gate():
    for text, values in [*EMAILS, *IPS, *((t, [v or t]) for t, v in KEYS)]:
        for span in detect(text):
            assert values
            assert pl.Series([text]).str.contains(GATES[span.label])[0], (text, span)


HOSTILE = {
    "at": "a" * 40 + "@",
    "mailbox run": "a",
    "dots": "1.1.1.1.",
    "colons": ":",
    "hex": "ab12:",
    "quotes": '"a1b2c3d4e5f6',
    "names": "token_key_secret_",
    "pem": "-----BEGIN PRIVATE KEY-----\n",
    "jwt": "eyJ",
    "domain": "a@a.",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_time_is_linear(unit):
    def seconds(size):
        text = unit * (size // len(unit))
        start = time.process_time()
        detect(text)
        return time.process_time() - start

    assert seconds(400_000) < 2.0 + 8 * seconds(100_000)


def test_entropy_is_in_bits():
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    rng = random.Random(0)
    assert entropy("".join(rng.choice("0123456789abcdef") for _ in range(4096))) > 3.99


FLOORS = {"EMAIL": 0.99, "IP_ADDRESS": 0.98, "KEY": 0.8}


def test_labelled_excerpts(shared):
    lines = shared("pii/labelled.jsonl").read_text().splitlines()
    for label, floor in FLOORS.items():
        hit, wrong, missed = 0, 0, 0
        for row in map(json.loads, lines):
            gold = [s for s in row["spans"] if s["type"] == label]
            mine = [s for s in detect(row["text"]) if s.label == label]
            core = [g for g in gold if g["tier"] == "core"]
            found = [g for g in core if any(_meet(m, g) for m in mine)]
            hit, missed = hit + len(found), missed + len(core) - len(found)
            wrong += sum(not any(_meet(m, g) for g in gold) for m in mine)
        assert 2 * hit / (2 * hit + wrong + missed) >= floor, (label, hit, wrong, missed)


def _meet(mine, gold):
    return mine.start < gold["end"] and gold["start"] < mine.end
