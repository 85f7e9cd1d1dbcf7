import ipaddress
import json
import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starkiln.code.spans import LABELS, Span
from starkiln.core import stage, table
from starkiln.core.errors import UserError
from starkiln.curate.mix import mix
from starkiln.curate.pii import policy, wording
from starkiln.curate.pii import redact as module
from starkiln.curate.pii.ledger import SPANS
from starkiln.curate.pii.redact import changes, ready, redact, replaced, stamp

PUBLIC_DNS = ["8.8.8.8", "1.1.1.1", "9.9.9.9", "2001:4860:4860::8888", "2606:4700:4700::1111"]


def address(value, seed):
    return policy.address(value, seed)[0]


ALL = ["EMAIL", "IP_ADDRESS", "KEY"]
READS = ["repo", "path", "segments"]
RANDOM = "vQ7xTz2mKp9RwL4nYb8D"
PEM = "MIIEpAIBAAKCAQEA7bq2Ul1Z4x8Jk3mT\r\n  q0Ygp1cVb9sWnE5rHd7fKa2LzXoC6uPi\r\n"


def _changes(text, labels=ALL, seed=0):
    find = module._finder(tuple(labels), None, 0.5)
    return changes(pl.Series([text]), find, seed).get(0, [])


def _redacted(text, labels=ALL, seed=0):
    return replaced(text, _changes(text, labels, seed))


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
    mapped = ("::ffff:81.2.69.142", "::FFFF:5102:458e", "0:0:0:0:0:ffff:81.2.69.142")
    assert {address(value, 0) for value in mapped} == {f"::ffff:{one}"}
    assert address("::ffff:c0a8:101", 0) is None


KEPT = "127.0.0.1 0.0.0.0 10.1.2.3 172.31.0.9 192.168.7.7 169.254.1.1 100.64.0.1 192.0.2.9"
KEPT += " 198.51.100.1 203.0.113.7 224.0.0.251 255.255.255.0 ::1 fe80::1 fd12::1:2:3 ff02::1"


@pytest.mark.parametrize("value", [*KEPT.split(), "2001:db8::9", *PUBLIC_DNS])
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
    once = _redacted(text, LABELS)
    assert [one for one in _changes(once, LABELS) if one.replacement is not None] == []
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
    found = redact(frame.select(READS))
    assert found.schema == {"reason": pl.String, "spans": SPANS}
    assert [(s["segment"], s["start"], s["label"]) for s in found["spans"][0].to_list()] == [
        (0, 2, "EMAIL"),
        (2, 9, "KEY"),
        (2, 31, "IP_ADDRESS"),
    ]
    assert found["spans"][1].to_list() == []
    fates = pl.DataFrame({"stage": [None] * 2, "reason": [None] * 2}, schema=table.DROP)
    kept, _, _ = mix(frame, fates, [found["spans"]])
    texts = [s["text"] for s in kept["segments"][0]]
    assert texts == ["é <EMAIL>", "", f"token = '<KEY>' {address('81.2.69.142', 0)}"]
    again = redact(kept.select(READS))
    assert [one["replacement"] for one in again["spans"].explode().drop_nulls()] == [None]


def test_each_kind_can_be_left_alone(documents):
    frame = documents(f"kim@corp.io 81.2.69.142 token='{RANDOM}'").select(READS)
    for off in ALL:
        left = [label for label in ALL if label != off]
        spans = redact(frame, labels=left)["spans"][0].to_list()
        assert {s["label"] for s in spans} == set(left)
    assert redact(frame, labels=[])["spans"].list.len().to_list() == [0]
    assert redact(frame[:0]).schema == {"reason": pl.String, "spans": SPANS}


def test_user_names_are_told_of_and_stay_unless_asked_for(documents):
    text = "x = '/home/tokoro/src'  # tokoro@corp.io, thanks to @kimlarsen"
    told = _one(documents, text)
    kept = [(text[s["start"] : s["end"]], s["reason"]) for s in told if s["label"] == "USERNAME"]
    assert kept == [("tokoro", module.LEFT), ("kimlarsen", module.LEFT)]
    assert all((s["replacement"] is None) == (s["label"] == "USERNAME") for s in told)
    assert [s["label"] for s in told] == ["USERNAME", "EMAIL", "USERNAME"]
    asked = _one(documents, text, labels=["EMAIL", "USERNAME"])
    assert [s["replacement"] for s in asked] == ["<USERNAME>", "<EMAIL>", "<USERNAME>"]


def _one(documents, text, **settings):
    return redact(documents(text).select(READS), **settings)["spans"][0].to_list()


def test_values_that_touch_or_begin_a_file_get_no_blank():
    """The original put one between, and before the first."""
    assert _redacted("kim@corp.io") == "<EMAIL>"
    assert _redacted("kim@corp.io,lee@corp.io") == "<EMAIL>,<EMAIL>"


def test_overlapping_spans_neither_repeat_text_nor_leak():
    """The original's loop stepped back."""
    text = "0123456789"
    spans = [Span(2, 6, "KEY", "r", 0.9), Span(4, 8, "NAME", "r", 0.9)]

    def find(texts):
        from starkiln.code.spans import resolve

        return {0: resolve(spans)} if texts[0] == text else {}

    (several,) = changes(pl.Series([text]), find, 0).values()
    assert replaced(text, several) == "01<KEY>6789"


def test_what_is_no_address_is_replaced_too():
    """The original left it in the text."""
    assert ipaddress.ip_address(address("999.1.2.3", 0)).is_private


def test_special_addresses_are_listed_as_kept(documents):
    """The original skipped them in silence."""
    (span,) = _one(documents, "ping 192.0.2.9")
    assert (span["label"], span["replacement"]) == ("IP_ADDRESS", None)


