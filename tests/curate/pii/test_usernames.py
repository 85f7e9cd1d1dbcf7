import time

import polars as pl
import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii import usernames


def places(text: str) -> list[int]:
    series = pl.Series([text], dtype=pl.String).str
    at = series.find_many(list(usernames.ANCHORS), ascii_case_insensitive=True, overlapping=True)
    return sorted(set(at[0].to_list()))


def found(text: str, sure: bool = True) -> list[str]:
    spans = resolve(usernames.find(text, places(text)))
    return [text[s.start : s.end] for s in spans if s.confidence >= SURE or not sure]


def test_anchors_are_lower_case_literals():
    assert all(a == a.lower() and a.isascii() and a for a in usernames.ANCHORS)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- Fix a leak by @tokoro7 in #7957", ["tokoro7"]),
        ("Thanks to @tokoro7 and @adubrov (#12)", ["tokoro7", "adubrov"]),
        ("* fix: leak ([@tokoro7](https://github.com/tokoro7))", ["tokoro7", "tokoro7"]),
        ("Thanks to `tokoro7 <https://github.com/tokoro7>`_ for", ["tokoro7", "tokoro7"]),
        ("Thanks to Tamsin Okoro (github.com/tokoro7).", ["tokoro7"]),
        ("cd /home/tokoro/src", ["tokoro"]),
        ("/Users/tokoro/Library", ["tokoro"]),
        (r"C:\Users\tokoro\Desktop", ["tokoro"]),
        (r'"C:\\Users\\tokoro\\Desktop"', ["tokoro"]),
        ("username = 'tokoro7'", ["tokoro7"]),
        ('{"login": "tokoro7", "id": 1}', ["tokoro7"]),
        ("connect(user='tokoro7')", ["tokoro7"]),
        ("// TODO(tokoro): mend this", ["tokoro"]),
        ("# $Id: a.c,v 1.2 2001/02/03 04:05:06 tokoro Exp $", ["tokoro"]),
        ("ssh tokoro@build.okoro.net", ["tokoro"]),
        ("# Copyright 2018 tokoro7 <t@okoro.net>", ["tokoro7"]),
        ("x\nN: tokoro7\nW: y", ["tokoro7"]),
        ("imap(tokoro): Debug: opened", ["tokoro"]),
    ],
)
def test_usernames_are_found(text, wanted):
    assert found(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "@override\ndef f(): ...",
        " * @param tokoro the value",
        " * @tparam T the value",
        "import x from '@okoro/core'",
        "SELECT @total = 1",
        "prefix=@prefix@",
        "@media screen",
        "mail tokoro@okoro.net",
        "username = 'admin'",
        "username = 'test_user'",
        "user = 'johndoe'",
        "user=user, login=login",
        "username = get_login()",
        "/home/user/x and /Users/root/y",
        "see https://github.com/okoro/kit/issues/1",
        "See {@link Okoro}",
        "git@github.com:okoro/kit",
        "TODO(v3.4): drop",
    ],
)
def test_others_are_no_usernames(text):
    assert found(text) == []


def test_a_handle_without_credit_is_a_candidate():
    text = "we asked the friendly @tokoro7 about it"
    assert found(text) == []
    assert found(text, sure=False) == ["tokoro7"]


@pytest.mark.parametrize(
    "piece",
    [
        "@a",
        " @a",
        "by @ab ",
        "/home/",
        "user=",
        "login:'",
        "Copyright 1 ",
        "$Id: a ",
        "ssh ",
        "todo(",
    ],
)
def test_hostile_text_takes_linear_time(piece):
    spent = []
    for times in (5_000, 40_000):
        text = piece * times
        at = places(text)
        start = time.process_time()
        list(usernames.find(text, at))
        spent.append(time.process_time() - start)
    assert spent[1] < 24 * spent[0] + 0.2


def test_a_class_named_as_a_service_marks_no_user() -> None:
    text = "class LMTP(SMTP):\n    pass\n"
    assert not [
        s for s in usernames.find(text, [text.lower().index("lmtp(")]) if s.confidence >= SURE
    ]
