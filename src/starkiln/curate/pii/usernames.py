"""Usernames: handles in credits and logs of changes, home directories, values of logins.

The @ is no part of the span. Placeholders, accounts of systems, decorators, tags of documentation,
scopes of packages and variables are none (rules §9). Below ``SURE`` stand handles and literals
whose place says less.
"""

import re
from collections.abc import Iterator

from starkiln.code.spans import SURE, Span
from starkiln.curate.pii import logins, values
from starkiln.curate.pii.anchors import DIGIT, LOWER, UPPER
from starkiln.curate.pii.handles import CREDITS, FORGES, VERBS, handle, is_word, prompt, span
from starkiln.curate.pii.persons import GIVEN, run_at
from starkiln.curate.pii.values import Rule

_REACH = 160  # characters each way


_HOME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,38}(?<![.-])")


def _home(text: str, place: int) -> Iterator[Span]:
    """``/home/name``, ``/Users/name``, ``C:\\Users\\name``."""
    slash = text[place]
    start = text.find(slash, place + 1) + 1
    if text[start : start + 1] == slash:  # escaped
        start += 1
    capital = text[place + 1 : start - 1].strip("\\") in ("home", "Users")
    match = _HOME.match(text, start)
    before = text[place - 1 : place] if place else ""
    inner = slash == "/" and before and (before.isalnum() or before in "._-})]*/>~")
    inner = inner and not _FLAG.search(text, max(0, place - 4), place)
    mounted = text[max(0, place - 4) : place].endswith(("/c", "/mnt", "/C", "//"))
    if not match or (inner and not mounted):
        return
    after = text[match.end() : match.end() + 1]
    if after in ("(", "="):
        return
    if not capital and not _VERB.search(text, max(0, place - 8), place):
        return
    weight = 0.85 if capital else 0.6
    if is_word(match[0]):
        weight = 0.3
    elif after not in ("/", "\\"):
        weight = min(weight, 0.6)
    yield from span(text, *match.span(), "home", weight)


_FLAG = re.compile(r"(?<![\w-])-[ILFBR]\Z")  # of a compiler
_VERB = re.compile(r"\b(?:GET|PUT|POST|PATCH|DELETE|HEAD) \Z")
_PERSON = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_]|-(?=[A-Za-z0-9])){1,38}")
_CREDIT = re.compile(rf"\b(?:{'|'.join(CREDITS)})\b", re.IGNORECASE)


def _forge(text: str, place: int) -> Iterator[Span]:
    """``github.com/name`` where a person is thanked or named, no project of theirs."""
    start = text.index("/", place) + 1
    start += text[start : start + 1] in ("@", "~")
    match = _PERSON.match(text, start)
    if not match or match[0].lower() in FORGES:
        return
    stop = match.end() + (text[match.end() : match.end() + 1] == "/")
    after = text[stop : stop + 1]
    ends = after == "." and not text[stop + 1 : stop + 2].isalnum()
    if after and not ends and (after.isalnum() or after in ".-_/?#=%&{$*"):
        return
    low = max(0, place - _REACH)
    line = text.rfind("\n", low, place) + 1 or low
    head = text[line:place]
    shown = _SHOWN.search(head)
    owned = shown and _ARTICLE.search(head, 0, shown.start())  # the `Project <…>`_
    mailed = after == ")" and _AFTER_MAIL.search(head)
    credited = _CREDIT.search(head) or _CREDIT.search(text, max(low, line - 80), place)
    if owned or (is_word(match[0]) and not mailed):
        weight = 0.35
    elif shown and (shown[1] or "").lower() == match[0].lower():
        weight = 0.85
        yield from span(text, line + shown.start(1), line + shown.end(1), "shown", 0.8)
    elif mailed or shown or _FIELD.match(head):
        weight = 0.75
    else:
        weight = 0.75 if credited else 0.3
    yield from span(text, *match.span(), "forge", weight)


