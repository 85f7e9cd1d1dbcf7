"""Segments of a document as coloured lines, in a process that may be lost.

A lexer is a heap of regular expressions, and a text can make one run for ever. So pygments works
in a process of its own: a text that takes too long is shown without colours.
"""

import multiprocessing
import re
import signal
import threading
import unicodedata
from functools import lru_cache
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any

LINE = 2_000  # characters shown of one line
PATIENCE = 3.0  # seconds, the start of the process included

# What is drawn as nothing, moves the cursor or turns the direction of a line: never as it is.
CONTROL = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
PROSE = {  # markers of segments that are not in the document's language
    "<issue_start>": "markdown",
    "<issue_comment>": "markdown",
    "<commit_msg>": "",
    "<jupyter_text>": "markdown",
    "<jupyter_output>": "",
}
CLASSES = (
    ("Comment", "c"),
    ("Literal.String", "s"),
    ("Literal.Number", "m"),
    ("Operator.Word", "k"),
    ("Keyword", "k"),
    ("Name.Function", "f"),
    ("Name.Class", "f"),
    ("Name.Tag", "k"),
    ("Name.Attribute", "b"),
    ("Name.Builtin", "b"),
    ("Name.Decorator", "b"),
    ("Name.Exception", "b"),
    ("Generic.Heading", "f"),
    ("Generic.Subheading", "f"),
)  # the first whose token type holds a token gives its class

Runs = list[list[str]]  # the pieces of one line


def plain(text: str) -> str:
    """``text`` for a label: what could not be seen is written as its code point."""
    return CONTROL.sub(lambda found: f"[{_code(found[0])}]", text.replace("\n", "\u240a"))


def coloured(segments: list[dict], language: str, path: str, *, lex: bool = True) -> list[dict]:
    """``{"marker", "lines"}`` for each segment; a line is a list of [class, text] pieces.

    Class ``x`` stands for control characters (code point and name), ``cut`` says what is not shown.
    """
    return [
        {
            "marker": plain(one["marker"]),
            "lines": _lines(one["text"], _lexer(one["marker"], language, path) if lex else None),
        }
        for one in segments
    ]


def _lines(text: str, lexer: Any) -> list[Runs]:
    text = text.replace("\r\n", "\n")
    tokens = _tokens(text, lexer) if lexer else [("", text)]
    lines: list[Runs] = [[]]
    for name, value in tokens:
        first, *rest = value.split("\n")
        lines[-1].append([name, first])
        lines += [[[name, piece]] for piece in rest]
    if text.endswith("\n"):
        lines.pop()
    return [_cut(line) for line in lines]


def _tokens(text: str, lexer: Any) -> list[tuple[str, str]]:
    """Pieces of ``text`` in order, all of it, those of one class together."""
    pieces, at = [], 0
    for start, kind, value in lexer.get_tokens_unprocessed(text):
        if start != at:  # a lexer that jumps is not to be trusted with what is shown
            return [("", text)]
        at += len(value)
        pieces.append((_class(kind), value))
    pieces.append(("", text[at:]))
    grouped = groupby(pieces, lambda piece: piece[0])
    return [(name, "".join(value for _, value in group)) for name, group in grouped]


@lru_cache
def _class(kind: Any) -> str:
    from pygments.token import string_to_tokentype

    return next((name for holder, name in CLASSES if kind in string_to_tokentype(holder)), "")


def _cut(line: Runs) -> Runs:
    length = sum(len(value) for _, value in line)
    room, shown = LINE, []
    for name, value in line:
        shown += _visible(name, value[:room])
        room -= min(room, len(value))
    if length > LINE:
        shown.append(["cut", f"{length - LINE:,} more characters"])
    return shown


def _visible(name: str, text: str) -> Runs:
    """``text`` in pieces, with every run of one control character as a piece of class ``x``."""
    pieces, at = [], 0
    for character, group in groupby(CONTROL.finditer(text), lambda found: found[0]):
        for start, end in _spans([found.span() for found in group]):
            pieces += [[name, text[at:start]], ["x", *_named(character, end - start)]]
            at = end
    return [piece for piece in [*pieces, [name, text[at:]]] if piece[1]]


def _named(character: str, times: int) -> tuple[str, str]:
    """What stands for ``character``, and its name."""
    count = f" \N{MULTIPLICATION SIGN}{times:,}" if times > 1 else ""
    return _code(character) + count, unicodedata.name(character, "control character")


def _spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


@lru_cache
def _lexer(marker: str, language: str, path: str) -> Any:
    from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
    from pygments.util import ClassNotFound

    from starkiln.code.languages import LANGUAGES

    known = LANGUAGES.get(language)
    spoken = [name.lower() for name in known.spoken] if known else []
    names = [PROSE[marker]] if marker in PROSE else [language, *spoken]
    for name in [*names, *(name.replace(" ", "-") for name in names)]:
        try:
            return get_lexer_by_name(name)
        except ClassNotFound:
            continue
    try:
        return None if marker in PROSE else get_lexer_for_filename(path.rpartition("/")[2])
    except ClassNotFound:
        return None


class Painter:
    """``coloured`` in another process, given up after ``patience`` seconds; call ``close``."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience, self._lock = patience, threading.Lock()
        self._start()

    def paint(self, segments: list[dict], language: str, path: str) -> list[dict]:
        """The coloured segments, or those without colours where a lexer fails or hangs."""
        with self._lock:
            try:
                self._pipe.send((segments, language, path))
                found = self._pipe.recv() if self._pipe.poll(self.patience) else None
            except (EOFError, OSError):
                found = None
            if found is None:
                self.close()
                self._start()
        return found or coloured(segments, language, path, lex=False)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def _work(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(coloured(*asked))
        except Exception:  # noqa: BLE001 - whatever a lexer of theirs does
            pipe.send([])
