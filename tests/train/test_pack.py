import pickle
import subprocess
import sys
import sysconfig
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, blob_id, code_document
from starkiln.code.sentinels import END_OF_TEXT, SENTINELS
from starkiln.tokenizer.settings import LayoutSettings, PackSettings
from starkiln.tokenizer.shards import Shard, Tokens
from starkiln.tokenizer.tokenizer import Tokenizer, fit
from starkiln.train.pack import folder_name, is_validation, pack_shard, source_name

PLAIN = LayoutSettings(repo_p=0.0, path_p=0.0, stars_p=0.0)
LANGUAGES = ["Python", "C++", "PL/SQL", None]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    fit(["def f(a):\n    return a\n" * 9], 300).save(folder)
    return folder


def document(text, language="Python", **rest):
    row = code_document(text, repo="o/r", path="a.py", language=language, licences=[])
    return {**row, **rest}


def packed(tmp_path, tokenizer, rows, name="00000", layout=PLAIN, validation=0.25, seed=1):
    path = tmp_path / f"{name}.parquet"
    pl.DataFrame(rows, SCHEMA).write_parquet(path)
    pack = PackSettings(validation=validation)
    return pack_shard(path, tmp_path / "tokens", tokenizer, layout, pack, seed)


def texts_in(tmp_path, tokenizer, split, source):
    """Every document's text, as the shards hold it."""
    encoder, found = Tokenizer.load(tokenizer), []
    for path in sorted((tmp_path / "tokens" / split / folder_name(source)).glob("*.bin")):
        shard = Shard(path)
        for i, content in enumerate(shard.content.tolist()):
            ids = shard.tokens[int(shard.offsets[i]) : int(shard.offsets[i + 1])].tolist()
            assert ids[-1] == END_OF_TEXT
            assert ids.count(END_OF_TEXT) == 1
            found.append(encoder.decode_bytes(ids[content:]).decode())
    return found


ROWS = st.lists(
    st.tuples(
        st.text(st.sampled_from("a \n\réß日"), max_size=9)
        | st.sampled_from([*SENTINELS, "", "\r\n"]),
        st.sampled_from(LANGUAGES),
    ),
    max_size=12,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, p=st.sampled_from([0.0, 1.0]))
def test_every_document_is_packed_once_in_its_place(tmp_path_factory, tokenizer, rows, p):
    tmp_path = tmp_path_factory.mktemp("pack")
    layout = LayoutSettings(repo_p=p, path_p=p, stars_p=p)
    made = packed(tmp_path, tokenizer, [document(*row) for row in rows], layout=layout)
    assert made["rows"] == len(rows)
    assert made["bytes"] == sum(len(text.encode()) for text, _ in rows)
    seen = 0
    for count in made["counts"]:
        split, source = count["split"], count["source"]
        wanted = [
            text
            for text, language in rows
            if (language or "unknown") == source
            and is_validation(blob_id(text), 0.25, 1) == (split == "validation")
        ]
        assert sorted(texts_in(tmp_path, tokenizer, split, source)) == sorted(wanted)
        assert count["documents"] == len(wanted)
        assert count["bytes"] == sum(len(text.encode()) for text in wanted)
        tokens = Tokens([tmp_path / "tokens" / split / folder_name(source) / "00000.bin"])
        assert tokens.size == count["tokens"]
        seen += len(wanted)
    assert seen == len(rows)
    assert len(made["files"]) == 2 * len(made["counts"])
    assert all(path.is_file() for path in made["files"])


def test_order_and_bytes_depend_on_ids_and_seed_alone(tmp_path, tokenizer):
    rows = [document(f"x = {i}\n") for i in range(60)]
    found = []
    for name, order, seed in (("a", rows, 1), ("b", rows[::-1], 1), ("c", rows, 2)):
        (tmp_path / name).mkdir()
        packed(tmp_path / name, tokenizer, order, seed=seed, validation=0.0)
        found.append(texts_in(tmp_path / name, tokenizer, "train", "Python"))
    texts = [row["segments"][0]["text"] for row in rows]
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == sorted(found[2]) == sorted(texts)
    assert found[0] != texts
    a, b = (tmp_path / n / "tokens" / "train" / "Python" / "00000.idx" for n in "ab")
    assert a.read_bytes() == b.read_bytes()


WITHOUT = "import sys; sys.modules['gigatoken'] = None"
PACK = """
import json, pathlib
from starkiln.tokenizer.settings import LayoutSettings, PackSettings
from starkiln.train.pack import pack_shard
shard, out, tokenizer = map(pathlib.Path, sys.argv[1:])
pack = PackSettings(validation=0.1)
print(pack_shard(shard, out, tokenizer, LayoutSettings(), pack, 3)["encoder"])
"""


def test_without_gigatoken_every_byte_is_the_same(tmp_path, tokenizer):
    pytest.importorskip("gigatoken")
    files = sorted(Path(sysconfig.get_path("stdlib"), "json").glob("*.py"))
    rows = [document(path.read_text(), language) for path in files for language in LANGUAGES[:2]]
    rows += [document(f"x{i} =   {i}²\r\n{name}", None) for i, name in enumerate(SENTINELS)]
    shard = tmp_path / "00000.parquet"
    pl.DataFrame(rows, SCHEMA).write_parquet(shard)
    found = []
    for name, start in (("with", "import sys"), ("without", WITHOUT)):
        command = [sys.executable, "-c", start + PACK, shard, tmp_path / name, tokenizer]
        used = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        folder = tmp_path / name
        packed_files = [path for path in folder.rglob("*") if path.is_file()]
        found.append({p.relative_to(folder): p.read_bytes() for p in packed_files})
        assert used.startswith("gigatoken ") == (name == "with")
    assert used == "tokenizers (gigatoken is not installed)"
    assert found[0] == found[1]
    assert len(found[0]) == 2 * 6


def test_share_held_out():
    held = [is_validation(f"{i:040x}", 0.1, 0) for i in range(5000)]
    assert abs(sum(held) / 5000 - 0.1) < 3 * 0.0042


def test_other_kinds_are_sources_of_their_own(tmp_path, tokenizer):
    parts = [{"marker": "<commit_before>", "text": "a"}, {"marker": "<commit_after>", "text": "b"}]
    rows = [document("x"), document("a\nb", kind="commit", segments=parts)]
    made = packed(tmp_path, tokenizer, rows, validation=0.0)
    assert [(c["source"], c["tokens"]) for c in made["counts"]] == [("Python", 2), ("commit", 5)]


def test_an_empty_shard_makes_no_files(tmp_path, tokenizer):
    made = packed(tmp_path, tokenizer, [])
    empty = {"files": [], "rows": 0, "tokens": 0, "bytes": 0, "counts": []}
    assert {**made, "encoder": ""} == {**empty, "encoder": ""}


@pytest.mark.parametrize("name", ["C++", "PL/SQL", "C#", "..", "a%2Fb", "F*", "日本"])
def test_folder_names_are_safe_and_reversible(name):
    assert source_name(folder_name(name)) == name
    assert "/" not in folder_name(name)
    assert folder_name(name) not in (".", "..")


def test_workers_can_import_it():
    assert pickle.loads(pickle.dumps(pack_shard)) is pack_shard
