"""Redaction replaces values alone: what a parser accepted, it accepts afterwards."""

import ast
import json
import re
import sysconfig
import tomllib
import warnings
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.spans import LABELS, Span, resolve
from starkiln.curate.pii import redact as module
from starkiln.curate.pii.redact import changes, replaced

KEY = "vQ7xTz2mKp9RwL4nYb8D"
LINES = ["MIIEpAIBAAKCAQEA7bq2Ul1Z4x8Jk3mTMIIEpAIBAAKCAQEA7bq2Ul1Z4x8Jk3m", "q0Ygp1cVb9sWnE5rHd7f"]
BEGIN, END = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
MAIL, HOST = "kim.lee@corp.io", "81.2.69.142"


def after(texts):
    labels = tuple(label for label in LABELS if label != "USERNAME")  # kept unless asked for
    found = changes(pl.Series(texts), module._finder(labels, None, 0.5), 0)
    return {n: replaced(texts[n], own) for n, own in found.items() if own}


def yaml(text):
    return list(pytest.importorskip("yaml").safe_load_all(text))


QUOTED = "\n".join(f'    "{line}\\n"' for line in [BEGIN, *LINES, END])
ADDED = " +\n".join(f'"{line}\\n"' for line in [BEGIN, *LINES, END])
CASES = {
    "adjacent literals": (ast.parse, f"PEM = (\n{QUOTED}\n)\n"),
    "added literals": (ast.parse, f"PEM = ({ADDED})\n"),
    "a literal of lines": (ast.parse, "PEM = '''\n" + "\n".join([BEGIN, *LINES, END]) + "'''\n"),
    "an escaped block": (json.loads, json.dumps({"key": "\n".join([BEGIN, *LINES, END, ""])})),
    "escapes": (json.loads, json.dumps({"token": KEY, "note": f'"{MAIL}"\n{HOST}\t{MAIL}'})),
    "a block scalar": (
        yaml,
        "key: |\n  " + "\n  ".join([BEGIN, *LINES, END]) + f"\nmail: {MAIL}\n",
    ),
    "plain scalars": (yaml, f"token: {KEY}\nhost: {HOST}\nwho: Kim Lee <{MAIL}>\n- x\n"[:-4]),
    "flow": (yaml, f"{{token: {KEY}, hosts: [{HOST}, 82.2.69.142], mail: {MAIL}}}\n"),
    "a table": (
        tomllib.loads,
        f'authors = [{{name = "Kim Lee", email = "{MAIL}"}}]\nip="{HOST}"\n',
    ),
    "lines of a table": (tomllib.loads, 'k = """\n' + "\n".join([BEGIN, *LINES, END]) + '"""\n'),
    "an f-string": (ast.parse, f"url = f'https://kim:{KEY}@{{host}}/?token={KEY}'\n"),
    "a comment": (ast.parse, f"# Copyright (c) 2020 Kim Lee\n# <{MAIL}>\nip = '{HOST}'\n"),
}


@pytest.mark.parametrize("case", CASES)
def test_shapes(case):
    parse, text = CASES[case]
    parse(text)
    new = after([text]).get(0, text)
    assert new != text
    parse(new)
    assert new.count("\n") == text.count("\n")
    assert not [one for one in (KEY, MAIL, HOST, *LINES) if one in new]


def test_files_of_python():
    """The standard library's own, those with a sign, a key or a credit."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(
        [*root.glob("*.py"), *root.glob("email/*.py"), *root.glob("test/test_*.py")]
    ):
        text = path.read_text("utf-8", "ignore")
        if len(text) < 200_000 and re.search(
            r"\w@\w|Copyright|PRIVATE KEY|[0-9]\.[0-9]+\.[0-9]", text
        ):
            texts.append(text)
    changed = after(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        for number, new in changed.items():
            ast.parse(new)
            assert new.count("\n") == texts[number].count("\n")
    assert len(changed) > 5


PARTS = ["ab", "Kim ", "\n", "\r\n", " ", "x1", '"', " +", "9.9.9.1", "<", ">"]


@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=14).map("".join),
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 30), st.integers(1, 9), st.sampled_from(LABELS)), max_size=4
        ),
        max_size=4,
    ),
)
@settings(max_examples=300, deadline=None)
def test_lines_are_kept_whatever_is_found_in_whatever_order(text, rounds):
    left = iter(rounds)

    def find(texts):
        size = len(texts[0])
        spans = (Span(a, min(size, a + n), one, "r", 0.9) for a, n, one in next(left, []))
        return {0: resolve(spans)}

    made = changes(pl.Series([text]), find, 0)[0]
    assert all(one.end <= two.start for one, two in pairwise(made))
    assert re.findall("\r\n?|\n", replaced(text, made)) == re.findall("\r\n?|\n", text)