_SHOWN = re.compile(
    r"(?:[`\[]@?([A-Za-z0-9_-]{2,39})|"
    r"[`\[]?\b[A-Z][^\W\d_]+(?:[ ][A-Z][^\W\d_.]{0,20}\.?){1,3})[\"']?[ \t]?(?:[<(]|\]\()"
    r"(?:https?://)?(?:www\.)?\Z"
)
_ARTICLE = re.compile(r"\b(?:the|an?|its|our|this)[ \t]\Z", re.IGNORECASE)
_AFTER_MAIL = re.compile(  # Name <name@host> (https://forge/
    r"\w[\"'.]? <[^<>@\s]{1,64}@[^<>@\s]{1,80}> \((?:https?://)?(?:www\.)?\Z"
)
_FIELD = re.compile(
    r"[ \t]*(?:W:|\*? ?@?(?:author|link)\b|[\"']?(?:html_url|homepage|blog|url)[\"']?:[ \t]*\")",
    re.I,
)
_LOGIN = re.compile(
    r"(?:[A-Za-z]{0,16}[_-]?(?:user_?(?:name|id)|login|user|screen_?name|nick(?:name)?|handle|"
    r"maintainer|assignee|committer|by_user)(?:[_-]?name)?\d?)\Z",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,30}(?<![.-])")
_LINKS = ("=", ":", "=>", ":=", "==")


def _value(text: str, place: int) -> Iterator[Span]:
    """A literal given to what is called a user, username or login."""
    value = values.after(text, place)
    if value is None or value.link not in _LINKS or value.start - value.name > 24:
        return
    start = place
    while start > max(0, place - 24) and (text[start - 1].isalnum() or text[start - 1] in "_-"):
        start -= 1
    if not _LOGIN.match(text, start, value.name):
        return
    match = _VALUE.match(text, value.start, value.end)
    if not match or match.end() != value.end:
        return
    body = match[0]
    if not value.quoted:
        line = text[text.rfind("\n", max(0, start - 40), start) + 1 : start]
        if text[match.end() : match.end() + 1] not in ("\n", "\r", "") or line.strip(" \t-#;*"):
            return
        told = _NAME.fullmatch(text, start, value.name) and _LIKE_LOGIN.search(body)
        weight = 0.6 if told and _once(text, *match.span()) else 0.3
    else:
        weight = 0.62
    parts = [] if _PERSONAL.search(text, max(0, start - 1), value.name) else _PARTS.findall(body)
    if is_word(body) or _KEYLIKE.search(body) or any(map(is_word, parts[1:])):
        weight = min(weight, 0.2)
    yield from span(text, *match.span(), "value", weight)


_NAME = re.compile(r"[A-Za-z_.-]*(?:user_?name|login|user)", re.IGNORECASE)
_LIKE_LOGIN = re.compile(r"\A[A-Za-z]\w{0,20}[.-][A-Za-z]\w+\Z|\d|\A[A-Z][a-z]+[A-Z]")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_PERSONAL = re.compile(r"(?:from_user|screen_?name|nick(?:name)?|:user)\Z")  # of nothing else
_ONCE = 20_000  # characters each way


def _once(text: str, start: int, end: int) -> bool:
    """Whether no other place knows the word, as one would that names a variable."""
    word = re.compile(rf"(?<![\w.-]){re.escape(text[start:end])}(?![\w(])")
    return all(
        one.start() == start
        for one in word.finditer(text, max(0, start - _ONCE), min(len(text), end + _ONCE))
    )


_KEYLIKE = re.compile(
    r"(?i:user|login|name|admin|test|email|account|pass)|\A[a-z]+[A-Z]|_[a-z]+_|\.[a-z]+\.|\.(?:js|"
    r"py|php|html?)\Z|\A[A-Z_]+\Z"
)
_MARK = re.compile(
    r"([A-Za-z]{2,5})\((@?[A-Za-z][A-Za-z0-9_.-]{1,30}@?"
    r"(?:[ ]?(?:[,/&+]|and )[ ]?@?[A-Za-z][\w.-]{1,30}@?){0,4})\)(?=[ \t]*[:,\-\n]|[ \t]\S)"
)
_MARKED = re.compile(r"[A-Za-z][\w.-]{1,30}")
_NO_MARK = re.compile(r"[vV]?\d|[A-Z]+-?\d+\Z|and\Z|(?:[a-z]+\.)+(?:js|py|c|h|go|rs|io)\Z|py\d|go1")


def _marked(text: str, place: int) -> Iterator[Span]:
    """``TODO(name, name): …`` and ``imap(name): …`` of a log."""
    mark = _MARK.match(text, place)
    if not mark:
        return
    todo = mark[1].isupper() and mark[1] not in ("LDA", "IMAP", "POP3", "LMTP")
    weight = 0.7 if todo or text[mark.end() : mark.end() + 2] == ": " else 0.15
    for match in _MARKED.finditer(text, *mark.span(2)):
        if not is_word(match[0]) and not _NO_MARK.match(match[0]):
            yield from span(text, *match.span(), "marked", weight)


