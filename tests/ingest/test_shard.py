import re

import polars as pl
import pytest

from starkiln.code.document import blob_id
from starkiln.core.errors import UserError
from starkiln.ingest.shard import read_shard

SOURCE = """
from starkiln.code.document import code_document, set_aside
from starkiln.core.errors import UserError
from starkiln.core.stage import source


def good(**other):
    row = code_document("a = 1\\n", repo="r", path="p.py", language="python", licences=[])
    return {{**row, **other}}


def read(unit):
    yield good()
    {fault}


@source(version=1, read=read)
def mine():
    return [{{"name": "u", "bytes": 1, "stamp": ""}}]
"""
UNIT = {"name": "the-unit", "bytes": 1, "stamp": ""}


def made(tmp_path, request, fault, licences=()):
    """Read one unit of a user's source with that fault; modules are known by their file's name."""
    path = tmp_path / f"source_{blob_id(request.node.name)}.py"
    path.write_text(SOURCE.format(fault=fault))
    use = f"{path}:mine"
    return use, lambda: read_shard(tmp_path, "00000", use, [UNIT, UNIT], list(licences))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raise KeyError('title')", "KeyError: 'title'"),
        ("yield {'text': 'a'}", "row None: no 'id'"),
        ("yield 'a line'", "AttributeError"),
        ("yield None", "TypeError"),
        ("yield good(segments='a')", "'segments' is not a List"),
        ("yield good(segments=[{'text': 'a'}])", "'segments' is not a List"),
        ("yield good(segments=[{'marker': '', 'text': None}])", "'segments' is not a List"),
        ("yield good(licences='MIT')", "'licences' is not a List"),
        ("yield good(language=None)", "row 'p.py': 'language' is not a String"),
        ("yield good(stars='many')", "'stars' is not a Int64"),
        ("yield good(path=chr(0xd800))", "UnicodeEncodeError"),
        ("yield {'reason': 'empty', 'path': 'q'}", "row 'q': no 'repo'"),
    ],
)
def test_a_fault_of_the_users_source_is_one_sentence(tmp_path, request, fault, told):
    use, run = made(tmp_path, request, fault)
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        run()
    assert caught.value.where == use
    assert caught.value.what.startswith("unit 'the-unit': ")
    assert caught.value.mend == "mend the source"
    assert not list(tmp_path.glob("*.parquet"))


def test_a_row_without_licences_is_one_sentence_where_licences_are_given(tmp_path, request):
    _, run = made(tmp_path, request, "row = good(); del row['licences']; yield row", ["MIT"])
    with pytest.raises(UserError, match="mend the source"):
        run()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("raise UserError('here', 'is odd', 'mend it')", UserError),
        ("raise MemoryError('much')", MemoryError),
        ("raise OSError(28, 'full')", OSError),
    ],
)
def test_what_is_no_fault_of_the_source_passes_through(tmp_path, request, fault, kind):
    _, run = made(tmp_path, request, fault)
    with pytest.raises(kind) as caught:
        run()
    assert "mend the source" not in str(caught.value)


def test_rows_are_kept_in_order_and_counted(tmp_path, request):
    fault = "yield good(path='q.py', stars=3); yield set_aside('r', 'x', 7, 'binary')"
    _, run = made(tmp_path, request, fault, ["MIT"])
    told = run()
    assert (told["rows"], told["bytes"], told["drops"]) == (4, 24, {"binary": 2})
    kept = pl.read_parquet(tmp_path / "00000.parquet")
    assert kept["path"].to_list() == ["p.py", "q.py"] * 2
    assert kept["stars"].to_list() == [None, 3] * 2
    assert kept["licences"].to_list() == [["MIT"]] * 4


def test_a_shard_of_no_units_is_empty(tmp_path, request):
    use, _ = made(tmp_path, request, "pass")
    told = read_shard(tmp_path, "00000", use, [], [])
    assert (told["rows"], told["bytes"], told["drops"]) == (0, 0, {})
