import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from licence_texts import BSD0, GPL
from starkiln.core.errors import UserError
from starkiln.core.stage import settings_model, spec
from starkiln.ingest.notebooks import notebooks, read


def notebook(source: str = "x = 1", language: str = "python") -> bytes:
    cells = [
        {"cell_type": "markdown", "source": "words"},
        {"cell_type": "code", "source": source, "outputs": []},
    ]
    return json.dumps({"cells": cells, "metadata": {"language_info": {"name": language}}}).encode()


TREE = {
    "LICENSE": BSD0.encode(),
    "a.ipynb": notebook(),
    "deep/COPYING": GPL.encode(),
    "deep/B.IPYNB": notebook("y", "R"),
    "code.py": b"x = 1\n",
    "bad.ipynb": b"{",
    ".ipynb_checkpoints/a-checkpoint.ipynb": notebook(),
}


def write(root: Path, tree: dict[str, bytes]) -> Path:
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def rows(*paths: Path, **settings) -> list[dict]:
    units = notebooks(paths=[str(path) for path in paths], **settings)
    return [row for unit in units for row in read(unit)]


def summary(found: list[dict]) -> list[tuple]:
    return [(r["path"], r.get("kind", r.get("reason")), r.get("licences")) for r in found]


EXPECTED = [
    ("a.ipynb", "notebook-script", ["0BSD"]),
    ("a.ipynb", "notebook", ["0BSD"]),
    ("bad.ipynb", "notebook-json", None),
    ("deep/B.IPYNB", "notebook-script", ["GPL-3.0-or-later", "0BSD"]),
    ("deep/B.IPYNB", "structured-language", None),
]


def test_a_folder(tmp_path):
    found = rows(write(tmp_path / "r", TREE))
    assert summary(found) == EXPECTED
    assert {row["repo"] for row in found} == {"r"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive(tmp_path, kind):
    path = tmp_path / f"r-1.0.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in TREE.items():
                archive.writestr(f"r-1.0/{name}", data)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, data in TREE.items():
                info = tarfile.TarInfo(f"r-1.0/{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    found = rows(path)
    assert sorted(summary(found), key=str) == sorted(EXPECTED, key=str)
    assert {row["repo"] for row in found} == {"r-1.0"}


def test_broken_archives_and_large_files_are_set_aside(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    assert summary(rows(tmp_path / "x.tar.gz")) == [("x.tar.gz", "archive-broken", None)]
    root = write(tmp_path / "r", {"big.ipynb": notebook("x" * 999), "b.py": b"x" * 999})
    assert summary(rows(root, max_bytes=500)) == [("big.ipynb", "too-large", None)]


def test_settings(tmp_path):
    root = write(tmp_path / "r", {"a.ipynb": notebook("x"), "b.ipynb": notebook("y", "R")})
    kinds = [(row["path"], row["kind"]) for row in rows(root, forms=["structured"], languages=["r"])
             if "kind" in row]  # fmt: skip
    assert kinds == [("b.ipynb", "notebook")]
    (first, _) = rows(root, forms=["script"], style="percent")
    assert first["segments"][0]["text"] == "# %% [markdown]\n# words\n\n# %%\nx\n"
    for strange, near in (("R", "r"), ("Pyhton", "python"), ("c++", "cpp")):
        with pytest.raises(UserError) as caught:
            notebooks(paths=[str(root)], languages=["python", strange])
        said = f"languages: '{strange}' is no language; did you mean '{near}'?"
        assert str(caught.value) == said
    with pytest.raises(UserError) as caught:
        notebooks(paths=[str(root)], languages=["§§§"])
    assert len(str(caught.value)) < 120
    with pytest.raises(UserError, match="no such file"):
        notebooks(paths=[str(tmp_path / "gone")])
    model = settings_model(notebooks)
    for wrong in ({"forms": []}, {"forms": ["slides"]}, {"style": "pretty"}):
        with pytest.raises(ValueError):
            model(paths=["x"], **wrong)


def test_units_follow_notebooks_and_licences_alone(tmp_path):
    root = write(tmp_path / "r", TREE)
    (before,) = notebooks(paths=[str(root)])
    (root / "code.py").write_text("other")
    assert notebooks(paths=[str(root)]) == [before]
    (root / "LICENSE").write_text(GPL)
    (after,) = notebooks(paths=[str(root)])
    assert after["stamp"] != before["stamp"]
    (root / "c.ipynb").write_bytes(notebook())
    assert notebooks(paths=[str(root)])[0]["stamp"] not in (before["stamp"], after["stamp"])
    assert before["bytes"] == sum(len(TREE[name]) for name in ("a.ipynb", "bad.ipynb",
                                                               "deep/B.IPYNB"))  # fmt: skip
    assert spec(notebooks).read is read


def test_same_rows_in_small_units(tmp_path):
    root = write(tmp_path / "r", {f"{i}.ipynb": notebook(f"x = {i}") for i in range(9)})
    units = notebooks(paths=[str(root)], unit_bytes=500)
    assert len(units) == 3
    assert [row for unit in units for row in read(unit)] == rows(root)


def test_real_archive_counts_every_notebook(shared):
    path = shared("corpora/notebooks/notebooks.tar.xz")
    found = rows(path, forms=["structured"])
    assert len(found) == 343
    assert sum("kind" in row for row in found) == 211
