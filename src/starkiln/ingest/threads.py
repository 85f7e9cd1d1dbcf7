"""One thread of an issue or pull request, from raw messages to a document (rules §5).

Order: e-mail text out, long messages cut, bots out, logins masked. What merely drops threads (few
users, little text, other languages) is done by stages. Nothing here backtracks: each pattern looks
at a bounded piece of a line or runs once over a text, so hostile texts cost no more than others.
"""

import re
import tomllib
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starkiln.code.document import document, set_aside

START, COMMENT, CLOSED = "<issue_start>", "<issue_comment>", "<issue_closed>"
GHOST = "ghost"  # what GitHub calls all deleted users

ADDRESSES = ("notifications@github.com", "@reply.github.com", "***@***.***")  # the last since 2021
FOOTER = "Reply to this email directly"
RECEIVING = ("—", "--", "You are receiving this because")  # lines before the footer begin so
SIGN_OFF = "Signed-off-by:"
MARKS = (FOOTER, SIGN_OFF, "_" * 20, "wrote", *ADDRESSES)  # a text with none needs no look
DATE = re.compile(r"\d{1,4}/\d{1,2}/\d{1,4},? \d{1,2}:\d{2} [AP]M")
SIGNED = re.compile(SIGN_OFF + r" [^<>]*<[^<>]*>")
RULER = re.compile(r"_{20,}")

WORD = re.compile(r"@?([^\W_](?:[\w-]*[^\W_])?)")
SHORTEST = 3  # letters of a login that is masked without an @ before it


class Message(NamedTuple):
    """What one participant wrote; ``closes`` marks the closing of the thread, without a text."""

    author: str
    text: str = ""
    bot: bool = False  # whether GitHub itself calls the account one
    closes: bool = False


class Thread(NamedTuple):
    """A thread with its messages in order, the opening first."""

    repo: str
    number: int
    pull: bool
    title: str
    messages: list[Message]

    @property
    def path(self) -> str:
        """``issues/N`` or ``pull/N``, as in the thread's address."""
        return f"{'pull' if self.pull else 'issues'}/{self.number}"


def row(thread: Thread, *, head: int, tail: int, bots: Collection[str]) -> dict:
    """The thread's document; set aside if it is ``empty`` or nobody but bots wrote (``bots-only``).

    Segments: title and first message, then each comment and each closing in its place. The first
    message of a person stands for the opening where a bot opened the thread.
    """
    opening, *rest = [m._replace(text=_plain(m.text, head, tail)) for m in thread.messages]
    said = [opening, *(m for m in rest if m.text or m.closes)]
    human = without_bots(said, bots)
    while human and human[0].closes:
        human = human[1:]
    title = " ".join(thread.title.split())
    if not human or not (title or any(m.text for m in human)):
        size = sum(len(m.text.encode()) for m in said)
        return set_aside(thread.repo, thread.path, size, "empty" if human else "bots-only")
    names = numbered(human)
    title = mask(title, names)
    first = (START, f"Title: {title}\n{_spoken(human[0], names)}")
    later = [(CLOSED, "") if m.closes else (COMMENT, _spoken(m, names)) for m in human[1:]]
    place = {"repo": thread.repo, "path": thread.path}
    return document("issue", [first, *later], **place, language="unknown", licences=[])


def _plain(text: str, head: int, tail: int) -> str:
    return truncate(strip_email(text.replace("\r\n", "\n")), head, tail)


def _spoken(message: Message, names: dict[str, str]) -> str:
    return f"{names[_key(message.author)]}: {mask(message.text, names)}"


# ---- e-mail


def strip_email(text: str) -> str:
    """``text`` without what mail clients and GitHub's mails add to an answer by e-mail.

    That is the header of the mail answered, what is quoted below it, GitHub's footer, sign-offs and
    long rulers. A quotation without a mail's header is an author's own and stays (the original
    lost everything above it). Where the mail is quoted with ">", answers in between stay too.
    """
    if not any(mark in text for mark in MARKS):
        return text.strip()
    lines = [line for line in text.split("\n") if not SIGNED.match(line.lstrip("> \t"))]
    footer = max((i for i, line in enumerate(lines) if FOOTER in line), default=-1)
    begin, end = _mail(lines, footer)
    if footer >= end and not _quoted(lines[footer]):
        lines[begin : _paragraph_end(lines, footer)] = []
    else:
        lines[begin:] = [line for line in lines[end:] if not _quoted(line)]
    return RULER.sub("", "\n".join(lines)).strip()


