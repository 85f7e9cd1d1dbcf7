from pathlib import Path

import pytest

from starkiln.core import recipe
from starkiln.core.errors import UserError
from starkiln.core.settings import Settings, key


class Inner(Settings):
    threshold: float = key(0.7, "similarity", "§3.2", ge=0, le=1)
    names: list[str] = key([], "names")


class Outer(Settings):
    seed: int = key(0, "root of randomness")
    inner: Inner = Inner()


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_extends_then_override(tmp_path: Path) -> None:
    write(tmp_path, "seed = 1\n[inner]\nthreshold = 0.5\nnames = ['a']\n", "parent.toml")
    child = write(tmp_path, "extends = 'parent.toml'\n[inner]\nthreshold = 0.6\n")
    found = recipe.load(child, Outer, ["seed=3"])
    assert found.value == Outer(seed=3, inner=Inner(threshold=0.6, names=["a"]))
    assert found.origins["inner.threshold"] == "recipe.toml"
    assert found.origins["inner.names"] == "parent.toml"
    assert found.origins["seed"] == "--set"


def test_two_levels_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "seed = 1", "a.toml")
    write(tmp_path, "extends = 'a.toml'", "b.toml")
    with pytest.raises(UserError, match="only one level"):
        recipe.load(write(tmp_path, "extends = 'b.toml'"), Outer)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[inner]\ntreshold = 0.5",
            "recipe.toml: inner.treshold: no such key; did you mean 'threshold'",
        ),
        ("sead = 5", "recipe.toml: sead: no such key; did you mean 'seed'"),
        ("seed = '5'", 'recipe.toml: seed = "5": input should be a valid integer'),
        ("seed = true", "seed = true: input should be a valid integer"),
        ("[inner]\nthreshold = 2.0", "inner.threshold = 2.0: input should be less than or equal"),
        ("seed = [", "not TOML"),
        ("extends = 'laptp'", "which is no preset"),
        ("seed = 2020-01-01", "use strings, numbers"),
    ],
)
def test_faults_are_one_clear_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.load(write(tmp_path, text), Outer)
    assert sentence in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        recipe.load(write(tmp_path, "sead = 1\n[inner]\nthreshold = 'x'"), Outer)
    assert "sead" in str(caught.value)
    assert "inner.threshold" in str(caught.value)


def test_absent_recipe_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="starkiln init"):
        recipe.load(tmp_path / "none.toml", Outer)


@pytest.mark.parametrize("text", ["seed", "seed.deep=1", "inner.0=1"])
def test_bad_overrides(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        recipe.load(write(tmp_path, "seed = 1"), Outer, [text])


def test_an_override_may_be_bare_text(tmp_path: Path) -> None:
    found = recipe.load(write(tmp_path, ""), Outer, ["inner.names=['x', 'y']"])
    assert found.value.inner.names == ["x", "y"]


def test_meanings() -> None:
    assert recipe.meanings(Outer)["inner.threshold"] == ("similarity", "§3.2")


def test_a_table_set_on_the_command_line_merges(tmp_path: Path) -> None:
    child = write(tmp_path, "[inner]\nthreshold = 0.6\nnames = ['a']\n")
    found = recipe.load(child, Outer, ["inner={threshold=0.9}"])
    assert found.value.inner == Inner(threshold=0.9, names=["a"])
    assert found.origins["inner.threshold"] == "--set"
    assert found.origins["inner.names"] == "recipe.toml"
