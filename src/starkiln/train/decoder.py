"""Train a decoder on token shards: from settings to a Hugging Face folder."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from starkiln.core import atomic, manifest
from starkiln.core.errors import UserError
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.settings import FimSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train import loop, machine, objectives
from starkiln.train.loader import Loader, Validation
from starkiln.train.pack import source_name
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
    _check(tokens, decoder, train)
    words = Tokenizer.load(tokenizer)
    here = machine.resolve(run, train.batch_size)
    model = Decoder(decoder, words.vocab_size, seed=seed)
    shape = {"parameters": sum(p.numel() for p in model.parameters()), "vocab": words.vocab_size}
    on_event("training", steps=train.steps, **shape, **here.facts)
    held_out = _loader("validation", tokens, words, train, fim, seed)

    def validate(model: Decoder) -> dict[str, Any]:
        limit = max(1, train.validation_tokens // train.sequence_length)
        row = score(model, held_out.validation(here.micro_batch, limit=limit))
        if fim.rate:
            mixed = score(model, held_out.validation(here.micro_batch, fim=True, limit=limit))
            row["fim"] = {name: mixed[name] for name in ("loss", "bits_per_byte")}
        return row

    task = loop.Task(
        objective=objectives.next_token,
        read=_loader("train", tokens, words, train, fim, seed).batch,
        validate=validate,
        identity=_identity(tokens, words, [decoder, train, fim], seed),
        seed=seed,
    )
    facts = loop.train(model, task, train, here, out, on_event)
    checkpoint.save(out, model, words)
    return shape | facts


def score(model: Decoder, batches: Iterable[Validation]) -> dict[str, Any]:
    """Loss in nats a target and bits per byte of text: of all windows, and of each source.

    End-of-text and other sentinels count with their nats, though they have no bytes.
    """
    device = next(model.parameters()).device
    sums: dict[str, np.ndarray] = {}
    for batch in batches:
        ids, mask = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.mask))
        nats = model.nats(ids[:, :-1], ids[:, 1:]).double().masked_fill(~mask, 0.0).sum(1)
        rows = np.stack([nats.cpu().numpy(), batch.mask.sum(1), batch.bytes.sum(1)], axis=1)
        for source, row in zip(batch.sources, rows, strict=True):
            sums[source] = sums.get(source, 0.0) + row
    each = {source: _ratios(sums[source]) for source in sorted(sums)}
    return _ratios(np.sum(list(sums.values()), axis=0)) | {"sources": each}


def _ratios(sums: np.ndarray) -> dict[str, float]:
    nats, targets, size = sums.tolist()
    bits = nats / math.log(2)
    return {
        "loss": nats / max(1, targets),
        "bits_per_byte": bits / max(1, size),
        "targets": int(targets),
        "bytes": int(size),
    }


def _loader(
    split: str, tokens: Path, words: Tokenizer, train: TrainSettings, fim: FimSettings, seed: int
) -> Loader:
    weights = train.weights
    if split == "validation":  # a small source may have nothing held out
        held_out = {source_name(place.name) for place in (tokens / split).glob("*/")}
        weights = {name: weight for name, weight in weights.items() if name in held_out}
    return Loader(
        tokens,
        words,
        split=split,
        sequence_length=train.sequence_length,
        seed=seed,
        fim_rate=fim.rate,
        spm_rate=fim.spm_rate,
        weights=weights,
    )


def _check(tokens: Path, decoder: DecoderSettings, train: TrainSettings) -> None:
    if train.sequence_length > decoder.n_positions:
        raise UserError(
            "train.sequence_length",
            f"{train.sequence_length} is more than decoder.n_positions {decoder.n_positions}",
            "raise n_positions or shorten the sequences",
        )
    if manifest.read(tokens) is None:
        raise UserError(tokens, "no finished token shards here", "pack the curated documents")


def _identity(tokens: Path, words: Tokenizer, settings: list[Any], seed: int) -> str:
    """The fingerprint of what a state must agree with to be gone on from."""
    made_by = [
        {"name": type(part).__name__, "version": 1, "settings": part.model_dump(mode="json")}
        for part in settings
    ]
    inputs = {"tokens": atomic.sha256(tokens / manifest.NAME), "tokenizer": words.definition}
    return manifest.Identity(f"training, seed {seed}", made_by, inputs).fingerprint
