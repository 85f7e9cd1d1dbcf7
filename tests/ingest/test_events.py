import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.ingest.events import TYPES, items

NOW = "2016-02-03T04:05:06Z"
REPO = {"id": 5, "name": "Acme/Thing"}
ANN, BOB = {"login": "ann", "type": "User"}, {"login": "bob", "type": "User"}
ISSUE = {"number": 7, "title": "T", "body": "B", "user": ANN, "created_at": "2016-01-01T00:00:00Z"}
SAID = {"id": 9, "user": BOB, "body": "C", "created_at": "2016-02-02T00:00:00Z"}


def event(kind: str, payload: object, **rest: object) -> dict:
    return {"id": "1", "type": kind, "actor": BOB, "repo": REPO, "created_at": NOW} | {
        "payload": payload,
        **rest,
    }


def told(*values: object) -> list[dict]:
    return list(items("".join(map(json.dumps, values)).encode()))


def reasons(*values: object) -> list[str]:
    return [found["reason"] for found in told(*values)]


COMMENTED = event("IssueCommentEvent", {"action": "created", "issue": ISSUE, "comment": SAID})
OPENING = {"key": "5#7", "repo": "Acme/Thing", "number": 7, "pull": False, "kind": "opening"} | {
    "time": "2016-01-01T00:00:00Z",
    "seen": NOW,
    "author": "ann",
    "bot": False,
    "title": "T",
    "text": "B",
}
COMMENT = {"key": "5#7", "repo": "Acme/Thing", "number": 7, "pull": False, "kind": "comment"} | {
    "time": "2016-02-02T00:00:00Z",
    "author": "bob",
    "bot": False,
    "text": "C",
    "id": ["IssueComment", 9],
}


def test_a_comment_tells_the_whole_issue():
    assert told(COMMENTED) == [OPENING, COMMENT]
    pull = {**ISSUE, "pull_request": {"url": "u"}}
    found = told(event("IssueCommentEvent", {"issue": pull, "comment": SAID}))
    assert [r["pull"] for r in found] == [True, True]


def test_opening_and_closing():
    assert told(event("IssuesEvent", {"action": "opened", "issue": ISSUE})) == [OPENING]
    _, closed = told(event("IssuesEvent", {"action": "closed", "issue": ISSUE}))
    assert (closed["kind"], closed["time"], closed["author"]) == ("closed", NOW, "bob")
    assert len(told(event("IssuesEvent", {"action": "reopened", "issue": ISSUE}))) == 1
    merged = event("PullRequestEvent", {"action": "merged", "number": 7, "pull_request": ISSUE})
    assert [(r["kind"], r["pull"]) for r in told(merged)] == [("opening", True), ("closed", True)]


def test_reviews():
    review = {"id": 4, "user": BOB, "body": "", "state": "approved", "submitted_at": NOW}
    payload = {"action": "created", "review": review, "pull_request": ISSUE}
    assert [r["kind"] for r in told(event("PullRequestReviewEvent", payload))] == ["opening"]
    payload["review"] = {**review, "body": "No"}
    _, said = told(event("PullRequestReviewEvent", payload))
    assert (said["text"], said["time"], said["id"]) == ("No", NOW, ["Review", 4])
    payload = {"comment": SAID, "pull_request": ISSUE}
    _, said = told(event("PullRequestReviewCommentEvent", payload))
    assert (said["text"], said["id"]) == ("C", ["ReviewComment", 9])


# ---- the eras


def test_the_era_before_2015():
    old = {
        "created_at": "2013-08-05T20:03:01-07:00",
        "actor": "bob",
        "actor_attributes": {"login": "bob", "type": "User"},
        "repository": {"id": 5, "name": "Thing", "owner": "Acme"},
        "url": "https://github.com/Acme/Thing/issues/7#issuecomment-9",
    }
    opened = {
        **old,
        "type": "IssuesEvent",
        "payload": {"action": "opened", "issue": 1, "number": 7},
    }
    (found,) = told(opened)
    assert (found["key"], found["repo"], found["title"]) == ("5#7", "Acme/Thing", None)
    assert found["seen"] == "2013-08-06T03:03:01Z"
    closed = {**opened, "payload": {"action": "closed", "issue": 1, "number": 7}}
    assert [(r["kind"], r["author"]) for r in told(closed)][1:] == [("closed", "bob")]
    bare = {**old, "type": "IssueCommentEvent", "payload": {"issue_id": 1, "comment_id": 9}}
    assert [r.get("reason", r.get("title")) for r in told(bare)] == [None, "no-text"]
    pull = {**old, "type": "PullRequestEvent"} | {
        "payload": {"action": "opened", "number": 7, "pull_request": ISSUE}
    }
    assert [(r["text"], r["pull"]) for r in told(pull)] == [("B", True)]
    place = "https://api.github.com/repos/Acme/Thing/pulls/7"
    review = {**old, "type": "PullRequestReviewCommentEvent"} | {
        "payload": {"comment": {**SAID, "pull_request_url": place}}
    }
    assert [(r["number"], r.get("text")) for r in told({**review, "url": "x"})] == [
        (7, ""),
        (7, "C"),
    ]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2012/03/10 22:36:55 -0800", "2012-03-11T06:36:55Z"),
        ("2012-03-10T22:36:55-08:00", "2012-03-11T06:36:55Z"),
        ("2012-03-10T22:36:55.123Z", "2012-03-10T22:36:55Z"),
        ("2012-03-10 22:36:55", "2012-03-10T22:36:55Z"),
    ],
)
def test_times_of_all_eras_are_in_utc(written, read):
    (found,) = told(event("IssuesEvent", {"issue": ISSUE}, created_at=written))
    assert found["seen"] == read


