"""Fill-in-the-middle: rearranged pieces for training, prompts for use (rules §13).

    PSM   <fim_prefix>prefix<fim_suffix>suffix<fim_middle>middle
    SPM   <fim_prefix><fim_suffix>suffix<fim_middle>prefix middle

Metadata stay at the start of the prefix. Cuts fall between characters, and neither inside a
character, a sentinel nor the metadata. The three parts are tokenised apart; since only the words
at the cuts can change by that, only they are encoded anew, and stray bytes at a window's edge
stay as they are.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from starkiln.code.sentinels import END_OF_TEXT, FIM_MIDDLE, FIM_PAD, FIM_PREFIX, FIM_SUFFIX
from starkiln.tokenizer.layout import first_lines, last_lines, room
from starkiln.tokenizer.tokenizer import Tokenizer, lead_bytes

Mode = Literal["psm", "spm"]
_SUFFIX_SHARE = 0.25  # of a prompt's room, where prefix and suffix are both too long


class Piece(NamedTuple):
    """A stretch of one document in a window: where it begins and ends, and its content begins."""

    start: int
    end: int
    content: int


class Cut(NamedTuple):
    """A place between two characters: before byte ``byte`` of token ``token``."""

    token: int
    byte: int


def psm(prefix: Sequence[int], middle: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """Prefix, suffix, middle."""
    return [FIM_PREFIX, *prefix, FIM_SUFFIX, *suffix, FIM_MIDDLE, *middle]


def spm(prefix: Sequence[int], middle: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """Suffix, prefix, middle, in the order of the FIM paper's variant 2."""
    return [FIM_PREFIX, FIM_SUFFIX, *suffix, FIM_MIDDLE, *prefix, *middle]


def restore(ids: Sequence[int]) -> list[int]:
    """The parts of a rearranged piece in the order of the text; other pieces as they are."""
    ids = list(ids)
    if not ids or ids[0] != FIM_PREFIX:
        return ids
    suffix, middle = ids.index(FIM_SUFFIX), ids.index(FIM_MIDDLE)
    return ids[1:suffix] + ids[middle + 1 :] + ids[suffix + 1 : middle]


def transform(
    piece: np.ndarray,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    rate: float,
    spm_rate: float,
    content: int = 0,
    room: int | None = None,
) -> list[int]:
    """``piece`` (ids without end of text), rearranged with probability ``rate``.

    The first ``content`` ids are metadata. Where the result would exceed ``room`` ids, it is the
    end of the suffix that is lost, never the middle; a piece whose suffix is shorter than that is
    left as it is. Takes four numbers from ``rng``, whatever happens.
    """
    chosen, first, second, order = rng.random(4)
    if chosen >= rate or content >= len(piece):
        return piece.tolist()
    body = piece[content:]
    start, *cuts, end = _cuts(body, tokenizer, sorted((first, second)))
    boundaries = tokenizer.boundaries(body)
    prefix, middle, suffix = (
        _between(body, boundaries, tokenizer, a, b)
        for a, b in ((start, cuts[0]), (cuts[0], cuts[1]), (cuts[1], end))
    )
    prefix = piece[:content].tolist() + prefix
    excess = 0 if room is None else len(prefix) + len(middle) + len(suffix) + 3 - room
    if excess > len(suffix):
        return piece.tolist()
    arrange = spm if order < spm_rate else psm
    return arrange(prefix, middle, suffix[: len(suffix) - max(0, excess)])


def transform_window(
    window: np.ndarray,
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    rate: float,
    spm_rate: float,
) -> np.ndarray:
    """``window`` with each piece transformed, in the same length.

    What grows beyond the end is cut off; what is missing there is filled with ``<fim_pad>``.
    """
    size, done = len(window), []
    for start, end, content in pieces:
        if len(done) >= size:
            break
        closing = [END_OF_TEXT] if window[end - 1] == END_OF_TEXT else []
        done += transform(
            window[start : end - len(closing)],
            tokenizer,
            rng,
            rate=rate,
            spm_rate=spm_rate,
            content=content,
            room=size - len(done) - len(closing),
        )
        done += closing
    return np.array((done + [FIM_PAD] * (size - len(done)))[:size], window.dtype)


def prompt(
    prefix: str,
    suffix: str,
    tokenizer: Tokenizer,
    *,
    mode: Mode = "psm",
    metadata: Sequence[int] = (),
    limit: int | None = None,
) -> list[int]:
    """A prompt of at most ``limit`` ids that asks for what stands between prefix and suffix.

    The lines next to the cursor are kept, metadata (``layout.metadata_ids``) always; UserError
    where they leave no room.
    """
    space = room(limit, len(metadata) + 3)
    if space is None:
        before, after = tokenizer.encode(prefix), tokenizer.encode(suffix)
    else:
        wanted = len(tokenizer.encode(prefix))
        share = max(space - wanted, int(space * _SUFFIX_SHARE))
        after = first_lines(suffix, tokenizer, share)
        before = last_lines(prefix, tokenizer, space - len(after))
    arrange = psm if mode == "psm" else spm
    return arrange([*metadata, *before], [], after)


def _cuts(body: np.ndarray, tokenizer: Tokenizer, places: Sequence[float]) -> list[Cut]:
    """Start, end, and between them the cuts at ``places`` in [0, 1) of the characters."""
    ends = np.cumsum(tokenizer.characters[body])
    total = int(ends[-1])
    cuts = []
    for unit in (int(place * (total + 1)) for place in places):
        token = int(ends.searchsorted(unit, side="right"))
        byte = 0
        if token < len(body):
            leads = lead_bytes(tokenizer.token_bytes[body[token]]) or [0]
            byte = leads[unit - int(ends[token]) + len(leads)]
        cuts.append(Cut(token, byte))
    return [Cut(0, 0), *cuts, Cut(len(body), 0)]


def _between(
    body: np.ndarray, boundaries: np.ndarray, tokenizer: Tokenizer, a: Cut, b: Cut
) -> list[int]:
    """The ids of the text from ``a`` to ``b``, as encoding it by itself gives them."""
    low = a.token + (a.byte > 0)
    low += int(boundaries[low:].argmax())  # the first boundary at or behind a
    high = b.token - int(boundaries[b.token :: -1].argmax())  # the last at or before b
    if low > high:
        return tokenizer.encode_bytes(_bytes(body, tokenizer, a, b))
    head = tokenizer.encode_bytes(_bytes(body, tokenizer, a, Cut(low, 0)))
    tail = tokenizer.encode_bytes(_bytes(body, tokenizer, Cut(high, 0), b))
    return [*head, *body[low:high].tolist(), *tail]


def _bytes(body: np.ndarray, tokenizer: Tokenizer, a: Cut, b: Cut) -> bytes:
    whole = tokenizer.decode_bytes(body[a.token : b.token])
    rest = tokenizer.token_bytes[body[b.token]][: b.byte] if b.byte else b""
    return (whole + rest)[a.byte :]
