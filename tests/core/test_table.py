from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from starkiln.core import stage, table
from starkiln.core.errors import UserError
from starkiln.core.pool import Pool
from starkiln.core.table import View

STAGES = Path(__file__)


@stage.document_filter(version=1)
def short(text: str, path: str, *, least: int = 4) -> str | None:
    """Drop short texts."""
    return f"short:{path}" if len(text) < least else None


@stage.stage(version=1, reads=("text",), adds={"length": pl.UInt32})
def measured(frame: pl.DataFrame, *, most: int = 8) -> pl.DataFrame:
    """Drop long texts."""
    length = pl.col("text").str.len_chars()
    return frame.select(length=length, reason=pl.when(length > most).then(pl.lit("long")))


@stage.stage(version=1, reads=("text",))
def wrong_height(frame: pl.DataFrame) -> pl.DataFrame:
    """Lose a row."""
    return frame.select(reason=pl.lit(None, pl.String)).tail(1)


@stage.document_filter(version=1)
def raises(text: str) -> str | None:
    """Fail."""
    return text[99]


@stage.global_stage(version=1, reads=("id",), adds={"first": pl.String})
def keep_first(view: View) -> Iterator[pl.DataFrame]:
    """Keep the first of each id."""
    seen: set[str] = set()
    for i in range(len(view)):
        rows = []
        for key in view.read(i, ["id"])["id"]:
            rows.append(("again" if key in seen else None, key))
            seen.add(key)
        yield pl.DataFrame(rows, schema={"reason": pl.String, "first": pl.String}, orient="row")


class Quiet:
    def total(self, units: float) -> None: ...

    def advance(self, units: float, note: str) -> None: ...


def shard(folder: Path, name: str, texts: list[str]) -> Path:
    segments = [[{"marker": "", "text": t[:1]}, {"marker": "m", "text": t[1:]}] for t in texts]
    path = folder / name
    rows = {"id": texts, "path": [f"{t}.py" for t in texts], "segments": segments}
    table.write(path, pl.DataFrame(rows))
    return path


def use(name: str) -> str:
    return f"{STAGES}:{name}"


def test_first_reason_wins_and_later_stages_do_not_see_the_row(tmp_path: Path) -> None:
    documents = shard(tmp_path, "00000.parquet", ["ab", "abcde", "abcdefghijk"])
    stages = [("short", use("short"), {}, None), ("measured", use("measured"), {"most": 9}, None)]
    out = tmp_path / "out.parquet"
    counts = table.decide(documents, [], stages, out)
    found = pl.read_parquet(out)
    assert counts == {"rows": 3, "drops": {"measured:long": 1, "short:short:ab.py": 1}}
    assert found.to_dicts() == [
        {"stage": "short", "reason": "short:ab.py", "length": None},
        {"stage": None, "reason": None, "length": 6},  # the newline between segments counts
        {"stage": "measured", "reason": "long", "length": 12},
    ]


def test_what_an_earlier_step_dropped_is_not_seen(tmp_path: Path) -> None:
    documents = shard(tmp_path, "00000.parquet", ["ab", "abcde"])
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    table.decide(documents, [], [("short", use("short"), {}, None)], first)
    table.decide(documents, [first], [("measured", use("measured"), {"most": 0}, None)], second)
    assert pl.read_parquet(second)["reason"].to_list() == [None, "long"]


def test_global_stage_sees_survivors_and_is_aligned(tmp_path: Path) -> None:
    for folder in ("documents", "decided"):
        (tmp_path / folder).mkdir()
    names = ["00000.parquet", "00001.parquet"]
    for name, texts in zip(names, (["ab", "abcde"], ["abcde", "x", "fghij"]), strict=True):
        documents = shard(tmp_path / "documents", name, texts)
        out = tmp_path / "decided" / name
        table.decide(documents, [], [("short", use("short"), {}, None)], out)
    with Pool(1) as pool:
        view = View(tmp_path / "documents", [tmp_path / "decided"], tmp_path, pool, Quiet())
        frames = list(keep_first(view))
        full = [view.expand(i, "once", stage.spec(keep_first), f) for i, f in enumerate(frames)]
    assert [f["reason"].to_list() for f in full] == [[None, None], ["again", None, None]]
    assert full[1]["first"].to_list() == ["abcde", None, "fghij"]


@pytest.mark.parametrize(
    ("name", "sentence"), [("wrong_height", "1 rows for 2"), ("raises", "IndexError")]
)
def test_a_faulty_stage_is_named(tmp_path: Path, name: str, sentence: str) -> None:
    documents = shard(tmp_path, "00000.parquet", ["ab", "abc"])
    with pytest.raises(UserError, match=f"{name}: .*{sentence}"):
        table.decide(documents, [], [(name, use(name), {}, None)], tmp_path / "out.parquet")


def test_empty_shard(tmp_path: Path) -> None:
    empty = pl.DataFrame(
        schema={"id": pl.String, "path": pl.String}
        | {"segments": pl.List(pl.Struct({"marker": pl.String, "text": pl.String}))}
    )
    table.write(tmp_path / "00000.parquet", empty)
    stages = [("short", use("short"), {}, None), ("measured", use("measured"), {}, None)]
    counts = table.decide(tmp_path / "00000.parquet", [], stages, tmp_path / "out.parquet")
    assert counts == {"rows": 0, "drops": {}}


@pytest.mark.parametrize("name", ["nofile.py:f", "starkiln.core.table:decide", "plain"])
def test_load_faults(name: str) -> None:
    with pytest.raises(UserError):
        stage.load(name, "here")


def first_words(frame: pl.DataFrame) -> list[str]:
    """A function for workers, in a file that they cannot import by name."""
    return [text.split()[0] for text in frame["text"]]


@stage.global_stage(version=1, reads=("text",))
def mapped(view: View) -> Iterator[pl.DataFrame]:
    """Drop by what workers found."""
    for words in view.map(first_words, ["text"]):
        reasons = [word if word == "a" else None for word in words]
        yield pl.DataFrame({"reason": pl.Series(reasons, dtype=pl.String)})


def test_a_users_file_may_use_workers(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    shard(tmp_path / "documents", "00000.parquet", ["ab", "cd"])
    function = stage.load(use("mapped"), "mapped")
    assert function.__module__.startswith("starkiln_user_")
    with Pool(2) as pool:
        view = View(tmp_path / "documents", [], tmp_path, pool, Quiet())
        (frame,) = function(view)
    assert frame["reason"].to_list() == ["a", None]


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    text = "from starkiln.core.stage import document_filter\n"
    text += "@document_filter(version=1)\ndef f(text):\n    return {!r}\n"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(text.format(name))
    found = [stage.load(f"{tmp_path / name / 'mine.py'}:f", "f") for name in ("one", "two")]
    assert [f("") for f in found] == ["one", "two"]


@stage.document_filter(version=1)
def reads_nothing_known(colour: str) -> str | None:
    """Ask for a column that documents do not have."""


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    documents = shard(tmp_path, "00000.parquet", ["ab"])
    stages = [("mine", use("reads_nothing_known"), {}, None)]
    with pytest.raises(UserError, match="mine: reads 'colour'; documents have id, path"):
        table.decide(documents, [], stages, tmp_path / "out.parquet")
