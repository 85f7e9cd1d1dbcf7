"""How devices share a model and a batch: what must divide, and what each of them keeps.

Without torch. Memory is a formula for every part, in bytes, of the fullest device: FSDP2 shards
over data x context, and arithmetic is in bfloat16 with float32 weights.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from starkiln.core.errors import UserError
from starkiln.model.settings import DEFERRED, LOGITS_AT_ONCE, DecoderSettings, ParallelSettings
from starkiln.train.settings import TrainSettings

_PER_LOGIT = 16  # bytes: bfloat16 and float32 logits, their softmax and both gradients


class Layout(NamedTuple):
    """How the devices share the model and the batch; ``gpus`` is the product of four of them."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    chunks: int = 1  # stages on one device
    recompute: Literal["none", "blocks"] = "none"
    micro_batch: int = 1  # sequences in one forward pass

    @property
    def model(self) -> int:
        """Devices that one copy of the model and one sequence are spread over."""
        return self.tensor * self.pipeline * self.context

    @property
    def gpus(self) -> int:
        """Devices in all."""
        return self.data * self.model

    @property
    def shards(self) -> int:
        """Devices over which FSDP2 spreads weights, gradients and moments."""
        return self.data * self.context


Fault = tuple[str, str, int]  # the key at fault, what is wrong, a value that is right


