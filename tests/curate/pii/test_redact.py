import ipaddress
import json
import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starkiln.core import table
from starkiln.curate.mix import mix
from starkiln.curate.pii.redact import PUBLIC_DNS, SPANS, address, redact, replacements

ALL = ["EMAIL", "IP_ADDRESS", "KEY"]
RANDOM = "vQ7xTz2mKp9RwL4nYb8D"
PEM = "MIIEpAIBAAKCAQEA7bq2Ul1Z4x8Jk3mT\r\n  q0Ygp1cVb9sWnE5rHd7fKa2LzXoC6uPi\r\n"


def _redacted(text, labels=ALL, seed=0):
    for span in reversed(replacements(text, labels, seed)):
        text = text[: span["start"]] + span["replacement"] + text[span["end"] :]
    return text


def test_values_alone_are_replaced():
    assert _redacted("kim@corp.io") == "<EMAIL>"
    assert _redacted("'kim@corp.io','lee@corp.io'") == "'<EMAIL>','<EMAIL>'"
    assert _redacted(f"token: '{RANDOM}'") == "token: '<KEY>'"
    new = _redacted("http://81.2.69.142:80/24")
    assert re.fullmatch(r"http://10\.\d+\.\d+\.\d+:80/24", new)


def test_an_address_is_replaced_alike_everywhere_and_by_the_seed():
    one, two = _redacted("81.2.69.142 x 81.2.69.142").split(" x ")
    assert one == two == address("81.2.69.142", 0) != address("81.2.69.143", 0)
    assert address("81.2.69.142", 1) != one
    assert address("2A01:04F8::2:0:1", 0) == address("2a01:4f8::2:0:1", 0)
    assert address("::ffff:81.2.69.142", 0) == f"::ffff:{one}"


KEPT = "127.0.0.1 0.0.0.0 10.1.2.3 172.31.0.9 192.168.7.7 169.254.1.1 100.64.0.1 192.0.2.9"
KEPT += " 198.51.100.1 203.0.113.7 224.0.0.251 255.255.255.0 ::1 fe80::1 fd12::1:2:3 ff02::1"


@pytest.mark.parametrize("value", [*KEPT.split(), "2001:db8::9", *map(str, PUBLIC_DNS)])
def test_addresses_that_identify_nobody_stay(value):
    assert address(value, 0) is None
    assert _redacted(f"ping {value}") == f"ping {value}"


@given(st.ip_addresses(), st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_replacements_are_private_and_final(value, seed):
    new = address(str(value), seed)
    if new is not None:
        found = ipaddress.ip_address(new)
        assert found.version == value.version
        assert found.is_private
        assert address(new, seed) is None


def test_example_addresses_stay():
    for text in ("a@example.com", "a@mail.example.org", "a@host.test", "a@x.invalid"):
        assert _redacted(text) == text
    assert _redacted("a@myexample.com") == "<EMAIL>"


def test_a_private_key_keeps_its_markers_and_lines():
    text = f"x\r\n  -----BEGIN RSA PRIVATE KEY-----\r\n  {PEM}  -----END RSA PRIVATE KEY-----\r\ny"
    new = _redacted(text)
    assert "<KEY>" in new
    assert "MII" not in new
    assert "q0Y" not in new
    assert new.count("\r\n") == text.count("\r\n")
    assert new.count("-----") == 4


def test_what_parsed_still_parses():
    row = {"token": RANDOM, "who": "Kim <kim@corp.io>", "host": "81.2.69.142", "n": 1}
    new = json.loads(_redacted(json.dumps(row)))
    assert new == row | {"token": "<KEY>", "who": "Kim <<EMAIL>>", "host": address(row["host"], 0)}


PIECES = st.sampled_from(
    [
        *("kim@corp.io", "lee.x@mail.corp.co.uk", "81.2.69.142", "2a01:4f8:c17::2", "10.0.0.1"),
        *("::ffff:81.2.69.142", "ghp_" + RANDOM + "abcdefghij123456", RANDOM, "token", "key=", "'"),
        *('"', ": ", "=", "\n", "\r\n", " ", ",", "@", ".", ":", "/", "-", "é日", "1", "a", "0x"),
        *("-----BEGIN PRIVATE KEY-----", PEM, "-----END PRIVATE KEY-----", "version ", "<", ">"),
        *("server ", "\\n", "secret", "1.2.3.4", "://", "[", "]", "(", "<EMAIL>", "<KEY>", "eyJ"),
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60))
@settings(max_examples=500, deadline=None)
@example("kim@corp.io81.2.69.142")
@example("1.2.3.4 server kim@corp.io")
def test_redaction_is_idempotent_and_keeps_lines(text):
    once = _redacted(text)
    assert replacements(once, ALL, 0) == []
    assert re.findall("\r\n?|\n", once) == re.findall("\r\n?|\n", text)


def test_the_stage_gives_spans_a_segment(documents):
    segments = [
        {"marker": "issue_start", "text": "é kim@corp.io"},
        {"marker": "issue_comment", "text": ""},
        {"marker": "issue_comment", "text": f"token = '{RANDOM}' 81.2.69.142"},
    ]
    frame = documents("nothing here", "x").with_columns(
        segments=pl.Series([segments, []], dtype=documents("x").schema["segments"])
    )
    found = redact(frame.select("id", "segments"))
    assert found.schema == {"spans": SPANS}
    assert [(s["segment"], s["start"], s["label"]) for s in found["spans"][0].to_list()] == [
        (0, 2, "EMAIL"),
        (2, 9, "KEY"),
        (2, 31, "IP_ADDRESS"),
    ]
    assert found["spans"][1].to_list() == []
    fates = pl.DataFrame({"stage": [None] * 2, "reason": [None] * 2}, schema=table.DROP)
    kept, _ = mix(frame, fates, [found["spans"]])
    texts = [s["text"] for s in kept["segments"][0]]
    assert texts == ["é <EMAIL>", "", f"token = '<KEY>' {address('81.2.69.142', 0)}"]
    again = redact(kept.select("id", "segments"))
    assert again["spans"].list.len().to_list() == [0, 0]


def test_each_kind_can_be_left_alone(documents):
    frame = documents(f"kim@corp.io 81.2.69.142 token='{RANDOM}'").select("id", "segments")
    for off, label in [("emails", "EMAIL"), ("ips", "IP_ADDRESS"), ("keys", "KEY")]:
        spans = redact(frame, **{off: False})["spans"][0].to_list()
        assert {s["label"] for s in spans} == set(ALL) - {label}
    assert redact(frame, emails=False, ips=False, keys=False)["spans"].list.len().to_list() == [0]
    assert redact(frame[:0]).schema == {"spans": SPANS}