def test_the_era_since_october_2025():
    bare = {"url": "https://api.github.com/repos/Acme/Thing/pulls/7", "id": 1, "number": 7}
    payload = {"action": "opened", "number": 7, "pull_request": {**bare, "head": {}, "base": {}}}
    (found,) = told(event("PullRequestEvent", payload))
    assert (found["title"], found["pull"], found["number"]) == (None, True, 7)
    _, said = told(event("PullRequestReviewCommentEvent", {"comment": SAID, "pull_request": bare}))
    assert said["text"] == "C"


# ---- lines that are not one event


def test_events_of_other_kinds_are_passed_over():
    push = event("PushEvent", {"commits": [{"message": '{"type":"IssuesEvent"}'}]})
    assert told(push) == []
    assert list(items(json.dumps(push, separators=(",", ":")).encode())) == []
    assert list(items(b'{"id":"1","type":"PushEvent","nobody looks')) == []
    assert list(items(b"\n")) == list(items(b"")) == []


def test_several_events_in_a_line_and_padding():
    assert told(COMMENTED, COMMENTED) == [OPENING, COMMENT] * 2
    assert list(items(json.dumps(COMMENTED).encode() + b"\n" + b"\0" * 99)) == [OPENING, COMMENT]
    assert list(items(b"\xef\xbb\xbf" + b"\0" * 9 + json.dumps(COMMENTED).encode())) == [
        OPENING,
        COMMENT,
    ]


@pytest.mark.parametrize("kind", ["PushEvent", "IssuesEvent"])
def test_an_event_behind_one_that_breaks_off_is_found(kind):
    whole = json.dumps(COMMENTED, separators=(",", ":"))
    line = f'{{"id":"3","type":"{kind}","actor":{{"url":"https://api.{whole}\n'
    assert list(items(line.encode())) == [{"reason": "malformed-json"}, OPENING, COMMENT]


@pytest.mark.parametrize("between", ["", " ", "\t", " \0"])
@pytest.mark.parametrize("separators", [(",", ":"), None])
def test_an_event_behind_one_of_another_kind_is_found(separators, between):
    other = json.dumps(event("PushEvent", {}), separators=separators)
    line = other + between + json.dumps(COMMENTED, separators=separators)
    assert list(items(line.encode())) == [OPENING, COMMENT]
    backwards = dict(reversed(COMMENTED.items()))
    line = other + between + json.dumps(backwards, separators=separators)
    assert list(items(line.encode())) == [OPENING, COMMENT]


def test_an_event_with_spaces_behind_one_that_breaks_off_is_found():
    line = '{"id": "3", "type": "PushEvent", "actor": {"url": "https:' + json.dumps(COMMENTED)
    assert list(items(line.encode())) == [{"reason": "malformed-json"}, OPENING, COMMENT]


def test_lone_surrogates_and_wrong_bytes_become_replacement_characters():
    said = {**SAID, "body": "a\ud800b", "user": {"login": "b\udfff"}}
    _, found = told(event("IssueCommentEvent", {"issue": ISSUE, "comment": said}))
    assert (found["text"], found["author"]) == ("a�b", "b�")
    line = json.dumps(COMMENTED).encode().replace(b'"C"', b'"C\xff"')
    assert [r["text"] for r in items(line)] == ["B", "C�"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"nonsense",
        b'{"id":"1","type":"IssuesEvent","payload":{"act',
        b'{"type":' + b"[" * 100_000,
        b'{"type":' + b"9" * 5_000 + b"}",
        b"\x80\x81",
    ],
)
def test_what_is_no_json_is_counted(line):
    assert list(items(line)) == [{"reason": "malformed-json"}]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [b'{"id":"', b'{"id":"1","type":"x","a":', b"[", b"{}", b'{"a":'])