_KEYWORD = re.compile(
    r"\$(?:Id|Header): [^$\n]{1,100}? \d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\dZ? "
    r"([A-Za-z][\w.-]{1,30}) [^$\n]{0,12}\$|\$(?:Author|LastChangedBy): ([A-Za-z][\w.-]{1,30}) \$",
    re.IGNORECASE,
)


def _keyword(text: str, place: int) -> Iterator[Span]:
    """``$Id: file,v 1.2 2001/02/03 04:05:06 name Exp $``."""
    match = _KEYWORD.match(text, place)
    if match:
        yield from span(text, *match.span(match.lastindex or 0), "keyword", 0.85)


_HOLDER = re.compile(
    r"(?:[ \t]*(?:\(c\)|©|by|"
    r"[\d,–-]{1,9})[ \t]*){1,8}+([A-Za-z0-9][\w-]{1,30})[ \t]+<[^<>@\s]{1,60}@",
    re.I,
)


def _holder(text: str, place: int) -> Iterator[Span]:
    """``Copyright 2001 name <name@host>``: one word that is no given name."""
    match = _HOLDER.match(text, place + 9)
    if match and not is_word(match[1]) and match[1].lower() not in GIVEN and not match[1].isdigit():
        yield from span(text, *match.span(1), "holder", 0.75)


_SIGNED = re.compile(
    r"(?i:copyright|\(c\)|©)(?:[\s:]|(?i:\(c\)|©|copyright|\bby\b)|[\d,–-]){1,30}(?=[^\W\d_a-z])"
)
_NICK = re.compile(r" \((?=[a-z]|\w*\d)([A-Za-z][\w-]{1,30})\)")


def _signed(text: str, place: int) -> Iterator[Span]:
    """``(c) 2001 by Given Family (name)``."""
    nick = _NICK.search(text, place, place + _REACH)
    match = _SIGNED.match(text, place) if nick else None
    if not nick or not match or is_word(nick[1]) or nick[1] in GIVEN:
        return
    run = run_at(text, match.end(), match.end() + 60)
    if run and run.end == nick.start() and run.trust >= _BELIEVED:
        yield from span(text, *nick.span(1), "signed", 0.7)


_BELIEVED = 0.6  # of a name before a handle
_LISTED = re.compile(
    r"[ \t]{0,8}(?:[*-] )?([^\W_][^<>\n]{1,40}) <[^<>@\s]{1,64}@[\w.-]{3,80}>[ \t]{0,8}(?:\r?\n|\Z)"
)
_LONE = re.compile(  # no given name, list nor group
    r"(?![A-Z][a-z]+\Z|(?i:(?:.*[-_])?(?:dev\w*|users?|lists?|bugs?|team|maint\w*|announce|pkg)\Z))"
    r"[A-Za-z0-9][\w-]{1,30}"
)


def _lone(text: str, place: int) -> Iterator[Span]:
    """``name <name@host>`` alone on a line among others of that shape."""
    low = text.rfind("\n", max(0, place - 44), place) + 1
    match = _LISTED.match(text, low) if place - low < 44 else None
    if not match or not _LONE.fullmatch(match[1]) or match[1].lower() in GIVEN or is_word(match[1]):
        return
    above = text.rfind("\n", max(0, low - _REACH), max(0, low - 1)) + 1
    if _LISTED.match(text, match.end()) or (above < low and _LISTED.match(text, above)):
        yield from span(text, *match.span(1), "listed", 0.6)


_ENTRY = re.compile(r"\nN: ([A-Za-z0-9][\w-]{1,30})\r?\n")


def _entry(text: str, place: int) -> Iterator[Span]:
    """``N: name`` of a CREDITS file."""
    match = _ENTRY.match(text, place)
    if match and not is_word(match[1]):
        yield from span(text, *match.span(1), "credits", 0.7)


_SSH = re.compile(r"(?:ssh|scp|sftp|rsync|ssh-copy-id|mosh)[ \t]", re.IGNORECASE)
_AT_HOST = re.compile(r"(?<![\w.@:/-])([A-Za-z][\w.-]{1,30})@(?=[A-Za-z0-9\[])")
_LED = re.compile(
    r"(?:(?:ssh|sftp|svn\+ssh|rsync|ftp)://|:(?:ext|pserver):)([A-Za-z][\w.-]{1,30})@",
    re.IGNORECASE,
)


