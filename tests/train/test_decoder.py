"""The whole of training on real code: learns, resumes after SIGKILL, loads in transformers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist

import ranks
from starkiln.code.document import SCHEMA, code_document
from starkiln.core import atomic, launch, manifest
from starkiln.core.errors import UserError
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.parallel.mesh import join
from starkiln.model.settings import DecoderSettings, ParallelSettings
from starkiln.tokenizer.settings import (
    FimSettings,
    LayoutSettings,
    PackSettings,
    TokenizerSettings,
)
from starkiln.train import state
from starkiln.train.decoder import train_decoder
from starkiln.train.fit_tokenizer import fit_tokenizer
from starkiln.train.loader import Validation
from starkiln.train.pack import pack_shard
from starkiln.train.settings import BaseSettings, RunSettings, TrainSettings
from starkiln.train.validate import score
from twins import next_token

SHAPE = DecoderSettings(n_layer=2, n_embd=32, n_head=2, n_positions=64)
SHORT = TrainSettings(
    steps=24,
    batch_size=4,
    sequence_length=64,
    optimizer="muon",
    lr=3e-3,
    warmup_steps=3,
    validation_every=10,
    validation_tokens=2048,
    checkpoint_every=5,
)
ONE_THREAD = RunSettings(device="cpu", threads=1)


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """Token shards and tokenizer of some of the standard library, as two languages."""
    folder = tmp_path_factory.mktemp("packed")
    library = Path(sysconfig.get_paths()["stdlib"])
    rows = [
        code_document(
            path.read_text(),
            repo="python",
            path=path.name,
            language="Python" if i % 3 else "Sage",
            licences=["PSF-2.0"],
        )
        for i, path in enumerate(sorted(library.glob("[a-d]*.py")))
    ]
    curated = folder / "00000.parquet"
    pl.DataFrame(rows, schema=SCHEMA).write_parquet(curated)
    pack = PackSettings(validation=0.2)
    settings = TokenizerSettings(vocab_size=512, sample_bytes=200_000)
    fit_tokenizer([curated], folder / "tokenizer", settings=settings, pack=pack, seed=1)
    tokens = folder / "tokens"
    pack_shard(curated, tokens, folder / "tokenizer", LayoutSettings(), pack, 1)
    manifest.write(tokens, manifest.Manifest(manifest.Identity("tokens", [], {})))
    return folder


def train(packed: Path, out: Path, **changes) -> dict:
    usual = {"decoder": SHAPE, "train": SHORT, "fim": FimSettings(), "run": ONE_THREAD, "seed": 5}
    return train_decoder(
        tokens=packed / "tokens", tokenizer=packed / "tokenizer", out=out, **{**usual, **changes}
    )


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def trained(packed, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    return out, train(packed, out)


def test_a_checkpoint_and_its_curves(trained):
    out, facts = trained
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "metrics.jsonl",
        "model.safetensors",
        "special_tokens_map.json",
        "state",
        "tokenizer.json",
        "tokenizer_config.json",
        "validation.jsonl",
    ]
    curve = rows(out / "validation.jsonl")
    assert [row["step"] for row in curve] == [10, 20, 24]
    assert curve[-1]["loss"] < rows(out / "metrics.jsonl")[0]["loss"] - 0.2
    assert facts["validation"] == curve[-1]
    assert (facts["steps"], facts["samples"]) == (24, 96)
    assert 0 < facts["tokens"] <= 96 * 64
    assert set(curve[-1]["sources"]) == {"Python", "Sage"}
    last = curve[-1]
    assert sum(s["bytes"] for s in last["sources"].values()) == last["bytes"]
    assert last["targets"] <= SHORT.validation_tokens
    assert set(last["fim"]) == {"loss", "bits_per_byte"}
    assert last["fim"]["loss"] != last["loss"]


def test_the_saved_model_has_the_recorded_loss(trained, packed):
    """Its loss anew, by transformers' own model, on the windows of the last validation."""
    transformers = pytest.importorskip("transformers")
    from starkiln.tokenizer.tokenizer import Tokenizer
    from starkiln.train.loader import Loader

    out, facts = trained
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = Tokenizer.load(out)
    split = {"split": "validation", "sequence_length": 64, "seed": 5, "fim_rate": 0, "spm_rate": 0}
    nats = size = 0.0
    for batch in Loader(packed / "tokens", tokenizer, **split).validation(8, limit=32):
        ids = torch.from_numpy(batch.tokens)
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits
        each = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
        nats += each[torch.from_numpy(batch.mask)].sum().item()
        size += sum(len(tokenizer.decode_bytes(row[1:])) for row in batch.tokens.tolist())
    assert size == facts["validation"]["bytes"]
    recorded = facts["validation"]["bits_per_byte"]
    assert nats / np.log(2) / size == pytest.approx(recorded, rel=5e-3)  # bfloat16 where fast


