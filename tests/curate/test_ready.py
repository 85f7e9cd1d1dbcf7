"""Settings that cannot work are told before the first step of a run begins."""

from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from starkiln import pipeline
from starkiln.core import stage
from starkiln.core.errors import UserError

BAD = {
    "near_dedup": ("rows = 7", "42 bands of 7 rows need 294 of 256 permutations"),
    "verdicts": ('file = "bad"', "bad: not JSON"),
    "opt_out": ('file = "bad"', "bad:1: '{\"a b\"' is no owner or repository"),
    "decontaminate": ('benchmarks = []\nown = "bad.jsonl"', "bad.jsonl: cannot be read"),
    "languages": ('keep = ["pyhton"]', "curate.languages: keep: 'pyhton' is no language"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_run_that_cannot_work_does_not_begin(tmp_path: Path, name: str) -> None:
    table, fault = BAD[name]
    for file in ("bad", "bad.jsonl"):
        (tmp_path / file).write_text('{"a b"')
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'extends = "tiny"\n[[source]]\nuse = "files"\npaths = ["code"]\n'
        f'[curate]\nstages = ["{name}"]\n[curate.{name}]\n{table}\n'
    )
    with pytest.raises(UserError) as caught:
        pipeline.run(recipe, [], Console(file=StringIO()))
    assert fault in str(caught.value)
    assert not (tmp_path / "documents").exists()


def test_every_door_takes_ready() -> None:
    def ready(settings: dict) -> None: ...

    doors = (
        stage.stage(version=1, reads=("text",), ready=ready),
        stage.document_filter(version=1, ready=ready),
        stage.global_stage(version=1, reads=("text",), ready=ready),
    )
    assert [stage.spec(door(lambda text: None)).ready for door in doors] == [ready] * 3


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ({"content": ["x"]}, "no column 'id'"),
        ({"id": [], "content": []}, "no column 'variant'"),
        (None, "unreadable"),
    ],
)
def test_a_labelled_file_that_is_none_is_told_before_the_run(
    tmp_path: Path, rows: dict | None, fault: str
) -> None:
    labelled = tmp_path / "labelled.parquet"
    if rows is None:
        labelled.write_bytes(b"PAR1 is not enough")
    else:
        pl.DataFrame(rows).write_parquet(labelled)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'extends = "tiny"\n[[source]]\nuse = "files"\npaths = ["code"]\n'
        '[audit]\ncontamination = "labelled.parquet"\n'
    )
    with pytest.raises(UserError, match=fault):
        pipeline.run(recipe, [], Console(file=StringIO()))
    assert not (tmp_path / "documents").exists()
