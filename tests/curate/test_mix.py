import polars as pl
import pytest

from starkiln.curate.mix import mix
from starkiln.curate.pii.redact import SPANS


def _decision(*reasons, stages=None, spans=None):
    columns = {"reason": pl.Series(reasons, dtype=pl.String)}
    if stages is not None:
        columns["stage"] = pl.Series(stages, dtype=pl.String)
    if spans is not None:
        columns["spans"] = pl.Series(spans, dtype=SPANS)
    return pl.DataFrame(columns)


def _span(start, end, replacement, segment=0):
    span = {"segment": segment, "start": start, "end": end, "replacement": replacement}
    return span | {"label": "KEY", "reason": "test"}


def test_the_first_reason_wins_and_names_its_stage(documents):
    frame = documents("a", "b", "c", "d")
    first = _decision(None, "xml", None, None, stages=[None, "xml", None, None])
    second = _decision("copy", "copy", None, None)
    kept, dropped = mix(frame, [("01-filters", first), ("02-dedup", second)])
    assert kept.drop("redactions").equals(frame[2:])
    assert dropped.columns == ["id", "kind", "repo", "path", "language", "stage", "reason"]
    assert dropped.select("stage", "reason").rows() == [("02-dedup", "copy"), ("xml", "xml")]
    assert dropped["id"].to_list() == frame["id"].to_list()[:2]


def test_spans_are_replaced_in_code_points_and_the_id_stays(documents):
    frame = documents("é日 SECRET SECRET\r\nend", "plain")
    spans = [[_span(3, 9, "<KEY>"), _span(10, 16, "")], None]
    kept, _ = mix(frame, [("pii", _decision(None, None, spans=spans))])
    texts = kept["segments"].list.first().struct.field("text").to_list()
    assert texts == ["é日 <KEY> \r\nend", "plain"]
    assert kept["id"].equals(frame["id"])
    assert kept["redactions"].to_list() == [2, 0]
    assert kept.schema["redactions"] == pl.UInt32


def test_each_segment_has_its_own_offsets(documents):
    segments = [{"marker": "commit_before", "text": "aXb"}, {"marker": "commit_after", "text": "X"}]
    frame = documents("a").with_columns(
        segments=pl.Series([segments], dtype=documents("a").schema["segments"])
    )
    spans = [[_span(0, 1, "<2>", segment=1), _span(1, 2, "<1>")]]
    kept, _ = mix(frame, [("pii", _decision(None, spans=spans))])
    assert kept["segments"][0].to_list() == [
        {"marker": "commit_before", "text": "a<1>b"},
        {"marker": "commit_after", "text": "<2>"},
    ]


def test_of_overlapping_spans_of_two_steps_the_first_is_applied(documents):
    frame = documents("0123456789")
    one = _decision(None, spans=[[_span(2, 6, "<A>")]])
    two = _decision(None, spans=[[_span(4, 8, "<B>"), _span(8, 9, "<C>")]])
    kept, _ = mix(frame, [("one", one), ("two", two)])
    assert kept["segments"][0][0]["text"] == "01<A>67<C>9"
    assert kept["redactions"].to_list() == [2]


def test_nothing_to_do(documents):
    frame = documents("a", "b")
    kept, dropped = mix(frame, [])
    assert kept.drop("redactions").equals(frame)
    assert dropped.height == 0
    kept, dropped = mix(frame[:0], [("pii", _decision(spans=[]))])
    assert (kept.height, dropped.height) == (0, 0)
    assert kept.drop("redactions").schema == frame.schema


def test_misaligned_decisions_are_refused(documents):
    with pytest.raises(ValueError, match="dedup: 1 decisions for 2 documents"):
        mix(documents("a", "b"), [("dedup", _decision(None))])