def test_hostile_lines_take_linear_time(piece):
    assert all(items(piece * (1_000_000 // len(piece))))


# ---- wrong types


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ["unknown-record"]),
        (3, ["unknown-record"]),
        ({"title": "T"}, ["unknown-record"]),
        ({"type": 3}, ["unknown-record"]),
        (event("IssuesEvent", None), ["wrong-type"]),
        (event("IssuesEvent", {}), ["no-issue"]),
        (event("IssueCommentEvent", {"issue": None, "comment": SAID}), ["no-issue"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "number": "7"}}), ["no-issue"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "number": True}}), ["no-issue"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "number": 10**99}}), ["no-issue"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "title": 3}}), ["wrong-type"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "body": {}}}), ["wrong-type"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "user": 3}}), ["wrong-type"]),
        (event("IssuesEvent", {"issue": {**ISSUE, "created_at": "soon"}}), ["no-time"]),
        (event("IssuesEvent", {"issue": ISSUE}, created_at=None), ["no-time"]),
        (
            event("IssuesEvent", {"issue": ISSUE}, created_at="0001-01-01T00:00:00+23:00"),
            ["no-time"],
        ),
        (event("IssuesEvent", {"issue": ISSUE}, repo=None), ["no-repository"]),
        (event("IssuesEvent", {"issue": ISSUE}, repo={"name": 3}), ["no-repository"]),
    ],
)
def test_events_of_a_wrong_shape_are_counted(value, expected):
    assert reasons(value) == expected


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "wrong-type"),
        ("text", "wrong-type"),
        ({**SAID, "body": None}, "no-text"),
        ({**SAID, "body": ["C"]}, "wrong-type"),
        ({**SAID, "user": {}}, "wrong-type"),
        ({**SAID, "created_at": 3}, "no-time"),
    ],
)
def test_a_faulty_comment_does_not_lose_its_issue(said, reason):
    found = told(event("IssueCommentEvent", {"issue": ISSUE, "comment": said}))
    assert found == [OPENING, {"reason": reason}]


def test_deleted_users_have_no_name():
    said = {**SAID, "user": None}
    found = told(event("IssueCommentEvent", {"issue": {**ISSUE, "user": None}, "comment": said}))
    assert [r["author"] for r in found] == ["ghost", "ghost"]


def test_an_event_without_its_issue_is_placed_by_its_address():
    said = {**SAID, "issue_url": "https://api.github.com/repos/Acme/Thing/issues/7"}
    opening, comment = told(event("IssueCommentEvent", {"comment": said}))
    assert (opening["title"], comment["key"], comment["text"]) == (None, "5#7", "C")


def test_a_repository_without_an_id_goes_by_its_name():
    (found,) = told(event("IssuesEvent", {"issue": ISSUE}, repo={"name": "Acme/Thing"}))
    assert (found["key"], found["repo"]) == ("acme/thing#7", "Acme/Thing")


# ---- whole threads

PART = {"type": "comment", "author": "bob", "datetime": NOW, "id": 9, "text": "C"}


def thread(*parts: object, **rest: object) -> dict:
    return {"repo": "Acme/Thing", "number": 7, "title": "T", "is_pull_request": True} | {
        "events": list(parts),
        **rest,
    }


def test_a_whole_thread():
    opened = {**PART, "type": "pull_request", "text": "B", "author_type": "Bot"}
    closed = {**PART, "type": "state", "action": "closed", "text": ""}
    found = told(thread(opened, PART, closed, {**closed, "action": "reopened"}))
    assert [r["kind"] for r in found] == ["opening", "comment", "closed"]
    assert {(r["key"], r["pull"]) for r in found} == {("acme/thing#7", True)}
    assert [r["bot"] for r in found] == [True, False, False]
    assert found[1]["id"] == ["comment", 9]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (thread(number=None), ["wrong-type"]),
        (thread(repo=3), ["wrong-type"]),
        (thread(events={}), ["wrong-type"]),
        (thread("x"), ["wrong-type"]),
        (thread({**PART, "type": "poem"}), ["unknown-record"]),
        (thread({**PART, "datetime": None}), ["no-time"]),
        (thread({**PART, "text": 3}), ["wrong-type"]),
        (thread({**PART, "author": 3}), ["wrong-type"]),
        (thread({**PART, "text": " "}), ["no-opening"]),
        (thread(), ["no-opening"]),
    ],
)
def test_threads_of_a_wrong_shape_are_counted(value, expected):
    assert reasons(value) == expected


# ---- anything

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(NOW),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["issue", "pull_request", "comment", "review", "number", "title", "body", "user", "login",
     "type", "id", "created_at", "url", "action", "issue_url", "events", "author", "datetime"]
)  # fmt: skip
SHAPED = st.recursive(JSON, lambda inner: st.dictionaries(NAMES, inner, max_size=6), max_leaves=30)


@given(st.sampled_from(sorted(TYPES)), SHAPED, SHAPED, SHAPED)
def test_any_event_gives_records_or_reasons(kind, payload, repo, rest):
    value = event(kind, payload, repo=repo if isinstance(repo, dict) else REPO)
    for found in [*told(value), *told(thread(rest, rest)), *told(rest)]:
        if "reason" not in found:
            json.dumps(found, ensure_ascii=False).encode()
            assert found["number"] > 0
            assert isinstance(found["author"], str)


@given(st.binary())
def test_any_line_gives_records_or_reasons(line):
    for found in items(line):
        assert found.keys() == {"reason"} or "key" in found
