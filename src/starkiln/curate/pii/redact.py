"""Redaction: each value gives way to a placeholder, in the text's own line structure (rules §9)."""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import polars as pl
from pydantic import AfterValidator, Field

from starkiln.code.spans import LABELS, SURE, Span, resolve
from starkiln.core.errors import UserError
from starkiln.core.settings import Place
from starkiln.core.stage import stage
from starkiln.curate.pii import policy
from starkiln.curate.pii.detect import scan
from starkiln.curate.pii.ledger import PLACES, SPAN, SPANS
from starkiln.curate.pii.wording import WEAK

UNSCANNABLE = "unscannable"
LISTED = "USERNAME"  # found, and told in the ledger, also where it is not replaced
LEFT = "not-asked-for"
_ROUNDS = 16  # one finds all in ordinary text; this bounds hostile text


class Change(NamedTuple):
    """``text[start:end]`` (code points) gives way to ``replacement``; with None it stays."""

    start: int
    end: int
    label: str
    replacement: str | None
    reason: str
    confidence: float


S = TypeVar("S", Span, Change)
Found = dict[int, list[Span] | None]  # of the texts that have any; None: it cannot be scanned
Find = Callable[[pl.Series], Found]


def stamp(settings: dict[str, Any]) -> str:
    """What the tagger's folder holds; empty where none is used."""
    if settings["profile"] == "fast" or settings["tagger"] is None:
        return ""
    from starkiln.model.checkpoint import stamps

    return json.dumps(stamps(Path(settings["tagger"])), sort_keys=True)


def ready(settings: dict[str, Any]) -> None:
    """UserError where the full profile has no tagger."""
    if settings["profile"] == "full" and settings["tagger"] is None:
        raise UserError("redact", "profile 'full' has no tagger", "set tagger to its folder")
    stamp(settings)


def _ordered(labels: list[str]) -> list[str]:
    """Each label once: their order changes no row, so it is no setting."""
    return [label for label in LABELS if label in labels]


@stage(
    version=5,
    reads=("repo", "path", "segments"),
    adds={"spans": SPANS},
    stamp=stamp,
    ready=ready,
)
def redact(
    frame: pl.DataFrame,
    *,
    labels: Annotated[
        list[Literal["NAME", "EMAIL", "KEY", "PASSWORD", "IP_ADDRESS", "USERNAME"]],
        Field(
            min_length=1,
            description="what to replace; user names are told of all the same, as in the paper",
        ),
        AfterValidator(_ordered),
    ] = ["NAME", "EMAIL", "KEY", "PASSWORD", "IP_ADDRESS"],  # noqa: B006
    profile: Annotated[
        Literal["fast", "full"], Field(description="patterns alone, or patterns and a tagger")
    ] = "fast",
    tagger: Annotated[Place | None, Field(description="folder of the tagger of 'full'")] = None,
    threshold: Annotated[
        float, Field(gt=0, le=1, description="confidence from which a span counts")
    ] = SURE,
    seed: Annotated[int, Field(description="of digests and the map from address to address")] = 0,
) -> pl.DataFrame:
    """Find what to replace in each segment, repo and path (paper §4; rules §9).

    ``spans`` is empty where nothing was found; a span without a replacement is kept: names of one
    word, values of three characters, trivial passwords, example mailboxes, private, special and
    public DNS addresses, and user names where ``labels`` has none; ``reason`` says why.
    An address has the same replacement in the whole table.

    Reason: ``unscannable``, for a document on which a rule fails: it may not pass unseen.
    """
    texts = _texts(frame)
    find = _finder(tuple(labels), tagger if profile == "full" else None, threshold)
    made = changes(texts["text"], find, seed)
    rows, places, segments = (texts[c].to_list() for c in ("row", "place", "segment"))
    failed: list[str | None] = [None] * frame.height
    found: list[tuple] = []
    for number, several in made.items():
        if several is None:
            failed[rows[number]] = UNSCANNABLE
            continue
        where = rows[number], places[number], segments[number]
        text = texts["text"][number]
        found += [(*where, *one, policy.digest(text[one.start : one.end], seed)) for one in several]
    return _by_row(found, failed)


