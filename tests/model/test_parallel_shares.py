"""Which rank has what: of devices, layers, matrices and sequences."""

from types import SimpleNamespace

import pytest
import torch

import ranks
from starkiln.core.errors import UserError
from starkiln.model.decoder import draw
from starkiln.model.parallel import context
from starkiln.model.parallel.collectives import Group
from starkiln.model.parallel.mesh import Mesh, join, rank_map
from starkiln.model.parallel.part import Part
from starkiln.model.parallel.share import Share, Stage
from starkiln.model.parallel.tensor import dimension, span
from starkiln.model.settings import DecoderSettings, ParallelSettings, parameter_shapes

PAPER = ParallelSettings(tensor=4, pipeline=4)


def test_the_papers_layout_keeps_tensor_ranks_in_one_machine() -> None:
    places = rank_map(512, PAPER)
    assert places.shape == (4, 32, 1, 4)
    for group in places.flatten(0, 2).tolist():  # those that share matrices
        assert group == list(range(group[0], group[0] + 4))
        assert group[0] // 8 == group[-1] // 8
    for group in places.flatten(1).T.tolist():  # those that share layers
        assert group == [group[0] + 128 * stage for stage in range(4)]
    assert places[0, :, 0, 0].tolist() == list(range(0, 128, 4))


def test_context_lies_between_tensor_and_data() -> None:
    places = rank_map(16, ParallelSettings(tensor=2, pipeline=2, context=2))
    assert places[0, 0].tolist() == [[0, 1], [2, 3]]
    assert places[0, 1].tolist() == [[4, 5], [6, 7]]
    assert places[1, 0, 0].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("world", "settings"),
    [(512, PAPER), (16, ParallelSettings(tensor=2, pipeline=2, context=2)), (6, PAPER)],
)
def test_a_rank_knows_its_place(world: int, settings: ParallelSettings) -> None:
    if world == 6:
        with pytest.raises(UserError, match=r"= 16 does not divide 6 processes.*torchrun"):
            rank_map(world, settings)
        return
    places = rank_map(world, settings)
    for rank in range(world):
        mesh = Mesh(rank, *places.shape)
        context_rank = mesh.shard_rank % mesh.context
        place = mesh.pipeline_rank, mesh.data_rank, context_rank, mesh.tensor_rank
        assert places[place] == rank
        assert mesh.world == world
    assert len({Mesh(rank, *places.shape).seed_offset for rank in range(world)}) == world


def test_a_process_alone_has_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    mesh = join(ParallelSettings(), torch.device("cpu"))
    assert mesh.lead
    assert mesh.world == 1
    assert mesh.sum([0.1, 2.0]) == [0.1, 2.0]
    assert mesh.share({"a": 1}) == {"a": 1}
    mesh.barrier()
    mesh.leave()
    assert not torch.distributed.is_initialized()
    with pytest.raises(UserError, match=r"run.parallel.*tensor 2 = 2 does not divide 1 processes"):
        join(ParallelSettings(tensor=2), torch.device("cpu"))


def deferring(memories: list[int]) -> bool:
    """On a rank whose GPU has its own of these memories."""
    parallel = ParallelSettings()
    mesh, cpu = join(parallel, torch.device("cpu")), torch.device("cpu")
    config = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=8)
    shapes = parameter_shapes(config, 50)
    part = Part(
        config,
        50,
        mesh,
        parallel=parallel,
        device=cpu,
        dtype=torch.float32,
        micro_batch=1,
        read=lambda name, rows: draw(config, 0, name, shapes[name], rows),
    )
    part.device = torch.device("cuda", mesh.rank)
    gpu = SimpleNamespace(total_memory=memories[mesh.rank])
    torch.cuda.get_device_properties = lambda device: gpu
    return part._defers()


@pytest.mark.parametrize(("first", "other"), [(2**10, 2**40), (2**40, 2**10)])
def test_gpus_of_unlike_memory_sum_gradients_at_the_same_time(first: int, other: int) -> None:
    assert ranks.run(2, deferring, [first, other]) == [first > other] * 2


@pytest.mark.parametrize(("layers", "count"), [(40, 4), (40, 16), (7, 4), (5, 5), (3, 1)])
def test_stages_have_all_layers_in_order_and_evenly(layers: int, count: int) -> None:
    stages = [Stage(index, count) for index in range(count)]
    runs = [stage.layers(layers) for stage in stages]
    assert [layer for run in runs for layer in run] == list(range(layers))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert [stage.first for stage in stages] == [True] + [False] * (count - 1)
    assert [stage.last for stage in stages] == [False] * (count - 1) + [True]


def test_stages_have_every_parameter_once_but_the_tied_one() -> None:
    config = DecoderSettings(n_layer=6, n_embd=16, n_head=2, n_positions=8)
    whole = dict(Share(config, 50).named_parameters())
    parts = [dict(Share(config, 50, stage=Stage(i, 3)).named_parameters()) for i in range(3)]
    names = [name for part in parts for name in part]
    assert set(names) == set(whole)
    assert sorted(names) == sorted([*whole, "transformer.wte.weight"])
    assert next(iter(parts[2])) == "transformer.wte.weight"
    assert {p.device.type for p in whole.values()} == {"meta"}


@pytest.mark.parametrize(("count", "parts"), [(8, 4), (99, 4), (5, 4), (3, 8), (49152, 8)])
def test_spans_are_torchs_chunks(count: int, parts: int) -> None:
    chunks = [tuple(chunk.tolist()) for chunk in torch.arange(count).chunk(parts)]
    spans = [tuple(span(count, parts, index)) for index in range(parts)]
    assert spans == chunks + [()] * (parts - len(chunks))


def test_what_tensor_ranks_share_out() -> None:
    multi_query = DecoderSettings()
    grouped = DecoderSettings(num_key_value_heads=4)
    at = "transformer.h.0."
    assert dimension("transformer.wte.weight", multi_query, 4) == 0
    assert dimension(at + "attn.q_attn.bias", multi_query, 4) == 0
    assert dimension(at + "mlp.c_fc.weight", multi_query, 4) == 0
    assert dimension(at + "attn.c_proj.weight", multi_query, 4) == 1
    assert dimension(at + "mlp.c_proj.bias", multi_query, 4) is None
    assert dimension(at + "ln_1.weight", multi_query, 4) is None
    assert dimension("transformer.wpe.weight", multi_query, 4) is None
    assert dimension(at + "attn.kv_attn.weight", multi_query, 4) is None
    assert dimension(at + "attn.kv_attn.weight", grouped, 4) == 0
    assert dimension(at + "attn.kv_attn.weight", grouped, 12) is None
    assert dimension(at + "attn.q_attn.weight", multi_query, 1) is None


@pytest.mark.parametrize("size", [1, 2, 4])
def test_context_ranks_have_equal_work(size: int) -> None:
    positions = torch.arange(64)
    shares = [context.share(positions, Group("", size, rank)) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == positions.tolist()
    assert len({int((share + 1).sum()) for share in shares}) == 1  # keys seen
