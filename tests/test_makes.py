"""What a recipe makes beside a language model: an encoder, a tagger of it, a redacted copy."""

import json
import sysconfig
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from starkiln import pipeline
from starkiln.core import manifest
from starkiln.core.errors import UserError

SMALL = """
[curate]
stages = ["exact_dedup"]
[tokenizer]
vocab_size = 400
sample_bytes = 200_000
[pack]
validation = 0.2
[encoder]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 64
[train]
steps = 4
batch_size = 4
sequence_length = 64
warmup_steps = 1
validation_every = 2
validation_tokens = 512
checkpoint_every = 2
"""


def _recipe(folder: Path, text: str) -> Path:
    folder.mkdir()
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def _run(path: Path, *overrides: str) -> Path:
    return pipeline.run(path, overrides, Console(quiet=True))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real files, as several repositories, so that each split has some."""
    root = tmp_path_factory.mktemp("sources")
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for number, path in enumerate(files[:60]):
        repo = root / f"repo{number % 20}"
        repo.mkdir(exist_ok=True)
        (repo / "LICENSE").write_text("MIT License\n")
        (repo / path.name).write_bytes(path.read_bytes())
    return root


@pytest.fixture(scope="module")
def encoder(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = f'[[source]]\nuse = "files"\npaths = ["{sources}"]\n'
    path = _recipe(
        tmp_path_factory.mktemp("made") / "encoder", 'makes = "encoder"\n' + SMALL + source
    )
    return _run(path)


@pytest.fixture(scope="module")
def tagger(sources: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = f"""
makes = "tagger"
[[source]]
use = "files"
paths = ["{sources}"]
[curate]
stages = ["exact_dedup"]
[base]
checkpoint = "{encoder / "checkpoint"}"
[synthesis]
validation = 0.2
test = 0.2
[train]
steps = 4
batch_size = 4
sequence_length = 64
warmup_steps = 1
validation_every = 4
validation_tokens = 2000
checkpoint_every = 4
"""
    return _run(_recipe(tmp_path_factory.mktemp("tags") / "tagger", text))


def test_an_encoder_is_made_and_stays_fresh(encoder: Path) -> None:
    made = manifest.read(encoder / "checkpoint")
    assert made is not None
    assert {"mlm_accuracy", "nsp_accuracy"} <= made.facts["validation"].keys()
    states = {step.name: now.state for step, now in pipeline.plan(encoder / "recipe.toml")}
    assert states["checkpoint"] == states["report"] == "fresh"
    assert (encoder / "report" / "report.html").is_file()


def test_a_tagger_is_made_of_it_and_scored(tagger: Path) -> None:
    made = manifest.read(tagger / "checkpoint")
    assert made is not None
    rows = {(row["label"], row["matching"]) for row in made.facts["scores"]}
    assert {("NAME", "exact"), ("SECRET", "overlap")} <= rows
    splits = pl.read_parquet(tagger / "examples" / "00000.parquet")
    assert splits.group_by("repo").agg(pl.col("split").n_unique())["split"].max() == 1


def test_a_tagger_without_an_encoder_is_refused(sources: Path, tmp_path: Path) -> None:
    source = f'[[source]]\nuse = "files"\npaths = ["{sources}"]\n'
    path = _recipe(tmp_path / "x", 'extends = "starpii"\n' + source)
    with pytest.raises(UserError, match=r"base\.checkpoint"):
        _run(path)


SECRET = "vQ7xTz2mKp9RwL4nYb8D"


@pytest.mark.parametrize("profile", ["fast", "full"])
def test_a_folder_is_copied_redacted(profile: str, tagger: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "deep").mkdir(parents=True)
    (code / "deep" / "a.py").write_text(f"# Kim Larsen <kim@corp.io>\r\ntoken = '{SECRET}'\r\n")
    (code / "plain.txt").write_text("nothing\n")
    (code / "bin").write_bytes(b"\0\1")
    text = f'extends = "redact"\n[[source]]\nuse = "files"\npaths = ["{code}"]\n'
    text += f'[curate.redact]\nprofile = "{profile}"\ntagger = "{tagger / "checkpoint"}"\n'
    work = _run(_recipe(tmp_path / "work", text))
    copied = (work / "copy" / "files" / "code" / "deep" / "a.py").read_bytes().decode()
    assert "kim@corp.io" not in copied
    assert copied.count("\r\n") == 2
    if profile == "fast":
        assert copied == "# <NAME> <<EMAIL>>\r\ntoken = '<KEY>'\r\n"
    assert (work / "copy" / "files" / "code" / "plain.txt").read_text() == "nothing\n"
    summary = json.loads((work / "copy" / "summary.json").read_text())
    assert summary["files"] == 2
    assert summary["left_out"] == {"binary": 1}
    assert summary["redacted"]["EMAIL"]
    ledger = pl.concat(map(pl.read_parquet, (work / "curated").glob("*.ledger.parquet")))
    assert not any(SECRET in str(row) or "kim@" in str(row) for row in ledger.iter_rows())
