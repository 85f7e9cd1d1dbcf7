import json

import polars as pl
import pyarrow as pa
import pytest

from starkiln.code.document import SCHEMA, document
from starkiln.core import stage, table
from starkiln.curate import issues
from starkiln.curate.issues import english, issue_size, prose
from starkiln.ingest.threads import Message, Thread, row

CLOSED = ("<issue_closed>", "")


def thread(*messages: tuple[int, str] | None, title: str = "T") -> dict:
    """A document of (user, text) messages; None closes."""
    first, *rest = messages
    assert first is not None
    segments = [("<issue_start>", f"Title: {title}\nusername_{first[0]}: {first[1]}")]
    segments += [
        CLOSED if m is None else ("<issue_comment>", f"username_{m[0]}: {m[1]}") for m in rest
    ]
    return document("issue", segments, repo="r", path="p", language="unknown", licences=[])


def frame(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


def sizes(*rows: dict, **settings: int) -> list[tuple]:
    found = issue_size(frame(*rows), **settings)
    return found.select("issue_users", "issue_messages", "issue_characters", "reason").rows()


def test_users_and_characters_are_counted_without_heads_and_titles():
    rows = [
        thread((0, "x" * 100), (1, "y" * 100), None),
        thread((0, "x" * 100), (1, "y" * 99), None, title="t" * 500),
        thread((0, "é\n" * 100)),
        thread((3, "username_1: " + "x" * 200), (3, "Title: a\nusername_2: b")),
        thread((0, "")),
    ]
    assert sizes(*rows) == [
        (2, 2, 200, None),
        (2, 2, 199, "issue-short"),
        (1, 1, 200, None),
        (1, 2, 212 + 22, None),
        (1, 1, 0, "issue-short"),
    ]


@pytest.mark.parametrize(("login", "more"), [("ann", 7), ("a-very-long-login", -7)])
def test_logins_count_as_what_masks_them(login, more):
    """The paper counts before: by 7 letters fewer where "@ann" is named, by 7 more here."""
    text = f"@{login} " + "x" * 100
    said = [Message(login, text), Message("bob", text)]
    told = Thread("r", 1, False, "T", said)
    row_ = row(told, head=60, tail=20, bots=())
    assert issue_size(frame(row_))["issue_characters"].to_list() == [2 * (len(text) + more)]


def test_one_user_may_not_go_on_for_ever():
    rows = [
        thread((0, "x" * 7000), None, None),
        thread((0, "x" * 7001)),
        thread((0, "x" * 7000), (1, "y")),
        thread(*[(0, "x" * 30)] * 10, None),
        thread(*[(0, "x" * 30)] * 11),
        thread(*[(0, "x" * 30)] * 11, (1, "")),
    ]
    bad = "issue-one-user"
    assert [row[-1] for row in sizes(*rows)] == [None, bad, None, None, bad, None]
    limits = {"min_characters": 0, "max_characters": 6999, "max_messages": 11}
    assert [row[-1] for row in sizes(*rows, **limits)] == [bad, bad, None, None, None, None]


def test_only_threads_are_looked_at():
    assert stage.spec(issue_size).kinds == stage.spec(english).kinds == ("issue",)


@pytest.mark.parametrize("function", [issue_size, english])
def test_empty_frames(function):
    found = table.apply("x", function, frame(), {})
    assert found.height == 0
    assert set(found.columns) == {"reason", *stage.spec(function).adds}


ENGLISH = "The server stops answering after some hours, and I do not know what to look at."
GERMAN = "Der Server antwortet nach einigen Stunden nicht mehr, und ich weiß nicht, warum."
CHINESE = "服务器运行几个小时以后就没有响应了，我不知道应该看哪里，请帮忙看一下这个问题。"
RUSSIAN = "Через несколько часов сервер перестаёт отвечать, и я не знаю, куда смотреть."
CODE = "```\n" + "für x in liste: drucke(x)  # nur ein Beispiel für die Schleife\n" * 20 + "```\n"
INDENTED = "\n".join(["    printe das Wort, wenn die Zeile nicht leer ist"] * 20)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (thread((0, ENGLISH)), None),
        (thread((0, GERMAN)), "not-english"),
        (thread((0, CHINESE), (1, RUSSIAN)), "not-english"),
        (thread((0, ENGLISH), (1, GERMAN), (0, ENGLISH)), None),
        (thread((0, GERMAN), (1, ENGLISH), (0, GERMAN)), "not-english"),
        (thread((0, CHINESE), (1, "Thank you, this works"), (0, CHINESE)), "not-english"),
        (thread((0, CODE + ENGLISH + "\n" + CODE)), None),
        (thread((0, ENGLISH + "\n\n" + INDENTED)), None),
        (thread((0, "`x = 1`"), (1, "utACK"), (2, "LGTM :+1:"), (3, "ACK 9b7c47a21e")), None),
        (thread((0, "https://x.de/pfad/zur/datei /usr/lib/foo bar_baz 123"), title="?"), None),
        (thread((0, ""), title=""), None),
        (thread((0, ENGLISH.upper()), title="HELP"), None),
        (thread(*[(0, "не работает")] * 20, title="Ошибка"), "not-english"),
    ],
)
def test_threads_in_other_languages_go(row, reason):
    assert english(frame(row))["reason"].to_list() == [reason]


