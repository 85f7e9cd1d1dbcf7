"""Handles: what stands behind an @ in credits and logs of changes, or before one in a command.

Decorators, tags of documentation, scopes of packages, variables and names of rules also have an @.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files

from starkiln.code.spans import Span
from starkiln.curate.pii.emails import tops
from starkiln.curate.pii.persons import COMMON, GIVEN, OTHERS

_TABLE = tomllib.loads(files("starkiln.curate.pii").joinpath("usernames.toml").read_text("utf-8"))
_PLACEHOLDERS, _ACCOUNTS, _TAGS = (
    frozenset(_TABLE[key].split()) for key in ("placeholders", "accounts", "tags")
)
FORGES = frozenset(_TABLE["forges"].split())
VERBS, CREDITS = (_TABLE[key].split() for key in ("verbs", "credits"))
_REACH = 160  # characters each way
_HANDLES = 8  # of a list before one


def span(text: str, start: int, end: int, reason: str, sure: float) -> Iterator[Span]:
    """The username ``text[start:end]``, unless it is nobody's."""
    if sure and not _nobody(text[start:end].lower()):
        yield Span(start, end, "USERNAME", reason, round(sure, 2))


def _nobody(name: str) -> bool:
    stem = name.rstrip("0123456789_-.")
    if len(name) < 2 or not stem or name.endswith(("[bot]", "-bot", "_bot", "_user", "-user")):
        return True
    return any(word in _PLACEHOLDERS or word in _ACCOUNTS for word in (name, stem))


def is_word(name: str) -> bool:
    """Whether the name is a word of prose or code, no given name."""
    lower = name.lower()
    return (lower in COMMON or lower in OTHERS) and lower not in GIVEN


