"""What the decoder is asked for: the sums of its loss over the targets of a batch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from starkiln.code.sentinels import END_OF_TEXT
from starkiln.model.decoder import Decoder

Batch = dict[str, Tensor]  # each [B, ...]


class Sums(NamedTuple):
    """Of the sequences of a batch."""

    loss: Tensor  # scalar: what to differentiate, the sum of nats and of penalties
    nats: Tensor  # float32 [B]
    targets: Tensor  # int64 [B]


def next_token(
    model: Decoder, batch: Batch, *, z_loss: float = 0.0, mask_documents: bool = False
) -> Sums:
    """The decoder's loss on ``tokens`` int64 [B, T + 1] and ``mask`` bool [B, T] over targets.

    ``z_loss`` times the squared log of each softmax's normaliser is a penalty (PaLM §5).
    ``mask_documents`` keeps attention within a document and counts positions from its start.
    """
    ids, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    places: dict[str, Any] = document_places(ids) if mask_documents else {}
    found = model.nats(model.hidden(ids, **places), targets, penalised=bool(z_loss))
    return summed(*found, batch["mask"], z_loss)


def summed(nats: Tensor, normaliser: Tensor, mask: Tensor, z_loss: float) -> Sums:
    """The sums of nats and normalisers [B, T], over ``mask``."""
    nats = nats.masked_fill(~mask, 0.0).sum(1)
    loss = nats.sum()
    if z_loss:
        loss = loss + z_loss * normaliser.masked_fill(~mask, 0.0).square().sum()
    return Sums(loss, nats.detach(), mask.sum(1))


def document_places(ids: Tensor) -> dict[str, Tensor]:
    """The document of each id and its position there, both int64 [B, T]."""
    ends = ids == END_OF_TEXT  # closes a document, and belongs to it
    documents = ends.cumsum(1) - ends.long()
    steps = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
    begins = torch.where(documents.diff(dim=1, prepend=documents[:, :1]) != 0, steps, 0)
    return {"documents": documents, "positions": steps - begins.cummax(1).values}
