"""Rates, groups, Muon against torch's own, and the norm of a gradient."""

import math

import pytest
import torch
from torch import nn

from starkiln.train import optim
from starkiln.train.settings import TrainSettings


def settings(**changes) -> TrainSettings:
    return TrainSettings(**{"steps": 100, "warmup_steps": 10, **changes})


def toy() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.wte = nn.Embedding(11, 6)
    model.h = nn.ModuleList(
        nn.ModuleDict({"up": nn.Linear(6, 24), "down": nn.Linear(24, 6), "norm": nn.LayerNorm(6)})
        for _ in range(3)
    )
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model


def test_the_papers_figures_are_the_defaults():
    s = TrainSettings()
    assert (s.beta1, s.beta2, s.epsilon, s.weight_decay, s.clip) == (0.9, 0.95, 1e-8, 0.1, 1.0)
    assert s.batch_size * s.sequence_length == 4_194_304
    assert s.lr * optim.rate(s.warmup_steps - 1, s) == 3e-4
    assert s.lr * optim.rate(s.steps - 1, s) == pytest.approx(3e-5)


def test_rate_warms_up_in_a_line_and_falls_as_a_cosine():
    s = settings()
    assert [optim.rate(i, s) for i in range(3)] == [0.1, 0.2, pytest.approx(0.3)]
    assert optim.rate(9, s) == 1.0
    assert optim.rate(54, s) == pytest.approx(0.1 + 0.9 / 2)
    falling = [optim.rate(i, s) for i in range(9, 100)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (1, 1), (50, 10), (0, 5)])
def test_rate_is_defined_for_any_warm_up(warmup, steps):
    s = settings(warmup_steps=warmup, steps=steps)
    assert all(0 < optim.rate(i, s) <= 1 for i in range(steps))


def test_constant_schedule_stays_at_the_peak():
    assert optim.rate(99, settings(schedule="constant")) == 1.0


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay():
    model = toy()
    for kind in ("adam", "muon"):
        made = optim.optimizers(model, settings(optimizer=kind))
        groups = [g for o in made for g in o.param_groups]
        held = [id(p) for g in groups for p in g["params"]]
        assert sorted(held) == sorted(map(id, model.parameters()))
        for g in groups:
            assert {p.ndim > 1 for p in g["params"]} == {g["weight_decay"] > 0}
    matrices = made[1].param_groups[0]["params"]
    assert len(matrices) == 6
    assert all(p is not model.wte.weight for p in matrices)


def test_set_rate_scales_each_optimizers_own_peak():
    made = optim.optimizers(toy(), settings(optimizer="muon", lr=1e-3, muon_lr=1e-2))
    optim.set_rate(made, 0.5)
    optim.set_rate(made, 0.25)
    assert [g["lr"] for o in made for g in o.param_groups] == [2.5e-4, 2.5e-4, 2.5e-3]


def test_muon_equals_torchs_muon(monkeypatch):
    """Its arithmetic is torch.optim.Muon's, which works in bfloat16 one matrix at a time."""
    ours, theirs = toy(), toy()
    mine = optim.optimizers(ours, settings(optimizer="muon"), torch.bfloat16)[1]
    matrices = [p for n, p in theirs.named_parameters() if optim.is_block_matrix(n, p)]
    other = torch.optim.Muon(matrices, lr=5e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        mine.step()
        other.step()
    for a, b in zip(mine.param_groups[0]["params"], matrices, strict=True):
        assert (a - b).abs().max() < 2e-4  # 4 updates of about 5e-3, in bfloat16
    monkeypatch.setattr(optim, "STACK", 1)
    alone = toy()
    single = optim.optimizers(alone, settings(optimizer="muon"), torch.bfloat16)[1]
    for _ in range(4):
        single.step()
    for a, b in zip(alone.parameters(), ours.parameters(), strict=True):
        assert (a - b).abs().max() < 2e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalise_brings_singular_values_near_one(dtype):
    torch.manual_seed(1)
    x = torch.randn(3, 32, 48).to(dtype)
    values = torch.linalg.svdvals(optim.orthogonalise(x).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_norm_is_exact_where_float32_overflows():
    big = [torch.full((4,), 3e30), torch.full((5,), 4e30)]
    assert optim.gradient_norm(big).item() == pytest.approx(math.sqrt(4 * 9 + 5 * 16) * 1e30)
    torch.manual_seed(0)
    some = [torch.randn(7, 5), torch.randn(9)]
    flat = torch.cat([g.flatten() for g in some]).double()
    assert optim.gradient_norm(some).item() == pytest.approx(flat.norm().item(), rel=1e-12)
