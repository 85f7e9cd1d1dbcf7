"""Every layout computes what one process does: loss, gradients, their norm, and the weights."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import ranks
from starkiln.model import decoder as decoders
from starkiln.model.decoder import Decoder, draw
from starkiln.model.parallel import pipeline, sharding
from starkiln.model.parallel import share as shares
from starkiln.model.parallel.mesh import join
from starkiln.model.parallel.part import TIED, Part
from starkiln.model.parallel.slices import Slices
from starkiln.model.settings import DecoderSettings, ParallelSettings, parameter_shapes
from twins import next_token

STEPS, BATCH, LENGTH, SEED = 6, 16, 32, 3
COMPARED = (0, STEPS - 1)  # steps whose gradients are gathered
VOCAB = 99  # shards of unequal size
CPU = torch.device("cpu")
SHAPE = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 40}
SHAPE |= dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0)
MODELS: dict[str, dict[str, Any]] = {
    "multi-query": {},
    "rotary": {"rope_theta": 1000.0},
    "grouped": {"num_key_value_heads": 2},
    "multi-head": {"multi_query": False},
    "deep": {"n_layer": 4, "rope_theta": 1000.0},
}
LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "documents": {"mask_documents": True, "z_loss": 1e-2},
}


class Case(NamedTuple):
    """A layout of so many processes, and what it trains."""

    world: int
    model: str
    loss: str
    micro_batch: int
    layout: dict[str, Any]
    defer: bool = True

    def __str__(self) -> str:
        layout = " ".join(f"{k} {v}" for k, v in self.layout.items()) or "data"
        return f"{self.world}: {layout}, {self.model}, {self.loss}, {self.micro_batch}"


CASES = [
    Case(2, "multi-query", "plain", 8, {}),
    Case(2, "multi-query", "plain", 6, {"tensor": 2}),
    Case(2, "grouped", "documents", 16, {"tensor": 2, "recompute": "blocks"}),
    Case(2, "multi-query", "plain", 4, {"pipeline": 2}),
    Case(2, "deep", "documents", 4, {"pipeline": 2, "chunks": 2}),
    Case(2, "rotary", "documents", 16, {"context": 2}),
    Case(4, "multi-query", "plain", 8, {"tensor": 4}),
    Case(4, "grouped", "documents", 16, {"tensor": 4}),
    Case(4, "multi-head", "plain", 16, {"tensor": 4}),
    Case(4, "multi-query", "plain", 8, {"context": 4}),
    Case(4, "multi-query", "documents", 8, {"context": 2, "tensor": 2}),
    Case(4, "rotary", "plain", 5, {"context": 2, "recompute": "blocks"}, defer=False),
    Case(4, "deep", "plain", 4, {"pipeline": 4}),
    Case(8, "multi-query", "plain", 2, {}),
    Case(8, "multi-query", "documents", 4, {"pipeline": 2, "tensor": 2, "recompute": "blocks"}),
    Case(8, "deep", "plain", 4, {"pipeline": 2, "tensor": 2, "chunks": 2}),
]
SLOW = [
    Case(4, "multi-head", "documents", 4, {"pipeline": 2}),
    Case(4, "multi-query", "plain", 4, {"tensor": 2}, defer=False),
    Case(8, "grouped", "documents", 8, {"pipeline": 2, "context": 2, "tensor": 2}),
    Case(8, "deep", "plain", 1, {"pipeline": 4, "recompute": "blocks"}),
    Case(8, "rotary", "documents", 2, {"context": 2, "tensor": 2}),
    Case(8, "multi-query", "documents", 8, {"context": 4, "tensor": 2}),
]


def config(model: str) -> DecoderSettings:
    return DecoderSettings(**(SHAPE | MODELS[model]))


def read(model: str, name: str, rows: range | None) -> Tensor:
    """Initial weights, with biases and norms that are not 0 and 1."""
    made = config(model)
    shape = parameter_shapes(made, VOCAB)[name]
    values = draw(made, SEED, name, shape, rows)
    if values.ndim == 1:
        rows = rows if rows is not None else range(shape[0])
        values = values + 0.1 * torch.tensor([(7 * i % 11 - 5) / 5 for i in rows])
    return values


@cache
def batches() -> list[dict[str, Tensor]]:
    """Documents of unequal length, padded from unequal places on."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for _ in range(STEPS):
        tokens = torch.randint(1, VOCAB, (BATCH, LENGTH + 1), generator=generator)
        tokens[torch.rand(tokens.shape, generator=generator) < 0.08] = 0  # end of text
        ends = torch.randint(LENGTH // 4, LENGTH + 1, (BATCH, 1), generator=generator)
        found.append({"tokens": tokens, "mask": torch.arange(LENGTH)[None] < ends})
    return found


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def clipped(norm: float, count: int) -> float:
    return 1.0 / max(norm / count, 1.0) / count


@cache
def alone(model: str, loss: str) -> dict[str, Any]:
    """What one process computes, with nothing of ``model.parallel``."""
    decoder = Decoder(config(model), VOCAB, device="meta")
    decoder.to_empty(device="cpu")
    named = dict(decoder.named_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(read(model, name, None))
    optimizer = adam(list(named.values()))
    found: dict[str, Any] = {"losses": [], "norms": [], "gradients": []}
    found["initial"] = {name: p.detach().clone() for name, p in named.items()}
    for step, batch in enumerate(batches()):
        sums = next_token(decoder, batch, **LOSSES[loss])
        sums.loss.backward()
        count = int(sums.targets.sum())
        gradients = {name: p.grad.clone() for name, p in named.items()}
        norm = math.sqrt(sum(g.double().square().sum() for g in gradients.values()))
        found["losses"].append(sums.nats.double() / count)
        found["norms"].append(norm)
        if step in COMPARED:
            found["gradients"].append(gradients)
        for p in named.values():
            p.grad *= clipped(norm, count)
        optimizer.step()
        optimizer.zero_grad()
    found["final"] = {name: p.detach().clone() for name, p in named.items()}
    with torch.no_grad():
        found["held out"] = next_token(decoder, batches()[0], **LOSSES[loss]).nats
    return found


def together(cases: list[Case], change: Callable[[], None] | None = None) -> list[dict[str, Any]]:
    """On a rank: what ``Part`` computes for each case, its tensors whole."""
    decoders.LOGITS_AT_ONCE = shares.LOGITS_AT_ONCE = 2**14  # chunks here, and not alone
    if change is not None:
        change()
    return [trained(case) for case in cases]


def trained(case: Case) -> dict[str, Any]:
    parallel = ParallelSettings(**case.layout)
    mesh = join(parallel, CPU)
    held: list[int] = []

    def counted(name: str, rows: range | None) -> Tensor:
        values = read(case.model, name, rows)
        held.append(values.numel())
        return values

    part = Part(
        config(case.model),
        VOCAB,
        mesh,
        parallel=parallel,
        device=CPU,
        dtype=torch.float32,
        micro_batch=case.micro_batch,
        read=counted,
        **LOSSES[case.loss],
    )
    part.defer = case.defer
    named = dict(part.named_parameters())
    optimizer = adam(list(named.values()))
    found: dict[str, Any] = {"losses": [], "norms": [], "gradients": [], "read": sum(held)}
    found["initial"] = wholes(part, named)
    size = BATCH // mesh.data
    own = slice(mesh.data_rank * size, (mesh.data_rank + 1) * size)
    for step, batch in enumerate(batches()):
        sums = part.accumulate({name: tensor[own] for name, tensor in batch.items()})
        both = torch.zeros(2, BATCH, dtype=torch.float64)
        both[0, own], both[1, own] = sums.nats.double(), sums.targets.double()
        nats, counts = torch.tensor(mesh.sum(both.flatten().tolist())).view(2, -1)
        count = int(counts.sum())
        part.finish()
        norm = part.gradient_norm()
        found["losses"].append(nats / count)
        found["norms"].append(norm)
        if step in COMPARED:
            found["gradients"].append(wholes(part, {n: p.grad for n, p in named.items()}))
        part.scale_gradients(clipped(norm, count))
        optimizer.step()
        optimizer.zero_grad()
    found["final"] = wholes(part, named)
    part.train(False)
    judged = torch.zeros(BATCH, dtype=torch.float64)
    judged[own] = part.evaluate(*(batches()[0][key][own] for key in ("tokens", "mask"))).double()
    found["held out"] = torch.tensor(mesh.sum(judged.tolist()))
    mesh.leave()
    return found


def wholes(part: Part, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    views = {name: part.view(name, tensor.detach()) for name, tensor in tensors.items()}
    return {
        name: (view.full_tensor() if isinstance(view, DTensor) else view).clone()
        for name, view in views.items()
    }


def errors(case: Case, found: list[dict[str, Any]]) -> dict[str, float]:
    """The largest deviations of any rank from one process: of losses absolute, else relative."""
    one, worst = alone(case.model, case.loss), {}
    assert {name for rank in found for name in rank["final"]} == one["final"].keys()

    def note(kind: str, value: Tensor | float) -> None:
        worst[kind] = max(worst.get(kind, 0.0), float(value))

    for rank in found:
        assert rank["norms"] == found[0]["norms"]
        for name, weight in rank["initial"].items():
            assert torch.equal(weight, one["initial"][name]), name
        for nats, expected in zip(rank["losses"], one["losses"], strict=True):
            note("loss", abs(nats.sum() - expected.sum()))
            note("sequence", relative(nats, expected))
        note("sequence", relative(rank["held out"], one["held out"]))
        for norm, expected in zip(rank["norms"], one["norms"], strict=True):
            note("norm", abs(norm - expected) / expected)
        for gradients, expected in zip(rank["gradients"], one["gradients"], strict=True):
            for name, gradient in gradients.items():
                note("gradient", relative(gradient, expected[name]))
        for name, weight in rank["final"].items():
            moved, expected = (moving(case, name, w) for w in (weight, one["final"][name]))
            note("final", relative(moved, expected))
    return worst


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def moving(case: Case, name: str, weight: Tensor) -> Tensor:
    """Without the biases of keys: softmax ignores them, so that Adam moves them by rounding."""
    made = config(case.model)
    if not name.endswith("kv_attn.bias") or made.rope_theta:
        return weight
    return weight.view(made.kv_heads, 2, -1)[:, 1]


@pytest.fixture(scope="module")
def results() -> Callable[[Case], list[dict[str, Any]]]:
    """What each rank found for a case; the processes of all cases of one number start once."""

    @cache
    def of(world: int, slow: bool) -> dict[str, list[dict[str, Any]]]:
        cases = [case for case in (SLOW if slow else CASES) if case.world == world]
        found = ranks.run(world, together, cases, seconds=240)
        return {str(case): list(every) for case, every in zip(cases, zip(*found), strict=True)}

    return lambda case: of(case.world, case in SLOW)[str(case)]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=str(case)) for case in CASES]
    + [pytest.param(case, id=str(case), marks=pytest.mark.slow) for case in SLOW],
)
def test_a_layout_computes_what_one_process_does(results, case: Case) -> None:
    found = results(case)
    worst = errors(case, found)
    print(case, worst)  # noqa: T201  (seen with -s)
    assert worst["loss"] <= 2e-6
    assert worst["sequence"] <= 2e-6
    assert worst["norm"] <= 2e-6
    assert worst["gradient"] <= 1e-5
    assert worst["final"] <= 1e-5
    if set(case.layout) <= {"context"}:  # FSDP alone: each number is asked for once
        shapes = parameter_shapes(config(case.model), VOCAB)
        assert sum(rank["read"] for rank in found) == sum(map(math.prod, shapes.values()))