def _mail(lines: list[str], footer: int) -> tuple[int, int]:
    """(where a mail's header begins, where it ends): the first; behind all lines if there is none.

    Where the header itself is quoted, or only the footer is left, that is what is above the block
    of quoted lines; where that footer is not quoted, what is right above it.
    """
    begin, end = _header(lines, footer) or (footer, footer)
    if begin < 0:
        return len(lines), len(lines)
    if end > begin and not _quoted(lines[begin]):
        return begin, end
    if not _quoted(lines[begin]):
        while begin and (lines[begin - 1].startswith(RECEIVING) or not lines[begin - 1].strip()):
            begin -= 1
        return begin, footer
    while begin and _quoted(lines[begin - 1]):
        begin -= 1
    above = begin - 1
    while above >= 0 and not lines[above].strip():
        above -= 1
    if above < 0 or not lines[above].rstrip().endswith(":"):
        return begin, begin
    starts = [j for j in range(max(above - 2, 0), above + 1) if lines[j].startswith("On ")]
    return (starts or [above])[0], begin


def _header(lines: list[str], footer: int) -> tuple[int, int] | None:
    """(first line, line after the last) of the first mail header."""
    for i, line in enumerate(lines):
        if line.startswith("From:") and (i < footer or _addressed(line)):
            return i, i + 1
        if not (_addressed(line) or ("wrote" in line and DATE.search(line))):
            continue
        ends = [j for j in range(i, min(i + 3, len(lines))) if lines[j].rstrip().endswith(":")]
        if ends:
            starts = [j for j in range(max(i - 2, 0), i) if lines[j].startswith("On ")]
            return (starts or [i])[0], ends[0] + 1
    return None


def _addressed(line: str) -> bool:
    return any(address in line for address in ADDRESSES)


def _quoted(line: str) -> bool:
    return line.lstrip().startswith(">")


def _paragraph_end(lines: list[str], i: int) -> int:
    while i < len(lines) and lines[i].strip():
        i += 1
    return i


# ---- length


def truncate(text: str, head: int, tail: int) -> str:
    """``text``, if longer than ``head`` + ``tail`` lines, with ``[Truncated]`` for its middle."""
    lines = text.split("\n")
    if len(lines) <= head + tail:
        return text
    return "\n".join([*lines[:head], "[Truncated]", *lines[len(lines) - tail :]])


# ---- bots


@cache
def _logins() -> dict[str, tuple[str, ...]]:
    table = tomllib.loads(Path(__file__).with_name("logins.toml").read_text())
    bots = {key: tuple(names) for key, names in table["bots"].items()}
    return {**bots, "words": tuple(table["words"]["common"].split())}


def is_bot(login: str, bots: Collection[str] = ()) -> bool:
    """Whether the login is a bot's, by the table ``logins.toml`` or among ``bots`` (lower case)."""
    login, names = login.lower(), _logins()
    return (
        login in bots
        or login in names["logins"]
        or login.endswith(names["ends"])
        or any(part in login for part in names["contains"])
    )


def without_bots(messages: Iterable[Message], bots: Collection[str]) -> list[Message]:
    """Messages without the bots', and without the comments that summoned a bot.

    A person's comment right before a bot's goes if it starts with "/" or holds the bot's login; the
    opening never does. A closing stays, whoever closed.
    """
    kept: list[Message] = []
    called: int | None = None  # where a person's comment lies that a bot may answer
    for i, message in enumerate(messages):
        if message.closes:
            kept.append(message)
        elif not (message.bot or is_bot(message.author, bots)):
            called = len(kept) if i else None
            kept.append(message)
        elif called is not None and _summons(kept[called].text, message.author):
            del kept[called]
            called = None
    return kept


def _summons(text: str, bot: str) -> bool:
    name = _key(bot.lower().removesuffix("[bot]"))
    return text.startswith("/") or name in WORD.findall(text.lower())


# ---- logins


def numbered(messages: Iterable[Message]) -> dict[str, str]:
    """Key of a login -> ``username_k``: by first appearance, those who only closed last."""
    said = sorted(messages, key=lambda m: m.closes)
    keys = dict.fromkeys(_key(m.author) for m in said)
    return {login: f"username_{k}" for k, login in enumerate(keys)}


def _key(login: str) -> str:
    return login.lower().strip("-_")  # old logins may end with hyphens


def mask(text: str, names: dict[str, str]) -> str:
    """``text`` with each participant's login as ``username_k``, after an @ or not.

    Only whole words count, and a hyphen belongs to a word: ``ann`` is no part of ``ann-lee``.
    Logins have no case. Common words, and those under three characters, are masked only after an @.
    """
    if names.keys().isdisjoint(WORD.findall(text.lower())):
        return text
    common = _logins()["words"]

    def named(found: re.Match[str]) -> str:
        login = found[1].lower()
        name = names.get(login)
        if name is None:
            return found[0]
        at = found[0][: -len(found[1])]
        return at + name if at or (len(login) >= SHORTEST and login not in common) else found[0]

    return WORD.sub(named, text)
