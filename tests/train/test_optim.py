"""Rates, groups, Muon against torch's own and on slices, moments, and the norm of a gradient."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import ranks
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


def test_wsd_stays_at_the_peak_and_comes_down_at_the_end():
    s = settings(schedule="wsd", decay_share=0.2, min_lr_ratio=0.1)
    assert [optim.rate(i, s) for i in (0, 9, 10, 79)] == [0.1, 1.0, 1.0, 1.0]
    assert optim.rate(80, s) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(1 / 20)))
    assert optim.rate(84, s) == pytest.approx(0.1 + 0.9 / 2)  # a quarter of the way
    assert optim.rate(99, s) == 0.1
    falling = [optim.rate(i, s) for i in range(79, 100)]
    assert falling == sorted(set(falling), reverse=True)


@pytest.mark.parametrize("share", [1e-9, 0.95, 1.0])
def test_wsd_comes_down_within_a_step_and_never_during_the_warm_up(share):
    s = settings(schedule="wsd", decay_share=share, min_lr_ratio=0.0)
    assert optim.rate(9, s) == 1.0
    assert optim.rate(98, s) > optim.rate(99, s) == 0.0


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay():
    model = toy()
    for kind in ("adam", "muon"):
        made = optim.optimizers(model.named_parameters(), settings(optimizer=kind))
        groups = [g for o in made for g in o.param_groups]
        held = [id(p) for g in groups for p in g["params"]]
        assert sorted(held) == sorted(map(id, model.parameters()))
        for g in groups:
            assert {p.ndim > 1 for p in g["params"]} == {g["weight_decay"] > 0}
    matrices = made[1].param_groups[0]["params"]
    assert len(matrices) == 6
    assert all(p is not model.wte.weight for p in matrices)


def test_set_rate_scales_each_optimizers_own_peak():
    made = optim.optimizers(
        toy().named_parameters(), settings(optimizer="muon", lr=1e-3, muon_lr=1e-2)
    )
    optim.set_rate(made, 0.5)
    optim.set_rate(made, 0.25)
    assert [g["lr"] for o in made for g in o.param_groups] == [2.5e-4, 2.5e-4, 2.5e-3]


def test_muon_equals_torchs_muon(monkeypatch):
    """Its arithmetic is torch.optim.Muon's, which works in bfloat16 one matrix at a time."""
    ours, theirs = toy(), toy()
    mine = optim.optimizers(ours.named_parameters(), settings(optimizer="muon"), torch.bfloat16)[1]
    matrices = [p for n, p in theirs.named_parameters() if optim.is_block_matrix(n, p)]
    other = torch.optim.Muon(matrices, lr=5e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        mine.step()
        other.step()
    for a, b in zip(mine.param_groups[0]["params"], matrices, strict=True):
        assert (a - b).abs().max() < 2e-4  # 4 updates of about 5e-3, in bfloat16
    monkeypatch.setattr(optim, "STACK", 1)
    alone = toy()
    single = optim.optimizers(alone.named_parameters(), settings(optimizer="muon"), torch.bfloat16)[
        1
    ]
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


def steps(model: nn.Module, made: list[torch.optim.Optimizer], count: int = 3) -> None:
    """So many updates, with the gradient of ``toy`` for the first and its like for the others."""
    for i in range(count):
        for p in model.parameters():
            p.grad.mul_(1 + i)
        for optimizer in made:
            optimizer.step()


def test_priming_makes_all_moments_and_changes_nothing():
    plain, primed = toy(), toy()
    for kind in ("adam", "muon"):
        before = {name: p.clone() for name, p in primed.named_parameters()}
        theirs, ours = (
            optim.optimizers(model.named_parameters(), settings(optimizer=kind))
            for model in (plain, primed)
        )
        optim.prime(ours)
        made = optim.moments(ours, dict(primed.named_parameters()))
        assert all(torch.equal(p, before[name]) for name, p in primed.named_parameters())
        assert not any(value.any() for value in made.values())
        steps(plain, theirs)
        steps(primed, ours)
        grown = optim.moments(theirs, dict(plain.named_parameters()))
        assert list(made) == list(grown)
        assert all(torch.equal(made[name], value) for name, value in grown.items())
        for a, b in zip(plain.parameters(), primed.parameters(), strict=True):
            assert torch.equal(a, b)
        optim.prime(ours)
        assert (
            optim.moments(ours, dict(primed.named_parameters()))["optimizer/wte.weight/step"] == 3
        )


def test_moments_can_be_put_in_place_and_training_goes_on():
    whole, halves = toy(), toy()
    for kind in ("adam", "muon"):
        first = optim.optimizers(halves.named_parameters(), settings(optimizer=kind))
        once = optim.optimizers(whole.named_parameters(), settings(optimizer=kind))
        steps(whole, once)
        steps(halves, first, 2)
        second = optim.optimizers(halves.named_parameters(), settings(optimizer=kind))
        optim.prime(second)
        held = optim.moments(first, dict(halves.named_parameters()))
        for name, place in optim.moments(second, dict(halves.named_parameters())).items():
            place.copy_(held[name])
        for p in halves.parameters():
            p.grad.mul_(3)
        for optimizer in second:
            optimizer.step()
        for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
            assert torch.equal(a, b)


def test_frozen_parameters_have_no_moments():
    model = toy()
    model.wte.requires_grad_(False)
    model.h[0].requires_grad_(False)
    made = optim.optimizers(model.named_parameters(), settings(optimizer="muon"))
    optim.prime(made)
    names = {flat.split("/")[1] for flat in optim.moments(made, dict(model.named_parameters()))}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    model.requires_grad_(False)
    model.h[1]["up"].weight.requires_grad_(True)
    (only,) = optim.optimizers(model.named_parameters(), settings(optimizer="muon"))
    assert isinstance(only, optim.Muon)


SLICED = {"up.weight": 0, "up.bias": 0, "down.weight": 1}  # the dimension that a tensor group cuts


def cut(name: str) -> int | None:
    return next((dim for end, dim in SLICED.items() if name.endswith(end)), None)


def sliced(tensor: int, data: int) -> tuple[nn.Module, optim.View]:
    """``toy`` as this rank's slices of a tensor group's, under FSDP; and the view of the whole."""
    mesh = init_device_mesh("cpu", (tensor, data), mesh_dim_names=("tensor", "data"))
    model, rank = toy(), mesh.get_local_rank("tensor")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    gradients = {}
    for name, p in model.named_parameters():
        dim = cut(name)
        pair = (p.data, p.grad)
        p.data, gradients[name] = (
            t if dim is None else t.chunk(tensor, dim)[rank].clone() for t in pair
        )
    if data > 1:
        fully_shard(model, mesh=mesh["data"])
    for name, p in model.named_parameters():
        p.grad = _like(gradients[name], p)

    def view(name: str, here: Tensor) -> DTensor:
        dim = cut(name)
        first = Replicate() if dim is None else Shard(dim)
        last = Shard(0) if isinstance(here, DTensor) else Replicate()
        local = here.to_local() if isinstance(here, DTensor) else here
        shape = shapes[name]
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            local, mesh, [first, last], run_check=False, shape=shape, stride=stride
        )

    return model, view


def _like(value: Tensor, p: nn.Parameter) -> Tensor:
    if not isinstance(p, DTensor):
        return value
    return distribute_tensor(value, p.device_mesh, p.placements)


def updated(tensor: int, data: int, kind: str) -> dict[str, Tensor]:
    """Whole weights and moments after three updates of slices."""
    model, view = sliced(tensor, data)
    made = optim.optimizers(model.named_parameters(), settings(optimizer=kind), view=view)
    steps(model, made)
    named = dict(model.named_parameters())
    found = {name: view(name, p.detach()).full_tensor() for name, p in named.items()}
    for flat, value in optim.moments(made, named).items():
        found[flat] = view(flat.split("/")[1], value).full_tensor() if value.ndim else value
    return found


@pytest.mark.parametrize(("tensor", "data"), [(1, 1), (2, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_slices_are_updated_as_the_whole_is(tensor, data, kind):
    model = toy()
    made = optim.optimizers(model.named_parameters(), settings(optimizer=kind))
    steps(model, made)
    named = dict(model.named_parameters())
    expected = {name: p.detach() for name, p in named.items()} | optim.moments(made, named)
    for found in ranks.run(tensor * data, updated, tensor, data, kind):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)
