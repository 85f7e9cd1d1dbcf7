import polars as pl
import pytest

from starkiln.core import table
from starkiln.core.errors import UserError
from starkiln.curate.mix import mix
from starkiln.curate.pii.redact import SPANS


def _fates(*reasons):
    stages = [reason and f"by-{reason}" for reason in reasons]
    return pl.DataFrame({"stage": stages, "reason": reasons}, schema=table.DROP)


def _spans(*rows):
    return pl.Series(rows, dtype=SPANS)


def _span(start, end, replacement, segment=0):
    span = {"segment": segment, "start": start, "end": end, "replacement": replacement}
    return span | {"label": "KEY", "reason": "test"}


def test_what_is_dropped_keeps_its_stage_and_reason(documents):
    frame = documents("a", "b", "c", "d")
    kept, dropped = mix(frame, _fates("copy", "xml", None, None), [])
    assert kept.drop("redactions").equals(frame[2:])
    assert dropped.columns == ["id", "kind", "repo", "path", "language", "stage", "reason"]
    assert dropped.select("stage", "reason").rows() == [("by-copy", "copy"), ("by-xml", "xml")]
    assert dropped["id"].to_list() == frame["id"].to_list()[:2]


def test_spans_are_replaced_in_code_points_and_the_id_stays(documents):
    frame = documents("é日 SECRET SECRET\r\nend", "plain")
    spans = [[_span(3, 9, "<KEY>"), _span(10, 16, "")], None]
    kept, _ = mix(frame, _fates(None, None), [_spans(*spans)])
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
    kept, _ = mix(frame, _fates(None), [_spans(*spans)])
    assert kept["segments"][0].to_list() == [
        {"marker": "commit_before", "text": "a<1>b"},
        {"marker": "commit_after", "text": "<2>"},
    ]


def test_of_overlapping_spans_of_two_steps_the_first_is_applied(documents):
    frame = documents("0123456789")
    one = _spans([_span(2, 6, "<A>")])
    two = _spans([_span(4, 8, "<B>"), _span(8, 9, "<C>")])
    kept, _ = mix(frame, _fates(None), [one, two])
    assert kept["segments"][0][0]["text"] == "01<A>67<C>9"
    assert kept["redactions"].to_list() == [2]


def test_nothing_to_do(documents):
    frame = documents("a", "b")
    kept, dropped = mix(frame, _fates(None, None), [])
    assert kept.drop("redactions").equals(frame)
    assert dropped.height == 0
    kept, dropped = mix(frame[:0], _fates(), [_spans()])
    assert (kept.height, dropped.height) == (0, 0)
    assert kept.drop("redactions").schema == frame.schema


def test_of_several_decisions_the_first_reason_wins(tmp_path):
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    table.write(first, _fates(None, "xml", None))
    table.write(second, _fates("copy", "copy", None))
    fates = table.fates([first, second], 3)
    assert fates.rows() == [("by-copy", "copy"), ("by-xml", "xml"), (None, None)]
    assert table.fates([], 2).rows() == [(None, None)] * 2


def test_misaligned_decisions_are_refused(tmp_path):
    table.write(tmp_path / "1.parquet", _fates(None))
    with pytest.raises(UserError, match="1 decisions for 2 documents"):
        table.fates([tmp_path / "1.parquet"], 2)