_HANDLE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|-(?=[A-Za-z0-9])){1,38}")
_OPEN = r"(?:(?:[:,]?[ \t]|:)[\[(`*_\"]{0,3}|[\[(*_]{1,3})"
_THANKED = re.compile(
    r"\b(?:by|thanks|thank you|thanks to|thx|cc|credits?(?: to| for)?|authors?|kudos(?: to)?|"
    r"ping|props(?: to)?|reviewers?|"
    r"contributors?|maintainers?|assignee|hi|hey|shoutout(?: to)?|(?:patch|pr|report|work|idea|"
    rf"help) (?:from|of)|(?:twitter|github|telegram)){_OPEN}\Z",
    re.IGNORECASE,
)
_FORGED = re.compile(r"\]\(https?://(?:www\.)?(?:github|gitlab|twitter|x|bitbucket)\.(?:com|org)/")
_JOINED = re.compile(
    r"(?:\b(?:and|or|to|from|via)[ \t]|[,&+/][ \t]|(?<![\w\])])\(|[/+(])[\[(*_]{0,3}\Z",
    re.IGNORECASE,
)
_CREDITS = ("thanks", "credit", "contribut", "props", "report", "author", "github", "gitlab")
_CREDITED = re.compile(r"#\d|twitter|\bby[ \t][\[(*]{0,2}@")
_PRIOR = re.compile(r"@[\w-]{1,39}[\])]{0,2}[,&/ ]{1,2}(?:(?:and|or) )?\Z")
_NAMED = re.compile(  # by Given Family (@
    r"\b(?i:by|from|thanks to|thank you|credits?:?(?: to)?|courtesy of) "
    r"[^\W\d_a-z][\w.'’-]{0,30} (?:[^\W\d_][\w.'’-]{0,30} ){0,4}\(\Z"
)
_FROM = re.compile(  # of a comment
    r"[ \t]*(?:#|//|;;?|\*|--|%)[ \t]+[^@\n]{2,100}\b(from|by|via)[ \t]\Z", re.IGNORECASE
)
_ONCE = 20_000  # characters each way in which a variable would be known
_BELOW = re.compile(  # the thanks above a handle that stands alone, and others between
    r"\b(?:by|thanks|thank you|credits?|kudos|props|contributors|reporters)(?: to)?[ \t:,]{0,4}"
    r"\r?\n(?:[ \t]{1,20}@[\w-]{1,39}(?:,|,? and)?\r?\n){0,7}[ \t]{1,20}\Z",
    re.IGNORECASE,
)
_MARGIN = re.compile(r"[ \t]*(?:#'|[*#;%!|]|//[/!]?|/\*\*?|--|<!--|\"\"\"|\{)?[ \t]*\Z")
_BULLET = re.compile(r"[ \t]*(?:[-*+•]|\d{1,2}[.)])[ \t]+[\[(`*_]{0,3}\Z")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S.*[ \t]\(", re.DOTALL)
_ENCLOSED = re.compile(  # nothing else in the brackets at the end of an item
    r"\((?:by |thanks |via |cc )?@[\w-]{1,39}(?:(?:,|,? and|,? &|[ ]?/)?[ ]?@[\w-]{1,39}){0,7}\)"
    r"[.;]?[ \t]*\Z"
)
_OWNED = re.compile(
    r"(?=\S*[*/.])[*/.\w-][^\s@]*(?:[ \t]+@[\w/-]+)*[ \t]+\Z"
)  # a line of CODEOWNERS
_CODE = re.compile(  # what stands before a variable, a macro or an option
    r"(?:[\w\])}][(\[]{1,2}|(?:[=+<>|&^%~?;!]|[-=]>|::|\b(?:my|our|local|state|push|shift|foreach|for|"
    r"scalar|return|join|map|grep|sort|keys|values|in|if|unless|while|not|assert|puts|echo|set|"
    r"select|declare|where|print|let|case|of|do|then|else)\b)[ \t(]*)\Z"
)
_ASSIGNED = re.compile(
    r"[ \t]*(?:\|\||&&|[-+*/|]?=[^=]|<<|:=|->|=>|\|)|`|[ \t]?[\w ]{0,40}\S@(?!\w)"
)
_SPEECH = re.compile(r"[,:]? (?:thanks?|please|can|could|would|commented|wrote|said|suggest\w*)\b")


def handle(text: str, place: int) -> Iterator[Span]:
    """``@handle`` in credits, changelogs, comments and links."""
    before = text[place - 1 : place] if place else ""
    if before.isalnum() or before in _NOT_BEFORE:
        return
    if before == '"' and text[place - 2 : place - 1].isalnum():
        return  # of a literal's language
    match = _HANDLE.match(text, place + 1)
    if not match or match[0].lower() in _TAGS or text[place - 2 : place] == "\\\\":
        return
    after = text[match.end() : match.end() + 2]
    if after[:1] == "@" and (host := _HOST.match(text, match.end())):
        listed = host[1].lower() in tops() and not match[0].isupper()
        if listed and not _nobody(match[0].lower()):
            yield Span(match.start(), host.end(), "USERNAME", "federated", 0.7)
        return
    if after[:1] in _NOT_AFTER or (after[:1] in ".:" and after[1:].isalnum()) or after == "::":
        return
    low = max(0, place - _REACH)
    start = text.rfind("\n", low, place) + 1 or low
    head = text[start:place]
    yield from span(text, *match.span(), "handle", _mention(text, match, head, after))


_HOST = re.compile(  # of @kim@social.corp.io
    r"@(?!(?:[\w-]{1,40}\.)*example\.)(?:[A-Za-z0-9][\w-]{0,40}\.){1,4}([A-Za-z]{2,24})(?![\w@(-]|\.\w)"
)
_NOT_BEFORE = frozenset("@/.,_+-$={&%:<>}]\\')!?^~#|;")
_NOT_AFTER = frozenset("/@([={\\$<%'\"")


def _mention(text: str, match: re.Match[str], head: str, after: str) -> float:
    end = text.find("\n", match.end(), match.end() + _REACH)
    tail = text[match.end() : end if end >= 0 else match.end() + _REACH]
    ends = not tail.strip(" \t\r.,);")
    if after == "](":
        return 0.85 if _FORGED.match(tail) else 0.3
    alone = ends and head.isspace()
    if alone and _BELOW.search(text, max(0, match.start() - 2 * _REACH), match.start() - 1):
        return 0.6
    if _MARGIN.match(head) and not (head == "* " and tail.startswith(" @")):
        return 0.3 if _SPEECH.match(tail) else 0.0
    wordy = is_word(match[0])
    if _THANKED.search(_alone(head)[-24:]):
        sure = 0.8 if _credited(head) or _credited(tail) else 0.6
        return sure if not wordy else 0.55 if sure > 0.7 else 0.25
    coded = "_" in match[0] or match[0].isupper()
    if not wordy and not coded:
        if after[:1] == ")" and _NAMED.search(head[-90:]):
            return 0.7
        if ends and (said := _FROM.match(head)) and _spoken(text, said[1], *match.span()):
            return 0.55
    if wordy or coded or _CODE.search(head[-16:]) or _ASSIGNED.match(tail):
        return 0.0
    return _listed(head, tail)


def _spoken(text: str, word: str, start: int, end: int) -> bool:
    """Whether a name stands nowhere but behind "from @" and the like: no variable of a program."""
    around = text[max(0, start - _ONCE) : end + _ONCE]
    return around.count(text[start:end]) == around.count(f"{word} @{text[start:end]}")


def _alone(head: str) -> str:
    """``head`` without the handles at its end."""
    for _ in range(_HANDLES):
        at = head.rfind("@", max(0, len(head) - 48))
        if at < 0 or not _PRIOR.match(head, at):
            break
        head = head[:at].rstrip("[(")
    return head


def _credited(part: str) -> bool:
    low = part.lower()
    return any(word in low for word in _CREDITS) or bool(_CREDITED.search(low))


def _listed(head: str, tail: str) -> float:
    """How sure a handle without thanks is, by the line around it."""
    credited = _credited(head) or _credited(tail)
    if _OWNED.match(head):
        return 0.6 if not tail.strip() or tail.lstrip().startswith("@") else 0.2
    if _ITEM.match(head) and _ENCLOSED.match(head[head.rfind("(") :] + "@x" + tail):
        return 0.6
    if _BULLET.match(head):
        return 0.55 if credited or not tail.strip() else 0.3
    if credited and _JOINED.search(head[-24:]):
        return 0.6
    return 0.3 if credited else 0.2


_PROMPT = re.compile(
    r"@[A-Za-z][\w-]{0,40}(?::[~/][^\s$#%]{0,60}[$#%](?=\s)|"
    r"[ \t][~/\w.-]{1,40}\]?[ \t]?[$#%](?=[ \t]\w))"
)
_LOGIN = re.compile(r"(?<![\w.@/:-])([a-z_][a-z0-9_-]{1,30})\Z")


def prompt(text: str, place: int) -> Iterator[Span]:
    """``name@host:~$`` and ``[name@host folder]$``."""
    if _PROMPT.match(text, place) and (match := _LOGIN.search(text, max(0, place - 32), place)):
        yield from span(text, *match.span(1), "prompt", 0.3 if is_word(match[1]) else 0.7)
