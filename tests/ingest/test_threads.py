import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA
from starkiln.ingest.threads import (
    Message,
    Thread,
    is_bot,
    mask,
    numbered,
    row,
    strip_email,
    truncate,
    without_bots,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
FOOTER = "Reply to this email directly or view it on GitHub."


def said(*messages: tuple[str, str]) -> list[Message]:
    return [Message(author, text) for author, text in messages]


def cleaned(*messages: Message, title: str = "T", bots: tuple[str, ...] = ()) -> dict:
    thread = Thread("acme/thing", 7, False, title, list(messages))
    return row(thread, head=60, tail=20, bots=bots)


def texts(document: dict) -> list[tuple[str, str]]:
    return [(s["marker"], s["text"]) for s in document["segments"]]


# ---- e-mail


def mail(answer: str, header: str, quoted: str, footer: str) -> str:
    return f"{answer}\n\n{header}\n\n{quoted}\n{footer}"


QUOTE = "> Could you try the\n> latest version?\n>"
HEADERS = [
    "On Mon, May 4, 2015 at 8:39 AM, Ann <notifications@github.com> wrote:",
    "On Mon, May 4, 2015 at 8:39 AM, Ann Lee of the\nthing <notifications@github.com>\nwrote:",
    "On Sat 3 May 2025, 18:17 Ann, ***@***.***> wrote:",
    "El vie, 9 de ene de 2026, 5:54 p. m., ann ***@***.***>\nescribió:",
    "Le 4 mai 2015, Ann <reply+0af@reply.github.com> a écrit :",
    "On 5/4/2015 08:39 AM, Ann wrote:",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("footer", [f"> —\n> {FOOTER}\n", f"\n—\n{FOOTER}\n<https://x.y/z>\n", ""])
def test_an_answer_by_mail_keeps_the_answer(header, footer):
    assert strip_email(mail("It works now.", header, QUOTE, footer)) == "It works now."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("I agree.\n\n> a quotation\n\nbut not here", None),  # the original lost "I agree."
        ("> all of it", None),
        ("From: where do you know?\nOn top of that: nothing", None),
        ("mail from notifications@github.com is spam", None),
        ("He wrote:\n\n> on 4/5/2015 08:39 AM\n\nand more", None),
        ("One.\n\nFrom: Ann\nTo: thing\n\nTry it\n\n—\n" + FOOTER + "\n\nafter", "One.\n\n\nafter"),
        ("One.\n\n—\n" + FOOTER, "One."),
        (
            "One.\n\n—\nYou are receiving this because you wrote.\n" + FOOTER + "\n<https://x>",
            "One.",
        ),
        ("One.\n\n> On 4 May, Ann notifications@github.com wrote:\n> \n> two\n> " + FOOTER, "One."),
        ("One.\n\nOn Monday, Bob <b@c.d> wrote:\n\n> two\n>> —\n>> " + FOOTER + "\n", "One."),
        ("Fixed\n\nSigned-off-by: Ann Lee <ann@lee.org>\n", "Fixed"),
        ("a\n" + "_" * 20 + "\nb" + "_" * 19, "a\n\nb" + "_" * 19),
        ("  \n a \n ", "a"),
    ],
)
def test_what_is_taken_out_of_mails_and_what_is_not(text, left):
    assert strip_email(text) == (text if left is None else left)


def test_answers_between_quoted_lines_stay():
    text = mail("", HEADERS[0], "> first\nyes\n> second\nno", f"> {FOOTER}")
    assert strip_email(text) == "yes\nno"


HOSTILE = [
    "_" * 19 + " ",
    "1/",
    "On ",
    "From:",
    "Signed-off-by: <",
    "notifications@github.com\n",
    "> " + FOOTER + "\n",
    "1/1/1 10:10 AM ",
    "a-_",
    "@a",
    "\n",
    ">",
    "wrote\n",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
def test_cleaning_takes_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    assert cleaned(Message("ann", text), Message("bob", "wrote: " + text[:-1])) is not None


# ---- length


def test_long_messages_lose_their_middle():
    lines = [f"line {k}" for k in range(81)]
    assert truncate("\n".join(lines[:80]), 60, 20) == "\n".join(lines[:80])
    cut = truncate("\n".join(lines), 60, 20).split("\n")
    assert cut == [*lines[:60], "[Truncated]", *lines[61:]]
    assert truncate("a\nb\nc", 2, 0) == "a\nb\n[Truncated]"
    assert truncate("a\nb\nc", 0, 1) == "[Truncated]\nc"


# ---- bots


@pytest.mark.parametrize(
    ("login", "bot"),
    [
        ("dependabot[bot]", True),
        ("DrahtBot", True),
        ("k8s-ci-robot", True),
        ("CLAassistant", True),
        ("claassistant-", False),
        ("Acme-Service-Account", True),  # the original's table never matched it
        ("acme-CI", True),
        ("acme-cloud", True),
        ("my-test-thing", True),
        ("contest", False),
        ("ann", False),
        ("helper", True),
    ],
)
def test_bots_are_known_by_their_logins(login, bot):
    assert is_bot(login, {"helper"}) is bot


def test_bots_and_the_comments_that_called_them_go():
    messages = said(
        ("ann", "/retest me"),  # an opening never goes
        ("ci-bot", "done"),
        ("bob", "/retest"),
        ("ci-bot", "done"),
        ("ci-bot", "done again"),
        ("eve", "@CI-bot please look"),
        ("ci-bot", "looked"),
        ("eve", "nothing of the kind"),
        ("ci-bot", "ok"),
        ("eve", "no word of ci-bots"),
        ("ci-bot", "ok"),
        ("eve", "/path is wrong"),
    )
    left = [m.text for m in without_bots(messages, ())]
    assert left == ["/retest me", "nothing of the kind", "no word of ci-bots", "/path is wrong"]


def test_only_the_last_comment_before_a_bot_called_it():
    messages = said(("ann", "a"), ("bob", "/go"), ("eve", "why"), ("x[bot]", "ok"))
    assert len(without_bots(messages, ())) == 3
    closing = Message("bob", closes=True)
    messages = [*said(("ann", "a"), ("bob", "/close")), closing, Message("x[bot]", "closed")]
    assert without_bots(messages, ()) == [messages[0], closing]


def test_an_account_that_github_calls_a_bot_is_one():
    assert without_bots([Message("ann", "a"), Message("Helper", "b", bot=True)], ()) == said(
        ("ann", "a")
    )


# ---- logins

NAMES = {"ann": "username_0", "ann-lee": "username_1", "a": "username_2", "will": "username_3"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("@ann, see @Ann-Lee", "@username_0, see @username_1"),
        ("ANN's and (ann)", "username_0's and (username_0)"),
        ("annual channel ann2 ann-x x-ann x_ann", None),
        ("-ann _ann_ ann- --ann--", "-username_0 _username_0_ username_0- --username_0--"),
        ("a cat will do", None),  # the original made a zoo of it
        ("@a and @Will", "@username_2 and @username_3"),
        ("github.com/ann/x.git", "github.com/username_0/x.git"),
        ("éann annß", None),
        ("@annie @ann-lees", None),
        ("username_0", None),
        ("", None),
    ],
)
def test_logins_are_masked_as_whole_words(text, masked):
    assert mask(text, NAMES) == (text if masked is None else masked)


