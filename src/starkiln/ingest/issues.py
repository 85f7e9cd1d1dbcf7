"""Source ``issues``: threads of issues and pull requests, out of GitHub's events (rules §5).

Files of JSON lines, each line an event as GH Archive keeps them, or a whole thread. GH Archive has
three eras: up to 2014 (no texts but those of pull requests and their review comments), 2015 to
2025-10-06 (all texts), and after (no title or text of a pull request but in comments on it). So a
thread's opening is taken from wherever it is told, and a thread whose opening is told nowhere is
set aside. Events are brought together by repository and number, whatever file they lie in. As
events name a repository by its id and whole threads by its name alone, a thread that is given in
both forms comes twice, with the same text and id: the stage ``exact_dedup`` keeps one.
"""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from starkiln.code.document import set_aside
from starkiln.core.errors import UserError
from starkiln.core.keyed import digest
from starkiln.core.stage import source
from starkiln.ingest import events, threads
from starkiln.ingest.scan import Entry, scan

SUFFIX = re.compile(r"\.jsonl?(?:\.(gz|zst))?\Z")
CODECS = {"gz": "gzip", "zst": "zstd"}
SIP = 512  # bytes of a packed file that are unpacked at a time
PACKED = 8  # guess of a file's unpacked size over its packed size
HELD = 32 << 20  # characters of openings that a reader holds back, for a later one may come
OWN = 1000  # what one costs beside its text
TELLS = ("seen", "title", "text", "author", "bot")  # which of several openings is taken: the last
FAULTS = 1_000  # faulty lines in a row after which a file is no file of events

MORE_BOTS: list[str] = []

Count = Annotated[int, Field(ge=0)]


def read(unit: dict) -> Iterator[dict]:
    """The records of one file (see ``events``), and what is set aside of it."""
    held: dict[tuple, dict] = {}  # each comment tells its thread's opening: the last is enough
    room = HELD
    for item in _told(unit):
        if item.get("kind") != events.OPENING:
            yield item
            continue
        same = (item["key"], item["repo"], item["pull"], item["title"] is None)
        last = held.get(same)
        if last is None or _rank(item) > _rank(last):
            room += _weight(last) - _weight(item)
            held[same] = item
        if room < 0:
            yield from held.values()
            held, room = {}, HELD
    yield from held.values()


def _rank(opening: dict) -> list:
    return [opening[k] for k in TELLS]


def _weight(opening: dict | None) -> int:
    return len(opening["text"]) + OWN if opening else 0


def _told(unit: dict) -> Iterator[dict]:
    faults = 0
    for line, size, items in _lines(unit):
        malformed = False
        for item in items:
            if "reason" in item:
                place = f"{unit['file']}:{line}" if line else unit["file"]
                yield set_aside(unit["repo"], place, size, item["reason"])
                malformed = malformed or item["reason"] == events.MALFORMED
            else:
                yield item
        faults = faults + 1 if malformed else 0
        if faults == FAULTS:
            yield set_aside(unit["repo"], unit["file"], unit["bytes"], "no-event-file")
            return


def fold(key: str, records: list[dict], settings: dict) -> Iterator[dict]:
    """The document of one thread, or the row that says why there is none; ``key`` is not used."""
    limits = {name: settings[name] for name in ("head", "tail")}
    bots = frozenset(login.lower() for login in settings["bots"])
    thread, aside = assemble(records, settings["max_characters"])
    yield from aside
    if thread:
        yield threads.row(thread, **limits, bots=bots)


@source(version=2, read=read, fold=fold)
def issues(
    *,
    paths: list[str],
    head: Annotated[Count, Field(description="lines kept of the start of a long message")] = 60,
    tail: Annotated[Count, Field(description="lines kept of the end of a long message")] = 20,
    bots: Annotated[list[str], Field(description="logins of bots beside those known")] = MORE_BOTS,
    max_characters: Annotated[int, Field(gt=0)] = 262_144,
    max_line_bytes: Annotated[int, Field(gt=0)] = 32 << 20,
) -> list[dict]:
    """Threads out of files of JSON lines: .json or .jsonl, also .gz or .zst, by folders or by name.

    A document has ``path`` issues/N or pull/N, marker ``<issue_start>`` with title and opening,
    ``<issue_comment>`` for comments, reviews and review comments, ``<issue_closed>`` where the
    thread was closed; people are ``username_0``, ``username_1``... A message over
    ``max_characters`` (more than GitHub takes) and a line over ``max_line_bytes`` are set aside.
    Other events than a thread's, and other files, are passed over. Raises ``UserError`` for a path
    that does not exist.
    """
    found = [entry for path in paths for entry in _found(path)]
    return [
        {
            "name": f"{number:05d} {entry.path}",
            "bytes": entry.size * (PACKED if entry.path.endswith(tuple(CODECS)) else 1),
            "stamp": digest(entry, root.name).hex(),
            "root": str(root),
            "repo": root.name,
            "file": entry.path,
            "reason": entry.reason or (None if entry.size else "empty"),
            "max_line_bytes": max_line_bytes,
        }
        for number, (root, entry) in enumerate(found)
    ]


