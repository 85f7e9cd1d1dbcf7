"""From the bytes of one file to one row: a document, or a row set aside with the reason."""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TypeVar

from starkiln.code.document import code_document, set_aside
from starkiln.code.languages import detect

Item = TypeVar("Item")

ISOLATED = re.compile(rb"[\x80-\xff]{2}")
DECLARED = re.compile(rb"(?:coding|charset)[\"']?\s*[:=]\s*[\"']?([A-Za-z0-9._-]+)")
OUTSIDE = re.compile(r"\A[/\\]|\A[A-Za-z]:[/\\]|(?:\A|[/\\])\.\.(?:[/\\]|\Z)")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HIGH = bytes(range(128, 256))
BOMS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
GUESSED = ["cp1250", "cp1251", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "cp949"]
STATED = frozenset(
    [*GUESSED, "cp1252", "iso8859-1", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9",
     "iso8859-15", "shift_jis", "gbk", "gb2312", "euc_kr", "koi8-r", "koi8-u", "cp437", "cp850",
     "cp866", "mac-roman", "iso2022_jp"]
)  # fmt: skip
EVIDENCE = 80  # bytes above 127 from which a guess was never wrong on 337 recoded files


def decode(data: bytes) -> tuple[str, str | None]:
    """(text, None), or ("", reason): empty, binary (holds NUL) or encoding (cannot be told).

    Order: byte-order mark (removed), UTF-8, the encoding that the head declares, then a guess
    with a high bar: lone high bytes on which Western and Central European agree, or much evidence.
    """
    for mark, encoding in BOMS:
        if data.startswith(mark):
            text = _strict(data[len(mark) :], encoding)
            break
    else:
        if b"\0" in data:
            return "", "binary"
        text = _strict(data, "utf-8")
        if text is None:
            text = _legacy(data)
    if text is None:
        return "", "encoding"
    if "\0" in text:
        return "", "binary"
    return (text, None) if text.strip() else ("", "empty")


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _legacy(data: bytes) -> str | None:
    stated = DECLARED.search(data[:1024])
    if stated:
        try:
            name = codecs.lookup(stated[1].decode()).name
        except LookupError:
            name = ""
        if name in STATED:
            return _strict(data, name)
    if not ISOLATED.search(data):
        western = _strict(data, "cp1252")
        return western if western == _strict(data, "cp1250") else None
    return _guess(data) if len(data) - len(data.translate(None, HIGH)) >= EVIDENCE else None


def _guess(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(data, cp_isolation=GUESSED, threshold=0.2).best()
    return None if best is None else _strict(data, best.encoding)


def place(name: str) -> tuple[str, str | None]:
    """(clean relative path, None) or (printable path, reason) for a name found in a container."""
    clean = CONTROL.sub("?", name.encode("utf-8", "replace").decode())
    if OUTSIDE.search(name):
        return clean, "path-traversal"
    if clean != name:
        return clean, "path-name"
    return "/".join(part for part in name.split("/") if part not in ("", ".")), None


def excluded(path: str, patterns: list[str]) -> bool:
    """Whether a component of ``path`` (or, for a pattern with "/", the whole) fits a pattern."""
    parts = path.split("/")
    return any(
        fnmatchcase(path, pattern)
        if "/" in pattern
        else any(fnmatchcase(part, pattern) for part in parts)
        for pattern in patterns
    )


def cut(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """``items`` in order, in pieces of at most ``limit`` together; a larger item is one alone.

    Items of size 0 begin no piece, so they may lie before or behind such a one.
    """
    piece: list[Item] = []
    filled = 0
    for item in items:
        if filled and filled + size(item) > limit:
            yield piece
            piece, filled = [], 0
        piece.append(item)
        filled += size(item)
    if piece:
        yield piece


def row(
    data: bytes,
    *,
    repo: str,
    path: str,
    licences: list[str],
    stars: int | None = None,
    language: str | None = None,
) -> dict:
    """The document, or the set-aside row, of one file's bytes; without ``language`` it is told."""
    text, reason = decode(data)
    if reason:
        return set_aside(repo, path, len(data), reason)
    language = language or detect(path, text)
    return code_document(
        text, repo=repo, path=path, language=language, licences=licences, stars=stars
    )
