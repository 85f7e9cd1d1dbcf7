"""What a layout keeps, against real tensors; what does not divide, and mends that do mend."""

import re
from functools import partial
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint

from starkiln import pipeline
from starkiln.core import recipe
from starkiln.core.errors import UserError
from starkiln.model.decoder import Block, Decoder
from starkiln.model.parallel.collectives import Group
from starkiln.model.parallel.share import Share, Stage
from starkiln.model.settings import DecoderSettings, ParallelSettings
from starkiln.train import cost, memory
from starkiln.train.memory import Layout
from starkiln.train.settings import TrainSettings

GIB = 2**30
PAPER = Layout(data=32, tensor=4, pipeline=4)
SMALL = DecoderSettings(
    n_layer=4, n_embd=64, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
)
GROUPED = SMALL.model_copy(update={"num_key_value_heads": 2, "rope_theta": 1e4})
MULTI_HEAD = SMALL.model_copy(update={"multi_query": False, "n_inner": 128})
SHAPES = {"multi-query": SMALL, "grouped": GROUPED, "multi-head": MULTI_HEAD}


def preset(name: str) -> tuple[DecoderSettings, TrainSettings, int]:
    found = pipeline.load(recipe.PRESETS / f"{name}.toml").value
    return found.decoder, found.train, found.tokenizer.vocab_size


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("shape", SHAPES)
def test_states_are_those_of_a_real_decoder(shape: str, optimizer: str) -> None:
    model = Decoder(SHAPES[shape], 256)
    blocks = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    single = set(map(id, blocks)) if optimizer == "muon" else set()
    adam = torch.optim.AdamW([p for p in model.parameters() if id(p) not in single])
    momentum = torch.optim.SGD(blocks, momentum=0.9) if single else None
    nats, _ = model.nats(
        model.hidden(torch.zeros(1, 8, dtype=torch.long)), torch.zeros(1, 8).long()
    )
    nats.sum().backward()
    size = {"gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)}
    size["weights, float32"] = sum(p.nbytes for p in model.parameters())
    size["weights, bfloat16"] = size["weights, float32"] // 2
    size["optimizer moments"] = 0
    for one in filter(None, (adam, momentum)):
        one.step()
        tensors = [t for state in one.state.values() for t in state.values() if t.ndim]
        size["optimizer moments"] += sum(t.nbytes for t in tensors)
    train = TrainSettings(batch_size=1, sequence_length=8, optimizer=optimizer)
    found = memory.memory(Layout(), SHAPES[shape], train, 256, GIB)
    assert {part: found[part] for part in size} == size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("stages", [1, 2])
def test_parameters_are_those_of_every_share(shape: str, tensor: int, stages: int) -> None:
    config = SHAPES[shape]
    layout = Layout(tensor=tensor, pipeline=stages)
    for index in range(stages):
        share = Share(
            config, 256, stage=Stage(index, stages), tensors=Group("", tensor, tensor - 1)
        )
        counted = sum(p.numel() for p in share.parameters())
        first, last = index == 0, index == stages - 1
        assert memory.parameters(layout, config, 256, first, last).all == counted


def saved_bytes(config: DecoderSettings, tokens: int) -> int:
    """What a block in bfloat16 keeps for its backward pass, its weights left out."""
    block = Block(config).bfloat16()
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(1, tokens, config.n_embd, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(x)
        size = sum(nbytes for place, nbytes in kept.items() if place not in weights)
    del out
    return size


@pytest.mark.parametrize("shape", ["multi-query", "multi-head"])
def test_activations_are_what_a_real_block_keeps(shape: str) -> None:
    """Within 1 %, on the CPU's flash attention, which keeps what a GPU's does."""
    tokens = 1280  # above the length up to which a CPU has attention of its own
    found = memory.block_activations(Layout(), SHAPES[shape], tokens)
    assert found == pytest.approx(saved_bytes(SHAPES[shape], tokens), rel=0.01)


def test_grouped_activations_are_bounded() -> None:
    """Keys and values repeated for their queries; what rotation keeps is within a tenth."""
    found = memory.block_activations(Layout(), GROUPED, 1280)
    assert found == pytest.approx(saved_bytes(GROUPED, 1280), rel=0.1)


@pytest.mark.parametrize("recompute", ["none", "blocks"])
def test_the_peak_at_full_width(recompute: Literal["none", "blocks"]) -> None:
    """Six blocks of the 1B, forward and backward, in tensors without memory: within 2 %."""
    decoder, train, vocab = preset("starcoderbase-1b")
    without = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    decoder = decoder.model_copy(update={"n_layer": 6, **without})
    model = Decoder(decoder, vocab, device="meta")
    with FakeTensorMode():
        for module in model.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                weight = nn.Parameter(torch.empty(p.shape, dtype=torch.bfloat16))
                weight.grad = torch.zeros_like(weight)
                setattr(module, name, weight)
        ids = torch.zeros(1, train.sequence_length, dtype=torch.long)
        if recompute == "blocks":
            for block in model.transformer.h.values():
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        states = sum(p.nbytes + p.grad.nbytes for p in model.parameters() if p.grad is not None)
        tracker = MemTracker()
        tracker.track_external(model, ids, *[p.grad for p in model.parameters()])
        with tracker:
            out = model.hidden(ids)  # which the loss keeps
            out.sum().backward()
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))["Total"]
    found = memory.memory(Layout(recompute=recompute), decoder, train, vocab, 0)["activations"]
    assert found == pytest.approx(peak - states, rel=0.02)


