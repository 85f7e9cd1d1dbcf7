import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starkiln.code.document import SCHEMA, SET_ASIDE, blob_id
from starkiln.core.errors import UserError
from starkiln.core.stage import settings_model, spec
from starkiln.ingest.parquet import parquet, read

STACK = {
    "hexsha": "0" * 40,
    "size": 6,
    "ext": "py",
    "lang": "Python",
    "max_stars_repo_path": "src/a.py",
    "max_stars_repo_name": "acme/tool",
    "max_stars_repo_head_hexsha": "1" * 40,
    "max_stars_repo_licenses": ["mit", "apache-2.0"],
    "max_stars_count": 12,
    "max_issues_repo_name": "fork/tool",
    "content": "x = 1\n",
    "avg_line_length": 6.0,
    "max_line_length": 6,
    "alphanum_fraction": 0.5,
}


def stack(**changes: Any) -> dict:
    return STACK | changes


def write(path: Path, rows: list[dict], **settings: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    return path


def rows(*paths: Path | str, **settings: Any) -> list[dict]:
    units = parquet(paths=[str(path) for path in paths], **settings)
    return [row for unit in units for row in read(unit)]


def only(path: Path | str, **settings: Any) -> dict:
    (row,) = rows(path, **settings)
    return row


def reasons(found: list[dict]) -> list[str]:
    return [row.get("reason", row.get("kind")) for row in found]


def test_the_stack(tmp_path):
    row = only(write(tmp_path / "s.parquet", [stack()]))
    assert row == {
        "id": blob_id("x = 1\n"),
        "kind": "code",
        "language": "python",
        "repo": "acme/tool",
        "path": "src/a.py",
        "stars": 12,
        "licences": ["MIT", "Apache-2.0"],
        "segments": [{"marker": "", "text": "x = 1\n"}],
    }
    assert list(row) == list(SCHEMA)


def test_starcoderdata(tmp_path):
    line = {
        "id": "7",
        "content": "fn main() {}\n",
        "max_stars_repo_path": "m.rs",
        "max_stars_repo_name": "a/b",
        "max_stars_count": None,
    }
    more = line | {"max_stars_count": 3.0}
    found = rows(write(tmp_path / "s.parquet", [line, more]))
    told = [(row["language"], row["stars"], row["licences"]) for row in found]
    assert told == [("rust", None, []), ("rust", 3, [])]


def test_columns_of_another_name(tmp_path):
    line = {"code": "a = 1", "file": "a.py", "owner": "o/r", "terms": "MIT OR GPL-3.0-only"}
    path = write(tmp_path / "s.parquet", [line])
    names = {"content": "code", "path": "file", "repo": "owner", "licences": "terms"}
    row = only(path, columns=names)
    assert (row["repo"], row["path"], row["licences"]) == ("o/r", "a.py", ["MIT"])
    with pytest.raises(
        UserError, match="has no column 'content' for 'content'; name it in columns"
    ):
        parquet(paths=[str(path)])
    with pytest.raises(
        UserError, match=r"has no column 'lizenz' for 'licences'.*code, file, owner"
    ):
        parquet(paths=[str(path)], columns=names | {"licences": "lizenz"})
    with pytest.raises(UserError, match="columns: 'licence' is no column of ours"):
        parquet(paths=[str(path)], columns={"licence": "terms"})


def test_language_by_content_or_as_the_file_says(tmp_path):
    path = write(
        tmp_path / "s.parquet",
        [
            stack(
                max_stars_repo_path="a.m", lang="Objective-C", content="function y = f(x)\n% f\n"
            ),
            stack(lang="C++"),
            stack(lang="no language of ours"),
            stack(lang=None),
        ],
    )
    assert [row["language"] for row in rows(path)] == ["matlab", "python", "python", "python"]
    told = [row["language"] for row in rows(path, detect=False)]
    assert told == ["objective-c", "cpp", "python", "python"]


def test_licences(tmp_path):
    given = [["mit"], ["MIT", "mit", None, ""], [], None, ["gpl-3.0"], ["what is this"],
             ["x" * 10**6], ["deprecated_BSD-2-Clause-FreeBSD"], ["MIT AND Zlib"]]  # fmt: skip
    path = write(tmp_path / "s.parquet", [stack(max_stars_repo_licenses=one) for one in given])
    assert [row["licences"] for row in rows(path)] == [
        ["MIT"], ["MIT"], [], [], ["GPL-3.0-only"], ["LicenseRef-unknown"], ["LicenseRef-unknown"],
        ["BSD-2-Clause-FreeBSD"], ["MIT", "Zlib"],
    ]  # fmt: skip


@pytest.mark.parametrize("stars", [-1.0, float("nan"), float("inf"), 1e300])
def test_stars_that_are_none(tmp_path, stars):
    assert only(write(tmp_path / "s.parquet", [stack(max_stars_count=stars)]))["stars"] is None


def test_every_reason_to_set_a_row_aside(tmp_path):
    bad = {
        "no-content": stack(content=None),
        "no-repo": stack(max_stars_repo_name=None),
        "no-path": stack(max_stars_repo_path=None),
        "path-traversal": stack(max_stars_repo_path="../../etc/passwd"),
        "path-name": stack(max_stars_repo_path="a\nb.py"),
        "too-large": stack(content="é" * 51),
        "empty": stack(content=" \n"),
        "binary": stack(content="a\0b"),
    }
    found = rows(write(tmp_path / "s.parquet", [*bad.values(), stack()]), max_bytes=100)
    assert reasons(found) == [*bad, "code"]
    assert all(list(row) == list(SET_ASIDE) for row in found[:-1])
    sizes = {row["reason"]: row["bytes"] for row in found[:-1]}
    assert (sizes["too-large"], sizes["no-content"]) == (102, 0)
    assert found[3]["path"] == "../../etc/passwd"


def test_text_that_is_not_utf_8(tmp_path):
    """In columns of bytes, and in those that only claim to hold text."""
    mark, latin, odd = b"\xef\xbb\xbfx = 1\n", b"# caf\xe9 au lait\n", b"a \xe9\xf8\xb3"
    lines = [stack(content=one, max_stars_repo_name=b"a/\xff") for one in (mark, latin, odd)]
    table = pa.Table.from_pylist(lines)
    claims = pa.chunked_array(
        [pa.Array.from_buffers(pa.string(), 3, table["content"].chunk(0).buffers())]
    )
    for name, content in (("bytes", table["content"]), ("text", claims)):
        path = tmp_path / f"{name}.parquet"
        place = table.schema.get_field_index("content")
        pq.write_table(table.set_column(place, "content", content), path)
        found = rows(path)
        assert reasons(found) == ["code", "code", "encoding"]
        assert found[0]["segments"][0]["text"] == "x = 1\n"
        assert found[1]["segments"][0]["text"] == "# café au lait\n"
        assert {row["repo"] for row in found} == {"a/\ufffd"}


TYPES = {
    "large": pa.large_string(),
    "view": pa.string_view(),
    "bytes": pa.binary(),
    "large-bytes": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_text(tmp_path, kind):
    kinds = {"content", "max_stars_repo_path", "max_stars_repo_name", "lang"}
    table = pa.Table.from_pylist([stack(), stack(content=None)])
    for i, name in enumerate(table.schema.names):
        if name in kinds:
            column = table[name].cast(pa.binary()) if "bytes" in kind else table[name]
            table = table.set_column(i, name, column.cast(TYPES[kind]))
    pq.write_table(table, tmp_path / "s.parquet")
    assert reasons(rows(tmp_path / "s.parquet")) == ["code", "no-content"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": 7}, "column 'content' for 'content' is of type int64"),
        ({"max_stars_count": "12"}, "column 'max_stars_count' for 'stars' is of type string"),
        ({"max_stars_repo_licenses": [1]}, "for 'licences' is of type list<.*int64>"),
        ({"max_stars_repo_path": {"a": 1}}, "for 'path' is of type struct"),
        ({"lang": [["x"]]}, "for 'language' is of type list"),
    ],
)
def test_wrong_types_are_named_before_anything_is_read(tmp_path, changes, message):
    path = write(tmp_path / "s.parquet", [stack(**changes)])
    with pytest.raises(UserError, match=rf"s\.parquet: .*{message}"):
        parquet(paths=[str(path)])


@pytest.mark.parametrize("fault", ["truncated", "head", "empty", "text", "footer"])
def test_files_that_are_no_parquet_are_named_before_anything_is_read(tmp_path, fault):
    good = write(tmp_path / "good.parquet", [stack()]).read_bytes()
    data = {
        "truncated": good[:-100],
        "head": good[: len(good) // 2],
        "empty": b"",
        "text": b"id,content\n" * 9,
        "footer": good[:-300] + bytes(292) + good[-8:],
    }[fault]
    (tmp_path / "bad.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.parquet: is no readable Parquet file .*; get it"):
        parquet(paths=[str(tmp_path)])


def test_two_columns_of_one_name_are_none(tmp_path):
    table = pa.table([["x"], ["y"], ["a.py"], ["r"]], ["content", "content", "path", "repo"])
    pq.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(
        UserError, match=r"no column 'content'.*the file has content, content, path"
    ):
        parquet(paths=[str(tmp_path)])


FLIPS = """
import sys
from pathlib import Path
from starkiln.core.errors import UserError
from starkiln.ingest.parquet import parquet, read
path = Path(sys.argv[1])
good = path.read_bytes()
begin = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
for place in [*range(begin, begin + 200), *range(begin + 200, len(good), 23)]:
    path.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1:])
    try:
        found = [row for unit in parquet(paths=[str(path)], detect=False) for row in read(unit)]
        assert len(found) == 100, (place, len(found))
    except UserError:
        pass
print("whole")
"""


def test_no_damage_to_the_footer_ends_the_process_or_loses_a_row(tmp_path):
    lines = [stack(content=f"x = {i}\n") for i in range(100)]
    path = write(tmp_path / "s.parquet", lines, row_group_size=50)
    command = [sys.executable, "-c", FLIPS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-2000:]


def test_a_broken_row_group_costs_itself_alone_and_is_counted(tmp_path):
    noise = random.Random(0)
    lines = [stack(content="".join(noise.choices("abc\n", k=2000))) for _ in range(300)]
    path = write(tmp_path / "s.parquet", lines, row_group_size=100, use_dictionary=False)
    whole = rows(path)
    assert reasons(whole) == ["code"] * 300
    data = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(1)
    chunk = next(
        group.column(i)
        for i in range(group.num_columns)
        if group.column(i).path_in_schema == "content"
    )
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    found = rows(path)
    kept = [row for row in found if "reason" not in row]
    lost = [row for row in found if "reason" in row]
    assert len(found) == 300
    assert lost
    assert set(reasons(lost)) == {"parquet-broken"}
    assert lost[-1]["path"] == "s.parquet, row group 1, row 99"
    assert [row["id"] for row in kept if row in whole] == [row["id"] for row in kept]
    assert kept[-100:] == whole[-100:]


def test_a_checksum_that_does_not_fit_breaks_the_row_group(tmp_path):
    lines = [stack(content=f"x = {i}\n") for i in range(20)]
    settings = {"row_group_size": 10, "compression": "none", "use_dictionary": False}
    path = write(tmp_path / "s.parquet", lines, write_page_checksum=True, **settings)
    path.write_bytes(path.read_bytes().replace(b"x = 3\n", b"x = 4\n"))
    assert Counter(reasons(rows(path))) == {"code": 10, "parquet-broken": 10}


def test_few_bytes_that_stand_for_many_are_set_aside(tmp_path):
    table = pa.table(
        {
            "content": pa.DictionaryArray.from_arrays(pa.array([0] * 4000), ["y" * 100_000]),
            "path": ["a.py"] * 4000,
            "repo": ["r"] * 4000,
            "lang": ["C"] * 4000,
        }
    )
    pq.write_table(table, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    (unit,) = parquet(paths=[str(tmp_path)], detect=False)
    found = Counter(row.get("reason", "code") for row in read(unit))
    assert found.keys() == {"code", "parquet-bomb"}
    assert found["code"] * 100_000 <= 256 << 20
    assert found.total() == 4000


def test_notebooks_become_what_notebooks_become(tmp_path):
    cells = [{"cell_type": "markdown", "source": "t"}, {"cell_type": "code", "source": "x"}]
    data = json.dumps({"cells": cells, "metadata": {"language_info": {"name": "R"}}})
    lines = [stack(content=one, max_stars_repo_path="a/N.ipynb") for one in (data, "{")]
    path = write(tmp_path / "s.parquet", lines)
    assert reasons(rows(path)) == ["notebook-script", "structured-language", "notebook-json"]
    (row, _) = rows(path, notebook_languages=["r"], notebook_forms=["structured"])
    told = [row[name] for name in ("kind", "language", "repo", "path", "stars", "licences")]
    assert told == ["notebook", "r", "acme/tool", "a/N.ipynb", 12, ["MIT", "Apache-2.0"]]
    with pytest.raises(UserError, match="notebook_languages: 'S' is no language"):
        parquet(paths=[str(path)], notebook_languages=["S"])
    with pytest.raises(ValueError):
        settings_model(parquet)(paths=["x"], notebook_forms=["both"])


# ---- units


def many(tmp_path: Path) -> Path:
    lines = [stack(content=f"x = {i}\n" * 100) for i in range(1000)]
    return write(tmp_path / "many.parquet", lines, row_group_size=50)


def test_units_are_row_groups_in_succession(tmp_path):
    path = many(tmp_path)
    (whole,) = parquet(paths=[str(path)])
    small = parquet(paths=[str(path)], unit_bytes=10_000)
    assert [unit["groups"] for unit in small[:2]] == [(0, 1), (1, 2)]
    some = parquet(paths=[str(path)], unit_bytes=whole["bytes"] // 4)
    assert 4 <= len(some) <= 6
    assert len({unit["stamp"] for unit in [whole, *small]}) == 21
    expected = list(read(whole))
    assert len(expected) == 1000
    for units in (small, some):
        assert [row for unit in units for row in read(unit)] == expected
        assert sum(unit["bytes"] for unit in units) == whole["bytes"]
    assert spec(parquet).read is read


def test_a_stamp_follows_the_file_and_not_its_folder(tmp_path):
    path = many(tmp_path)
    (before,) = parquet(paths=[str(path)])
    (tmp_path / "moved").mkdir()
    path.rename(tmp_path / "moved" / path.name)
    (moved,) = parquet(paths=[str(tmp_path / "moved")])
    assert moved["stamp"] == before["stamp"]
    write(tmp_path / "moved" / path.name, [stack()])
    assert parquet(paths=[str(tmp_path / "moved")])[0]["stamp"] != before["stamp"]


def test_an_empty_file_has_no_unit(tmp_path):
    table = pa.Table.from_pylist([stack()])
    pq.write_table(table.slice(0, 0), tmp_path / "s.parquet")
    assert rows(tmp_path / "s.parquet") == []


def test_a_file_that_changed_or_went_is_named(tmp_path):
    path = many(tmp_path)
    (unit,) = parquet(paths=[str(path)])
    write(path, [stack()])
    with pytest.raises(UserError, match=r"many\.parquet: is not what it was.*; run again"):
        list(read(unit))
    path.unlink()
    with pytest.raises(UserError, match=r"many\.parquet: cannot be read"):
        list(read(unit))


def test_any_url(tmp_path):
    import fsspec

    path = many(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.pipe("/stack/python/many.parquet", path.read_bytes())
    try:
        expected = rows(path)
        assert rows("memory://stack", unit_bytes=50_000) == expected
        assert rows("memory://stack/*/many.parquet") == expected
        assert rows(f"file://{path}") == expected
    finally:
        memory.rm("/stack", recursive=True)


PEAK = """
import sys
from pathlib import Path
from starkiln.ingest.parquet import parquet, read

def peak():  # since this program began; a resource's ru_maxrss may be its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))

small, large = sys.argv[1:]
for unit in parquet(paths=[small], detect=False):
    list(read(unit))
before, rows = peak(), 0
for unit in parquet(paths=[large], detect=False):
    rows += sum("kind" in row for row in read(unit))
print(rows, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("group", [1 << 20, 200])
def test_memory_is_bounded(tmp_path, group):
    """One row group of 120 MB, or 60 of 2 MB: either is read in a few batches' memory."""
    noise = random.Random(1)
    blocks = ["".join(noise.choices("abcdefgh (){};", k=500)) for _ in range(2000)]
    lines = [
        {"content": " ".join(noise.choices(blocks, k=20)), "path": "a.c", "repo": "r", "lang": "C"}
        for _ in range(12_000)
    ]
    small = write(tmp_path / "small.parquet", lines[:100])
    large = write(tmp_path / "large.parquet", lines, row_group_size=group)
    command = [sys.executable, "-c", PEAK, str(small), str(large)]
    count, growth = map(int, subprocess.check_output(command).split())
    assert count == 12_000
    assert growth < 90, f"{growth} MB for 120 MB of content"


def test_real_files(shared):
    path = shared("corpora/source/source.parquet")
    found = rows(path, columns={"licences": "licence_declared"})
    assert reasons(found) == ["code"] * 9550
    theirs = pq.read_table(path, columns=["path", "language", "content"]).to_pylist()
    assert [row["path"] for row in found] == [line["path"] for line in theirs]
    assert all(row["id"] == blob_id(line["content"].removeprefix("\ufeff"))
               for row, line in zip(found, theirs))  # fmt: skip
    same = sum(row["language"] == line["language"] for row, line in zip(found, theirs))
    assert same > 9000  # theirs is by the extension alone
