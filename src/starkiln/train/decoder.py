"""Train a decoder on token shards: from settings to a Hugging Face folder."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from starkiln.core import atomic, keyed, manifest
from starkiln.core.errors import UserError
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.settings import FimSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train import loop, machine, objectives
from starkiln.train.loader import Loader, Validation
from starkiln.train.settings import RunSettings, TrainSettings


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
    on_event: Callable[..., None] = loop.silent,
) -> dict[str, Any]:
    """Train from the shards in ``tokens`` and write a checkpoint to ``out``; returns facts.

    ``out`` holds the checkpoint (see ``model.checkpoint``), ``metrics.jsonl``,
    ``validation.jsonl`` and ``state``; a call on an unfinished ``out`` goes on from its state, to
    the same bytes. Events and errors are those of ``loop.train``; the first event is
    ``training``. UserError too where the settings do not fit each other or the data.
    """
    if train.sequence_length > decoder.n_positions:
        raise UserError(
            "train.sequence_length",
            f"{train.sequence_length} is more than decoder.n_positions {decoder.n_positions}",
            "raise n_positions or shorten the sequences",
        )
    here = machine.resolve(run, train.batch_size)
    words = Tokenizer.load(tokenizer)
    data, held_out = (
        Loader(
            tokens,
            words,
            split=split,
            sequence_length=train.sequence_length,
            seed=seed,
            fim_rate=fim.rate,
            spm_rate=fim.spm_rate,
            weights=train.weights,
        )
        for split in ("train", "validation")
    )
    model = Decoder(decoder, words.vocab_size, seed=seed)
    shape = {"parameters": sum(p.numel() for p in model.parameters()), "vocab": words.vocab_size}
    on_event("training", steps=train.steps, **shape, **here.facts)

    def judged(model: Decoder) -> dict[str, Any]:
        limit = max(1, train.validation_tokens // train.sequence_length)
        orders = (False, True) if fim.rate else (False,)
        plain, *mixed = (
            score(model, held_out.validation(here.micro_batch, fim=order, limit=limit))
            for order in orders
        )
        return plain | {"fim": {k: v for k, v in m.items() if k != "sources"} for m in mixed[:1]}

    task = loop.Task(
        objective=objectives.next_token,
        read=data.batch,
        validate=judged,
        identity=_identity(tokens, words, decoder, train, fim, seed),
        seed=seed,
    )
    facts = loop.train(model, task, train, here, out, on_event)
    checkpoint.save(out, model, words)
    return shape | facts


def score(model: Decoder, batches: Iterable[Validation]) -> dict[str, Any]:
    """Loss in nats a target, bits per byte of text, targets and bytes; and so by source.

    The nats of end-of-text and of sentinels count, though they have no bytes.
    """
    device = next(model.parameters()).device
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for batch in batches:
        ids, mask = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.mask))
        nats = model.nats(ids[:, :-1], ids[:, 1:]).double().masked_fill(~mask, 0.0).sum(1)
        rows = zip(batch.sources, nats.tolist(), batch.mask.sum(1), batch.bytes.sum(1), strict=True)
        for source, *row in rows:
            sums[source] = [a + b for a, b in zip(sums[source], map(_plain, row), strict=True)]
    whole = [sum(column) for column in zip(*sums.values(), strict=True)]
    return _ratios(*whole) | {"sources": {name: _ratios(*sums[name]) for name in sorted(sums)}}
