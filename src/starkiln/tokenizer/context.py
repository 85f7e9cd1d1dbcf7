"""Prompts for infilling with the files around the cursor, and what to cut from the result.

    ([<reponame>R]<filename>F[newline]text<|endoftext|>)...  further files, the nearest last
    PSM or SPM piece (``fim``), [<reponame>R][<filename>F][newline] at the start of its prefix

Prompts stay alike from one keystroke to the next, so that an engine finds most of one in its
cache: whatever has to be left out is left out in steps of an eighth of the room, counted from
where the text begins. While the prefix grows, an SPM prompt then changes only at its end.
"""

import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from starkiln.code.sentinels import END_OF_TEXT
from starkiln.core.errors import UserError
from starkiln.tokenizer.fim import Mode, psm, spm
from starkiln.tokenizer.layout import first_lines, last_lines, metadata_ids, room
from starkiln.tokenizer.tokenizer import Tokenizer

_STEPS = 8  # of a prompt's room
_LEAST = 2  # of them are the suffix's, where prefix and suffix are both too long
_SHORTEST = 2  # ids of a further file without a name
_ROOM = 1 << 25  # bytes of texts that are remembered with their ids
_ID = 36  # bytes of one in a list, about


class Recent:
    """``work`` (``first_lines``, ``last_lines``), which knows its last results: at the next key
    they are the same. Texts and ids take ``room`` bytes in all; any number of threads may ask.
    """

    def __init__(self, work: Callable[[str, Tokenizer, int | None], list[int]], room: int) -> None:
        self._work, self._room, self._lock = work, room, threading.Lock()
        self._known: dict[tuple[str, Tokenizer, int | None], list[int]] = {}  # the latest last
        self.held = 0

    def __call__(self, text: str, tokenizer: Tokenizer, most: int | None) -> list[int]:
        """As ``work``; the result is not to be changed."""
        key = text, tokenizer, most
        with self._lock:
            ids = self._known.pop(key, None)
            if ids is not None:
                self._known[key] = ids
                return ids
        ids = self._work(*key)
        with self._lock:
            self.held += 0 if key in self._known else _size(key, ids)
            self._known[key] = ids
            while self.held > self._room:
                oldest = next(iter(self._known))
                self.held -= _size(oldest, self._known.pop(oldest))
        return ids


def _size(key: tuple[str, Tokenizer, int | None], ids: list[int]) -> int:
    return sys.getsizeof(key[0]) + _ID * len(ids)


_first, _last = Recent(first_lines, _ROOM), Recent(last_lines, _ROOM)