def _ssh(text: str, place: int) -> Iterator[Span]:
    """``ssh name@host``, ``scp file name@host:``, ``ssh://name@host`` and CVS roots."""
    led = _LED.match(text, place)
    command = _SSH.match(text, place)
    if led:
        found = [led]
    elif command and not (text[place - 1 : place].isalnum() and place):
        found = _AT_HOST.finditer(text, command.end(), _line_end(text, command.end()))
    else:
        return
    for match in found:
        yield from span(text, *match.span(1), "ssh", 0.3 if is_word(match[1]) else 0.65)


def _line_end(text: str, place: int) -> int:
    stop = min(len(text), place + _REACH)
    end = text.find("\n", place, stop)
    return stop if end < 0 else end


_ACCREDITED = re.compile(
    rf"(?:thanks to|props(?: to)?|(?P<verb>(?:{'|'.join(VERBS)})[ -]by)|author|maintainer)"
    r"[ \t]*(?P<colon>:?)(?=[ \t`@])",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"(?:,|,? (?:and|&))?[ \t]{0,8}[`@]?([A-Za-z0-9][\w-]{2,30})"
    r"(?=[ \t]*(?:[`.,;)]|\r?\n|\Z|<)| (?:for|and|on|in|&)\b)"
)


def _thanked(text: str, place: int) -> Iterator[Span]:
    """``Thanks to name``, ``Submitted by: name, name``: words that no dictionary knows."""
    match = start = _ACCREDITED.match(text, place + (text[place] == "@"))
    before = text[place - 1 : place] if place else ""
    if not start or before.isalpha() or before in {"/", "-", "_", "."}:
        return
    sure = 0.3 if start["verb"] and not start["colon"] else 0.55
    while match and (match := _NEXT.match(text, match.end())):
        name = match[1]
        drawn = any(c.isdigit() for c in name)
        if is_word(name) or name.lower() in GIVEN or (name[0].isupper() and not drawn):
            return
        alone = drawn or text[match.end() : match.end() + 1] in {"", "\n", "\r", ",", ")", "."}
        yield from span(text, *match.span(1), "thanked", sure if alone else 0.3)


def _beside(find: logins.Find) -> Rule:
    """The rule for the users that stand beside a password."""

    def rule(text: str, place: int) -> Iterator[Span]:
        for login in find(text, place):
            match = _VALUE.fullmatch(text, *login.user) if login.user else None
            sure, _ = logins.worth(text, login)
            if match and sure and not _KEYLIKE.search(match[0]):
                known = sure >= SURE and login.form != "call" and not is_word(match[0])
                yield from span(text, *match.span(), login.form, 0.65 if known else 0.3)

    return rule


_TILDE = re.compile(r"~([a-z][a-z0-9_-]{2,30})/(?=[A-Za-z0-9_.])")


def _tilde(text: str, place: int) -> Iterator[Span]:
    """``~name/file`` where a path begins."""
    before = text[place : place + 1]
    match = _TILDE.match(text, place + 1)
    if match and before:
        yield from span(text, *match.span(1), "home", 0.3 if is_word(match[1]) else 0.6)


RULES: dict[Rule, tuple[str, ...]] = {
    handle: ("@",),
    prompt: ("@",),
    _home: ("/home/", "/users/", "\\users\\", "\\\\users\\\\"),
    _forge: ("github.com/", "gitlab.com/", "bitbucket.org/", "twitter.com/", "launchpad.net/~"),
    _value: ("user", "login", "nick", "screen_name", "screenname"),
    _marked: ("todo(", "fixme(", "xxx(", "hack(", "note(", "lda(", "imap(", "pop3(", "lmtp("),
    _keyword: ("$id", "$header", "$author", "$lastchangedby"),
    _holder: ("copyright",),
    _signed: ("copyright", "(c)", "©"),
    _lone: tuple(f"{a} <{b}" for a in (LOWER, UPPER, DIGIT) for b in (LOWER, UPPER, DIGIT)),
    _entry: ("\nn: ",),
    _ssh: (
        *("ssh ", "scp ", "sftp ", "rsync ", "mosh ", "ssh-copy-id "),
        *("ssh://", "sftp://", "ftp://", ":ext:", ":pserver:"),
    ),
    _tilde: (f" ~{LOWER}", f'"~{LOWER}', f"'~{LOWER}", f":~{LOWER}"),
    **{_beside(find): anchors for find, anchors in logins.FINDS.items()},
    _thanked: (
        *("thanks to", "props ", "@author ", "author:", "maintainer:"),
        *(f"{verb} by" for verb in VERBS),
    ),
}
