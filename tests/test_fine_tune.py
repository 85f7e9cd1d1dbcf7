"""Going on from a checkpoint: whose tokenizer and shape, what is held out, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import corpus
from starcoders import santacoder
from starcoders import tokenizer as trained
from starkiln import pipeline
from starkiln.builders import tune
from starkiln.core import atomic, manifest
from starkiln.core.errors import UserError
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.tokenizer import Tokenizer, fit

QUIET = Console(quiet=True)
SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128}
DATA = '[[source]]\nuse = "files"\npaths = ["{}"]\n[curate]\nstages = ["languages", "licences"]\n'
TRAIN = """
[train]
steps = 6
batch_size = 4
sequence_length = 64
lr = 3e-3
warmup_steps = 1
validation_every = 3
validation_tokens = 2048
checkpoint_every = 3
[pack]
validation = 0.2
[evaluate]
n = 1
limit = 1
max_new_tokens = 4
[run]
threads = 1
workers = 1
"""

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = corpus.make(tmp_path_factory.mktemp("repositories"))
    for name in ("xml", "urllib", "http", "concurrent"):
        shutil.rmtree(found / name)
    for i in range(20):  # some of them are held out
        (found / "json" / f"tool{i}.sh").write_text(f"#!/bin/sh\n# {i}\n" + "echo 'a line'\n" * 40)
    return found


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return fit(["def stop(value):\n    return value\nimport json, email\n"] * 4, 300)


@pytest.fixture
def base(tmp_path: Path, words: Tokenizer) -> Path:
    """A folder as ``transformers`` has them, with no manifest of ours."""
    folder = tmp_path / "models" / "small"
    checkpoint.save(folder, Decoder(DecoderSettings(**SHAPE), words.vocab_size, seed=9), words)
    return folder


@pytest.fixture
def write(tmp_path: Path, repositories: Path) -> Write:
    """``write(extra, base=...)``: a recipe in the folder ``tuned``."""

    def recipe(extra: str = "", base: str = "../models/small") -> Path:
        path = tmp_path / "tuned" / "recipe.toml"
        path.parent.mkdir(exist_ok=True)
        begun = f'[base]\ncheckpoint = "{base}"\n'
        path.write_text(begun + DATA.format(repositories) + TRAIN + extra)
        return path

    return recipe


def fingerprints(recipe: Path, *sets: str) -> dict[str, str]:
    return {step.name: step.identity.fingerprint for step, _ in pipeline.plan(recipe, sets)}


def test_the_base_gives_its_tokenizer_and_its_shape(base: Path, write: Write) -> None:
    recipe = write()
    work = pipeline.run(recipe, ["run.until='tokens'"], QUIET)
    assert (work / "tokenizer" / "tokenizer.json").read_bytes() == (
        base / "tokenizer.json"
    ).read_bytes()
    assert sorted(path.suffix for path in (work / "base").iterdir()) == [".json", ".jsonl"]
    found = pipeline.load(recipe).value
    assert tune.weights(found, work) == base
    decoder = tune.settled(found, work).decoder
    assert decoder.model_dump(include=set(SHAPE)) == SHAPE
    states = {step.name: now.state for step, now in pipeline.plan(recipe)}
    assert {name for name, state in states.items() if state == "fresh"} == {
        "documents", "decisions/languages", "curated", "base", "tokenizer", "tokens",
    }  # fmt: skip


def test_a_base_of_another_vocabulary_is_made_over(tmp_path: Path, write: Write) -> None:
    text = "def stop(values):\n    return [value * 2 for value in values]\n"
    folder = tmp_path / "models" / "santa"
    folder.parent.mkdir()
    model = santacoder(folder)
    theirs = trained([text] * 3, 160, ["<|endoftext|>", "<fim-prefix>", "<fim-middle>"])
    theirs.save(str(folder / "tokenizer.json"))
    recipe = write(base="../models/santa")
    sets = ["train.sequence_length=64", "train.steps=3"]
    work = pipeline.run(recipe, [*sets, "run.until='checkpoint'"], QUIET)
    settings = pipeline.load(recipe).value
    assert tune.weights(settings, work) == work / "base"
    made, tuned = (manifest.read(work / name) for name in ("base", "checkpoint"))
    assert made is not None
    assert tuned is not None
    assert made.facts["from"] == "gpt2"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        s["name"] for s in made.shards
    }
    ours, words = checkpoint.load(work / "checkpoint")
    assert [words.added[i] for i in range(3)] == ["<|endoftext|>", "<fim_prefix>", "<fim_middle>"]
    pieces = [theirs.id_to_token(i) for i in theirs.encode(text, add_special_tokens=False).ids]
    vocab = {i: name for name, i in json.loads(words.definition)["model"]["vocab"].items()}
    assert [vocab[i] for i in words.encode(text)] == pieces
    assert ours.config.n_layer == model.config.n_layer
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a byte-level BPE"):
        pipeline.run(recipe, [*sets, "run.until='tokens'", "seed=1"], QUIET)


def test_the_recipe_may_set_its_own_dropout_alone(base: Path, write: Write) -> None:
    recipe = write("[decoder]\nresid_pdrop = 0.25\nn_layer = 2\nn_inner = 128\n")
    decoder = tune.settled(pipeline.load(recipe).value, recipe.parent).decoder
    assert (decoder.resid_pdrop, decoder.embd_pdrop, decoder.n_embd) == (0.25, 0.1, 32)
    recipe = write("[decoder]\nn_layer = 3\n")
    with pytest.raises(UserError, match=r"^decoder\.n_layer: 3 in the recipe, 2 in .*small"):
        pipeline.plan(recipe)


def test_the_example_goes_on_from_a_model_of_the_laptop_s(tmp_path: Path, words: Tokenizer) -> None:
    example = Path(__file__).parents[1] / "examples" / "python-fine-tune" / "recipe.toml"
    sets = [f"base.checkpoint={tmp_path / 'base'}"]
    found = pipeline.load(example, sets).value
    assert found.decoder.sinusoids  # no folder says how its weights once began
    model = Decoder(found.decoder, found.tokenizer.vocab_size, seed=9)
    checkpoint.save(tmp_path / "base", model, words)
    decoder = tune.settled(found, tmp_path).decoder
    assert decoder.n_embd == found.decoder.n_embd


def test_other_weights_are_another_checkpoint_but_the_same_tokens(
    base: Path, words: Tokenizer, write: Write
) -> None:
    recipe = write()
    before = fingerprints(recipe)
    moved = base.rename(base.with_name("moved"))
    assert fingerprints(write(base="../models/moved")) == before  # by what it holds, not where
    moved.rename(base)
    write()
    checkpoint.save(base, Decoder(DecoderSettings(**SHAPE), words.vocab_size, seed=10), words)
    after = fingerprints(recipe)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"base", "checkpoint", "evaluation", "report"}
    lora = fingerprints(recipe, "base.lora_rank=2")
    assert {n for n in after if after[n] != lora[n]} == {"checkpoint", "evaluation", "report"}


def test_a_stamp_sees_any_byte_of_a_small_file_and_any_training_of_a_large_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    data = np.arange(100_000, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    before = atomic.stamp(path)
    for place in (0, 16_384, 50_001, 99_999):
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed.tobytes())
        assert atomic.stamp(path) != before
    path.write_bytes(data[:-1].tobytes())
    assert atomic.stamp(path) != before
    large = np.zeros(48 << 20, np.uint8)  # read in part
    path.write_bytes(large.tobytes())
    before = atomic.stamp(path)
    large[20_000_000:21_000_000] = 1
    path.write_bytes(large.tobytes())
    assert atomic.stamp(path) != before


def test_what_is_held_out_was_held_out_of_the_base(base: Path, write: Write) -> None:
    made = {"seed": 4, "share": 0.2}
    manifest.write(
        base, manifest.Manifest(manifest.Identity("checkpoint", [], {}), facts={"held_out": made})
    )
    recipe = write()
    until = "run.until='tokens'"
    with pytest.raises(UserError, match=r"^seed: 0, but .*set seed = 4"):
        pipeline.run(recipe, [until], QUIET)
    with pytest.raises(UserError, match=r"^pack\.validation: 0\.3 is more than .*at most 0\.2"):
        pipeline.run(recipe, [until, "seed=4", "pack.validation=0.3"], QUIET)
    work = pipeline.run(recipe, [until, "seed=4", "pack.validation=0.1"], QUIET)
    assert manifest.read(work / "tokens") is not None


def test_a_smaller_share_holds_out_some_of_the_same() -> None:
    from starkiln.train.pack import is_validation

    names = [f"document {i}" for i in range(2000)]
    small, large = ({n for n in names if is_validation(n, share, 4)} for share in (0.1, 0.2))
    assert small < large
    assert not {n for n in names if is_validation(n, 0.1, 5)} <= large


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["base.checkpoint='../models/none'"], r"^base\.checkpoint: no such folder: .*none"),
        (["base.checkpoint='~nobody-of-this-name/x'"], r"^base\.checkpoint: no path"),
        (["train.sequence_length=129"], r"^train\.sequence_length: 129 is more than the 128"),
        (["tokenizer.vocab_size=600"], r"^tokenizer\.vocab_size: 600 in the recipe, \d+ in "),
        (["base.lora_rank=33"], r"^base\.lora_rank: 33 is more than the 32"),
        (["base.lora_rank=2", "base.lora_targets=['k_attn']"], r"no 'k_attn'; known: q_attn"),
        (["base.lora_rank=2", "base.lora_targets=[]"], r"lora_targets is empty"),
        (["base.lora_rank=2", "base.checkpoint=''"], r"lora_rank is for a base\.checkpoint"),
        (["base.lora_rank=2", "run.parallel.tensor=2"], r"set run\.parallel\.tensor and run"),
        (["base.lora_rank=2", "run.dtype='fp8'"], r"LoRA has no fp8"),
        (["base.lora_rank=2", "run.parallel.pipeline=2"], r"run\.parallel\.pipeline to 1"),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_one_sentence(base: Path, write: Write, sets, said) -> None:
    with pytest.raises(UserError, match=said):
        pipeline.plan(write(), sets)


def test_a_wrong_folder_is_one_sentence(base: Path, words: Tokenizer, write: Write) -> None:
    recipe, config = write(), base / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps({**json.loads(whole), "model_type": "llama"}))
    with pytest.raises(UserError, match=r"config\.json: model_type is 'llama'"):
        pipeline.plan(recipe)
    config.write_text(whole)
    (base / "tokenizer.json").rename(base / "aside")
    with pytest.raises(UserError, match=r"tokenizer\.json: is missing"):
        pipeline.plan(recipe)
    fit(["def more(words): return words * 2  # to have more entries\n"] * 9, 330).save(base)
    with pytest.raises(UserError, match=r"tokenizer\.json: has 3\d\d entries, the model \d+; put"):
        pipeline.run(recipe, [], QUIET)
    assert not (recipe.parent / "documents").exists()  # before any work
    (base / "aside").rename(base / "tokenizer.json")
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: is missing"):
        pipeline.plan(recipe)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    model = checkpoint.load_model(folder)
    return {name: p.detach().float().numpy() for name, p in model.named_parameters()}


def test_a_fine_tuning_begins_as_its_base_and_reports_every_language(
    base: Path, write: Write
) -> None:
    sets = ["train.sources=['python']", "train.steps=30", "run.dtype='fp32'"]
    recipe = write()
    work = pipeline.run(recipe, sets, QUIET)
    validated = rows(work / "checkpoint" / "validation.jsonl")
    assert [row["step"] for row in validated] == [0, *range(3, 31, 3)]
    assert validated[0]["loss"] == pytest.approx(_loss_of(base, work), rel=1e-5)
    before, after = (validated[i]["sources"] for i in (0, -1))
    assert set(before) == set(after) >= {"python", "shell"}
    assert after["python"]["bits_per_byte"] < before["python"]["bits_per_byte"]
    metrics = rows(work / "checkpoint" / "metrics.jsonl")
    assert {source for row in metrics for source in row["sources"]} == {"python"}
    made = manifest.read(work / "checkpoint")
    assert made is not None
    assert made.facts["held_out"] == {"seed": 0, "share": 0.2}
    assert made.identity.stages[0]["settings"]["decoder"]["n_embd"] == 32
    assert "checkpoint" not in made.identity.stages[0]["settings"]["base"]
    assert {now.state for _, now in pipeline.plan(recipe, sets)} == {"fresh"}


def _loss_of(base: Path, work: Path) -> float:
    """The base's loss on the held-out windows, computed without the training's code."""
    import torch

    from starkiln.train.loader import Loader

    model, words = checkpoint.load(base)
    held_out = Loader(
        work / "tokens", words, split="validation", sequence_length=64, seed=0,
        fim_rate=0.0, spm_rate=0.0,
    )  # fmt: skip
    nats = targets = 0.0
    with torch.no_grad():
        for batch in held_out.validation(8, limit=2048 // 64):
            ids, mask = torch.from_numpy(batch.tokens), torch.from_numpy(batch.mask)
            logits = model.eval()(ids[:, :-1]).log_softmax(-1)
            each = -logits.gather(-1, ids[:, 1:, None])[..., 0]
            nats += float(each[mask].double().sum())
            targets += float(mask.sum())
    return nats / targets


def test_lora_trains_the_updates_alone(base: Path, write: Write) -> None:
    peft = pytest.importorskip("peft", reason="pip install 'starkiln[peft]'")
    import torch
    from transformers import AutoModelForCausalLM

    sets = ["base.lora_rank=2", "base.lora_targets=['q_attn', 'c_fc']", "run.until='checkpoint'"]
    work = pipeline.run(write(), [*sets, "run.dtype='fp32'"], QUIET)
    before, after = weights_of(base), weights_of(work / "checkpoint")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {
        f"transformer.h.{i}.{name}.weight" for i in range(2) for name in ("attn.q_attn", "mlp.c_fc")
    }
    for name in changed:
        assert np.linalg.matrix_rank(after[name] - before[name], tol=1e-6) == 2
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), work / "checkpoint" / "adapter"
        )
    ids = torch.arange(19, 51)[None]
    ours = checkpoint.load_model(work / "checkpoint").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, ours(ids), rtol=1e-4, atol=1e-4)
    shards = {shard["name"] for shard in manifest.read(work / "checkpoint").shards}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= shards