def _texts(frame: pl.DataFrame) -> pl.DataFrame:
    """``row``, ``place``, ``segment`` and ``text`` of every segment, in order, repo and path."""
    rows = frame.with_row_index("row")
    flat = rows.select("row", "segments").explode("segments", empty_as_null=False)
    parts = [
        flat.select(
            "row",
            pl.lit(PLACES[0]).alias("place"),
            pl.int_range(pl.len(), dtype=pl.UInt32).over("row").alias("segment"),
            pl.col("segments").struct.field("text"),
        )
    ]
    for place in PLACES[1:]:
        number = pl.lit(0, pl.UInt32).alias("segment")
        parts.append(rows.select("row", pl.lit(place).alias("place"), number, text=place))
    return pl.concat(parts).drop_nulls("text")


def _by_row(found: list[tuple], failed: list[str | None]) -> pl.DataFrame:
    """``reason`` and ``spans`` of each row; no spans for those that failed."""
    schema = {"row": pl.UInt32, **SPAN}
    columns = zip(*found) if found else ((),) * len(schema)
    flat = pl.DataFrame(dict(zip(schema, columns)), schema=schema)
    lists = flat.group_by("row", maintain_order=True).agg(pl.struct(*SPAN).alias("spans"))
    rows = pl.DataFrame({"reason": failed}, schema={"reason": pl.String}).with_row_index("row")
    joined = rows.join(lists, on="row", how="left", maintain_order="left")
    none = pl.Series([[]], dtype=SPANS)
    spans = pl.when(pl.col("reason").is_null()).then(pl.col("spans").cast(SPANS)).fill_null(none)
    return joined.select("reason", spans.alias("spans"))


def _finder(labels: tuple[str, ...], tagger: str | None, threshold: float) -> Find:
    """What finds the spans of texts, resolved: the rules, and the ``tagger`` where there is one."""
    searched = (*labels, LISTED) if labels and LISTED not in labels else labels

    def find(texts: pl.Series) -> Found:
        found: Found = {}
        told: dict[int, list[Span]] = {}
        for number, spans in scan(texts, searched):
            failed = isinstance(spans, Exception)
            found[number] = None if failed else [s for s in spans if s.label in labels]
            told[number] = [] if failed else [s for s in spans if s.label not in labels]
        if tagger is not None:
            asked = {number: spans for number, spans in found.items() if spans}
            found |= _confirmed({n: texts[n] for n in asked}, asked, tagger)
        for number, spans in found.items():
            if spans is not None:
                sure = (s for s in spans if s.confidence >= threshold and s.label in labels)
                left = (s for s in told[number] if s.confidence >= threshold)
                wanted = resolve(sure)
                free = (s._replace(reason=LEFT) for s in _clear(resolve(left), wanted))
                found[number] = sorted([*wanted, *free])
        return found

    return find


def _confirmed(texts: dict[int, str], asked: dict[int, list[Span]], tagger: str) -> Found:
    """What the tagger says of the candidates of each text; one that it fails on is alone in it."""
    from starkiln.curate.pii.tag import confirm

    try:
        told = confirm(list(texts.values()), list(asked.values()), tagger)
    except UserError:
        raise
    except Exception:  # noqa: BLE001  (bad data is never a crash: it is set aside)
        if len(texts) == 1:
            return dict.fromkeys(texts)
        each = (_confirmed({n: texts[n]}, {n: asked[n]}, tagger) for n in texts)
        return {n: spans for one in each for n, spans in one.items()}
    return dict(zip(texts, told, strict=True))


def changes(texts: pl.Series, find: Find, seed: int) -> dict[int, list[Change] | None]:
    """What to replace and what to keep in the texts where ``find`` finds any, in order.

    What is replaced changes what its neighbours look like, so those texts are searched again until
    there is nothing to find: redaction is idempotent. None: a text that cannot be scanned, or
    that is still changing after many rounds.
    """
    done: dict[int, list[Change] | None] = {}
    numbers, now = list(range(len(texts))), texts
    for _ in range(_ROUNDS):
        again: dict[int, str] = {}
        for place, spans in find(now).items():
            number = numbers[place]
            if spans is None:
                done[number] = None
                continue
            fresh, kept = _decided(now[place], spans, seed)
            whole = joined(texts[number], done.get(number) or [], fresh or kept, seed)
            done[number] = whole
            if fresh:
                again[number] = replaced(texts[number], whole)
        if not again:
            return done
        numbers, now = list(again), pl.Series(again.values(), dtype=pl.String)
    return done | dict.fromkeys(numbers)  # that never comes to rest


