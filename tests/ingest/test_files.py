import contextlib
import io
import os
import pickle
import socket
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from licence_texts import BSD0, GPL
from starkiln.code.document import SCHEMA, SET_ASIDE
from starkiln.code.licences import permissive
from starkiln.core.errors import UserError
from starkiln.core.stage import settings_model, spec
from starkiln.ingest.files import files, read


def write(root: Path, tree: dict[str, str | bytes]) -> Path:
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def rows(*paths: Path | str, **settings) -> list[dict]:
    units = files(paths=[str(path) for path in paths], **settings)
    return [row for unit in units for row in read(unit)]


def aside(found: list[dict]) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in found if "reason" in row}


def kept(found: list[dict]) -> dict[tuple[str, str], list[str]]:
    return {(r["repo"], r["path"]): r["licences"] for r in found if "reason" not in r}


def test_a_folder_is_one_repository(tmp_path):
    root = write(tmp_path / "acme", {"LICENSE": BSD0, "src/b.py": "b = 1\n", "a.py": "a = 1\n"})
    found = rows(root)
    assert kept(found) == {("acme", name): ["0BSD"] for name in ("LICENSE", "a.py", "src/b.py")}
    assert [row["path"] for row in found] == ["LICENSE", "a.py", "src/b.py"]
    assert all(list(row) == list(SCHEMA) for row in found)
    assert found[1]["segments"] == [{"marker": "", "text": "a = 1\n"}]


def test_a_folder_of_repositories_gives_one_each_and_the_rest(tmp_path):
    write(
        tmp_path / "code",
        {
            "one/LICENSE": BSD0,
            "one/a.py": "1\n",
            "two/.git/HEAD": "x",
            "two/b.py": "2\n",
            "loose/c.py": "3\n",
            "d.py": "4\n",
        },
    )
    assert kept(rows(tmp_path / "code")) == {
        ("one", "LICENSE"): ["0BSD"],
        ("one", "a.py"): ["0BSD"],
        ("two", "b.py"): [],
        ("code", "loose/c.py"): [],
        ("code", "d.py"): [],
    }


def test_licence_files_govern_what_lies_beneath_them(tmp_path):
    root = write(
        tmp_path / "r", {"LICENSE": BSD0, "x/COPYING": GPL, "x/y/a.c": "int a;", "b.c": "int b;"}
    )
    found = kept(rows(root))
    assert found["r", "x/y/a.c"] == ["GPL-3.0-or-later", "0BSD"]
    assert found["r", "b.c"] == ["0BSD"]


def test_every_reason_to_set_a_file_aside(tmp_path):
    root = write(
        tmp_path / "r",
        {
            "ok.py": "a = 1\n",
            "bin": b"a\0b",
            "empty.py": b"",
            "blank.py": "\n \n",
            "odd.txt": b"a \xe9\xf8\xb3",
            "big.py": "x" * 101,
        },
    )
    (root / "link.py").symlink_to("ok.py")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to(".")
    (root / "out").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"bad\xff.py")).write_text("1\n")
    with socket.socket(socket.AF_UNIX) as plug:
        here = Path.cwd()
        os.chdir(root)  # a socket's path may have 107 bytes only
        plug.bind("plug")
        os.chdir(here)
        found = rows(root, max_bytes=100)
    assert list(kept(found)) == [("r", "ok.py")]
    assert aside(found) == {
        "bin": "binary",
        "empty.py": "empty",
        "blank.py": "empty",
        "odd.txt": "encoding",
        "big.py": "too-large",
        "link.py": "symlink",
        "dangling": "symlink",
        "loop": "symlink",
        "out": "symlink",
        "pipe": "special",
        "plug": "special",
        "bad?.py": "path-name",
    }
    assert all(list(row) == list(SET_ASIDE) for row in found if "reason" in row)
    assert {row["path"]: row["bytes"] for row in found if "reason" in row}["big.py"] == 101