def _found(path: str) -> Iterator[tuple[Path, Entry]]:
    root = Path(path).expanduser().resolve()
    if root.is_dir():
        entries = scan(root, [], 1 << 62)
        yield from ((root, entry) for entry in entries if SUFFIX.search(entry.path))
    elif root.is_file() and SUFFIX.search(root.name):
        status = root.stat()
        yield root.parent, Entry(root.name, status.st_size, status.st_mtime_ns, None)
    elif root.is_file():
        raise UserError(path, "is no file of JSON lines", "name .json, .jsonl, with .gz or .zst")
    else:
        raise UserError(path, "there is no such file or folder", "mend the path in the recipe")


# ---- from the disk to records


def _lines(unit: dict) -> Iterator[tuple[int, int, Iterable[dict]]]:
    """(number, bytes, items) of each line; a fault of the file is one item of line 0."""
    if unit["reason"]:
        yield 0, unit["bytes"], [{"reason": unit["reason"]}]
        return
    limit, number = unit["max_line_bytes"], 0
    try:
        with _opened(Path(unit["root"]) / unit["file"]) as stream:
            while line := stream.readline(limit):
                number += 1
                if len(line) == limit and not line.endswith(b"\n"):
                    size = limit + sum(map(len, _rest(stream, limit)))
                    yield number, size, [{"reason": "line-too-long"}]
                else:
                    yield number, len(line), events.items(line)
    except OSError as error:  # a codec's errors carry no number
        yield number, unit["bytes"], [{"reason": "unreadable" if error.errno else "damaged-file"}]


def _opened(path: Path) -> io.BufferedIOBase:
    import pyarrow as pa

    found = SUFFIX.search(path.name)
    if found is None or found[1] is None:
        return path.open("rb")
    stream = pa.CompressedInputStream(_Sips(path), CODECS[found[1]])
    return io.BufferedReader(_Whole(stream), 1 << 17)


class _Sips(io.FileIO):
    """A file in small pieces: of the piece that holds the damage, nothing is unpacked."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(SIP if size is None or size < 0 else min(size, SIP))


class _Whole(io.RawIOBase):
    """What a codec unpacks; before its error, the whole lines that came with it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.fault: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any, /) -> int:
        if self.fault:
            raise self.fault
        room[:] = bytes(len(room))  # what stands there after an error has been unpacked
        try:
            return self.stream.readinto(room)
        except OSError as error:
            self.fault = error
            whole = bytes(room).rfind(b"\n") + 1
            if not whole:
                raise
            return whole


def _rest(stream: Any, limit: int) -> Iterator[bytes]:
    while piece := stream.readline(limit):
        yield piece
        if piece.endswith(b"\n"):
            return


# ---- from records to a thread


def assemble(records: list[dict], most: int) -> tuple[threads.Thread | None, list[dict]]:
    """The thread that ``records`` tell, whatever their order, and rows of what is not taken of it.

    Title and opening are the latest told. A comment told twice (``repeated-event``) or longer than
    ``most`` characters (``message-too-large``) is left out; so is a thread that nobody told the
    opening of (``no-opening``).
    """
    latest = max(records, key=lambda r: (r.get("seen", r["time"]), r["repo"]))
    pull = any(r["pull"] for r in records)
    thread = threads.Thread(latest["repo"], latest["number"], pull, "", [])
    aside: list[dict] = []

    def refuse(text: str, reason: str) -> None:
        aside.append(set_aside(thread.repo, thread.path, len(text.encode()), reason))

    parts, repeated = _distinct(records)
    for record in repeated:
        refuse(record.get("text", ""), "repeated-event")
    openings = [r for r in records if r.get("title") is not None]
    if not openings:
        refuse("".join(r.get("text", "") for r in parts), "no-opening")
        return None, aside
    opening = max(openings, key=_rank)
    messages = []
    for record in [opening, *parts]:
        text = record.get("text", "")
        if len(text) > most:
            refuse(text, "message-too-large")
            text = ""
        closes = record["kind"] == events.CLOSED
        messages.append(threads.Message(record["author"], text, record["bot"], closes))
    return thread._replace(title=opening["title"], messages=messages), aside


def _distinct(records: list[dict]) -> tuple[list[dict], list[dict]]:
    """(comments and closings in order, those told again)."""
    found: dict[tuple, dict] = {}
    repeated = []
    for record in sorted(records, key=_order):
        if record["kind"] == events.OPENING:
            continue
        kind, number = record.get("id", (events.CLOSED, 0))
        same = (kind, number) if number else (kind, record["time"], record.get("text"))
        if same in found:
            repeated.append(record)
        else:
            found[same] = record
    return list(found.values()), repeated


def _order(record: dict) -> tuple:
    """By time; where that is the same, comments before a closing and in the order of their ids."""
    closes = record["kind"] == events.CLOSED
    told = (record.get("text", ""), record["author"], record["bot"])
    return record["time"], closes, *record.get("id", ("", 0)), *told
