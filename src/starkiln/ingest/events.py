"""From one line of JSON to records: what an event, or a whole thread, tells of its thread.

A record is a dict of JSON values with ``key`` (the thread), ``kind`` (``opening``, ``comment`` or
``closed``), ``repo``, ``number``, ``pull`` (whether it is a pull request, as far as is known),
``time`` (UTC, ISO 8601), ``author`` and ``bot``. An opening has ``title`` (null where the event
does not tell), ``text`` and ``seen`` (when it read so); a comment has ``text`` and ``id``. What is
at fault is ``{"reason": ...}`` instead.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from starkiln.code.document import well_formed
from starkiln.ingest.threads import GHOST

OPENING, COMMENT, CLOSED = "opening", "comment", "closed"
MALFORMED = "malformed-json"

TYPES = {  # type of event -> is its thread a pull request; None: told by the issue
    "IssuesEvent": False,
    "IssueCommentEvent": None,
    "PullRequestEvent": True,
    "PullRequestReviewEvent": True,
    "PullRequestReviewCommentEvent": True,
}
PARTS = {"issue": OPENING, "pull_request": OPENING, "state": CLOSED} | dict.fromkeys(
    ("comment", "review", "review_comment"), COMMENT
)  # of a thread's ``events``
CLOSING = ("closed", "merged")

HEAD = re.compile(rb'\{"id": ?"\d+", ?"type": ?"(\w+)"')
BEGINS = ('{"id":"', '{"id": "')  # of an event since 2015
MORE = tuple(one.encode() for one in (*BEGINS, "}{", "} {", "}\t{", "\0{"))  # of a second value
MOST = 10**12  # above any number of an issue
PADDING = "\0 \t\r\n\ufeff"
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NUMBER = re.compile(r"/(?:issues|pulls?)/(\d{1,12})(?!\w)")


class Fault(ValueError):
    """What is wrong with a record, as a reason."""


def items(line: bytes) -> Iterator[dict]:
    """The records of one line, and its faults. An event of no thread's is not even parsed."""
    head = HEAD.match(line)
    if head and head[1].decode() not in TYPES and all(line.find(one, 1) < 0 for one in MORE):
        return
    for value in _values(line):
        if isinstance(value, dict) and "events" in value:
            yield from _of_thread(value)
        elif isinstance(value, dict) and isinstance(value.get("type"), str):
            yield from _of_event(value) if value["type"] in TYPES else ()
        else:
            yield {"reason": MALFORMED if value is None else "unknown-record"}


def _values(line: bytes) -> Iterator[Any]:
    """The values of one line, None for what is no JSON.

    There is mostly one. The files of 2011 hold several in a line; in some hours an event breaks off
    where the next begins, or zeros follow it.
    """
    from pydantic_core import from_json

    try:
        yield from_json(line, cache_strings="none")
        return
    except ValueError:  # also lone surrogates, which only the slower parser takes
        text = line.decode("utf-8", "replace").strip(PADDING)
    decoder, at, again = json.JSONDecoder(), 0, True
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, last = None, max(map(text.rfind, BEGINS))
            if not again or last <= at:
                yield None
                return
            at, again = last, False  # once only: a line of many beginnings must not cost its square
        yield value
        while at < len(text) and text[at] in PADDING:
            at += 1


def _tried(make: Callable[..., dict | None], *arguments: Any) -> Iterator[dict]:
    try:
        made = make(*arguments)
    except Fault as fault:
        yield {"reason": str(fault)}
    else:
        if made is not None:
            yield made


# ---- events


def _of_event(event: dict) -> Iterator[dict]:
    payload = event.get("payload")
    try:
        if not isinstance(payload, dict):
            raise Fault("wrong-type")
        thread = _thread(event, payload)
        time = _time(event.get("created_at"))
    except Fault as fault:
        yield {"reason": str(fault)}
        return
    yield from _tried(_opening, thread, _subject(payload), time)
    if event["type"] not in ("IssuesEvent", "PullRequestEvent"):
        yield from _tried(_comment, thread, event, payload, time)
    elif payload.get("action") in CLOSING:
        yield from _tried(_closed, thread, event.get("actor"), time)


def _subject(payload: dict) -> dict:
    for name in ("issue", "pull_request"):
        if isinstance(payload.get(name), dict):
            return payload[name]
    return {}


def _thread(event: dict, payload: dict) -> dict:
    """What all records of the event's thread hold: key, repo, number, pull."""
    repo, known = _repository(event)
    subject = _subject(payload)
    number = next(filter(_is_number, _numbers(event, payload, subject)), None)
    if number is None:
        raise Fault("no-issue")
    pull = TYPES[event["type"]]
    if pull is None and subject:
        pull = bool(subject.get("pull_request"))
    return {"key": f"{known}#{number}", "repo": repo, "number": number, "pull": pull}


def _repository(event: dict) -> tuple[str, object]:
    """(owner/name, what stays when it is renamed: the id if there is one)."""
    now, before = event.get("repo"), event.get("repository")  # since 2015 and in 2011; in between
    if isinstance(now, dict) and isinstance(now.get("name"), str):
        name, found = now["name"], now
    elif isinstance(before, dict) and all(type(before.get(k)) is str for k in ("owner", "name")):
        name, found = f"{before['owner']}/{before['name']}", before
    else:
        raise Fault("no-repository")
    return well_formed(name), found["id"] if type(found.get("id")) is int else _folded(name)