def _decided(text: str, spans: list[Span], seed: int) -> tuple[list[Change], list[Change]]:
    """The ``spans`` that are replaced, and those that are kept, with the reason for it."""
    fresh, kept = [], []
    for span in spans:
        span = _between(text, span)
        if span.start == span.end or policy.is_own(text, span):
            continue
        new, why = policy.decide(text[span.start : span.end], span.label, seed)
        if span.reason in (WEAK, LEFT):
            new, why = None, span.reason
        change = Change(span.start, span.end, span.label, new, why or span.reason, span.confidence)
        (kept if new is None else fresh).append(change)
    return fresh, kept


def _between(text: str, span: Span) -> Span:
    """``span`` without the half of a CRLF at either edge."""
    start = span.start + (text[span.start - 1 : span.start + 1] == "\r\n")
    end = span.end - (text[span.end - 1 : span.end + 1] == "\r\n")
    same = start == span.start and end == span.end
    return span if same else span._replace(start=start, end=max(start, end))


def replaced(text: str, spans: Iterable[Change]) -> str:
    """``text`` with ``spans``, which are in order and do not overlap, replaced."""
    pieces, end = [], 0
    for span in spans:
        if span.replacement is not None:
            pieces += [text[end : span.start], span.replacement]
            end = span.end
    return "".join([*pieces, text[end:]])


def joined(text: str, done: list[Change], fresh: list[Change], seed: int) -> list[Change]:
    """``done`` and the spans found after it was applied, all in places of ``text``, the first.

    A new span that is replaced swallows what it meets; one that is kept gives way.
    """
    if not done:
        return fresh
    place = _places(done)
    moved: list[Change] = []
    for one in fresh:
        start, end = place(one.start, False), place(one.end, True)
        if moved and start < moved[-1].end:
            one = moved.pop()
            start, end = one.start, max(end, one.end)
        moved.append(_widened(text, one, start, end, seed))
    replacing = [one for one in moved if one.replacement is not None]
    old = list(_clear(done, replacing))
    return sorted([*old, *replacing, *_clear([m for m in moved if m.replacement is None], old)])


def _widened(text: str, one: Change, start: int, end: int, seed: int) -> Change:
    """``one`` at its place of ``text``; with all line breaks where it swallows more of them."""
    value, new = text[start:end], one.replacement
    if new is not None and policy.breaks(value) != policy.breaks(new):
        decided, _ = policy.decide(value, one.label, seed)
        token = policy.TOKENS.get(one.label, value)
        new = policy.lines(value, token) if decided is None else decided
    return one._replace(start=start, end=end, replacement=new)


def _clear(spans: Iterable[S], others: list[S]) -> Iterator[S]:
    """Those of ``spans`` that meet none of ``others``, which are in order and do not overlap."""
    starts = [other.start for other in others]
    for span in spans:
        last = bisect_left(starts, span.end) - 1
        if last < 0 or others[last].end <= span.start:
            yield span


def _places(done: list[Change]) -> Callable[[int, bool], int]:
    """Where a place was before ``done`` was applied; within a replacement, its old edge."""
    done = [span for span in done if span.replacement is not None]
    sizes = [len(span.replacement or "") for span in done]
    grown = [size - (span.end - span.start) for size, span in zip(sizes, done)]
    shifts = list(accumulate(grown, initial=0))
    starts = [span.start + shift for span, shift in zip(done, shifts)]

    def place(position: int, end: bool) -> int:
        last = bisect_left(starts, position) - 1
        if last >= 0 and position < starts[last] + sizes[last]:
            return done[last].end if end else done[last].start
        return position - shifts[last + 1]

    return place
