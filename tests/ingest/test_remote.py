import pytest

from starkiln.core.errors import UserError
from starkiln.ingest.remote import listed, opened


@pytest.fixture
def memory():
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def folder(tmp_path):
    for name in ("b.parquet", "a.PARQUET", "deep/c.parquet", "README.md", "_SUCCESS"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(*paths):
    return [found.name for found in listed([str(path) for path in paths], ".parquet")]


def test_files_folders_and_globs(folder):
    every = ["a.PARQUET", "b.parquet", "deep/c.parquet"]
    assert names(folder) == names(f"file://{folder}") == names(f"{folder}/") == every
    assert names(folder / "README.md") == ["README.md"]  # named, so meant
    assert names(folder / "*.parquet") == ["b.parquet"]
    assert names(folder / "**" / "*.parquet") == ["b.parquet", "deep/c.parquet"]
    assert names(folder / "deep", folder / "b.parquet") == ["c.parquet", "b.parquet"]


def test_a_url_of_any_file_system(memory):
    for name in ("/x/b.parquet", "/x/y/a.parquet", "/x/z.txt"):
        memory.pipe(name, name.encode())
    found = listed(["memory://x"], ".parquet")
    assert [one.name for one in found] == ["b.parquet", "y/a.parquet"]
    assert [one.name for one in listed(["memory://x/*.parquet"], ".parquet")] == ["b.parquet"]
    with opened(found[1].url) as handle:
        assert handle.read() == b"/x/y/a.parquet"


def test_the_stamp_follows_the_bytes_and_not_the_place(folder, memory):
    (before,) = listed([str(folder / "b.parquet")], ".parquet")
    assert listed([f"file://{folder}/b.parquet"], ".parquet") == [before]
    (folder / "b.parquet").write_bytes(b"more bytes")
    (after,) = listed([str(folder / "b.parquet")], ".parquet")
    assert before.stamp != after.stamp
    memory.pipe("/m", b"1")
    first = listed(["memory://m"], ".parquet")
    assert listed(["memory://m"], ".parquet") == first
    memory.pipe("/m", b"2")
    assert listed(["memory://m"], ".parquet") != first


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/at/all", "no such file, nor a folder of"),
        ("/nowhere/*.parquet", "no such file, nor a folder of"),
        ("memory://nowhere", "no such file, nor a folder of"),
        ("nonsense://x/y", "cannot be read .*nonsense"),
    ],
)
def test_what_is_not_there(path, message):
    with pytest.raises(UserError, match=message):
        listed([path], ".parquet")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nor a folder of"):
        listed([str(tmp_path)], ".parquet")


def test_a_missing_package_is_named():
    import importlib.util

    lacking = [(one, url) for one, url in (("s3fs", "s3://b/k"), ("gcsfs", "gs://b/k"))
               if importlib.util.find_spec(one) is None]  # fmt: skip
    if not lacking:
        pytest.skip("s3fs and gcsfs are installed")
    for package, url in lacking:
        with pytest.raises(
            UserError, match=rf"{url}: needs a package .*{package}.*; pip install {package}"
        ):
            listed([url], ".parquet")


def test_what_is_gone_when_it_is_read(folder):
    (found,) = listed([str(folder / "b.parquet")], ".parquet")
    (folder / "b.parquet").unlink()
    with pytest.raises(UserError, match="cannot be read"), opened(found.url):
        pass
