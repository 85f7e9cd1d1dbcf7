"""The sample of the inspection page, what is shown of a text, and the file of verdicts."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pytest

from starkiln.code.document import SCHEMA, code_document, document
from starkiln.core import manifest, table
from starkiln.core.errors import UserError
from starkiln.core.manifest import Identity, Manifest
from starkiln.curate.inspect import colour, sample, store
from starkiln.curate.inspect.settings import InspectSettings
from starkiln.curate.verdicts import verdicts

OWN = {"repo": "acme/thing", "licences": ["MIT"]}
DROPS = {"stage": pl.String, "reason": pl.String}


@pytest.fixture
def draw() -> Iterator[Callable[..., sample.Sample]]:
    """``sample.draw``, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda *told: stack.enter_context(sample.draw(*told))


def files(count: int, language: str = "python", extension: str = "py") -> list[dict]:
    rows = []
    for n in range(count):
        text = "\n".join(f"x{n}_{i} = {'a' * (n % 50)}" for i in range(1 + n % 7))
        rows.append(code_document(text, path=f"src/f{n}.{extension}", language=language, **OWN))
    return rows


def stored(folder: Path, shards: list[list[dict]], kind: str = "documents") -> Path:
    folder.mkdir(parents=True)
    for number, rows in enumerate(shards):
        table.write(folder / f"{number:05d}.parquet", pl.DataFrame(rows, schema=SCHEMA))
    manifest.write(folder, Manifest(Identity(kind, [], {"files": folder.name})))
    return folder


def decided(documents: Path, name: str, frames: list[pl.DataFrame], inputs: dict) -> str:
    """One step's decisions beside ``documents``; its fingerprint."""
    folder = documents.parent / "decisions" / name
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        table.write(folder / f"{number:05d}.parquet", frame)
    identity = Identity("decisions", [{"name": name, "version": 1, "settings": {}}], inputs)
    manifest.write(folder, Manifest(identity))
    return identity.fingerprint


def fingerprint(folder: Path) -> str:
    made = manifest.read(folder)
    assert made is not None
    return made.identity.fingerprint


def drawn(found: sample.Sample) -> dict[str, list[str]]:
    return {
        one.key: found.rows["path"].slice(one.first, one.drawn).to_list() for one in found.strata
    }


def test_the_sample_does_not_depend_on_shards_or_their_order(tmp_path: Path, draw) -> None:
    rows = files(120) + files(40, "c", "h")
    settings = InspectSettings(files=30, read=10)
    whole = draw(stored(tmp_path / "a" / "documents", [rows]), settings)
    random.Random(7).shuffle(rows)
    parts = [rows[:13], rows[13:100], [], rows[100:]]
    other = draw(stored(tmp_path / "b" / "documents", parts), settings)
    assert drawn(whole) == drawn(other)
    assert [(s.key, s.files, s.drawn, s.read) for s in whole.strata] == [
        ("python/py", 120, 30, 10),
        ("c/h", 40, 30, 10),
    ]
    counters = ["id", "characters", "lines", "max_line", "mean_line", "alphanumeric", "alphabetic"]
    assert whole.rows.select(counters).equals(other.rows.select(counters))
    another = draw(tmp_path / "a" / "documents", InspectSettings(files=30, seed=1))
    assert drawn(whole) != drawn(another)


def test_copies_of_a_file_are_drawn_one_by_one(tmp_path: Path, draw) -> None:
    copy = [
        code_document("x = 1\n", path=f"copy{n}.py", language="python", **OWN) for n in range(50)
    ]
    shards = [copy + files(50)]
    found = draw(stored(tmp_path / "documents", shards), InspectSettings(files=50))
    copies = sum(path.startswith("copy") for path in drawn(found)["python/py"])
    assert 12 < copies < 38  # by content alone it would be all or none of the fifty


