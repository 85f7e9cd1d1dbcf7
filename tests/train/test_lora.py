"""LoRA: what is trained and what is not, the merged weights, and the adapter that peft loads."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

import ranks
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder, draw
from starkiln.model.parallel.mesh import join
from starkiln.model.parallel.part import Part
from starkiln.model.settings import DecoderSettings, ParallelSettings, parameter_shapes
from starkiln.tokenizer.tokenizer import Tokenizer, fit
from starkiln.train import lora
from starkiln.train.settings import BaseSettings

peft = pytest.importorskip("peft", reason="pip install 'starkiln[peft]'")

VOCAB = 280
TUNE = BaseSettings(checkpoint="base", lora_rank=3, lora_alpha=7.5)
SHAPES = {
    "one key/value head": {},
    "a key/value head each": {"multi_query": False},
    "grouped, rotary": {"num_key_value_heads": 2, "rope_theta": 10_000.0},
}


def settings(**keys) -> DecoderSettings:
    shape = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "initializer_range": 0.2}
    return DecoderSettings(**{**shape, **keys})


def lively(model: Decoder) -> Decoder:
    """Norms and biases that are not 1 and 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = keyed.generator("lively", name).standard_normal(parameter.shape)
            parameter.add_(torch.from_numpy(drawn * 0.1))
    return model.eval()


def adapted(shape: DecoderSettings, tune: BaseSettings) -> dict[str, Tensor]:
    """Updates as a training would leave them: no B is zero."""
    shapes = lora.added(parameter_shapes(shape, VOCAB), tune)
    return {
        name: torch.from_numpy(keyed.generator(name).standard_normal(size) * 0.3).float()
        for name, size in shapes.items()
    }


def prepared(base: Decoder, tune: BaseSettings, values: dict[str, Tensor]) -> Decoder:
    """A decoder as training builds it: prepared on no device, then filled by name."""
    plain = dict(base.named_parameters())
    shapes = parameter_shapes(base.config, VOCAB)
    read = lora.reader(lambda name, rows: plain[name].detach(), shapes, tune, seed=0)
    model = Decoder(base.config, VOCAB, device="meta")
    lora.prepare(model, tune=tune)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values.get(name, read(name, None)))
    return model.eval()


def some_ids() -> Tensor:
    return torch.from_numpy(keyed.generator("ids").integers(19, VOCAB, (2, 16)))


@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
def test_updates_begin_as_nothing_and_alone_are_trained(keys) -> None:
    base = lively(Decoder(settings(**keys), VOCAB))
    model = prepared(base, TUNE, {})
    with torch.no_grad():
        assert torch.equal(model(some_ids()), base(some_ids()))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    new = lora.added(parameter_shapes(base.config, VOCAB), TUNE)
    assert names == set(new)
    assert {name: tuple(p.shape) for name, p in model.named_parameters() if name in new} == new
    model(some_ids()).square().sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name in new if ".lora_B." in name}


def test_a_shard_of_an_update_is_drawn_as_the_whole_and_by_the_seed() -> None:
    shapes = parameter_shapes(settings(), VOCAB)
    name = "transformer.h.1.mlp.c_fc.lora_A.default.weight"
    read = lora.reader(pytest.fail, shapes, TUNE, seed=5)
    whole = read(name, None)
    assert torch.equal(read(name, range(1, 3)), whole[1:3])
    assert whole.dtype == torch.float32
    assert 0.8 * 32**-0.5 < float(whole.abs().max()) <= 32**-0.5
    assert not torch.equal(lora.reader(pytest.fail, shapes, TUNE, seed=6)(name, None), whole)
    assert not torch.equal(read(name.replace("h.1", "h.0"), None), whole)


@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("targets", [TUNE.lora_targets, ["q_attn"], ["kv_attn", "c_fc"]], ids=str)
def test_merged_weights_compute_what_was_trained(keys, targets) -> None:
    tune = TUNE.model_copy(update={"lora_targets": targets})
    base = lively(Decoder(settings(**keys), VOCAB))
    values = adapted(base.config, tune)
    plain = {name: p.detach() for name, p in base.named_parameters()}
    whole = dict(lora.merged(plain.items(), values, tune))
    merged = Decoder(base.config, VOCAB)
    merged.load_state_dict(whole)
    with torch.no_grad():
        expected = prepared(base, tune, values)(some_ids())
        torch.testing.assert_close(merged.eval()(some_ids()), expected, rtol=1e-5, atol=1e-4)
        assert float((base(some_ids()) - expected).abs().max()) > 0.1
    kept = {name for name in plain if torch.equal(plain[name], whole[name])}
    assert plain.keys() - kept == {
        name for name in plain if name.endswith(".weight") and name.split(".")[-2] in targets
    }