def test_the_share_is_of_prose_and_its_limit_can_be_set():
    row = thread((0, ENGLISH), (1, GERMAN), title="")
    share = english(frame(row))["english_share"][0]
    texts = [len(prose(text).encode()) for text in (ENGLISH, GERMAN)]
    assert share == texts[0] / sum(texts)
    assert english(frame(row), min_share=share)["reason"].to_list() == [None]
    assert english(frame(row), min_share=share + 0.01)["reason"].to_list() == ["not-english"]
    assert english(frame(thread((0, "1 2 3"), title="4")))["english_share"].to_list() == [None]


def test_prose_has_no_code_no_addresses_and_no_names():
    text = (
        "username_1: See `x y` at https://a.b/c and src/foo.py, don't use foo_bar()!\n"
        "> ```py\n> für\n> ```\n@username_2 <b>gut</b> 没有响应了。2019年"
    )
    assert prose(text) == "See at and don t use gut 没有响应了 年"


def test_long_threads_are_judged_by_their_beginning():
    long = [(0, ENGLISH * 40)] * 20
    assert english(frame(thread(*long, *[(1, GERMAN * 40)] * 40)))["reason"].to_list() == [None]


# ---- real threads

PAPER = {"copilot", "bors", "rust-highfive", "rust-timer"}  # bots of ours that the paper lacks


@pytest.fixture(scope="module")
def threads(shared) -> list[dict]:
    path = str(shared("corpora/issues/threads.jsonl.zst"))
    with pa.CompressedInputStream(pa.OSFile(path), "zstd") as stream:
        return [json.loads(line) for line in stream.read().splitlines()]


def test_the_published_rules_keep_2907_of_3961_threads(threads):
    from starkiln.ingest.threads import is_bot, truncate

    rows, bots, cut = [], 0, 0
    for told in threads:
        parts = [e for e in told["events"] if e["type"] in ("issue", "pull_request", "comment")]
        left = [e for e in parts if not is_bot(e["author"]) or e["author"].lower() in PAPER]
        bots += len(left) < len(parts)
        texts = [truncate(e["text"], 60, 20) for e in parts]
        cut += sum(text != e["text"] for text, e in zip(texts, parts))
        users = {author: k for k, author in enumerate({e["author"]: 0 for e in left})}
        if left:
            said = [(users[e["author"]], truncate(e["text"], 60, 20)) for e in left]
            rows.append(thread(*said))
    kept = issue_size(frame(*rows))["reason"].null_count()
    assert (len(threads), kept, bots, cut) == (3961, 2907, 135, 114)


def test_real_threads_of_other_languages(threads):
    """Six of the longer threads are not English, read by eye; nothing else may go."""
    foreign = {1493, 685, 723, 775, 789, 1799}
    rows = []
    for told in threads:
        parts = [e for e in told["events"] if e["text"].strip()]
        if parts and sum(len(e["text"]) for e in parts) >= 200:
            row = thread(*((0, e["text"]) for e in parts), title=told["title"])
            rows.append(row | {"path": str(told["number"])})
    found = frame(*rows).with_columns(english(frame(*rows)))
    gone = found.filter(pl.col("reason").is_not_null())["path"].to_list()
    assert {int(path) for path in gone} <= foreign | {313}
    assert len(gone) >= 6


def test_a_detector_is_made_once():
    assert issues._detector() is issues._detector()