def test_what_changes_between_listing_and_reading_is_set_aside(tmp_path):
    root = write(
        tmp_path / "r", dict.fromkeys(["gone", "grown", "linked", "piped", "ok"], "a = 1\n")
    )
    (unit,) = files(paths=[str(root)], max_bytes=10)
    for name in ("gone", "linked", "piped"):
        (root / name).unlink()
    (root / "grown").write_text("x" * 50)
    (root / "linked").symlink_to("ok")
    os.mkfifo(root / "piped")  # must not hang
    assert aside(list(read(unit))) == {
        "gone": "unreadable",
        "linked": "unreadable",
        "piped": "unreadable",
        "grown": "too-large",
    }


@contextlib.contextmanager
def without_power():
    """Become nobody for a while where the tests run as root, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_files_without_permission_are_set_aside():
    with tempfile.TemporaryDirectory() as place:  # pytest's own folder is closed to others
        Path(place).chmod(0o755)
        root = write(Path(place) / "r", {"a.py": "1\n", "d/b.py": "2\n"})
        (root / "a.py").chmod(0)
        (root / "d").chmod(0)
        with without_power():
            assert aside(rows(root)) == {"a.py": "unreadable", "d": "unreadable"}
        (root / "d").chmod(0o700)


def test_a_path_too_deep_to_open_is_no_crash(tmp_path):
    here = Path.cwd()
    os.chdir(tmp_path)
    for _ in range(25):
        os.mkdir("d" * 200)  # noqa: PTH102
        os.chdir("d" * 200)
    os.chdir(here)
    assert set(aside(rows(tmp_path)).values()) == {"unreadable"}


def test_excluded_folders_are_not_looked_at(tmp_path):
    write(
        tmp_path,
        {
            "r/.git/a.py": "1\n",
            "r/__pycache__/b.py": "1\n",
            "r/node_modules/c.js": "1\n",
            "r/gen/d.py": "1\n",
            "r/e.py": "1\n",
        },
    )
    assert [path for _, path in kept(rows(tmp_path / "r"))] == ["e.py", "gen/d.py"]
    assert [path for _, path in kept(rows(tmp_path / "r", exclude=["gen", ".git"]))] == [
        "__pycache__/b.py",
        "e.py",
        "node_modules/c.js",
    ]


def test_an_empty_folder_has_no_units(tmp_path):
    assert files(paths=[str(tmp_path)]) == []


@pytest.mark.parametrize("name", ["missing", "file.py"])
def test_a_wrong_path_is_named(tmp_path, name):
    (tmp_path / "file.py").write_text("1\n")
    with pytest.raises(UserError) as told:
        files(paths=[str(tmp_path / name)])
    assert str(told.value).startswith(f"{tmp_path / name}: ")


# ---- units


def test_units_are_cut_by_size_and_keep_everything_in_order(tmp_path):
    root = write(tmp_path / "r", {f"d{k % 3}/f{k:02d}.py": f"x = {k:03d}\n" for k in range(40)})
    write(root, {"LICENSE": BSD0})
    whole = rows(root)
    units = files(paths=[str(root)], unit_bytes=50)
    assert len(units) > 5
    assert all(unit["bytes"] <= 50 for unit in units if len(unit["parts"][0]["entries"]) > 1)
    assert [row for unit in units for row in read(unit)] == whole
    assert all(row["licences"] == ["0BSD"] for row in whole)  # from a licence in another unit


def test_small_repositories_share_a_unit(tmp_path):
    write(tmp_path, {f"{name}/LICENSE": BSD0 for name in "abc"})
    (unit,) = files(paths=[str(tmp_path)])
    assert [row["repo"] for row in read(unit)] == ["a", "b", "c"]


def test_units_travel_to_workers_and_are_the_same_each_time(tmp_path):
    write(tmp_path, {"r/LICENSE": BSD0, "r/a.py": "1\n"})
    first, second = (files(paths=[str(tmp_path / "r")]) for _ in range(2))
    assert first == second
    assert list(read(pickle.loads(pickle.dumps(first[0])))) == list(read(first[0]))
    assert {"name", "bytes", "stamp"} <= set(first[0])


def test_a_stamp_follows_its_files_and_their_licences_not_the_place(tmp_path):
    tree = {"LICENSE": BSD0, "a.py": "a = 1\n", "b.py": "b = 1\n"}
    root = write(tmp_path / "here" / "r", tree)

    def stamps(path: Path) -> list[str]:
        return [unit["stamp"] for unit in files(paths=[str(path)], unit_bytes=7)]

    before = stamps(root)
    assert len(before) == len(set(before)) == 3
    os.rename(tmp_path / "here", tmp_path / "there")  # noqa: PTH104
    root = tmp_path / "there" / "r"
    assert stamps(root) == before
    os.utime(root / "b.py", ns=(1, 1))
    assert [a == b for a, b in zip(before, stamps(root), strict=True)] == [True, True, False]
    os.utime(root / "LICENSE", ns=(1, 1))
    assert not set(before) & set(stamps(root))


# ---- archives


def sdist(path: Path, tree: dict[str, str], top: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in tree.items():
            info = tarfile.TarInfo(f"{top}{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_a_source_archive_loses_its_top_folder(tmp_path):
    path = sdist(
        tmp_path / "acme-1.0.tar.gz",
        {"LICENSE": BSD0, "a/b.py": "1\n", "x/__pycache__/c": "1"},
        "acme-1.0/",
    )
    assert kept(rows(path)) == {("acme-1.0", "LICENSE"): ["0BSD"], ("acme-1.0", "a/b.py"): ["0BSD"]}


def test_a_source_archive_is_called_and_licensed_as_it_declares(tmp_path):
    tree = {
        "PKG-INFO": "Name: acme\nLicense-Expression: MIT OR GPL-2.0-only\n",
        "a.py": "1\n",
        "vendor/LICENSE": GPL,
        "vendor/b.py": "2\n",
        "COPYING": GPL,
    }
    found = kept(rows(sdist(tmp_path / "acme-1.0.tar.gz", tree, "acme-1.0/")))
    assert found["acme", "a.py"] == ["MIT"]
    assert found["acme", "vendor/b.py"] == ["GPL-3.0-or-later", "MIT"]


def test_a_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "acme-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("acme/__init__.py", "a = 1\n")
        wheel.writestr("acme/_vendor/x/x.py", "b = 1\n")
        wheel.writestr("acme-1.0.dist-info/METADATA", "Name: Acme\nLicense: MIT\n")
        wheel.writestr("acme-1.0.dist-info/licenses/LICENSE", BSD0)
        wheel.writestr("acme-1.0.dist-info/licenses/src/acme/_vendor/x/LICENSE", GPL)
        wheel.writestr("acme-1.0.dist-info/licenses/third_party/y/LICENSE", GPL)
    found = kept(rows(tmp_path / "acme-1.0-py3-none-any.whl"))
    assert found["Acme", "acme/__init__.py"] == ["MIT", "0BSD"]
    assert found["Acme", "acme/_vendor/x/x.py"] == ["GPL-3.0-or-later", "MIT", "0BSD"]


def test_a_folder_of_archives_gives_a_repository_each(tmp_path):
    sdist(tmp_path / "one.tgz", {"a.py": "1\n"})
    sdist(tmp_path / "two.tar.gz", {"b.py": "2\n"})
    write(tmp_path, {"c.py": "3\n"})
    assert set(kept(rows(tmp_path))) == {("one", "a.py"), ("two", "b.py"), (tmp_path.name, "c.py")}


def test_an_archive_inside_a_repository_is_not_opened(tmp_path):
    root = write(tmp_path / "r", {"LICENSE": BSD0})
    sdist(root / "data.tar.gz", {"a.py": "1\n"})
    assert aside(rows(root)) == {"data.tar.gz": "binary"}


def test_a_broken_archive_is_one_counted_row(tmp_path):
    path = sdist(tmp_path / "x.tar.gz", {f"{k}.py": str(k) * 500 for k in range(50)})
    path.write_bytes(path.read_bytes()[:-20])
    assert [(r["repo"], r["path"], r["reason"]) for r in rows(path)] == [
        ("x", "x.tar.gz", "archive-broken")
    ]
    assert rows(path)[0]["bytes"] == path.stat().st_size


def test_a_bomb_is_one_counted_row(tmp_path):
    path = sdist(tmp_path / "x.tar.gz", {"a.py": "x" * 5000})
    assert aside(rows(path, archive_bytes=4000)) == {"x.tar.gz": "archive-bomb"}
    assert aside(rows(path, archive_members=0)) == {"x.tar.gz": "archive-bomb"}


# ---- Python's own folders


def test_installed_distributions_are_read_by_their_record(tmp_path):
    root = write(
        tmp_path / "site",
        {
            "acme/a.py": "1\n",
            "acme/sub/b.py": "2\n",
            "stray.py": "3\n",
            "beta.py": "4\n",
            "acme-1.dist-info/METADATA": "Name: acme\nLicense-Expression: BSD-3-Clause\n",
            "acme-1.dist-info/RECORD": "acme/a.py,,\nacme/sub/b.py,,\ngone,,\n../../bin/acme,,\n"
            "acme-1.dist-info/METADATA,,\nacme-1.dist-info/RECORD,,\n"
            "acme-1.dist-info/licenses/LICENSE,,\n"
            "acme-1.dist-info/licenses/acme/sub/LICENSE,,\n",
            "acme-1.dist-info/licenses/LICENSE": GPL,
            "acme-1.dist-info/licenses/acme/sub/LICENSE": BSD0,
            "beta-2.dist-info/METADATA": "Name: Beta\nClassifier: License :: MIT License\n",
            "beta-2.dist-info/RECORD": "beta.py,,\n",
        },
    )
    found = rows(root)
    assert kept(found)["acme", "acme/a.py"] == ["BSD-3-Clause"]  # the expression states the whole
    assert kept(found)["acme", "acme/sub/b.py"] == ["0BSD", "BSD-3-Clause"]
    assert kept(found)["Beta", "beta.py"] == ["MIT"]
    assert aside(found)["../../bin/acme"] == "outside"
    assert aside(found)["stray.py"] == "no-distribution"


def test_the_running_interpreters_library_is_read_with_its_licence():
    (first, *_) = files(paths=["python:stdlib"])
    entries = {entry.path for entry in first["parts"][0]["entries"]}
    assert {"abc.py", "asyncio/base_events.py"} <= entries
    assert not [path for path in entries if "site-packages" in path]
    first["parts"][0]["entries"] = first["parts"][0]["entries"][:40]
    found = [row for row in read(first) if "reason" not in row]
    assert {row["repo"] for row in found} == {"python/cpython"}
    assert all(permissive(row["licences"]) for row in found)


def test_installed_packages_are_found_by_name():
    units = files(paths=["python:site-packages"])
    parts = {part["repo"]: part for unit in units for part in unit["parts"]}
    assert parts["pytest"]["declared"] == ["MIT"]
    assert {"hypothesis", "numpy"} <= set(parts)


def test_the_source_can_be_called_from_a_recipe():
    assert spec(files).kind == "source"
    assert spec(files).read is read
    assert settings_model(files)(paths=["a"]).max_bytes == 1_000_000


def test_the_real_library_reads_well():
    unit = files(paths=["python:stdlib"], unit_bytes=4 << 20)[0]
    found = list(read(unit))
    counts = Counter(row.get("reason", row.get("language")) for row in found)
    assert counts["python"] > 0.6 * len(found), counts
