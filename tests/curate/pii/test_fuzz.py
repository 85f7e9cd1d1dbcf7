"""Hostile text: no rule reads on without end, nothing raises, spans are sound."""

import re
from itertools import product

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.document import SEGMENTS
from starkiln.code.spans import LABELS
from starkiln.curate.pii import anchors
from starkiln.curate.pii.detect import candidates, detect, gates
from starkiln.curate.pii.redact import Change, redact, replaced

JOINTS = ["", " ", "='", '": "aB3', "\n"]
_CLASSES = str.maketrans(
    {anchors.DIGIT: "7", anchors.HEX: "b", anchors.GAP: " ", anchors.UPPER: "K", anchors.LOWER: "k"}
)
_BASE64 = "QmFzZTY0IGlzIG5vdCBhIGtleSBieSBpdHNlbGY7" * 2


def anchors_of(label):
    found = sorted({one for own in gates([label]) for one in own})
    return [one.translate(_CLASSES) for one in found]


LONG = 20_000_000
RUNS = {  # where one place is followed, or preceded, by a run without an end: head, unit, tail
    "letters before @": ("", "a", "@corp.io"),
    "letters after @": ("kim@", "a", ""),
    "labels after @": ("kim@", "a.", ""),
    "dots": ("", ".", ""),
    "colons": ("", ":", ""),
    "hyphens": ("", "-", ""),
    "digits": ("", "7", ""),
    "nested quotes": ("'\"`" * 3_000_000, "x", "`\"'" * 3_000_000),
    "escaped quotes": ('password = "', '\\"', ""),
    "backslashes": ('token = "', "\\", ""),
    "open brackets": ("", "([{<", ""),
    "base64 on one line": ("", _BASE64, ""),
    "base64 of a token": ("token = '", _BASE64, "'"),
    "PEM without an end": ("-----BEGIN RSA PRIVATE KEY-----\n", _BASE64[:64] + "\n", ""),
    "a long JWT": ("eyJhbGciOiJIUzI1NiJ9.", "a", ""),
    "spaces after a word": ("password =", " ", ""),
    "line breaks after a word": ("api_key =", "\n", ""),
    "initials": ("@author ", "A. ", ""),
    "capitals": ("", "Aa", ""),
    "percent signs": ("https://kim", "%", ""),
    "angle brackets": ("", "<", "kim@corp.io>"),
    "accents": ("Copyright 2020 ", "e\u0301", ""),
    "zero width": ("pass", "\u200b", "word = 'x'"),
    "NUL": ("password = '", "\0", ""),
    "carriage returns": ("token:", "\r", ""),
}
ROWS = {  # where places follow on each other: unit, filler
    "@": ("@", "a"),
    "a@": ("a@", "a"),
    "a@b.": ("a@b.", "b"),
    "hexadecimal and colons": ("fe80:", "f"),
    "double colons": ("::1", "1"),
    "octets": ("1.1.1.1.", "1"),
    "addresses": ("81.2.69.142,", ","),
    "JWT without an end": ("eyJhbGciOiJIUzI1NiJ9.", "."),
    "colons and spaces": ("secret: ", " "),
    "a name of many words": ("Kim ", " "),
    "names and commas": ("Kim Lee, ", " "),
    "URLs": ("https://a:b@c/", "/"),
    "full-width": ("\uff20\uff0e", "k"),
    "Cyrillic": ("\u0430\u0435\u043e@", "\u0430"),
    "right to left": ("\u202e\u200f@\u200b", "\u200b"),
    "assignments": ("key='aZ4kQ9xW2mV7tR';", ";"),
    "JSON in JSON": ('\\"password\\":\\"{', "{"),
    "one value again": ("kim.lee@corp.io ", " "),
    "capitalised words": ("Kim Lee Park ", " "),
    "wrapped names": ("by Kim\n * ", "x"),
    "nicknames": ('Author: Kim "lee" ', " "),
    "logins": ("ssh kim@host ", " "),
    "mixed marks": ("token\u200b=\u2067", "\u200b"),
    "known names": ("Jane Miller Robert Lee ", " "),
    "lists of companies": ("by Kim Lee Inc, ", " "),
    "rolls of companies": ("Authors\n====\nKim Lee Inc\n", "x"),
    "notices": ("(c) 2001 ", " "),
    "escaped signs": ("a\\@a@@a.", "a"),
    "products": ("=ab@cde.data\n", "a"),
    "signs in quotes": ("'@'+'", "a"),
    "addresses behind names": ("ip_81.2.69.142", "_"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_without_end_is_read_once(name):
    head, unit, tail = RUNS[name]
    detect(head + unit * (LONG // len(unit)) + tail, LABELS)


@pytest.mark.parametrize("name", ROWS)
def test_no_rule_reads_on_from_place_to_place(name, amid):
    detect(amid(*ROWS[name]), LABELS)


RULES = [(label, number) for label in LABELS for number in range(len(gates([label])))]


@pytest.mark.parametrize(("label", "number"), RULES)
def test_nor_where_the_anchors_of_a_rule_stand_in_rows(label, number, amid):
    anchors_ = [one.translate(_CLASSES) for one in gates([label])[number]]
    pairs = [anchor + joint for joint, anchor in product(JOINTS, anchors_)]
    candidates([amid("".join(pairs), "x", len(pairs))], [label])


PIECES = [
    *("kim@corp.io", "81.2.69.142", "2a01:4f8::1", "fe80::1%eth0", "[::1]:80", "@kim", "Kim Lee"),
    *("password", "secret", "api_key", "token: ", "Copyright 2020 ", "by ", "https://", "/home/"),
    *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "eyJhbGciOiJIUzI1NiJ9."),
    *("aZ4kQ9xW2mV7tR8b", _BASE64, "<EMAIL>", "<KEY>", "10.1.2.3", "1.2.3", "::", "lodash@4.17.21"),
    *("=", ":", ".", "@", "'", '"', "\\", "\\n", "\n", "\r\n", "\r", " ", "\t", ",", "/", "<", ">"),
    *(
        "\0",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\uff20",
        "e\u0301",
        "\U0001f600",
        "\u674e\u96f7",
        "\x85",
    ),
]


@st.composite
def texts(draw):
    label = draw(st.sampled_from(LABELS))
    piece = st.sampled_from([*PIECES, *anchors_of(label)]) | st.text(max_size=4)
    return "".join(draw(st.lists(piece, max_size=40)))


@given(texts())
@settings(max_examples=400, deadline=None)
def test_spans_lie_in_the_text_in_order_and_apart(text):
    found = detect(text, LABELS)
    edges = [edge for span in found for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert all(0 <= span.start < span.end <= len(text) for span in found)
    assert all(span.label in LABELS and 0 < span.confidence <= 1 for span in found)


_TOKEN = "aZ4kQ9xW2mV7tR8bN3cY"
_PEM = f"-----BEGIN PRIVATE KEY-----\n{_BASE64[:64]}\n{_BASE64[:40]}\n-----END PRIVATE KEY-----"
BAD = {
    "empty": "",
    "white": " \t\r\n\u2028\x0b\x0c\n",
    "NUL": f"\0kim.lee@corp.io\0password = 'a\0{_TOKEN}'\0",
    "right to left": f"\u202epassword\u202c = \u2067'{_TOKEN}'\u2069 \u200fkim.lee@corp.io\u200e",
    "zero width": f"k\u200bim.lee@corp.io api_key = '\u200b{_TOKEN}\u200b' \ufeff81.2.69.142",
    "byte order mark": "\ufeff81.2.69.142",
    "a secret across lines": f'token = "{_TOKEN}" \\\n  "{_TOKEN}"\npassword =\r\n\t"{_TOKEN}"',
    "base64": f"auth: Basic {_BASE64[:40]}\ndata:image/png;base64,{_BASE64 * 40}",
    "userinfo": f"https://kim:{_TOKEN}@git.corp.io:8443/x?token={_TOKEN} kim.lee@corp.io",
    "at signs in userinfo": f"https://lee@corp.io:{_TOKEN}@p%40ss@git.corp.io/",
    "JSON": f'{{"password": "{_TOKEN}", "e": "kim.lee@corp.io\\n", "ip": ["81.2.69.142"]}}',
    "YAML": f"password: {_TOKEN}\nkey: |\n  " + _PEM.replace("\n", "\n  "),
    ".env": f"API_KEY={_TOKEN}\nexport DB_PASSWORD='{_TOKEN}'\nHOST=81.2.69.142",
    "PEM": _PEM,
    "PEM with CRLF": _PEM.replace("\n", "\r\n"),
    "PEM in a string": "'" + _PEM.replace("\n", "\\n") + "'",
    "PEM cut at its end": _PEM[:-30],
    "PEM cut at its start": _PEM[10:],
    "a marker alone": "-----BEGIN PRIVATE KEY-----",
    "overlaps": f"token=https://kim:{_TOKEN}@81.2.69.142 password=kim.lee@81.2.69.142",
    "one after another": "81.2.69.142,81.2.69.143,81.2.69.144;kim@corp.io,lee@corp.io",
    "at the very ends": "kim.lee@corp.io 81.2.69.142",
    "redacted": "<EMAIL> <KEY>\npassword = '<PASSWORD>' 10.1.2.3 Copyright 2020 <NAME>",
    "lone carriage returns": "kim@corp.io\rlee@corp.io\r\rCopyright 2020 Kim Lee\r",
    "a value of many places": "kim.lee@corp.io\n" * 2000,
    "combining marks": "Copyright 2020 Mari\u0301a Pe\u0301rez <maria@corp.io>",
    "outside of the plane": f"\U0001f600kim.lee@corp.io\U0001f600 key='{_TOKEN}'\U0001f511",
    "one line": f"var a='{_TOKEN}',b=81.2.69.142,c='kim.lee@corp.io';" * 2000,
}


def redacted(texts):
    """The spans of each text, and the texts without what is replaced."""
    segments = [[{"marker": "", "text": text}] for text in texts]
    frame = pl.DataFrame(
        {"repo": "r", "path": "p", "segments": pl.Series(segments, dtype=SEGMENTS)}
    )
    made = redact(frame, labels=list(LABELS))
    assert made["reason"].null_count() == len(texts)
    rows = [[Change(*(s[f] for f in Change._fields)) for s in row] for row in made["spans"]]
    return rows, [replaced(text, row) for text, row in zip(texts, rows, strict=True)]


def sound(texts):
    rows, new = redacted(texts)
    for text, row, fresh in zip(texts, rows, new, strict=True):
        edges = [edge for span in row for edge in (span.start, span.end)]
        assert edges == sorted(edges)
        assert all(0 <= span.start < span.end <= len(text) for span in row)
        assert len(re.split(r"\r\n?|\n", fresh)) == len(re.split(r"\r\n?|\n", text))
    again, same = redacted(new)
    assert same == new
    assert not [span for row in again for span in row if span.replacement is not None]
    return new


def test_bad_input_is_redacted_like_any():
    new = dict(zip(BAD, sound(list(BAD.values())), strict=True))
    for name, text in new.items():
        assert "kim.lee@corp.io" not in text, name
    for name in ("JSON", ".env", "userinfo", "YAML", "NUL", "a secret across lines"):
        assert _TOKEN not in new[name], name
    for name in ("PEM", "PEM with CRLF", "PEM in a string", "PEM cut at its end"):
        assert _BASE64[:32] not in new[name], name
    assert new["empty"] == ""
    assert new["redacted"] == BAD["redacted"]


@given(st.lists(texts(), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_text_keeps_its_lines_and_is_redacted_once(some):
    sound(some)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_line_of_200_megabytes():
    unit = (
        f"var a={{k:'{_TOKEN}',b:\"81.2.69.142\",c:x.y.z(1,2,3),d:'kim.lee@corp.io'}};"
        + "x+=1;" * 400
    )
    line = unit * (200_000_000 // len(unit))
    _, (new,) = redacted([line])
    assert "\n" not in new
    assert "kim.lee@corp.io" not in new
