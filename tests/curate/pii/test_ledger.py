import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from starkiln.core import table
from starkiln.curate.mix import mix
from starkiln.curate.pii import ledger
from starkiln.curate.pii.redact import redact

VALUES = ["kim.lee@corp.io", "lee@corp.io", "81.2.69.142", "192.0.2.7"]
TEXTS = [
    f"é日 {VALUES[0]}\r\n\U0001f600 {VALUES[1]} and {VALUES[3]}",
    f"server = '{VALUES[2]}' # {VALUES[0]}",
    "nothing",
]


@given(st.lists(st.text("aé日\U0001f600\n", max_size=4), min_size=1, max_size=12))
def test_bytes_are_those_of_the_text_before_and_within(pieces):
    text = "".join(pieces)
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    spans = [{"start": a, "end": b} for a, b in list(zip([0, *ends], ends))[::2]]
    for span in ledger.with_bytes(text, spans):
        data = text.encode()
        assert data[: span["byte_start"]].decode() == text[: span["start"]]
        assert data[: span["byte_end"]].decode() == text[: span["end"]]


def _mixed(frame):
    spans = redact(frame.select("repo", "path", "segments"))["spans"]
    fates = pl.DataFrame({c: [None] * frame.height for c in table.DROP}, schema=table.DROP)
    return mix(frame, fates, [spans])


def test_every_span_of_a_kept_document_has_a_row_and_none_its_value(documents):
    frame = documents(*({"text": t, "path": "notes/kim.lee@corp.io.txt"} for t in TEXTS))
    kept, _, rows = _mixed(frame)
    assert rows.schema == ledger.LEDGER
    told = rows.to_dicts()
    for row in told:
        text = TEXTS[frame["id"].to_list().index(row["id"])]
        source = text if row["place"] == "text" else "notes/kim.lee@corp.io.txt"
        value = source[row["start"] : row["end"]]
        assert value in VALUES
        assert source.encode()[row["byte_start"] : row["byte_end"]].decode() == value
        assert (row["replacement"] is None) == (value == VALUES[3])
        assert row["path"] == "notes/<EMAIL>.txt"
    same = [r["digest"] for r in told if r["end"] - r["start"] == len(VALUES[0])]
    assert len(same) == 5
    assert len(set(same)) == 1
    assert len({r["digest"] for r in told}) == 4
    everything = rows.write_json() + kept.write_json()
    assert not [value for value in VALUES[:3] if value in everything]
    assert kept["redactions"].to_list() == [3, 3, 1]


def test_what_was_dropped_is_not_in_it(documents):
    frame = documents(*TEXTS)
    spans = redact(frame.select("repo", "path", "segments"))["spans"]
    fates = pl.DataFrame({"stage": ["x", None, None], "reason": ["x", None, None]})
    _, _, rows = mix(frame, fates, [spans])
    assert set(rows["id"]) == {frame["id"][1]}
