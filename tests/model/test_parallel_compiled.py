"""Compiled blocks, as GPUs have them by default, compute what plain ones do."""

from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor

import ranks
from starkiln.model.decoder import draw
from starkiln.model.parallel.mesh import join
from starkiln.model.parallel.part import Part
from starkiln.model.settings import DecoderSettings, ParallelSettings, parameter_shapes

VOCAB, CPU = 64, torch.device("cpu")
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIG = DecoderSettings(n_layer=2, n_embd=32, n_head=4, n_positions=16, **NO_DROPOUT)


def computed(layout: dict[str, Any], compiled: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Nats and whole gradients of two micro-batches; and how many graphs were compiled."""
    torch.compile = partial(real_compile, backend="aot_eager", fullgraph=True)
    shapes = parameter_shapes(CONFIG, VOCAB)
    parallel = ParallelSettings(**layout)
    mesh = join(parallel, CPU)
    part = Part(
        CONFIG,
        VOCAB,
        mesh,
        parallel=parallel,
        device=CPU,
        dtype=torch.float32,
        micro_batch=2,
        read=lambda name, rows: draw(CONFIG, 1, name, shapes[name], rows),
        compile=compiled,
    )
    counters.clear()
    tokens = torch.arange(8 * 17).view(8, 17) * 7 % VOCAB
    mine = tokens.chunk(mesh.data)[mesh.data_rank]
    sums = part.accumulate({"tokens": mine, "mask": torch.ones_like(mine[:, 1:]).bool()})
    part.finish()
    found = {"nats": sums.nats}
    for name, parameter in part.named_parameters():
        whole = part.view(name, parameter.grad)
        found[name] = whole.full_tensor() if isinstance(whole, DTensor) else whole
    return found, counters["stats"]["unique_graphs"]


real_compile = torch.compile


def both(*layouts: dict[str, Any]) -> list[list[tuple[dict[str, torch.Tensor], int]]]:
    return [[computed(layout, compiled) for compiled in (False, True)] for layout in layouts]


def compare(plain: tuple[Any, int], compiled: tuple[Any, int]) -> None:
    assert plain[1] == 0
    assert compiled[1] > 0
    assert plain[0].keys() == compiled[0].keys()
    for name, tensor in plain[0].items():
        torch.testing.assert_close(compiled[0][name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # by Dynamo
def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", torch.compile)  # put back what ``computed`` changes
    (found,) = both({})
    compare(*found)


def test_shared_out_by_sequences_and_by_matrices() -> None:
    for layouts in ranks.run(2, both, {}, {"tensor": 2}):
        for plain, compiled in layouts:
            compare(plain, compiled)