def test_counters_and_texts_are_those_of_the_rows(tmp_path: Path, draw) -> None:
    rows = files(40)
    found = draw(stored(tmp_path / "documents", [rows[:9], rows[9:]]), InspectSettings())
    texts = {row["path"]: row["segments"][0]["text"] for row in rows}
    for number, row in enumerate(found.rows.iter_rows(named=True)):
        text = texts[row["path"]]
        lines = text.split("\n")
        assert found.segments(number) == [{"marker": "", "text": text}]
        assert row["characters"] == len(text)
        assert row["lines"] == len(lines)
        assert row["max_line"] == max(map(len, lines))
        assert row["mean_line"] == pytest.approx(sum(map(len, lines)) / len(lines))
        assert row["alphanumeric"] == pytest.approx(sum(map(str.isalnum, text)) / len(text))
    assert found.strata[0].bytes == sum(len(text.encode()) for text in texts.values())
    assert found.strata[0].limits == {
        "max_line": 1000, "mean_line": 100.0, "alphanumeric": 0.25, "alphabetic": None,
    }  # fmt: skip


def test_decisions_are_those_of_this_table_and_the_first_reason_counts(
    tmp_path: Path, draw
) -> None:
    shards = [files(6), files(5, "c", "h")]
    folder = stored(tmp_path / "documents", shards)
    own = {"documents": fingerprint(folder)}
    first = [
        pl.DataFrame({"stage": ["xml", *[None] * 5], "reason": ["xml", *[None] * 5]}, schema=DROPS),
        pl.DataFrame({"stage": [None] * 5, "reason": [None] * 5}, schema=DROPS),
    ]
    second = [
        pl.DataFrame(
            {"stage": ["near", "near", *[None] * 4], "reason": ["copy", "copy", *[None] * 4]},
            schema=DROPS,
        ).with_columns(duplicate_of=pl.lit("abc"), spans=pl.lit([1, 2])),
        first[1].with_columns(duplicate_of=pl.lit(None, pl.String), spans=pl.lit([])),
    ]
    made = decided(folder, "zzz_first", first, own)  # its name says nothing of its place
    decided(folder, "near", second, own | {"decisions/zzz_first": made})
    decided(folder, "old", first, {"documents": "of another run"})
    decided(folder, "later", first, own | {"decisions/near": "of another run"})
    found = draw(folder, InspectSettings())
    assert found.decided
    assert found.stale == ["decisions/later", "decisions/old"]
    python, c = found.strata
    assert python.reasons == [("near", "copy", 1), ("xml", "xml", 1)]
    assert c.reasons == []
    rows = {row["path"]: row for row in found.rows.iter_rows(named=True)}
    assert rows["src/f0.py"]["stage"] == "xml"
    assert rows["src/f1.py"]["reason"] == "copy"
    assert json.loads(rows["src/f1.py"]["facts"]) == {"duplicate_of": "abc", "spans": 2}
    assert rows["src/f2.py"]["reason"] is None
    assert json.loads(rows["src/f2.h"]["facts"]) == {}


def test_decisions_of_another_height_are_refused(tmp_path: Path, draw) -> None:
    folder = stored(tmp_path / "documents", [files(3)])
    short = pl.DataFrame({"stage": [None], "reason": [None]}, schema=DROPS)
    decided(folder, "short", [short], {"documents": fingerprint(folder)})
    with pytest.raises(UserError, match="1 decisions for 3 documents"):
        draw(folder, InspectSettings())


def test_a_curated_table_counts_what_it_dropped(tmp_path: Path, draw) -> None:
    folder = stored(tmp_path / "curated", [files(4)], "table")
    aside = [{"id": "1", "repo": "r", "path": "a.c", "language": "c", "stage": "s", "reason": "x"}]
    aside += [{**aside[0], "path": "b.py", "language": "python"}]
    table.write(folder / "00000.dropped.parquet", pl.DataFrame(aside))
    found = draw(folder, InspectSettings())
    assert [(s.key, s.files, s.drawn, s.reasons) for s in found.strata] == [
        ("python/py", 5, 4, [("s", "x", 1)]),
        ("c/c", 1, 0, [("s", "x", 1)]),
    ]
    assert found.ids(found.strata[1]) == []


