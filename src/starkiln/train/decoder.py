"""Train a decoder on token shards: from settings to a Hugging Face folder."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starkiln.core import atomic, launch, manifest
from starkiln.core.errors import UserError
from starkiln.core.settings import Settings
from starkiln.model import checkpoint
from starkiln.model.decoder import draw
from starkiln.model.parallel.mesh import Mesh, join
from starkiln.model.parallel.part import Part
from starkiln.model.settings import (
    DecoderSettings,
    ParallelSettings,
    parameter_count,
    parameter_shapes,
)
from starkiln.tokenizer.settings import FimSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train import fp8, loop, lora, machine, memory, plan, state
from starkiln.train.loader import Loader
from starkiln.train.machine import Machine
from starkiln.train.pack import SPLITS
from starkiln.train.settings import STATE, BaseSettings, RunSettings, TrainSettings
from starkiln.train.validate import validate


def train_decoder(
    *,
    tokens: Path,
    tokenizer: Path,
    out: Path,
    decoder: DecoderSettings,
    train: TrainSettings,
    fim: FimSettings,
    run: RunSettings,
    seed: int,
    base: Path | None = None,
    tune: BaseSettings | None = None,
    on_event: Callable[..., None] = loop.silent,
) -> dict[str, Any]:
    """Train from the shards in ``tokens`` and write a checkpoint to ``out``; returns facts.

    Under ``torchrun`` every process calls this, and ``run.parallel`` says how they share the
    model; the first one hears the events and gets the facts. ``base`` is a checkpoint folder to
    begin with in place of drawn weights, and ``tune`` says what of it is trained.

    ``out`` holds the checkpoint (see ``model.checkpoint``), ``metrics.jsonl``,
    ``validation.jsonl`` and ``state``; a call on an unfinished ``out`` goes on from its state, to
    the same bytes. Events and errors are those of ``loop.train``; the first event is
    ``training``. UserError too where the settings do not fit each other, the data or the devices.
    """
    words = Tokenizer.load(tokenizer)
    vocab_size, read = _start(decoder, words.vocab_size, base, seed)
    here, mesh = _placed(tokens, decoder, train, run, vocab_size)
    shape = {"parameters": parameter_count(decoder, vocab_size), "vocab": vocab_size}
    with machine.failures(here, partial(_mend, decoder, train, run, here, vocab_size)):
        part = _part(decoder, vocab_size, train, run, here, mesh, read, tune, seed)
        if mesh.lead:
            on_event("training", steps=train.steps, **shape, **here.facts)
        readers = [_loader(split, tokens, words, train, fim, seed) for split in SPLITS]
        identity = _identity(decoder, train, fim, tune, _inputs(tokens, words, base), seed)
        judge = _judge(part, readers[1], mesh, train, fim, here.micro_batch)
        task = loop.Task(readers[0].batch, judge, readers[0].names, identity, seed, bool(base))
        facts = loop.train(part, task, train, here, mesh, out, on_event)
        if mesh.lead:
            _write(out, decoder, vocab_size, words, read, tune)
        mesh.barrier()
    mesh.leave()  # not after a failure: NCCL waits for collectives that others never join
    return shape | facts if mesh.lead else {}


def _placed(
    tokens: Path, decoder: DecoderSettings, train: TrainSettings, run: RunSettings, vocab: int
) -> tuple[Machine, Mesh]:
    """How this process computes, and its place among the others; all take as many rows at once."""
    here = machine.resolve(run, train.batch_size, launch.world())
    here = _busy(here, decoder, train, run, vocab)
    _check(tokens, decoder, train, run, here, vocab)
    mesh = join(run.parallel, here.device)
    return replace(here, micro_batch=mesh.share(here.micro_batch)), mesh


def _start(
    decoder: DecoderSettings, vocab_size: int, base: Path | None, seed: int
) -> tuple[int, Callable[[str, range | None], Tensor]]:
    """The vocabulary's size, and what gives rows of each weight to begin with."""
    if base is not None:
        return checkpoint.reader(base)[1:]
    shapes = parameter_shapes(decoder, vocab_size)
    return vocab_size, lambda name, rows: draw(decoder, seed, name, shapes[name], rows)


def _busy(
    here: Machine, decoder: DecoderSettings, train: TrainSettings, run: RunSettings, vocab: int
) -> Machine:
    """``here`` with as many sequences at once as its GPU holds, where the recipe does not say."""
    if run.micro_batch or here.device.type != "cuda":
        return here
    layout = memory.laid_out(run.parallel, 1, train, here.layout["world"])
    size = torch.cuda.get_device_properties(here.device).total_memory
    chosen = plan.widened(layout, decoder, train, vocab, size)
    return replace(here, micro_batch=chosen.micro_batch)