def test_bits_per_byte_of_a_model_that_knows_nothing():
    """Equal logits cost ln V nats a target; bytes are those that the windows name."""
    model = Decoder(SHAPE, 512, seed=1)
    torch.nn.init.zeros_(model.transformer.wte.weight)
    tokens = np.full((2, 9), 300)
    mask = np.ones((2, 8), bool)
    mask[1, 3:] = False
    sizes = np.where(mask, 2, 0)

    def nats(tokens, mask):
        return next_token(model, {"tokens": tokens, "mask": mask}).nats

    mesh = join(ParallelSettings(), torch.device("cpu"))
    with torch.no_grad():
        found = score(nats, [Validation(tokens, mask, sizes, ["a", "b"])], ["a", "b", "c"], mesh)
    assert found["loss"] == pytest.approx(np.log(512))
    assert found["bits_per_byte"] == pytest.approx(9 / 2)
    assert (found["targets"], found["bytes"]) == (11, 22)
    assert found["sources"]["b"]["bytes"] == 6
    assert "c" not in found["sources"]


def test_without_fim_there_is_one_validation(packed, tmp_path):
    facts = train(
        packed,
        tmp_path,
        fim=FimSettings(rate=0.0),
        train=SHORT.model_copy(update={"steps": 2, "validation_every": 2}),
    )
    assert "fim" not in facts["validation"]


def test_the_loss_of_a_few_hundred_steps_on_real_code(packed, tmp_path):
    longer = SHORT.model_copy(
        update={"steps": 200, "validation_every": 100, "checkpoint_every": 200}
    )
    shape = SHAPE.model_copy(update={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})
    facts = train(packed, tmp_path, train=longer, decoder=shape)
    first, last = rows(tmp_path / "validation.jsonl")
    assert last["bits_per_byte"] < first["bits_per_byte"]
    assert facts["validation"]["bits_per_byte"] < 4.0  # uniform guessing: 5 or so


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
from test_decoder import train
train(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def start(packed: Path, out: Path) -> subprocess.Popen:
    here = Path(__file__).parent
    return subprocess.Popen([sys.executable, "-c", CHILD, str(here), str(packed), str(out)])


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): atomic.sha256(path) for path in files}


def killed_within(packed: Path, out: Path, seconds: float) -> bool:
    """Start training, wait till it has begun, and kill it that much later; False if it ended."""
    child = start(packed, out)
    began = (out / "metrics.jsonl").stat().st_mtime_ns if (out / "metrics.jsonl").exists() else 0
    while child.poll() is None and not _touched(out / "metrics.jsonl", began):
        time.sleep(0.01)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def _touched(path: Path, since: int) -> bool:
    return path.exists() and path.stat().st_mtime_ns > since


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(packed, trained, tmp_path, kills):
    expected = contents(trained[0])
    random.seed(kills)
    done = sum(killed_within(packed, tmp_path, random.uniform(0, 0.2)) for _ in range(kills))
    assert done
    assert start(packed, tmp_path).wait() == 0
    assert contents(tmp_path) == expected


def test_other_settings_do_not_go_on_from_a_state(packed, trained, tmp_path):
    train(packed, tmp_path, train=SHORT.model_copy(update={"steps": 3}))
    with pytest.raises(UserError, match="other settings or data"):
        train(packed, tmp_path)
    with pytest.raises(UserError, match="other settings or data"):
        train(packed, tmp_path, train=SHORT.model_copy(update={"steps": 3}), seed=6)


