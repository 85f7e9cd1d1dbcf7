"""Places that hold a user and a password side by side: calls, tuples, URLs, commands, transcripts.

Each rule yields the pair (span of the user or None, span of the password, form); the classes judge
their own half.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from starkiln.curate.pii import bare, wording


class Login(NamedTuple):
    """Where a user (maybe nowhere) and a password stand, and in what form they do."""

    user: tuple[int, int] | None
    password: tuple[int, int]
    form: str


_STRING = r"[bu]?(?:\"[^\"\n]{0,60}\"|'[^'\n]{0,60}')"
_ARGUMENT = rf"(?:{_STRING}|\$?[A-Za-z_](?:[\w.]|->){{0,30}})"
_FIRST = r"[bu]?(?:\"([^\"\n]{1,60})\"|'([^'\n]{1,60})'|\$?[A-Za-z_](?:[\w.]|->){0,30})"
_LAST = (
    r"(?:Some\(\s?)?[bu]?(?:\"([^\"\n]{1,100})\"|'([^'\n]{1,100})')"
    r"(?:\.toCharArray\(\)|(?<=[\"'])\)(?=\)))?"
)
_NEXT = r"\s{0,8},\s{0,12}"
_AND_ON = r"(?:\s{0,8}[,)\]]|\s{0,40}(?:\+|\.{1,2}|&)\s{0,40}[\"'])"  # behind the last literal
_TUPLE = (
    r"(?:(?:auth|creds?|credentials?|login|basic_?auth)[\"']?\s{0,3}[=:,]\s{0,3}(?:tuple)?[(\[]|"
    r"(?:(?<=basic)auth|(?<=basic_)auth|(?<=digest)auth|(?<=plain)auth|(?<=network)credential|"
    r"usernamepassword)\w{0,20}\()\s{0,8}"
)
_CALL = (
    r"(?:(?:(?<!_)|(?<=basic_)|(?<=http_)|(?<=ftp_)|(?<=smtp_))"
    r"(?:auth|authenticate|authentication|log_?in\w{0,6}|credentials)|userpassword|"
    r"create_?(?:super)?user|connect(?:ion)?|simple_bind(?:_s)?|ldap_bind|mysqli|PDO|imap_open|"
    r"FTP(?:_TLS)?)\(\s{0,8}"
)
_PAIR = re.compile(rf"{_TUPLE}{_FIRST}{_NEXT}{_LAST}{_AND_ON}", re.IGNORECASE)
_THREE = re.compile(
    rf"{_TUPLE}{_ARGUMENT}{_NEXT}{_FIRST}{_NEXT}{_LAST}\s{{0,8}}[)\]]", re.IGNORECASE
)
_TRIPLE = re.compile(
    rf"{_CALL}{_ARGUMENT}(?:{_NEXT}\d{{1,5}})?{_NEXT}{_FIRST}{_NEXT}{_LAST}{_AND_ON}",
    re.IGNORECASE,
)
_CALLED = re.compile(rf"{_CALL}{_FIRST}{_NEXT}{_LAST}{_AND_ON}", re.IGNORECASE)
_MADE = re.compile(r"create", re.IGNORECASE)  # create_user("user", "address", "password")
_HOST = re.compile(r"connect|mysqli|pdo|ftp\(|ftp_tls", re.IGNORECASE)  # begins with a host
PAIRED = (
    *("auth", "login", "credential", "creds", "connect", "create_user", "createuser", "mysqli("),
    *("create_superuser", "pdo(", "simple_bind", "ldap_bind(", "imap_open(", "ftp(", "ftp_tls("),
    *("usernamepassword", "userpassword("),
)


def paired(text: str, place: int) -> Iterator[Login]:
    """``auth=("user", "password")``, ``login("user", "password")``, ``connect(host, user, …)``."""
    match, form = _THREE.match(text, place) or _PAIR.match(text, place), "tuple"
    if match is None:
        hosted, form = _HOST.match(text, place), "call"
        match = _TRIPLE.match(text, place) or (None if hosted else _CALLED.match(text, place))
    if match is None:
        return
    strings = [match.span(n) for n in range(1, 5) if match[n] is not None]
    user = strings[0] if len(strings) > 1 and not _MADE.match(text, place) else None
    yield Login(user, strings[-1], form)


_USERINFO = re.compile(
    r"://([^\s:/\"'<>`\\]{0,64}):(?!\d{1,5}[?#])([^\s\"'<>`/\\]{1,120})@"
    r"(?=[A-Za-z0-9\[${%_-]|\\?[\"']|[#<]\{?[A-Za-z_])"
)


def url(text: str, place: int) -> Iterator[Login]:
    """``scheme://user:password@host``, the password up to the last @ before the path."""
    at = text.find("@", place + 4, place + 190)
    match = _USERINFO.match(text, place) if at > 0 else None
    if match and (match[1] or not match[2].isdigit()):
        yield Login(match.span(1) if match[1] else None, match.span(2), "url")