def test_an_empty_table_and_an_empty_shard(tmp_path: Path, draw) -> None:
    nothing = draw(stored(tmp_path / "a" / "documents", [[]]), InspectSettings())
    assert (nothing.strata, nothing.rows.height, nothing.decided) == ([], 0, False)


def test_other_kinds_are_strata_of_their_own(tmp_path: Path, draw) -> None:
    told = {**OWN, "path": "f.py", "licences": []}
    issue = document("issue", [("<issue_start>", "Help")], language="unknown", **told)
    commit = document("commit", [("<commit_msg>", "Mend")], language="python", **told)
    folder = stored(tmp_path / "documents", [[issue, commit, *files(1)]])
    found = {one.key: one for one in draw(folder, InspectSettings()).strata}
    assert set(found) == {"issue:unknown", "commit:python", "python/py"}
    assert found["commit:python"].limits is None


def test_of_a_long_text_the_beginning_is_shown(tmp_path: Path, draw) -> None:
    parts = [("<issue_start>", "a" * 50_000), ("<issue_comment>", "b" * 50_000)]
    row = document("issue", [*parts, parts[1]], path="1", language="unknown", **OWN)
    found = draw(stored(tmp_path / "documents", [[row]]), InspectSettings())
    shown = found.segments(0)
    assert [one["marker"] for one in shown] == ["<issue_start>", "<issue_comment>"]
    assert len("\n".join(one["text"] for one in shown)) == sample.SHOWN
    assert found.rows["characters"][0] == 150_002


@pytest.mark.parametrize("language", ["python", "html", "javascript", "c-sharp", "tex", "unknown"])
@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    return '<b>' + x  # note\n",
        "</script><script>alert(1)</script>\n<!-- x",
        "\n\n'''open\n  \t\"\n",
        "/* " + "(" * 500 + "\n%{}$$\\",
    ],
)
def test_colours_change_no_character(language: str, text: str) -> None:
    (found,) = colour.coloured([{"marker": "", "text": text}], language, "x")
    lines = ["".join(value for _, value in line) for line in found["lines"]]
    assert lines == text.removesuffix("\n").split("\n")


def test_code_is_coloured_and_prose_is_not_code() -> None:
    segments = [
        {"marker": m, "text": "def f(): pass\n"} for m in ("<jupyter_code>", "<commit_msg>")
    ]
    code, message = colour.coloured(segments, "python", "f.py")
    assert ["k", "def"] in code["lines"][0]
    assert message["lines"] == [[["", "def f(): pass"]]]


def test_what_cannot_be_seen_is_spelt_out() -> None:
    text = "a\u202eb\0\0\0c\u200bd\re\r\nf\ufeff\U000e0041"
    (found,) = colour.coloured([{"marker": "", "text": text}], "unknown", "x")
    shown = [[piece[1] for piece in line] for line in found["lines"]]
    first = ["a", "U+202E", "b", "U+0000 ×3", "c", "U+200B", "d", "U+000D", "e"]
    assert shown == [first, ["f", "U+FEFF", "U+E0041"]]
    assert found["lines"][0][1][2] == "RIGHT-TO-LEFT OVERRIDE"
    assert colour.plain("gpj.\u202egnp\n<b>") == "gpj.[U+202E]gnp␊<b>"


def test_a_huge_line_is_cut() -> None:
    (found,) = colour.coloured([{"marker": "", "text": "x" * 50_000 + "\ny"}], "python", "x.py")
    assert found["lines"][0] == [["", "x" * colour.LINE], ["cut", "48,000 more characters"]]
    assert found["lines"][1] == [["", "y"]]


