"""Judge a model on held-out windows: loss and bits per byte, of all and of each source."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from starkiln.model.parallel.mesh import Mesh
from starkiln.train.loader import Loader, Validation

Nats = Callable[[Tensor, Tensor], Tensor]  # of tokens [B, T + 1] and mask [B, T]: sums [B]


def validate(
    nats: Nats, held_out: Loader, mesh: Mesh, *, rows: int, windows: int, fim: bool
) -> dict[str, Any]:
    """``score`` of at most ``windows`` windows, ``rows`` at a time; with ``fim`` rearranged too."""

    def judged(fim: bool) -> dict[str, Any]:
        batches = held_out.validation(rows, fim=fim, limit=windows)
        return score(nats, shared(batches, rows, mesh), list(held_out.tokens), mesh)

    row = judged(False)
    if fim:
        mixed = judged(True)
        row["fim"] = {name: mixed[name] for name in ("loss", "bits_per_byte")}
    return row


def score(
    nats: Nats, batches: Iterable[Validation], sources: list[str], mesh: Mesh
) -> dict[str, Any]:
    """Loss in nats a target and bits per byte of text: of all windows, and of each source.

    ``nats`` gives sums that are zero but on one of the processes that share a batch. End-of-text
    and other sentinels count with their nats, though they have no bytes.
    """
    copies = mesh.world // mesh.data
    sums = np.zeros((len(sources), 3))
    for batch in batches:
        found = nats(torch.from_numpy(batch.tokens), torch.from_numpy(batch.mask))
        counts = np.stack([batch.mask.sum(1), batch.bytes.sum(1)], axis=1) / copies
        rows = np.column_stack([found.double().cpu().numpy(), counts])
        np.add.at(sums, [sources.index(name) for name in batch.sources], rows)
    sums = np.array(mesh.sum(sums.ravel().tolist())).reshape(sums.shape)
    each = {name: _ratios(row) for name, row in zip(sources, sums) if round(row[1])}
    return _ratios(sums.sum(0)) | {"sources": each}


def shared(batches: Iterable[Validation], rows: int, mesh: Mesh) -> Iterator[Validation]:
    """This process's share of ``batches``: as many and as large on each, blanks if need be."""
    if mesh.world == 1:
        yield from batches
        return
    batches = iter(batches)
    while several := list(islice(batches, mesh.data)):
        idle = mesh.data_rank >= len(several)
        yield _filled(several[0 if idle else mesh.data_rank], rows, blank=idle)


def _filled(batch: Validation, rows: int, blank: bool) -> Validation:
    """``batch`` of exactly ``rows`` rows; those that are added, or all, have no target."""
    more = [(0, rows - len(batch.tokens)), (0, 0)]
    tokens, mask, size = (np.pad(part, more) for part in batch[:3])
    if blank:
        mask, size = np.zeros_like(mask), np.zeros_like(size)
    return Validation(tokens, mask, size, batch.sources + batch.sources[:1] * more[0][1])


def _ratios(sums: np.ndarray) -> dict[str, float]:
    nats, targets, size = sums.tolist()
    bits = nats / math.log(2)
    return {
        "loss": nats / max(1, targets),
        "bits_per_byte": bits / max(1, size),
        "targets": round(targets),
        "bytes": round(size),
    }
