"""The one act that makes the curated table: documents, minus the dropped, with spans replaced."""

from collections.abc import Sequence

import polars as pl

from starkiln.code.document import SEGMENTS
from starkiln.curate.pii.redact import replaced

DROPPED = ("id", "kind", "repo", "path", "language", "stage", "reason")


def mix(
    documents: pl.DataFrame, fates: pl.DataFrame, spans: Sequence[pl.Series]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One shard's kept documents, and what was dropped by which stage for what reason.

    ``fates`` (stage, reason) and each of ``spans`` are aligned row by row with ``documents``. Kept
    rows have all columns of ``documents`` and ``redactions`` (UInt32); ``id`` stays that of the
    original text.
    """
    dropped = fates["reason"].is_not_null()
    kept = _redacted(documents, list(spans))
    return kept.filter(~dropped), documents.hstack(fates).filter(dropped).select(DROPPED)


def _redacted(documents: pl.DataFrame, spans: list[pl.Series]) -> pl.DataFrame:
    """Replace the spans in their segments; a row without spans is not touched."""
    rows = {row for one in spans for row in one.list.len().fill_null(0).gt(0).arg_true()}
    new: list[list[dict] | None] = [None] * documents.height
    counts = [0] * documents.height
    for row in rows:
        wanted = [span for one in spans for span in (one[row] if one[row] is not None else ())]
        new[row], counts[row] = redacted(documents["segments"][row].to_list(), wanted)
    return documents.with_columns(
        segments=pl.coalesce(pl.Series(new, dtype=SEGMENTS), "segments"),
        redactions=pl.Series(counts, dtype=pl.UInt32),
    )


def redacted(segments: list[dict], spans: list[dict]) -> tuple[list[dict], int]:
    """``segments`` with the spans replaced, and how many were; of two that overlap, the first."""
    texts, count = [segment["text"] for segment in segments], 0
    applied: dict[int, list[dict]] = {}
    for span in sorted(spans, key=lambda s: (s["segment"], s["start"])):
        mine = applied.setdefault(span["segment"], [])
        if not mine or span["start"] >= mine[-1]["end"]:
            mine.append(span)
            count += 1
    for number, mine in applied.items():
        texts[number] = replaced(texts[number], mine)
    return [{**segment, "text": text} for segment, text in zip(segments, texts)], count
