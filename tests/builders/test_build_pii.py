"""Where the redacted copy of a file goes, how it is written, and what is told of the others."""

import codecs
import errno
import io
import json
import runpy
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from starkiln import pipeline
from starkiln.builders import origins, pii
from starkiln.catalogue import Use
from starkiln.ingest.files import EXCLUDE


def files(paths, exclude=EXCLUDE):
    settings = {"paths": [str(path) for path in paths], "exclude": exclude}
    return Use(name="files", use="starkiln.ingest.files:files", settings=settings)


def places(tmp_path, *names):
    """Where each of some files goes."""
    frame = pl.DataFrame({"repo": "src", "path": names, "kind": "code"})
    frame.write_parquet(tmp_path / "00000.parquet")
    moved = pii._moved(tmp_path, ["00000.parquet"]).get("00000.parquet", {})
    return [moved.get(row, f"src/{name}").removeprefix("src/") for row, name in enumerate(names)]


def test_files_of_one_place_all_have_one_of_their_own(tmp_path):
    assert places(tmp_path, "<KEY>.py", "<KEY>.py", "<KEY>.py") == [
        "<KEY>.py",
        "<KEY>~2.py",
        "<KEY>~3.py",
    ]
    assert places(tmp_path, "a.py", "b/a.py", "c") == ["a.py", "b/a.py", "c"]


def test_no_place_is_that_of_another_file_or_folder(tmp_path):
    assert places(tmp_path, "a.py", "a.py", "a~2.py") == ["a.py", "a~3.py", "a~2.py"]
    assert places(tmp_path, "<EMAIL>", "<EMAIL>/a.py") == ["<EMAIL>~2", "<EMAIL>/a.py"]
    assert places(tmp_path, "a/b/c", "a/b", "a") == ["a/b/c", "a/b~2", "a~2"]
    many = places(tmp_path, *["x"] * 2000)
    assert len(set(many)) == 2000


def test_the_form_of_files_is_kept(tmp_path):
    for name, data in {
        "a.py": b"plain\n",
        "b.py": "\ufeffmarked\n".encode(),
        "c.txt": "\ufeffwide\r\n".encode("utf-16-le"),
        "run.sh": b"#!/bin/sh\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "run.sh").chmod(0o755)
    found = origins.forms([files([tmp_path])])
    assert {path: (form.mark, form.runs) for (_, path), form in found.items()} == {
        "b.py": (b"\xef\xbb\xbf", False),
        "c.txt": (b"\xff\xfe", False),
        "run.sh": (b"", True),
    }
    wide = origins.encoded("wide\r\n", found[tmp_path.name, "c.txt"])
    assert wide == ((tmp_path / "c.txt").read_bytes(), False)
    assert origins.encoded("é", origins.PLAIN) == ("é".encode(), False)
    assert origins._form(tmp_path / "gone", 9) == origins.PLAIN


LATIN = '# -*- coding: latin-1 -*-\n# Kim Larsen <kim@corp.io>\nWORD = "h\xf8st \xe9t\xe9"\n'


def _read_as(tmp_path, data, size=10_000):
    (tmp_path / "x").write_bytes(data)
    return origins._form(tmp_path / "x", size).encoding


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (LATIN, "latin-1"),
        ("# coding: shift_jis\ns = '\u6771\u4eac'\n", "shift_jis"),
        ("# -*- coding: cp1251 -*-\ns = '\u043c\u0438\u0440'\n", "cp1251"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>\n<a>\xe9t\xe9</a>\n', "iso8859-1"),
        ("# coding: latin-1\nplain = 1\n", "utf-8"),
    ],
)
def test_an_encoding_that_a_file_declares_stays(tmp_path, text, encoding):
    data = text.encode(encoding)
    found = _read_as(tmp_path, data)
    assert codecs.lookup(found) == codecs.lookup(encoding)
    assert origins.encoded(text, origins.Form(b"", False, found)) == (data, False)


def test_an_encoding_that_was_guessed_or_does_not_fit_becomes_utf_8(tmp_path):
    assert _read_as(tmp_path, b"caf\xe9 is open\n") == ""
    assert _read_as(tmp_path, b"# coding: nonesuch\ncaf\xe9\n") == ""
    assert _read_as(tmp_path, "# coding: latin-1\ncaf\xe9".encode()) == "utf-8"
    for encoding in ("", "latin-1"):
        form = origins.Form(b"", False, encoding)
        assert origins.encoded("\u6771", form) == ("\u6771".encode(), True)


