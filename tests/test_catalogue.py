"""What a recipe may say of a stage: the kinds of document it sees, the files it reads."""

from pathlib import Path

import polars as pl
import pytest

from starkiln.builders import tune
from starkiln.catalogue import TARGETS, Recipe, marked, stages
from starkiln.core import stage, table
from starkiln.core.errors import UserError
from starkiln.core.manifest import Identity
from starkiln.core.settings import FILE
from starkiln.model.settings import DecoderSettings, parameter_shapes
from starkiln.steps import _identity_of
from starkiln.train.settings import BaseSettings

OWN = """
from starkiln.core.settings import File

from starkiln.core.stage import document_filter, stage
import polars as pl

@document_filter(version=1, kinds=("code",))
def always(text: str, *, words: File | None = None) -> str | None:
    return "seen"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "words.txt").write_text("one\n")
    return tmp_path / "recipe.toml"


def shard(folder: Path) -> Path:
    segments = [[{"marker": "", "text": "x"}]] * 3
    frame = pl.DataFrame(
        {"id": ["a", "b", "c"], "kind": ["code", "issue", "commit"], "segments": segments}
    )
    path = folder / "00000.parquet"
    table.write(path, frame)
    return path


@pytest.mark.parametrize(
    ("asked", "seen"),
    [({}, ["seen", None, None]), ({"kinds": ["issue", "commit"]}, [None, "seen", "seen"])],
)
def test_a_stage_sees_its_kinds_or_those_of_the_recipe(
    recipe: Path, asked: dict, seen: list
) -> None:
    curate = {"stages": ["always"], "always": {"use": "own.py:always", **asked}}
    (use,) = stages(curate, recipe)
    out = recipe.parent / "out.parquet"
    table.decide(shard(recipe.parent), [], [(use.name, use.use, use.settings, use.kinds)], out)
    assert pl.read_parquet(out)["reason"].to_list() == seen


def test_an_unknown_kind_is_refused(recipe: Path) -> None:
    curate = {"stages": ["always"], "always": {"use": "own.py:always", "kinds": ["cod"]}}
    with pytest.raises(UserError, match=r"curate\.always\.kinds: \['cod'\]"):
        stages(curate, recipe)


def test_what_a_named_file_holds_is_part_of_the_identity(recipe: Path) -> None:
    curate = {"stages": ["always"], "always": {"use": "own.py:always", "words": "words.txt"}}

    def fingerprint() -> str:
        (use,) = stages(curate, recipe)
        assert marked(stage.load(use.use, "always"), FILE) == {"words"}
        return Identity("decisions", [_identity_of(use, "always")], {}).fingerprint

    before = fingerprint()
    (recipe.parent / "words.txt").write_text("two\n")
    assert fingerprint() != before
    curate["always"]["words"] = "none.txt"
    with pytest.raises(UserError, match="no such file"):
        fingerprint()


@pytest.mark.parametrize("shared", ["tensor", "pipeline"])
def test_fp8_is_for_whole_blocks(shared: str) -> None:
    for size, dtype in ((2, "bf16"), (1, "fp8")):
        Recipe.model_validate({"run": {"dtype": dtype, "parallel": {shared: size}}})
    with pytest.raises(ValueError, match="fp8 is for whole blocks"):
        Recipe.model_validate({"run": {"dtype": "fp8", "parallel": {shared: 2}}})


def test_fp8_asks_for_its_gpu_before_any_work() -> None:
    assert tune.unready(Recipe()) == []
    asked = tune.unready(Recipe.model_validate({"run": {"dtype": "fp8"}}))
    assert [one.__module__ for one in asked] == ["starkiln.train.fp8"]


def test_every_target_of_lora_is_a_layer_of_each_block() -> None:
    shapes = parameter_shapes(DecoderSettings(n_layer=1, n_embd=8, n_head=2), 9)
    layers = {name.split(".")[-2] for name, shape in shapes.items() if len(shape) == 2}
    assert set(TARGETS) == layers - {"wte", "wpe"} == set(BaseSettings().lora_targets)