def laid_out(
    parallel: ParallelSettings, micro_batch: int, train: TrainSettings, gpus: int
) -> Layout:
    """The layout that ``run.parallel`` and ``run.micro_batch`` mean on ``gpus`` devices.

    ``micro_batch`` 0 is all sequences of a device at once, or 1 in a pipeline. Not checked.
    """
    data = max(1, gpus // (parallel.tensor * parallel.pipeline * parallel.context))
    own = max(1, train.batch_size // data)
    micro_batch = min(micro_batch or (own if parallel.pipeline == 1 else 1), own)
    return Layout(data=data, micro_batch=micro_batch, **parallel.model_dump())


def check(
    layout: Layout, decoder: DecoderSettings, train: TrainSettings, vocab_size: int, gpus: int
) -> None:
    """UserError, with the key and a value for it, where something does not divide."""
    for key, what, value in faults(layout, decoder, train, vocab_size, gpus):
        raise UserError(key, what, f"set {key} to {value}" if "." in key else f"use {value} {key}")


def faults(
    layout: Layout, decoder: DecoderSettings, train: TrainSettings, vocab_size: int, gpus: int
) -> Iterator[Fault]:
    """What does not divide, the faults that are to be mended first before the others."""
    found = [*_tensor_faults(layout, decoder, train, vocab_size), *_stage_faults(layout, decoder)]
    yield from found
    model = layout.model
    if gpus < model or gpus % model:
        what = f"{gpus} are no multiple of tensor x pipeline x context = {model}"
        yield "GPUs", what, max(1, gpus // model) * model
    elif gpus != layout.gpus:
        yield "GPUs", f"{gpus} are not the {layout.gpus} of the layout", layout.gpus
    elif not found:
        yield from _batch_faults(layout, train)


def _tensor_faults(
    layout: Layout, decoder: DecoderSettings, train: TrainSettings, vocab_size: int
) -> Iterator[Fault]:
    tensor, length = layout.tensor, train.sequence_length
    shared = {
        "decoder.n_head": decoder.n_head,
        "decoder.n_inner": decoder.inner,
        "tokenizer.vocab_size": vocab_size,
        "train.sequence_length": length,
    }
    key, heads = "run.parallel.tensor", decoder.kv_heads
    whats = [f"{tensor} does not divide {k} {v}" for k, v in shared.items() if v % tensor]
    if heads % tensor and tensor % heads:
        whats.append(f"{tensor} devices cannot share {heads} key/value heads in whole groups")
    common = math.gcd(*shared.values())
    for what in whats:
        fits = (n for n in range(tensor, 0, -1) if not (common % n or (heads % n and n % heads)))
        yield key, what, next(fits)
    parts = [n * tensor * (1 if n == 1 else 2) for n in range(1, layout.context + 1)]
    if not whats and length % parts[-1]:
        what = f"{parts[-1]} parts, twice tensor x context, do not divide {length} tokens"
        best = max(n for n, count in enumerate(parts, 1) if length % count == 0)
        yield "run.parallel.context", what, best


def _stage_faults(layout: Layout, decoder: DecoderSettings) -> Iterator[Fault]:
    layers, pipeline, chunks = decoder.n_layer, layout.pipeline, layout.chunks
    if layers % pipeline:
        what = f"{pipeline} does not divide decoder.n_layer {layers}"
        yield "run.parallel.pipeline", what, _divisor(pipeline, layers)
    elif pipeline == 1 < chunks:
        yield "run.parallel.chunks", f"{chunks}, and there is no pipeline to interleave", 1
    elif layers % (pipeline * chunks):
        what = f"{pipeline} x {chunks} stages do not divide decoder.n_layer {layers}"
        yield "run.parallel.chunks", what, _divisor(chunks, layers // pipeline)


def _batch_faults(layout: Layout, train: TrainSettings) -> Iterator[Fault]:
    batch, data, stages, interleaved = (
        train.batch_size,
        layout.data,
        layout.pipeline,
        layout.chunks > 1,
    )
    own, micro = batch // data, layout.micro_batch
    if batch % data:
        what = f"{batch} sequences do not divide over {data} data-parallel copies"
        yield "train.batch_size", what, -(-batch // data) * data
    elif own % micro:
        what = f"{micro} does not divide the {own} sequences of a copy"
        yield "run.micro_batch", what, _divisor(micro, own)
    elif (each := own // micro) < stages or (interleaved and each % stages):
        rule = "a multiple of" if interleaved else "at least"
        what = f"{each} micro-batches a step; {stages} stages need {rule} {stages}"
        counts = {n: own // n for n in range(micro, 0, -1) if own % n == 0}
        good = [n for n, c in counts.items() if c >= stages and not (interleaved and c % stages)]
        if good:
            yield "run.micro_batch", what, good[0]
        else:
            yield "train.batch_size", what, -(-own // stages) * stages * data


def _divisor(most: int, of: int) -> int:
    return next(n for n in range(min(most, of), 0, -1) if of % n == 0)


class Sizes(NamedTuple):
    """Parameters on one device, before FSDP shards them."""

    block: int  # of one block
    matrices: int  # those of a block that are matrices
    ends: int  # embeddings and last norm
    layers: int

    @property
    def all(self) -> int:
        """Those of every layer here and of the ends."""
        return self.layers * self.block + self.ends


def memory(
    layout: Layout,
    decoder: DecoderSettings,
    train: TrainSettings,
    vocab_size: int,
    device_bytes: int,
) -> dict[str, int]:
    """Bytes by part on the GPU that needs most: the first or the last of a pipeline.

    ``device_bytes`` is a GPU's memory: where gradients are small beside it, they are summed over
    the devices once a step and kept whole until then.
    """
    ends = [(True, True)] if layout.pipeline == 1 else [(True, False), (False, True)]
    found = [_of_stage(layout, decoder, train, vocab_size, device_bytes, *end) for end in ends]
    return max(found, key=lambda parts: sum(parts.values()))


def _of_stage(
    layout: Layout,
    decoder: DecoderSettings,
    train: TrainSettings,
    vocab_size: int,
    device_bytes: int,
    first: bool,
    last: bool,
) -> dict[str, int]:
    sizes = parameters(layout, decoder, vocab_size, first, last)
    micro = layout.micro_batch * train.sequence_length // layout.context  # tokens
    several = train.batch_size > layout.data * layout.micro_batch
    whole = layout.pipeline > 1 or (several and 4 * sizes.all < DEFERRED * device_bytes)
    saved = 4 * sizes.layers * sizes.matrices if train.optimizer == "muon" else 0
    return {
        "weights, float32": _share(4 * sizes.all, layout),
        "weights, bfloat16": _gathered(layout, sizes),
        "gradients": _share(4 * sizes.all, layout) + whole * 4 * sizes.all,
        "optimizer moments": _share(8 * sizes.all - saved, layout),
        "activations": _activations(layout, decoder, train, micro, first),
        "loss": last * _of_loss(layout, decoder, micro, vocab_size),
        "communication": _communication(layout, decoder, sizes, micro),
    }


def parameters(
    layout: Layout,
    decoder: DecoderSettings,
    vocab_size: int,
    first: bool = True,
    last: bool = True,
) -> Sizes:
    """Parameters on a device; a pipeline's first and last stage both have the tied matrix.

    Under tensor parallelism norms, positions, row-linear biases and key/value heads that are
    fewer than devices are whole on every device.
    """
    width, tensor, heads = decoder.n_embd, layout.tensor, decoder.kv_heads
    split = (width + decoder.inner) // tensor
    keys = 2 * decoder.head_dim * (heads // tensor if heads % tensor == 0 else heads)
    matrices = width * (2 * split + keys)
    ends = (first or last) * vocab_size * width // tensor
    ends += first * (0 if decoder.rope_theta else decoder.n_positions) * width
    ends += last * 2 * width
    layers = decoder.n_layer // layout.pipeline
    return Sizes(matrices + split + keys + 6 * width, matrices, ends, layers)


def _share(size: int, layout: Layout) -> int:
    return -(-size // layout.shards)


def _of_loss(layout: Layout, decoder: DecoderSettings, micro: int, vocab_size: int) -> int:
    """A chunk's logits; the head's gradient as a float32 sum, and as one chunk's product."""
    logits = min(LOGITS_AT_ONCE, micro * vocab_size // layout.tensor)
    return _PER_LOGIT * logits + 6 * vocab_size * decoder.n_embd // layout.tensor


def _gathered(layout: Layout, sizes: Sizes) -> int:
    """The copy that is computed with: all of it where it stays for the whole step.

    Else the block at work, the next one, and the embeddings, which do stay.
    """
    if layout.shards == 1 or layout.pipeline > 1:
        return 2 * sizes.all
    return 2 * (min(2, sizes.layers) * sizes.block + sizes.ends)


def block_activations(layout: Layout, decoder: DecoderSettings, length: int) -> int:
    """Bytes that one GPT-2 block keeps of one micro-batch for its backward pass.

    All in bfloat16. Of the tokens that tensor parallelism shares out: both norms' inputs (2E
    bytes each) and their statistics, and a byte a value of two dropouts. Of every token: both
    norms' outputs as gathered (2E each), queries and attention's output (2E / tensor each), both
    sides of the activation (2F / tensor each), keys and values (of the whole sequence, and one
    copy a query head where they are grouped), one float32 a head of FlashAttention's.
    """
    width, tensor, contexts = decoder.n_embd, layout.tensor, layout.context
    tokens = layout.micro_batch * length // contexts
    heads = decoder.n_head // tensor
    own = max(1, decoder.kv_heads // tensor)
    keys = 4 * (own if own in (1, heads) else heads) * decoder.head_dim * contexts
    split = 4 * width + 16 + 2 * width * (decoder.resid_pdrop > 0)
    whole = 4 * width + keys + 4 * (width + decoder.inner) // tensor + 4 * heads
    if contexts > 1:  # two pieces, each with a mask of its own, are put together
        piece = length // (2 * contexts)
        masks = layout.micro_batch * piece * piece * (2 * contexts + 1) * 2
        return tokens * (whole + 2 * width // tensor) + tokens // tensor * split + masks
    return tokens * whole + tokens // tensor * split


def _in_flight(layout: Layout, micro_batches: int, first: bool) -> int:
    """Stages' activations that wait on a device: 1F1B, or interleaved 1F1B."""
    stages, chunks = layout.pipeline, layout.chunks
    waiting = (2 * (stages - 1) if first else 0) + (chunks - 1) * stages + 1
    if chunks == 1:
        waiting = stages if first else 1
    return min(waiting, micro_batches * chunks)


def _activations(
    layout: Layout, decoder: DecoderSettings, train: TrainSettings, tokens: int, first: bool
) -> int:
    """What waits for the backward pass, and the gradients of one block's values."""
    block = block_activations(layout, decoder, train.sequence_length)
    stream = 2 * decoder.n_embd * tokens // layout.tensor
    flying = _in_flight(layout, train.batch_size // (layout.data * layout.micro_batch), first)
    layers = flying * decoder.n_layer // (layout.pipeline * layout.chunks)
    work = 2 * tokens * (decoder.inner // layout.tensor + decoder.n_embd)
    if layout.recompute == "blocks":
        return (layers + 1) * stream + block + work
    return layers * block + 2 * stream + work


def _communication(layout: Layout, decoder: DecoderSettings, sizes: Sizes, tokens: int) -> int:
    """Buffers of FSDP's gathering and reducing, of gathered sequences, of the pipeline's sends."""
    width = 2 * decoder.n_embd * tokens
    found = 6 * max(sizes.block, sizes.ends)  # gradients in bfloat16, then in float32
    if layout.shards > 1:  # a block as it comes in
        found += 2 * sizes.block
    if layout.tensor > 1:
        found += 2 * width
    if layout.pipeline > 1:
        found += 2 * layout.chunks * layout.pipeline * width // layout.tensor
    return found