def prompt(
    prefix: str,
    suffix: str | None,
    tokenizer: Tokenizer,
    *,
    limit: int,
    mode: Mode = "psm",
    repo: str | None = None,
    path: str | None = None,
    files: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """A prompt of at most ``limit`` ids for what stands between prefix and suffix.

    Without suffix (None) it asks for what follows the prefix. Metadata are always kept, then the
    whole lines next to the cursor, then ``files`` (path, text), the last of them first, each
    from its beginning on. UserError where metadata leave no room.
    """
    sentinels = 0 if suffix is None else 3
    metadata = _metadata(tokenizer, max(0, limit - sentinels - 1), repo, path)
    if metadata is None:
        longer = "repo" if len(repo or "") > len(path or "") else "path"
        what = f"repo and path leave no room for text in {limit} tokens"
        raise UserError(longer, what, "give shorter names")
    fixed = len(metadata) + sentinels
    before, after, taken = _around(prefix, suffix or "", tokenizer, room(limit, fixed) or 0)
    own = [*metadata, *before]
    if suffix is not None:
        own = (psm if mode == "psm" else spm)(own, [], after)
    step = _step(limit)
    left = (limit - fixed - taken) // step * step
    return [*_documents(files, tokenizer, left, repo), *own]


def trim(middle: str, suffix: str, prefix: str = "") -> str:
    """``middle`` without what at its end repeats the start of ``suffix``.

    That is whole lines (blank ones and white space at their ends do not count; the last may be
    unfinished), else the longest common text that begins no word in its middle and is more than
    white space or a bracket. Brackets that close what the rest of ``middle`` opens are never cut.
    ``prefix`` tells whether the first line of ``middle`` is a whole one.
    """
    whole = _without_lines(middle, suffix, prefix)
    if whole != middle:
        return whole
    return _without_lines(_without_overlap(middle, suffix), suffix, prefix)


def _around(
    prefix: str, suffix: str, tokenizer: Tokenizer, space: int
) -> tuple[list[int], list[int], int]:
    """Ids of the lines next to the cursor, before and after it, and how many they may become.

    The cursor's own line counts in whole steps, since its ids grow and shrink as it is typed.
    """
    step, longest = _step(space), int(tokenizer.byte_lengths.max())
    prefix = prefix[len(prefix) - _within(len(prefix), space * longest, step * longest) :]
    lines, newline, line = prefix.rpartition("\n")
    lines, suffix = lines + newline, suffix[: space * longest]
    above, here = len(_last(lines, tokenizer, None)), _above(len(tokenizer.encode(line)), step)
    share = len(_first(suffix, tokenizer, None))
    if above + here + share > space:
        share = min(space - 1, max(_LEAST * step, (space - above - here) // step * step))
    after = _first(suffix, tokenizer, share)
    left = space - len(after)
    kept = _last(lines, tokenizer, max(0, _within(above, left - here, step)))
    before = tokenizer.encode_bytes(tokenizer.decode_bytes(kept) + line.encode())
    if len(before) > left:  # the cursor's line alone is too long
        whole = len(tokenizer.encode(prefix))
        before = last_lines(prefix, tokenizer, _within(whole, left, step))
    return before, after, len(after) + max(len(before), len(kept) + here)


def _step(space: int) -> int:
    return max(1, space // _STEPS)


def _within(length: int, space: int, step: int) -> int:
    """What is left of ``length`` when whole steps are taken off until it is within ``space``."""
    return length - max(0, -(-(length - space) // step)) * step


def _above(length: int, step: int) -> int:
    """The first whole number of steps that is more than ``length``."""
    return (length // step + 1) * step


def _metadata(
    tokenizer: Tokenizer, most: int, repo: str | None, path: str | None
) -> list[int] | None:
    """Ids of metadata, None if they are more than ``most``: what must be is not tokenised."""
    if len(repo or "") + len(path or "") > most * int(tokenizer.byte_lengths.max()):
        return None
    ids = metadata_ids(tokenizer, repo=repo, path=path)
    return ids if len(ids) <= most else None


def _documents(
    files: Sequence[tuple[str, str]], tokenizer: Tokenizer, left: int, repo: str | None
) -> list[int]:
    """As many of ``files`` as ``left`` ids hold, the last first, in their order."""
    kept: list[list[int]] = []
    longest = int(tokenizer.byte_lengths.max())
    for path, text in reversed(files):
        if left < _SHORTEST:
            break
        if (head := _metadata(tokenizer, left - _SHORTEST, repo, path)) is None:
            continue
        space = left - len(head) - 1
        if ids := _whole_lines(text[: space * longest], tokenizer, space):
            kept.append([*head, *ids, END_OF_TEXT])
            left -= len(kept[-1])
    return [i for document in reversed(kept) for i in document]


def _whole_lines(text: str, tokenizer: Tokenizer, space: int) -> list[int]:
    """The first whole lines of ``text`` that ``space`` ids hold; [] if all of these are blank."""
    ids = _first(text, tokenizer, space)
    kept = tokenizer.decode_bytes(ids)
    useful = kept.strip() and (kept.endswith(b"\n") or kept == text.encode())
    return ids if useful else []


def _without_lines(middle: str, suffix: str, prefix: str) -> str:
    """``middle`` without whole lines at its end that are the first of ``suffix``."""
    theirs = [line for _, line in code_lines(suffix)]
    below = not suffix.partition("\n")[0].strip()  # the cursor's line ends at the cursor
    while (at := _repeated(middle, theirs, prefix.rpartition("\n")[2])) is not None:
        middle = middle[:at].rstrip() if below else middle[:at]
    return middle


def _repeated(middle: str, theirs: list[str], opening: str) -> int | None:
    """Where the most lines begin that end ``middle`` and begin ``theirs``; None if none do."""
    own = code_lines(opening + middle)
    if opening.strip():  # the first line is not of the middle alone
        own = [(at, line) for at, line in own if at]
    starts, lines = [max(0, at - len(opening)) for at, _ in own], [line for _, line in own]
    pairs = brackets(middle)
    for count in range(min(len(lines), len(theirs)), 0, -1):
        same = lines[-count:-1] == theirs[: count - 1]
        last, other = lines[-1], theirs[count - 1]
        unfinished = count > 1 and other.startswith(last)
        if same and (last == other or unfinished) and not closes(pairs, starts[-count]):
            return starts[-count]
    return None


def code_lines(text: str) -> list[tuple[int, str]]:
    """Lines that are not blank, without white space at the end, and where they begin."""
    found, at = [], 0
    for line in text.split("\n"):
        if line.strip():
            found.append((at, line.rstrip()))
        at += len(line) + 1
    return found


def _without_overlap(middle: str, suffix: str) -> str:
    """``middle`` without the longest text at its end that begins ``suffix`` and counts."""
    for at in overlaps(middle, suffix, 0):
        if _counts(middle, at):
            return middle[:at]
    return middle


def overlaps(middle: str, suffix: str, start: int) -> Iterator[int]:
    """Where, from ``start`` on, text at the end of ``middle`` begins that begins ``suffix``.

    Not within a word, and not where it closes a bracket that is open before.
    """
    pairs: list[tuple[int, int]] | None = None
    for at in range(max(start, len(middle) - len(suffix)), len(middle)):
        inside = at > 0 and _in_word(middle[at - 1]) and _in_word(middle[at])
        if not inside and suffix.startswith(middle[at:]):
            pairs = brackets(middle) if pairs is None else pairs
            if not closes(pairs, at):
                yield at


def _counts(middle: str, at: int) -> bool:
    """Whether ``middle[at:]`` is more than white space or a stray sign."""
    text = middle[at:].strip()
    return len(text) > 1 or text.isalnum()


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def brackets(text: str) -> list[tuple[int, int]]:
    """Where brackets open and close; of those within one another the outermost, in order."""
    opened: list[int] = []
    found: list[tuple[int, int]] = []
    for place, character in enumerate(text):
        if character in "([{":
            opened.append(place)
        elif character in ")]}" and opened:
            first = opened.pop()
            while found and found[-1][0] > first:
                found.pop()
            found.append((first, place))
    return found


def closes(found: Sequence[tuple[int, int]], at: int) -> bool:
    """Whether one of ``brackets`` opens before ``at`` and closes from there on."""
    before = bisect_left(found, (at, 0))
    return before > 0 and found[before - 1][1] >= at