def test_what_each_way_of_sharing_saves() -> None:
    where = preset("starcoderbase-15b")
    room = cost.chip_named("a100").memory

    def parts(**layout: object) -> dict[str, int]:
        return memory.memory(Layout(**layout), *where, room)

    alone, sharded = parts(), parts(data=8)
    for part in ("weights, float32", "optimizer moments"):
        assert sharded[part] == -(-alone[part] // 8)
        assert parts(data=4, context=2)[part] == sharded[part]
    assert parts(data=8, recompute="blocks")["activations"] < sharded["activations"] / 8
    halved = parts(data=8, tensor=2)["activations"] / sharded["activations"]
    assert 0.5 < halved < 0.65  # the gathered inputs of its matrices are whole
    assert parts(data=8, context=2)["activations"] < 0.6 * sharded["activations"]
    assert parts(data=8, micro_batch=2)["activations"] == 2 * sharded["activations"]
    piped = parts(data=2, pipeline=4)
    assert piped["activations"] == pytest.approx(sharded["activations"], rel=0.01)  # 4 in flight
    assert (
        piped["gradients"] > 4 * memory.parameters(Layout(pipeline=4), where[0], where[2]).all / 2
    )


def fits(layout: Layout, decoder: DecoderSettings, train: TrainSettings, vocab: int) -> bool:
    """The rules, once more and plainly."""
    shared, kv = layout.tensor, decoder.kv_heads
    whole = [decoder.n_head, decoder.inner, vocab, train.sequence_length]
    pieces = shared * layout.context * (2 if layout.context > 1 else 1)
    own, odd = divmod(train.batch_size, layout.data)
    count, left = divmod(own, layout.micro_batch)
    return (
        all(n % shared == 0 for n in whole)
        and (kv % shared == 0 or shared % kv == 0)
        and train.sequence_length % pieces == 0
        and decoder.n_layer % (layout.pipeline * layout.chunks) == 0
        and (layout.chunks == 1 or (layout.pipeline > 1 and count % layout.pipeline == 0))
        and not odd
        and not left
        and count >= layout.pipeline
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple:
    kv = draw(st.sampled_from([1, 2, 3, 6]))
    heads = kv * draw(st.integers(1, 8))
    decoder = DecoderSettings(
        n_layer=draw(st.integers(1, 24)),
        n_embd=8 * heads,
        n_head=heads,
        n_inner=draw(st.integers(1, 96)),
        num_key_value_heads=kv,
    )
    train = TrainSettings(
        batch_size=draw(st.integers(1, 64)), sequence_length=draw(st.integers(2, 128))
    )
    small = st.integers(1, 6)
    parallel = ParallelSettings(
        tensor=draw(small), pipeline=draw(small), context=draw(small), chunks=draw(small)
    )
    return decoder, train, draw(st.integers(1, 96)), parallel, draw(st.integers(0, 9))


@settings(max_examples=400)
@given(case=cases(), gpus=st.integers(1, 80))
def test_every_mend_mends(case: tuple, gpus: int) -> None:
    """To do what the errors say, one after another, ends in a layout that is right."""
    decoder, train, vocab, parallel, micro = case
    for _ in range(12):
        layout = memory.laid_out(parallel, micro, train, gpus)
        try:
            memory.check(layout, decoder, train, vocab, gpus)
        except UserError as error:
            key, value = _said(error)
            if key == "GPUs":
                gpus = value
            elif key == "run.micro_batch":
                micro = value
            elif key == "train.batch_size":
                train = train.model_copy(update={"batch_size": value})
            else:
                name = key.removeprefix("run.parallel.")
                parallel = parallel.model_copy(update={name: value})
            continue
        assert fits(layout, decoder, train, vocab)
        assert layout.gpus == gpus
        return
    pytest.fail("the mends go round in a circle")


@settings(max_examples=400)
@given(case=cases(), data=st.integers(1, 8), micro=st.integers(1, 8))
def test_what_is_refused_does_not_divide(case: tuple, data: int, micro: int) -> None:
    decoder, train, vocab, parallel, _ = case
    layout = Layout(data=data, micro_batch=micro, **parallel.model_dump())
    found = list(memory.faults(layout, decoder, train, vocab, layout.gpus))
    assert (not found) == fits(layout, decoder, train, vocab)


def _said(error: UserError) -> tuple[str, int]:
    found = re.fullmatch(r"set (\S+) to (\d+)|use (\d+) GPUs", error.mend)
    assert found, error.mend
    assert error.where == (found[1] or "GPUs")
    return error.where, int(found[2] or found[3])


@pytest.mark.parametrize(
    ("layout", "gpus", "sentence"),
    [
        (Layout(tensor=5), 5, "run.parallel.tensor: 5 does not divide decoder.n_head 48; set"),
        (Layout(tensor=32), 32, "decoder.n_head 48; set run.parallel.tensor to 16"),
        (Layout(pipeline=6), 6, "n_layer 40; set run.parallel.pipeline to 5"),
        (Layout(pipeline=4, chunks=3, data=8), 32, "stages do not divide decoder.n_layer 40; set"),
        (Layout(chunks=2), 1, "no pipeline to interleave; set run.parallel.chunks to 1"),
        (Layout(context=3), 3, "8192 tokens; set run.parallel.context to 2"),
        (Layout(data=3, tensor=4, pipeline=4), 50, "GPUs: 50 are no multiple of"),
        (Layout(data=48), 48, "48 data-parallel copies; set train.batch_size to 528"),
        (Layout(data=32, micro_batch=3), 32, "16 sequences of a copy; set run.micro_batch to 2"),
        (PAPER._replace(micro_batch=8), 512, "at least 4; set run.micro_batch to 4"),
        (PAPER._replace(data=512), 8192, "1 micro-batches a step; 4 stages need at least 4; set"),
    ],
)
def test_faults_name_key_and_value(layout: Layout, gpus: int, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        memory.check(layout, *preset("starcoderbase-15b"), gpus)
    assert sentence in str(error.value)


def test_the_papers_own_layouts_divide() -> None:
    memory.check(PAPER, *preset("starcoderbase-15b"), 512)
    memory.check(Layout(data=256, tensor=2), *preset("starcoderbase-7b"), 512)
    memory.check(Layout(data=256), *preset("starcoderbase-3b"), 256)
    memory.check(Layout(data=128), *preset("starcoderbase-1b"), 128)


def test_micro_batches_unsaid() -> None:
    train = TrainSettings(batch_size=64)
    assert memory.laid_out(ParallelSettings(), 0, train, 8).micro_batch == 8
    assert memory.laid_out(ParallelSettings(pipeline=4), 0, train, 8).micro_batch == 1
    assert memory.laid_out(ParallelSettings(), 99, train, 8).micro_batch == 8