def test_a_base_may_be_moved_between_two_runs(packed, trained, tmp_path):
    brief = {"train": SHORT.model_copy(update={"steps": 2}), "decoder": SHAPE}

    def tuned(base: Path) -> dict:
        tune = BaseSettings(checkpoint=str(base))
        return train(packed, tmp_path / "out", base=base, tune=tune, **brief)

    facts = tuned(trained[0])
    shutil.copytree(trained[0], tmp_path / "moved")
    assert tuned(tmp_path / "moved") == facts


BRIEF = SHORT.model_copy(update={"steps": 4, "optimizer": "adam"})


def fail_alone(packed: Path, out: Path) -> tuple[str, bool]:
    """What each of two hears when the first fails in a step, and whether the group is left."""

    def listen(event: str, **_: object) -> None:
        if event == "step":
            raise UserError("step", "went wrong", "mend it")

    try:
        train(packed, out, train=BRIEF, on_event=listen)
    except UserError as error:
        if dist.get_rank():
            return str(error), dist.is_initialized()
        ends = (str(error), dist.is_initialized())
        dist.destroy_process_group()  # as the end of the process does
        return ends
    return "", False


def test_a_failure_of_one_is_told_and_nothing_is_waited_for(packed, tmp_path):
    (first, held), (second, _) = ranks.run(2, fail_alone, packed, tmp_path, joined=False)
    assert (first, held) == ("step: went wrong; mend it", True)
    assert second.startswith("process 1 of 2: another one died or is out of reach")
    assert second.endswith("it goes on from the last state")


def lose_the_first(packed: Path, out: Path) -> None:
    if launch.rank() == 0:
        state.states = lambda _: os._exit(1)
    train(packed, out, train=BRIEF)


def test_a_process_that_dies_before_the_first_step_is_told(packed, tmp_path):
    with pytest.raises(ranks.RankError) as caught:
        ranks.run(2, lose_the_first, packed, tmp_path, joined=False)
    said = str(caught.value)
    assert "UserError: process 1 of 2: another one died or is out of reach (a rank is lost" in said


def ask_for_rows_of_its_own(packed: Path, out: Path) -> list[int]:
    run = ONE_THREAD.model_copy(update={"micro_batch": launch.rank() + 1})
    facts = train(packed, out, train=BRIEF, run=run)
    return [machine["micro_batch"] for machine in facts.get("machines", [])]


def test_all_take_the_rows_at_once_of_the_first(packed, tmp_path):
    """GPUs of one kind differ in what is free; unequal counts of collectives would never end."""
    assert ranks.run(2, ask_for_rows_of_its_own, packed, tmp_path, joined=False) == [[1], []]


def test_sequences_longer_than_the_positions_are_refused(packed, tmp_path):
    with pytest.raises(UserError, match=r"^train\.sequence_length: 64 is more than .* 32"):
        train(packed, tmp_path, decoder=SHAPE.model_copy(update={"n_positions": 32}))


def test_unfinished_token_shards_are_refused(packed, tmp_path):
    with pytest.raises(UserError, match="no finished token shards"):
        train_decoder(
            tokens=tmp_path,
            tokenizer=packed / "tokenizer",
            out=tmp_path / "out",
            decoder=SHAPE,
            train=SHORT,
            fim=FimSettings(),
            run=ONE_THREAD,
            seed=0,
        )


def test_a_weight_of_an_unknown_source_is_refused(packed, tmp_path):
    with pytest.raises(UserError, match="did you mean 'Python'"):
        train(packed, tmp_path, train=SHORT.model_copy(update={"weights": {"Pyton": 1.0}}))


def test_the_checkpoint_loads_here(trained):
    model, tokenizer = checkpoint.load(trained[0])
    assert model.vocab_size == tokenizer.vocab_size
    assert sum(p.numel() for p in model.parameters()) == trained[1]["parameters"]