_USER_OF = r"([\w.@-]{1,40}):"
_OPTION = re.compile(
    r" (?:-u[ =]?|(?:-U|--(?:proxy-)?user|--auth)[ =])"
    rf"(?:\\?\"{_USER_OF}([^\"\\\n]{{3,80}})\\?\"|'{_USER_OF}([^'\\\n]{{3,80}})'|"
    rf"[\"']?{_USER_OF}{bare.shell_word('-', 3)})"
)


def option(text: str, place: int) -> Iterator[Login]:
    """``-u user:password``."""
    if match := _OPTION.match(text, place):
        user, password = (n for n in range(1, 9) if match[n] is not None)
        yield Login(match.span(user), match.span(password), "option")


_JOINED = re.compile(
    r"(?:auth|credentials?|creds|userinfo|userpwd|userpass)[\"']?\s{0,2}(?:[:=,]|=>|\()\s{0,2}"
    r"[bu]?[\"']([A-Za-z][\w.@+-]{0,40}):([^\s\"':/]{3,60})[\"']",
    re.IGNORECASE,
)


def joined(text: str, place: int) -> Iterator[Login]:
    """``auth: "user:password"``."""
    if match := _JOINED.match(text, place):
        yield Login(match.span(1), match.span(2), "joined")


_END = r"(?=[\"'`]|\\[rn]|[ \t]*(?:\r?\n|\Z))"
_PASS = re.compile(rf"PASS :?([^\s\"'\\]{{3,64}}){_END}")
_USER = re.compile(rf"(?<![A-Za-z])USER ([A-Za-z][\w.@-]{{1,40}}){_END}")
_IMAP = re.compile(r"LOGIN \"?([A-Za-z][\w.@-]{1,40})\"? \"?([^\s\"'\\]{3,64})\"?" + _END)
_TAGGED = re.compile(r"(?<![\w.])[A-Za-z]{0,6}\d{1,6} \Z")
_NEAR = 240  # characters before PASS in which USER stands
SENT = ("pass ", " login ")


def sent(text: str, place: int) -> Iterator[Login]:
    """``PASS password`` after ``USER user``, and ``a1 LOGIN user password``, of a transcript."""
    if text[place] == " ":
        match = _IMAP.match(text, place + 1)
        if match and _TAGGED.search(text, max(0, place - 14), place + 1):
            yield Login(match.span(1), match.span(2), "sent")
    elif text.startswith("PASS ", place) and not (place and text[place - 1].isalnum()):
        match = _PASS.match(text, place)
        *_, user = (None, *_USER.finditer(text, max(0, place - _NEAR), place))
        if match and user:
            yield Login(user.span(1), match.span(1), "sent")


Find = Callable[[str, int], Iterator[Login]]
FINDS: dict[Find, tuple[str, ...]] = {
    paired: PAIRED,
    url: ("://",),
    option: (" -u", " --user", " --proxy-user", " --auth"),
    joined: ("auth", "userinfo", "userpwd", "userpass", "credential", "creds"),
    sent: SENT,
}
_WORTH = {  # of a password of each kind in each form
    "tuple": {"strong": 0.65, "word": 0.6},
    "call": {"strong": 0.6, "word": 0.3},
    "url": {"strong": 0.9, "word": 0.75, "hash": 0.75, "phrase": 0.5},
    "option": {"strong": 0.75, "word": 0.5},
    "joined": {"strong": 0.6, "word": 0.3},
    "sent": {"strong": 0.75, "word": 0.6},
}


def worth(text: str, login: Login) -> tuple[float, bool]:
    """How sure the password of a login is one (0 where it is none), and whether it is trivial."""
    body = text[slice(*login.password)]
    kind = wording.kind(body)
    if kind == "word" and not body.isalpha() and login.form in ("tuple", "call", "joined"):
        kind = "phrase"  # a name of something
    if kind is None and login.form == "url" and "@" in body:
        kind = "strong"
    if kind == wording.WEAK:
        return 0.3 if login.form in ("tuple", "call") else 0.4, True
    return _WORTH[login.form].get(kind or "", 0.0), False