def without_sums_of_keys() -> None:
    whole = Slices.replicas
    Slices.replicas = lambda self, name: 1 if "kv_attn" in name else whole(self, name)


def without_the_tied_sum() -> None:
    pipeline.tied_sum = lambda gradient, group: None


@pytest.mark.parametrize(
    ("change", "case"),
    [
        (without_sums_of_keys, Case(2, "multi-query", "plain", 16, {"tensor": 2})),
        (without_the_tied_sum, Case(2, "multi-query", "plain", 4, {"pipeline": 2})),
    ],
)
def test_a_gradient_that_is_not_summed_is_noticed(change: Callable[[], None], case: Case) -> None:
    found = [every for (every,) in ranks.run(2, together, [case], change)]
    for rank in found:
        rank["norms"] = found[0]["norms"]
    worst = errors(case, found)
    assert worst["loss"] > 1e-4
    assert worst["gradient"] > 0.1


def as_on_gpus(keep: bool) -> None:
    """Compute with copies of the weights in bfloat16, as FSDP does where there is a GPU."""
    shard = sharding.shard
    sharding.shard = lambda share, mesh, dtype, _: shard(share, mesh, torch.bfloat16, keep)
    decoders.LOGITS_AT_ONCE = 2 * VOCAB


@pytest.mark.parametrize("keep", [True, False])
def test_gpus_arithmetic_keeps_weights_and_sums_in_float32(keep: bool) -> None:
    case = Case(2, "multi-query", "plain", 4, {})
    (one,), _ = ranks.run(2, together, [case], partial(as_on_gpus, keep))
    tensors = [t for kind in ("initial", "final") for t in one[kind].values()]
    tensors += [t for gradients in one["gradients"] for t in gradients.values()]
    assert {t.dtype for t in tensors} == {torch.float32}
    expected = alone(case.model, case.loss)
    for nats, whole in zip(one["losses"], expected["losses"], strict=True):
        assert 1e-6 < relative(nats, whole) < 0.02
    for name, gradient in one["gradients"][0].items():
        bound = 0.01 if name == TIED else 0.02  # though summed over 64 chunks
        assert relative(gradient, expected["gradients"][0][name]) < bound, name


def test_alone_it_is_the_plain_decoder() -> None:
    part = Part(
        config("grouped"),
        VOCAB,
        join(ParallelSettings(), CPU),
        parallel=ParallelSettings(),
        device=CPU,
        dtype=torch.float32,
        micro_batch=BATCH,
        read=partial(read, "grouped"),
        **LOSSES["documents"],
    )
    sums, one = part.accumulate(batches()[0]), alone("grouped", "documents")
    part.finish()
    count = int(sums.targets.sum())
    assert torch.equal(sums.nats.double() / count, one["losses"][0])
    assert part.gradient_norm() == pytest.approx(one["norms"][0], rel=1e-12)
    for name, parameter in part.named_parameters():
        assert part.view(name, parameter) is parameter
        assert torch.equal(parameter.grad, one["gradients"][0][name])
    part.scale_gradients(0.5)
    assert part.gradient_norm() == pytest.approx(one["norms"][0] / 2, rel=1e-6)