def test_a_lost_or_slow_lexer_costs_only_its_colours() -> None:
    segments = [{"marker": "", "text": "def f(): pass"}]
    plain = [{"marker": "", "lines": [[["", "def f(): pass"]]]}]
    painter = colour.Painter(patience=60)
    try:
        assert ["k", "def"] in painter.paint(segments, "python", "f.py")[0]["lines"][0]
        painter._process.kill()
        assert painter.paint(segments, "python", "f.py") == plain
        assert ["k", "def"] in painter.paint(segments, "python", "f.py")[0]["lines"][0]
        before, painter.patience = painter._process.pid, 0.01
        slow = [{"marker": "", "text": "def f(): pass\n" * 100_000}]
        assert painter.paint(slow, "python", "f.py")[0]["lines"][0] == plain[0]["lines"][0]
        assert painter._process.pid != before
    finally:
        painter.close()


def test_verdicts_are_changed_one_by_one_and_the_recipe_reads_them(tmp_path: Path) -> None:
    path = tmp_path / store.NAME
    rows = files(3)
    drop, keep = rows[0]["id"], rows[1]["id"]
    for at, value in [
        (["strata", "python/py", "include"], False),
        (["strata", "python/py", "limits", "max_line"], 30),
        (["strata", "python/py", "limits", "alphabetic"], None),
        (["strata", "python/py", "note"], "mostly data"),
        (["files", drop, "verdict"], "drop"),
        (["files", keep, "verdict"], "keep"),
        (["files", keep, "note"], "fine <b>"),
        (["files", keep, "note"], store.ABSENT),
        (["files", "0" * 40, "verdict"], "keep"),
        (["files", "0" * 40, "verdict"], store.ABSENT),
    ]:
        store.change(path, "documents", at, value)
    limits = {"max_line": 30, "alphabetic": None}
    assert json.loads(path.read_text()) == {
        "format": 1,
        "table": "documents",
        "strata": {"python/py": {"include": False, "limits": limits, "note": "mostly data"}},
        "files": {drop: {"verdict": "drop"}, keep: {"verdict": "keep"}},
    }
    frame = pl.DataFrame(rows, schema=SCHEMA).with_columns(table.text())
    found = verdicts(frame.select("id", "text", "language", "path"), file=str(path))
    assert found["reason"].to_list() == ["verdict-file", None, "verdict-stratum"]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (["strata", "python/py", "limits", "max_line"], -1),
        (["strata", "python/py", "limits", "max_line"], float("nan")),
        (["strata", "python/py", "limits", "alphanumeric"], 2),
        (["strata", "python/py", "limits", "other"], 1),
        (["strata", "python/py", "include"], "yes"),
        (["strata", "no stratum", "include"], True),
        (["files", "x", "verdict"], "burn"),
        (["files", "x", "note", "deeper"], "x"),
        (["files", "x", "note"], "\ud800"),
        (["files", "x"], {}),
        (["format"], 2),
        ([], {}),
    ],
)
def test_what_does_not_belong_there_is_not_written(tmp_path: Path, at: list, value: object) -> None:
    path = tmp_path / store.NAME
    store.change(path, "documents", ["files", "x", "note"], "before")
    before = path.read_bytes()
    with pytest.raises(ValueError):
        store.change(path, "documents", at, value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "table": "x"}', "\xff", ""])
def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / store.NAME
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"not JSON|holds no verdicts|format"):
        store.read(path, "documents")
    with pytest.raises(UserError, match=r"not JSON|holds no verdicts|format"):
        store.change(path, "documents", ["files", "x", "verdict"], "keep")
    assert path.read_bytes() == text.encode("latin-1")


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / store.NAME

    def write(writer: int) -> None:
        for n in range(10):
            store.change(path, "documents", ["files", f"{writer}-{n}", "verdict"], "keep")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.read(path, "documents")["files"]
    assert Counter(key.partition("-")[0] for key in found) == dict.fromkeys("01234", 10)