def test_the_digest_is_of_the_value_by_the_seed(documents):
    one, two = _one(documents, "kim@corp.io lee@corp.io"), _one(documents, "x kim@corp.io", seed=1)
    assert one[0]["digest"] == _one(documents, "\n kim@corp.io")[0]["digest"]
    assert len({one[0]["digest"], one[1]["digest"], two[0]["digest"]}) == 3
    assert "kim" not in json.dumps(one)


@pytest.mark.parametrize(
    ("value", "label", "new"),
    [
        ("Kim Lee", "NAME", "<NAME>"),
        ("Kim", "NAME", None),
        ("Kimberley", "NAME", None),
        ("王小明", "NAME", "<NAME>"),
        ("abc", "PASSWORD", None),
        ("abcd", "PASSWORD", "<PASSWORD>"),
        ("kim_lee", "USERNAME", "<USERNAME>"),
        ("a\r\nb\nc", "KEY", "<KEY>\r\n\n"),
    ],
)
def test_replacements(value, label, new):
    assert policy.decide(value, label, 0)[0] == new


def test_repo_and_path_are_searched(documents):
    frame = documents({"text": "x", "repo": "a/kim@corp.io", "path": "notes/lee@corp.io.txt"})
    spans = redact(frame.select(READS))["spans"][0].to_list()
    assert ("repo", 2, 13) in [(s["place"], s["start"], s["end"]) for s in spans]


def test_a_document_that_cannot_be_scanned_is_dropped_alone(documents, monkeypatch):
    whole = module.scan

    def scan(texts, labels):
        for number, spans in whole(texts, labels):
            yield number, (RecursionError() if "boom" in texts[number] else spans)

    monkeypatch.setattr(module, "scan", scan)
    frame = documents("kim@corp.io", "boom kim@corp.io", "plain").select(READS)
    found = redact(frame)
    assert found["reason"].to_list() == [None, "unscannable", None]
    assert found["spans"].list.len().to_list() == [1, 0, 0]


def test_the_full_profile_asks_the_tagger(documents, monkeypatch):
    from starkiln.curate.pii import tag

    asked = []

    def confirm(texts, candidates, tagger):
        asked.append((list(texts), tagger))
        if any("boom" in text for text in texts):
            raise ValueError
        return [[one._replace(confidence=0.9) for one in spans] for spans in candidates]

    monkeypatch.setattr(tag, "confirm", confirm)
    given = {"profile": "full", "tagger": "/there"}
    frame = documents("plain", "x 1.2.3.4", "boom kim@corp.io", "pass: '12345'").select(READS)
    found = redact(frame, **given)
    assert asked[0] == (["x 1.2.3.4", "boom kim@corp.io", "pass: '12345'"], "/there")
    assert found["reason"].to_list() == [None, None, "unscannable", None]
    assert [s["label"] for s in found["spans"][1]] == ["IP_ADDRESS"]
    weak = [s for s in found["spans"][3] if s["reason"] == wording.WEAK]
    assert weak
    assert all(s["replacement"] is None for s in weak)
    assert redact(frame, **given, threshold=0.95)["spans"].list.len().to_list() == [0, 0, 0, 0]


def test_the_tagger_must_be_there(tmp_path):
    given = {"profile": "full", "tagger": None}
    with pytest.raises(UserError, match="no tagger"):
        ready(given)
    with pytest.raises(UserError):
        ready(given | {"tagger": str(tmp_path)})
    assert stamp({"profile": "fast", "tagger": None}) == ""


def test_many_values_are_replaced_in_one_pass(documents):
    """Each of them with all others beside it would take a day."""
    text = "\n".join(f"kim{i}@corp.io" for i in range(100_000))
    assert len(_one(documents, text)) == 100_000


@pytest.mark.parametrize("separator", [" ", "\t", ", ", '", "', "\\n"])
def test_a_line_of_a_thousand_names_comes_to_rest_in_three_rounds(separator):
    names = [
        f"{first} {last}" for first in ("Jane", "Robert", "Alice") for last in ("Miller", "Lee")
    ]
    find, rounds = module._finder(LABELS, None, 0.5), []
    text = separator.join(names * 170)
    made = changes(pl.Series([text]), lambda now: rounds.append(0) or find(now), 0)[0]
    assert re.fullmatch(f"<NAME>(?:{re.escape(separator)}<NAME>){{900,}}", replaced(text, made))
    assert len(rounds) <= 3


@pytest.mark.parametrize(
    "sign",
    ["@", r"\@", "@@", "&commat;", "&#x40;", r"\u0040", "{@literal @}", " [@] ", '" + "@" + "'],
)
def test_example_addresses_stay_whatever_their_sign(sign):
    for host in ("example.com", "mail.example.org"):
        (one,) = _changes(f'"kim{sign}{host}"')
        assert (one.replacement, one.reason) == (None, "example-address")
    (one,) = _changes(f'"kim{sign}corp.io"')
    assert one.replacement == "<EMAIL>"


def test_to_replace_nothing_is_refused():
    checked = stage.settings_model(redact)
    with pytest.raises(ValueError, match="labels"):
        checked(labels=[])
    assert checked(labels=["KEY", "NAME", "KEY"]).labels == ["KEY", "NAME"]


@pytest.mark.parametrize(
    "value", ["a1\rb2\nc3", "a1\r\nb2\rc3", "a1\rb2", "a1\nb2\n\nc3", "a1\r\rb2"]
)
def test_a_value_keeps_its_line_breaks_apart(value):
    for after in ("", "\n", "\r\n"):
        new = policy.lines(value, "<KEY>") + after
        assert policy.breaks(new) == policy.breaks(value + after)
        assert new.startswith("<KEY>")
