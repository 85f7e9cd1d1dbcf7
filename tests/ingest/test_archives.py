import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starkiln.ingest.archives import Bounds, Refused, members, suffix

BOUNDS = Bounds(1000, 1 << 30, 100, 200)
MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
NOISE = os.urandom(5000)


def make_tar(path: Path, files: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, MODES[suffix(path)]) as tar:
        for name, data in files.items():
            if isinstance(data, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                tar.addfile(data)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def found(path: Path, bounds: Bounds = BOUNDS) -> list[tuple]:
    return [(m.path, m.reason or m.data) for m in members(path, bounds)]


@pytest.mark.parametrize("kind", MODES)
def test_tar_in_every_packing(tmp_path, kind):
    files = {"a/b.py": b"x = 1\n", "a/c.py": b"", "d": b"y" * 512}
    assert found(make_tar(tmp_path / f"x{kind}", files)) == list(files.items())


@pytest.mark.parametrize("kind", [".zip", ".whl"])
def test_zip(tmp_path, kind):
    files = {"a/b.py": b"x = 1\n", "a/c.py": b""}
    assert found(make_zip(tmp_path / f"x{kind}", files)) == list(files.items())


def test_suffix():
    names = ["a.TAR.GZ", "a.whl", "a.py", "a.gz", "tar"]
    assert [suffix(Path(n)) for n in names] == [".tar.gz", ".whl", "", "", ""]


def test_folders_are_no_members(tmp_path):
    assert found(make_tar(tmp_path / "x.tar", {"a": special("a", tarfile.DIRTYPE)})) == []
    assert found(make_zip(tmp_path / "x.zip", {"a/": b""})) == []


def test_links_devices_and_pipes_are_set_aside(tmp_path):
    path = make_tar(
        tmp_path / "x.tar.gz",
        {
            "ok": b"1",
            "s": special("s", tarfile.SYMTYPE, "/etc/passwd"),
            "h": special("h", tarfile.LNKTYPE, "ok"),
            "c": special("c", tarfile.CHRTYPE),
            "b": special("b", tarfile.BLKTYPE),
            "f": special("f", tarfile.FIFOTYPE),
        },
    )
    reasons = ["symlink", "hard-link", "special", "special", "special"]
    assert [one for _, one in found(path)] == [b"1", *reasons]


def test_links_and_pipes_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, mode in (("s", stat.S_IFLNK), ("p", stat.S_IFIFO), ("f", stat.S_IFREG)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            archive.writestr(info, b"target")
    assert found(tmp_path / "x.zip") == [("s", "symlink"), ("p", "special"), ("f", b"target")]


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "..\\evil.py"])
def test_names_that_leave_the_archive(tmp_path, make, name):
    path = tmp_path / ("x.tar" if make is make_tar else "x.zip")
    assert [one for _, one in found(make(path, {name: b"1", "ok.py": b"2"}))] == [
        "path-traversal",
        b"2",
    ]
    assert sorted(p.name for p in tmp_path.rglob("*")) == [path.name]  # nothing came out


def test_the_first_of_two_equal_names_is_taken(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for data in (b"one", b"two"):
            info = tarfile.TarInfo("./a.py" if data == b"two" else "a.py")
            info.size = 3
            tar.addfile(info, io.BytesIO(data))
    assert found(tmp_path / "x.tar") == [("a.py", b"one"), ("a.py", "duplicate-name")]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.py", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.py", b"two")
    assert found(tmp_path / "x.zip") == [("a.py", b"one"), ("a.py", "duplicate-name")]


def test_a_large_file_is_set_aside_alone(tmp_path):
    files = {"big": b"x" * 1001, "small": b"x" * 1000}
    for path in (make_tar(tmp_path / "x.tar.gz", files), make_zip(tmp_path / "x.zip", files)):
        assert found(path) == [("big", "too-large"), ("small", b"x" * 1000)]


