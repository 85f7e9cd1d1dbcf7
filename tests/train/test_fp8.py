"""Eight-bit products, for real: CPUs have them too."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ranks
from starkiln.core.errors import UserError
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.train import fp8
from twins import next_token

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SHAPE = DecoderSettings(n_layer=2, n_embd=64, n_head=4, n_positions=24, **NO_DROPOUT)


@pytest.fixture
def installed(monkeypatch):
    pytest.importorskip("torchao")
    monkeypatch.setattr(fp8, "SMALLEST", 64)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(0, 97, (3, 22), generator=torch.Generator().manual_seed(1))
    return {"tokens": ids, "mask": torch.ones(3, 21, dtype=torch.bool)}


def learn(model: nn.Module, count: int) -> list[float]:
    """The losses of some steps on one batch."""
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    losses = []
    for _ in range(count):
        loss = next_token(model, batch()).loss
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(loss.item() / 63)
    return losses


def test_no_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match=r"run\.dtype: fp8 needs a GPU .* here is none; choose bf16"
    ):
        fp8.prepare(Decoder(SHAPE, 97))


@pytest.mark.parametrize(("capability", "fine"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_older_gpus_are_told(monkeypatch, capability, fine):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(fp8, "_installed", lambda: None)
    if fine:
        fp8.ready()
    else:
        with pytest.raises(UserError, match=r"this one has 8\.0"):
            fp8.ready()


def test_small_decoders_are_told():
    pytest.importorskip("torchao")
    with pytest.raises(UserError, match="from 1024 a side"):
        fp8.convert(Decoder(SHAPE, 97))


def test_large_matrices_of_blocks_alone_are_converted_under_their_names(installed):
    plain = Decoder(SHAPE, 97, device="meta")
    names = {name: p.shape for name, p in plain.named_parameters()}
    model = fp8.convert(plain)
    assert {name: p.shape for name, p in model.named_parameters()} == names
    changed = {name for name, m in model.named_modules() if type(m).__name__ == "Float8Linear"}
    ends = ("attn.q_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # kv_attn is [32, 64]
    assert changed == {f"transformer.h.{layer}.{end}" for layer in range(2) for end in ends}


def test_it_learns_as_float32_does_but_for_its_rounding(installed):
    exact, rounded = (learn(make(Decoder(SHAPE, 97, seed=3)), 12) for make in (same, fp8.convert))
    assert 0 < abs(exact[0] - rounded[0]) < 0.02
    assert exact[-1] < exact[0] - 1
    assert rounded[-1] == pytest.approx(exact[-1], abs=0.05)


def same(model: nn.Module) -> nn.Module:
    return model


def sharded(make: Callable[[nn.Module], nn.Module]) -> list[float]:
    fp8.SMALLEST = 64
    model = make(Decoder(SHAPE, 97, seed=3))
    mesh = init_device_mesh("cpu", (2,))
    for block in model.transformer.h.values():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for hidden in ("hidden", "nats"):
        torch.distributed.fsdp.register_fsdp_forward_method(model, hidden)
    return learn(model, 3)


def test_it_is_the_same_under_fsdp(installed):
    alone = learn(fp8.convert(Decoder(SHAPE, 97, seed=3)), 3)
    for losses in ranks.run(2, sharded, fp8.convert):
        # Each rank scales by the largest value of its own sequences, so roundings differ.
        assert losses == pytest.approx(alone, abs=2e-3)