def _folded(name: str) -> str:
    return well_formed(name).lower()


def _is_number(value: object) -> bool:
    return type(value) is int and 0 < value < MOST


def _numbers(event: dict, payload: dict, subject: dict) -> Iterator[object]:
    yield subject.get("number")
    yield payload.get("number")
    said = payload.get("comment")
    places = [said.get(k) for k in ("issue_url", "pull_request_url")] if type(said) is dict else []
    for place in [*places, event.get("url")]:
        found = NUMBER.search(place) if isinstance(place, str) else None
        yield int(found[1]) if found else None


def _opening(thread: dict, subject: dict, seen: str) -> dict:
    title = subject.get("title")
    if title is not None and not isinstance(title, str):
        raise Fault("wrong-type")
    told = {"title": title and well_formed(title), "text": _text(subject.get("body"))}
    time = _time(subject.get("created_at") or seen)
    author = _author(subject.get("user"))
    return {**thread, "kind": OPENING, "time": time, "seen": seen, **author, **told}


def _comment(thread: dict, event: dict, payload: dict, time: str) -> dict | None:
    review = event["type"] == "PullRequestReviewEvent"
    said = payload.get("review" if review else "comment")
    if said is None and type(payload.get("comment_id")) is int:
        raise Fault("no-text")  # before 2015 an event named its comment by the id alone
    if not isinstance(said, dict):
        raise Fault("wrong-type")
    text = _text(said.get("body"))
    if not text.strip():
        if review:
            return None  # approved, or with its comments in events of their own
        raise Fault("no-text")
    time = _time(said.get("created_at") or said.get("submitted_at") or time)
    kind = event["type"].removeprefix("PullRequest").removesuffix("Event")
    author = _author(said["user"] if "user" in said else event.get("actor"))
    return {**thread, "kind": COMMENT, "time": time, **author, "text": text, "id": _id(kind, said)}


def _closed(thread: dict, actor: object, time: str) -> dict:
    return {**thread, "kind": CLOSED, "time": time, **_author(actor)}


# ---- threads


def _of_thread(thread: dict) -> Iterator[dict]:
    """Records of a thread that is told whole: repo, number, title, is_pull_request, events."""
    repo, number, parts = (thread.get(name) for name in ("repo", "number", "events"))
    if not (isinstance(repo, str) and _is_number(number) and isinstance(parts, list)):
        yield {"reason": "wrong-type"}
        return
    pull = thread.get("is_pull_request")
    told = {
        "repo": well_formed(repo),
        "number": number,
        "pull": pull if type(pull) is bool else None,
    }
    told["key"] = f"{_folded(repo)}#{number}"
    nothing = {"reason": "no-opening"}
    for part in parts:
        for found in _tried(_part, told, part, thread.get("title")):
            nothing = {}
            yield found
    if nothing:
        yield nothing


def _part(told: dict, part: object, title: object) -> dict | None:
    if not isinstance(part, dict):
        raise Fault("wrong-type")
    kind, time = PARTS.get(str(part.get("type"))), _time(part.get("datetime"))
    login = part.get("author")
    user = None if login is None else {"login": login, "type": part.get("author_type")}
    record = {**told, "kind": kind, "time": time, **_author(user)}
    if kind == OPENING:
        title = well_formed(title) if isinstance(title, str) else ""
        return {**record, "seen": time, "title": title, "text": _text(part.get("text"))}
    if kind == COMMENT:
        text = _text(part.get("text"))
        if not text.strip():
            return None
        return {**record, "text": text, "id": _id(str(part["type"]), part)}
    if kind is None:
        raise Fault("unknown-record")
    return record if part.get("action") in CLOSING else None


# ---- values


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Fault("wrong-type")
    return well_formed(value)


def _author(user: object) -> dict:
    """``author`` and ``bot`` of a user, who is null when deleted and was a login before 2015."""
    if user is None:
        return {"author": GHOST, "bot": False}
    if isinstance(user, str):
        user = {"login": user}
    if not isinstance(user, dict) or not isinstance(user.get("login"), str) or not user["login"]:
        raise Fault("wrong-type")
    return {"author": well_formed(user["login"]), "bot": user.get("type") == "Bot"}


def _id(kind: str, said: dict) -> list:
    """Of a comment: kind and number, which is 0 where none is told."""
    return [kind, said["id"] if type(said.get("id")) is int else 0]


def _time(value: object) -> str:
    """A time in UTC, as ``2015-01-01T00:00:00Z``."""
    if not isinstance(value, str):
        raise Fault("no-time")
    if UTC_TIME.fullmatch(value):
        return value
    try:  # 2012/03/10 22:36:55 -0800, 2013-01-01T10:22:31-08:00
        moment = datetime.fromisoformat(
            value.replace("/", "-").replace(" -", "-").replace(" +", "+")
        )
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        raise Fault("no-time") from None