def _part(
    decoder: DecoderSettings,
    vocab_size: int,
    train: TrainSettings,
    run: RunSettings,
    here: Machine,
    mesh: Mesh,
    read: Callable[[str, range | None], Tensor],
    tune: BaseSettings | None,
    seed: int,
) -> Part:
    prepare = None
    if tune is not None and tune.lora_rank:
        prepare = partial(lora.prepare, tune=tune)
        read = lora.reader(read, parameter_shapes(decoder, vocab_size), tune, seed)
    elif here.fp8:
        prepare = fp8.prepare
    return Part(
        decoder,
        vocab_size,
        mesh,
        parallel=run.parallel,
        device=here.device,
        dtype=here.dtype,
        micro_batch=here.micro_batch,
        read=read,
        z_loss=train.z_loss,
        mask_documents=train.mask_documents,
        compile=here.compile,
        prepare=prepare,
    )


def _judge(
    part: Part, reader: Loader, mesh: Mesh, train: TrainSettings, fim: FimSettings, rows: int
) -> Callable[[], dict[str, Any]]:
    windows = max(1, train.validation_tokens // train.sequence_length)
    how = {"rows": rows, "windows": windows, "fim": bool(fim.rate)}
    return partial(validate, part.evaluate, reader, mesh, **how)


def _write(
    out: Path,
    decoder: DecoderSettings,
    vocab_size: int,
    words: Tokenizer,
    read: Callable[[str, range | None], Tensor],
    tune: BaseSettings | None,
) -> None:
    """The Hugging Face folder of the last state, a tensor at a time."""
    names = list(parameter_shapes(decoder, vocab_size))
    path = state.states(out / STATE)[0]
    if tune is not None and tune.lora_rank:
        adapted = {
            n.removeprefix("model/"): tensor
            for n, tensor in state.read(path)
            if n.startswith("model/")
        }
        lora.save_adapter(out / "adapter", adapted, decoder, tune)
        tensors = lora.merged(((name, read(name, None)) for name in names), adapted, tune)
    else:
        tensors = state.read(path, [f"model/{name}" for name in names])
        tensors = ((name.removeprefix("model/"), tensor) for name, tensor in tensors)
    checkpoint.write(out, decoder, vocab_size, words, tensors)


def _loader(
    split: str, tokens: Path, words: Tokenizer, train: TrainSettings, fim: FimSettings, seed: int
) -> Loader:
    return Loader(
        tokens,
        words,
        split=split,
        sequence_length=train.sequence_length,
        seed=seed,
        fim_rate=fim.rate,
        spm_rate=fim.spm_rate,
        weights=train.weights if split == "train" else {},
        only=train.sources if split == "train" else [],
    )


def _check(
    tokens: Path,
    decoder: DecoderSettings,
    train: TrainSettings,
    run: RunSettings,
    here: Machine,
    vocab_size: int,
) -> None:
    if train.sequence_length > decoder.n_positions:
        raise UserError(
            "train.sequence_length",
            f"{train.sequence_length} is more than decoder.n_positions {decoder.n_positions}",
            "raise n_positions or shorten the sequences",
        )
    if manifest.read(tokens) is None:
        raise UserError(tokens, "no finished token shards here", "pack the curated documents")
    world = here.layout["world"]
    if world > 1 or run.parallel != ParallelSettings():
        layout = memory.laid_out(run.parallel, here.micro_batch, train, world)
        memory.check(layout, decoder, train, vocab_size, world)


def _mend(
    decoder: DecoderSettings, train: TrainSettings, run: RunSettings, here: Machine, vocab: int
) -> str:
    """What to do where the memory is not enough."""
    layout = memory.laid_out(run.parallel, here.micro_batch, train, here.layout["world"])
    size = torch.cuda.get_device_properties(here.device).total_memory
    return plan.out_of_memory_mend(layout, decoder, train, vocab, size)


def _inputs(tokens: Path, words: Tokenizer, base: Path | None) -> dict[str, str]:
    own = {"tokens": atomic.sha256(tokens / manifest.NAME), "tokenizer": words.definition}
    return own | (checkpoint.stamps(base) if base else {})


def _identity(
    decoder: DecoderSettings,
    train: TrainSettings,
    fim: FimSettings,
    tune: BaseSettings | None,
    inputs: dict[str, str],
    seed: int,
) -> str:
    made_by: list[Settings] = [decoder, train, fim]
    if tune is not None:  # what the base holds is an input; where it lies is of no account
        made_by.append(tune.model_copy(update={"checkpoint": ""}))
    return state.identity(made_by, inputs, seed)
