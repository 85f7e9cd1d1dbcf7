"""A replica alone, in micro-batches, and two as processes: the same sums and gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ranks
from starkiln.model.encoder import Encoder
from starkiln.model.loss import Batch, Sums
from starkiln.model.parallel import replica as replicas
from starkiln.model.parallel.mesh import join
from starkiln.model.parallel.replica import Replica
from starkiln.model.settings import EncoderSettings, ParallelSettings

CPU = torch.device("cpu")
SHAPE = EncoderSettings(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
)
ROWS, VOCAB = 8, 50


def losses(model: nn.Module, batch: Batch) -> Sums:
    """Each row's own words, but for the first ones of a row, whose number differs."""
    assert isinstance(model, Encoder)
    hidden = model.hidden(batch["ids"])
    judged = torch.arange(batch["ids"].size(1)) >= batch["first"][:, None]
    logits = model.words(hidden).transpose(1, 2)
    nats = F.cross_entropy(logits, batch["ids"], reduction="none").masked_fill(~judged, 0).sum(1)
    nats = nats + F.cross_entropy(model.follows(hidden), batch["first"] % 2, reduction="none")
    return Sums(nats.sum(), nats.detach(), judged.sum(1))


def per_row(model: nn.Module, batch: Batch) -> Tensor:
    return torch.stack([losses(model, batch).nats, batch["first"].float()], 1)


def batch(first: int = 0, last: int = ROWS) -> Batch:
    ids = torch.randint(VOCAB, (ROWS, 16), generator=torch.Generator().manual_seed(1))
    return {"ids": ids[first:last], "first": torch.arange(ROWS)[first:last]}


def sums(micro_batch: int, seeds: list[int], bucket: int = replicas.BUCKET) -> dict[str, Any]:
    """Of this rank's share of a step, the whole gradient, and what is measured."""
    replicas.BUCKET = bucket
    mesh = join(ParallelSettings(), CPU)
    model = Encoder(SHAPE, VOCAB, seed=seeds[mesh.rank])
    replica = Replica(model, losses, mesh, device=CPU, micro_batch=micro_batch)
    own = ROWS // mesh.data
    here = batch(mesh.data_rank * own, (mesh.data_rank + 1) * own)
    measured = replica.evaluate(here, per_row)
    assert all(p.grad is None for _, p in replica.named_parameters())
    found = replica.accumulate(here)
    replica.finish()
    norm = replica.gradient_norm()
    replica.scale_gradients(0.5)
    gradients = {name: p.grad for name, p in replica.named_parameters()}
    return {"sums": found, "norm": norm, "gradients": gradients, "measured": measured}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """By the plain form: one backward of the whole batch."""
    model = Encoder(SHAPE, VOCAB, seed=1)
    found = losses(model, batch())
    found.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    flat = torch.cat([g.flatten() for g in gradients.values() if g is not None])
    return {"sums": found, "norm": flat.norm().item(), "gradients": gradients}


def agree(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert found["norm"] == pytest.approx(alone["norm"], rel=1e-5)
    assert set(found["gradients"]) == set(alone["gradients"])
    for name, gradient in alone["gradients"].items():
        torch.testing.assert_close(found["gradients"][name], 0.5 * gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, ROWS])
def test_micro_batches_give_the_sums_of_the_whole(alone, micro_batch) -> None:
    found = sums(micro_batch, [1])
    agree(found, alone)
    torch.testing.assert_close(found["sums"].nats, alone["sums"].nats)
    torch.testing.assert_close(found["sums"].loss, alone["sums"].loss.detach())
    assert found["sums"].targets.tolist() == alone["sums"].targets.tolist()
    torch.testing.assert_close(found["measured"][:, 0], alone["sums"].nats)
    assert found["measured"][:, 1].tolist() == list(range(ROWS))


@pytest.mark.parametrize(("world", "bucket"), [(2, replicas.BUCKET), (2, 700), (4, 700)])
def test_many_processes_give_the_sums_of_one(alone, world, bucket) -> None:
    """Even where they begin with other weights: the first one's are taken."""
    every = ranks.run(world, sums, 2, [1, 9, 8, 7], bucket)
    for found in every:
        agree(found, alone)
        assert found["norm"] == every[0]["norm"]
        for name, gradient in every[0]["gradients"].items():
            assert torch.equal(gradient, found["gradients"][name])
    nats = torch.cat([found["sums"].nats for found in every])
    torch.testing.assert_close(nats, alone["sums"].nats)


def test_bfloat16_is_near_and_weights_stay_float32(alone) -> None:
    model = Encoder(SHAPE, VOCAB, seed=1)
    mesh = join(ParallelSettings(), CPU)
    replica = Replica(model, losses, mesh, device=CPU, dtype=torch.bfloat16, micro_batch=4)
    found = replica.accumulate(batch())
    assert not torch.equal(found.nats, alone["sums"].nats)
    torch.testing.assert_close(found.nats, alone["sums"].nats.detach(), rtol=0.05, atol=0.5)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