def test_merging_keeps_the_type_of_the_base() -> None:
    base = Decoder(settings(), VOCAB, dtype=torch.bfloat16)
    values = adapted(base.config, TUNE)
    for name, tensor in lora.merged(base.state_dict().items(), values, TUNE):
        assert tensor.dtype == torch.bfloat16, name


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return fit(
        ["def stop(value):\n    return value\n# some more words for the merges\n"] * 4, VOCAB
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("targets", [TUNE.lora_targets, ["q_attn"], ["kv_attn", "c_fc"]], ids=str)
def test_peft_loads_the_adapter_on_the_base_in_transformers(
    tmp_path: Path, words: Tokenizer, keys, targets
) -> None:
    from transformers import AutoModelForCausalLM

    tune = TUNE.model_copy(update={"lora_targets": targets})
    base = lively(Decoder(settings(**keys), words.vocab_size))
    values = adapted(base.config, tune)
    checkpoint.save(tmp_path / "base", base, words)
    lora.save_adapter(tmp_path / "adapter", values, base.config, tune)
    merged = Decoder(base.config, words.vocab_size)
    plain = {name: p.detach() for name, p in base.named_parameters()}
    merged.load_state_dict(dict(lora.merged(plain.items(), values, tune)))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    ids = some_ids() % words.vocab_size
    with torch.no_grad():
        expected = merged.eval()(ids)
        torch.testing.assert_close(theirs(ids).logits, expected, rtol=1e-4, atol=1e-3)
        assert float((base(ids) - expected).abs().max()) > 0.1


def test_the_adapter_is_the_same_bytes_each_time_and_names_its_base(tmp_path: Path) -> None:
    values = adapted(settings(), TUNE)
    for name in ("one", "two"):
        lora.save_adapter(tmp_path / name, values, settings(), TUNE)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert config["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    assert (config["r"], config["rank_pattern"]) == (3, {"c_attn": 6})
    assert (config["lora_alpha"], config["alpha_pattern"]) == (7.5, {"c_attn": 15.0})
    stored = load_file(tmp_path / "one" / "adapter_model.safetensors")
    fused = stored["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert tuple(fused.shape) == (32 + 2 * 8, 6)
    assert not fused[:32, 3:].any()
    assert not fused[32:, :3].any()


def tuned(steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """The losses, and the whole trained weights, of some steps on the ranks that there are."""
    shape = settings(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    shapes = parameter_shapes(shape, VOCAB)
    parallel = ParallelSettings()
    mesh = join(parallel, torch.device("cpu"))
    part = Part(
        shape,
        VOCAB,
        mesh,
        parallel=parallel,
        device=torch.device("cpu"),
        dtype=torch.float32,
        micro_batch=1,
        read=lora.reader(
            lambda name, rows: draw(shape, 3, name, shapes[name], rows), shapes, TUNE, seed=4
        ),
        prepare=partial(lora.prepare, tune=TUNE),
    )
    trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    tokens = torch.from_numpy(keyed.generator("ids").integers(19, VOCAB, (4, 17)))
    mine = tokens.chunk(mesh.data)[mesh.data_rank]
    losses = []
    for _ in range(steps):
        sums = part.accumulate({"tokens": mine, "mask": torch.ones_like(mine[:, 1:]).bool()})
        part.finish()
        losses += mesh.sum([float(sums.nats.double().sum())])
        part.scale_gradients(1 / 64)
        optimizer.step()
        optimizer.zero_grad()
    views = {name: part.view(name, p.detach()) for name, p in part.named_parameters()}
    wholes = {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in views.items()}
    mesh.leave()
    return losses, {name: wholes[name].clone() for name in wholes if name in trained}


def test_two_devices_train_the_updates_that_one_does() -> None:
    (losses, one), *many = tuned(4), *ranks.run(2, tuned, 4)
    assert losses[-1] < losses[0] - 1
    assert one.keys() == lora.added(parameter_shapes(settings(), VOCAB), TUNE).keys()
    for found, trained in many:
        assert found == pytest.approx(losses, rel=1e-6)
        assert trained.keys() == one.keys()
        for name, weight in trained.items():
            torch.testing.assert_close(weight, one[name], rtol=1e-4, atol=1e-5, msg=name)


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UserError, match=r"needs the package peft.*starkiln\[peft\]"):
        lora.ready()