def test_what_is_passed_over_is_counted(tmp_path):
    for name in (
        *("a.py", ".git/config", ".git/objects/aa/bb", "lib/node_modules/x/y.js"),
        *("env/pyvenv.cfg", "env/lib/z.py", "work/.lock", "work/documents/node_modules/q.js"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "lib" / "__pycache__").symlink_to(tmp_path)
    assert origins.passed_over([files([tmp_path])]) == {
        "excluded .git": 2,
        "excluded node_modules": 1,
        "excluded __pycache__": 1,
        "virtual-environment": 2,
    }
    assert origins.passed_over([files([tmp_path], ["*.py"])])["excluded *.py"] == 1
    assert origins.passed_over([files([tmp_path / "none"])]) == {}


def test_a_name_that_is_too_long_is_no_crash_and_leaves_nothing(tmp_path):
    part = tmp_path / ".part"
    assert not pii._put(b"x", tmp_path / "files" / ("a" * 300), False, part)
    assert pii._put(b"x", tmp_path / "files" / ("a" * 255), True, part)
    assert pii._put(b"y", tmp_path / "files" / "b", False, part)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
    modes = {path.name[0]: path.stat().st_mode & 0o100 for path in (tmp_path / "files").iterdir()}
    assert modes == {"a": 0o100, "b": 0}


def test_other_faults_of_the_disk_are_raised(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError) as told:
        pii._put(b"x", tmp_path / "file" / "a", False, tmp_path / ".part")
    assert told.value.errno in (errno.ENOTDIR, errno.EEXIST)


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """The work folder of a run on a folder with every trouble."""
    home = tmp_path_factory.mktemp("copied")
    code, work = home / "code", home / "work"
    long = "m" * 240 + " 52.1.2.9 x.py"
    for name, data in {
        "kim@corp.io.py": b"a = 1\n",
        "lee@corp.io.py": b"a = 2\n",
        "max@corp.io/pat@corp.io": b"a = 3\n",
        "pat@corp.io": b"a = 4\n",
        "marked.py": "\ufeff# Kim Larsen <kim@corp.io>\r\n".encode(),
        "wide.txt": "\ufeffto kim@corp.io\r\n".encode("utf-16-be"),
        "run.sh": b"#!/bin/sh\nmail kim@corp.io\n",
        "latin.py": LATIN.encode("latin-1"),
        "cafe.txt": b"caf\xe9 is open\n",
        long: b"a = 5\n",
        "kim.lee@corp.io.bin": b"\0\1",
        ".git/config": b"email = kim@corp.io\n",
    }.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(data)
    (code / "run.sh").chmod(0o755)
    work.mkdir()
    source = f'extends = "redact"\n[[source]]\nuse = "files"\npaths = ["{code}"]\n'
    (work / "recipe.toml").write_text(source)
    pipeline.run(work / "recipe.toml", [], Console(file=io.StringIO()))
    return work / "copy"


def test_no_file_is_lost_where_places_meet(copied):
    files = copied / "files" / "code"
    told = {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*.*")}
    assert {"<EMAIL>.py", "<EMAIL>~2.py"} <= told.keys()
    assert (files / "<EMAIL>" / "<EMAIL>").read_bytes() == b"a = 3\n"
    assert (files / "<EMAIL>~2").read_bytes() == b"a = 4\n"


def test_marks_encodings_and_the_right_to_run_are_kept(copied):
    files = copied / "files" / "code"
    assert (files / "marked.py").read_bytes() == "\ufeff# <NAME> <<EMAIL>>\r\n".encode()
    assert (files / "wide.txt").read_bytes() == "\ufeffto <EMAIL>\r\n".encode("utf-16-be")
    assert [p.name for p in files.iterdir() if p.is_file() and p.stat().st_mode & 0o100] == [
        "run.sh"
    ]


def test_a_program_with_a_declared_encoding_has_the_same_strings(copied):
    path = copied / "files" / "code" / "latin.py"
    data = path.read_bytes()
    assert data == LATIN.replace("Kim Larsen <kim@corp.io>", "<NAME> <<EMAIL>>").encode("latin-1")
    assert runpy.run_path(str(path))["WORD"] == "h\xf8st \xe9t\xe9"


def test_what_became_utf_8_is_told(copied):
    assert (copied / "files" / "code" / "cafe.txt").read_bytes() == "café is open\n".encode()
    listed = pl.concat(map(pl.read_parquet, copied.glob("*.parquet")))
    assert listed.filter("recoded")["place"].to_list() == ["code/cafe.txt"]
    assert json.loads((copied / "summary.json").read_text())["recoded"] == 1


def test_the_summary_counts_every_file_of_the_source(copied):
    summary = json.loads((copied / "summary.json").read_text())
    assert summary["files"] == 9
    assert summary["renamed"] == 2
    assert summary["left_out"] == {"binary": 1, "excluded .git": 1, "name-too-long": 1}
    left = pl.read_csv(copied / "left-out.csv")
    reasons = dict(left.select("path", "reason").iter_rows())
    assert reasons.pop("<EMAIL>.bin") == "binary"
    assert list(reasons.values()) == ["name-too-long"]
    names = [p.name for p in copied.rglob("*")]
    assert not [name for name in names if "corp.io" in name or name.endswith(".tmp")]