def test_an_encrypted_member_is_set_aside(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"a": b"secret", "b": b"open"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the first local header's flags, and its central entry's
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert found(path) == [("a", "encrypted"), ("b", b"open")]


@pytest.mark.parametrize("kind", [*MODES, ".zip"])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path, kind):
    path = tmp_path / f"x{kind}"
    files = {f"f{k}": NOISE[k * 900 : k * 900 + 900] for k in range(5)}
    (make_zip if kind == ".zip" else make_tar)(path, files)
    whole = path.read_bytes()
    end = len(whole) if kind != ".tar" else 5 * (512 + 1024)  # a tar is padded with zeros
    for cut in sorted({0, 1, 100, 512, 1536, end // 2, end - 1}):
        path.write_bytes(whole[:cut])
        with pytest.raises(Refused, match="archive-broken"):
            found(path)


def test_a_gzip_without_its_checksum_is_refused(tmp_path):
    path = make_tar(tmp_path / "x.tar.gz", {"a": b"1"})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(Refused, match="archive-broken"):
        found(path)


def test_a_bad_header_in_the_middle_is_no_end(tmp_path):
    path = make_tar(tmp_path / "x.tar", {"a": b"1", "b": b"2", "c": b"3"})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0xFF  # in the checksum of b's header
    path.write_bytes(data)
    with pytest.raises(Refused, match="archive-broken"):
        found(path)


def test_something_else_by_an_archives_name_is_refused(tmp_path):
    for name in ("x.tar.gz", "x.zip", "x.tar", "x.tar.xz", "x.tar.bz2"):
        (tmp_path / name).write_bytes(b"hello" * 200)
        with pytest.raises(Refused, match="archive-broken"):
            found(tmp_path / name)


def test_an_archive_that_is_gone_is_refused(tmp_path):
    with pytest.raises(Refused, match="unreadable"):
        found(tmp_path / "x.zip")


def test_bombs_by_ratio(tmp_path):
    zeros = {"z": bytes(20 << 20)}
    for path in (make_tar(tmp_path / "x.tar.gz", zeros), make_zip(tmp_path / "x.zip", zeros)):
        with pytest.raises(Refused, match="archive-bomb"):
            found(path)
        assert found(path, BOUNDS._replace(ratio=2000)) == [("z", "too-large")]


def test_bombs_by_total(tmp_path):
    files = {f"f{k}": b"x" * 900 for k in range(20)}
    for path in (make_tar(tmp_path / "x.tar", files), make_zip(tmp_path / "x.zip", files)):
        with pytest.raises(Refused, match="archive-bomb"):
            found(path, BOUNDS._replace(total=9000))


def test_bombs_by_number(tmp_path):
    files = {f"f{k}": b"" for k in range(101)}
    for path in (make_tar(tmp_path / "x.tar", files), make_zip(tmp_path / "x.zip", files)):
        with pytest.raises(Refused, match="archive-bomb"):
            found(path)


def test_a_header_that_lies_about_its_size_reads_nothing_large(tmp_path):
    info = tarfile.TarInfo("a")
    info.size = 8 << 40
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info.type = kind
        (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(Refused, match="archive-bomb"):
            found(tmp_path / "x.tar")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([".tar", ".tar.gz", ".zip"]), data=st.data())
def test_a_damaged_archive_is_read_or_refused_never_worse(tmp_path, kind, data):
    path = tmp_path / f"x{kind}"
    (make_zip if kind == ".zip" else make_tar)(path, {"a/b.py": b"x = 1\n", "c.py": NOISE[:600]})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 2600) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        outcome = {"read"} if all(len(m.data) <= 1000 for m in members(path, BOUNDS)) else set()
    except Refused as refusal:
        outcome = {str(refusal)}
    assert outcome & {"read", "archive-broken", "archive-bomb"}


def test_concatenated_gzip_members_are_one_tar(tmp_path):
    whole = make_tar(tmp_path / "x.tar", {"a": b"1"}).read_bytes()
    (tmp_path / "y.tar.gz").write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]))
    assert found(tmp_path / "y.tar.gz") == [("a", b"1")]
