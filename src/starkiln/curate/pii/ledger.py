"""The ledger of redaction: every span that was found, and what became of it; never the value."""

import polars as pl

SPAN = {
    "place": pl.String,  # text, repo or path
    "segment": pl.UInt32,
    "start": pl.UInt32,  # code points, in the text before redaction
    "end": pl.UInt32,
    "label": pl.String,
    "replacement": pl.String,  # null: kept by policy
    "reason": pl.String,  # the rule that found it, or the policy that kept it
    "confidence": pl.Float32,
    "digest": pl.String,  # keyed hash of the value
}
SPANS = pl.List(pl.Struct(SPAN))
PLACES = ("text", "repo", "path")

LEDGER = {
    "id": pl.String,
    "kind": pl.String,
    "repo": pl.String,  # after redaction
    "path": pl.String,
    **{name: SPAN[name] for name in ("place", "segment", "start", "end")},
    "byte_start": pl.UInt64,  # UTF-8 bytes
    "byte_end": pl.UInt64,
    **{name: SPAN[name] for name in ("label", "reason", "confidence", "replacement", "digest")},
}


def with_bytes(text: str, spans: list[dict]) -> list[dict]:
    """``spans`` of ``text``, in order and apart, with ``byte_start`` and ``byte_end``; linear."""
    made, at, size = [], 0, 0  # text[:at] has ``size`` bytes
    for span in spans:
        first = size + _bytes(text[at : span["start"]])
        at, size = span["end"], first + _bytes(text[span["start"] : span["end"]])
        made.append({**span, "byte_start": first, "byte_end": size})
    return made


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def frame(rows: list[dict]) -> pl.DataFrame:
    """The ledger of one shard: a row for each span, in the order of documents and places."""
    return pl.DataFrame(rows, schema=LEDGER)