@given(st.lists(TEXTS), st.lists(st.from_regex(r"[a-z][a-z0-9-]{3,9}x", fullmatch=True)))
def test_no_login_survives_masking_and_nothing_else_changes(around, logins):
    names = numbered(said(*((login, "") for login in logins)))
    text = " \n ".join([*around, *logins])
    masked = mask(text, names)
    words = [word.strip("-_@") for word in masked.lower().split()]
    assert not names.keys() & set(words)
    assert mask(masked, names) == masked
    assert mask(text, {"zzzzzzzzzzzzzz": "username_0"}) == text


def test_people_are_numbered_by_their_first_word():
    messages = [Message("Eve", closes=True), *said(("bob", "x"), ("BOB", "y"), ("ann--", "z"))]
    names = numbered(messages)
    assert names == {"bob": "username_0", "ann": "username_1", "eve": "username_2"}
    assert mask("ann-- @Eve", names) == "username_1-- @username_2"


# ---- the document


def test_the_layout_of_a_document():
    document = cleaned(
        Message("ann", "It fails, @bob.\r\nTwice."),
        Message("bob", "Try again"),
        Message("bob", closes=True),
        Message("Ann", "   "),
        Message("ann", "<issue_closed> no\n"),
        title="A \n title by ann",
    )
    assert list(document) == list(SCHEMA)
    assert (document["kind"], document["repo"], document["path"]) == (
        "issue",
        "acme/thing",
        "issues/7",
    )
    assert texts(document) == [
        (
            "<issue_start>",
            "Title: A title by username_0\nusername_0: It fails, @username_1.\nTwice.",
        ),
        ("<issue_comment>", "username_1: Try again"),
        ("<issue_closed>", ""),
        ("<issue_comment>", "username_0: <issue_closed> no"),
    ]


def test_a_person_stands_for_the_bot_that_opened():
    document = cleaned(
        Message("x[bot]", "Bump y"),
        Message("x[bot]", closes=True),
        Message("ann", "no"),
        Message("x[bot]", closes=True),
    )
    assert texts(document) == [
        ("<issue_start>", "Title: T\nusername_0: no"),
        ("<issue_closed>", ""),
    ]


def test_the_steps_come_in_the_order_of_the_rules():
    long = "\n".join(["> old"] * 100)
    text = mail("New", HEADERS[0], long, f"> {FOOTER}")
    assert texts(cleaned(Message("ann", text)))[0][1] == "Title: T\nusername_0: New"
    called = Message("ann", "On Monday, notifications@github.com wrote:\n> x\n\n/go")
    left = cleaned(Message("bob", "x"), called, Message("y[bot]", "ok"))
    assert texts(left) == [("<issue_start>", "Title: T\nusername_0: x")]


@pytest.mark.parametrize(
    ("messages", "title", "reason"),
    [
        ([Message("x[bot]", "Bump")], "T", "bots-only"),
        ([Message("x[bot]", "Bump"), Message("ann", closes=True)], "T", "bots-only"),
        ([Message("helper", "Bump")], "T", "bots-only"),
        ([Message("ann", " "), Message("ann", closes=True)], "\t", "empty"),
    ],
)
def test_threads_in_which_nothing_is_left(messages, title, reason):
    found = cleaned(*messages, title=title, bots=("helper",))
    assert (found["reason"], found["path"]) == (reason, "issues/7")


@given(st.lists(st.builds(Message, TEXTS, TEXTS, st.booleans(), st.booleans()), min_size=1), TEXTS)
def test_any_thread_gives_a_document_or_a_reason(messages, title):
    found = cleaned(messages[0]._replace(closes=False), *messages[1:], title=title)
    if "reason" not in found:
        assert found["segments"][0]["marker"] == "<issue_start>"
        assert {s["marker"] for s in found["segments"][1:]} <= {"<issue_comment>", "<issue_closed>"}
