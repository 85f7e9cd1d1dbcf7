"""The plain, slow forms of what is done in parts elsewhere."""

from typing import Any

from torch import Tensor

from starkiln.model.decoder import Decoder
from starkiln.model.loss import Sums, document_places, summed


def next_token(
    model: Decoder, batch: dict[str, Tensor], *, z_loss: float = 0.0, mask_documents: bool = False
) -> Sums:
    """A whole decoder's loss on ``tokens`` int64 [B, T + 1] and ``mask`` bool [B, T].

    ``z_loss`` times the squared log of each softmax's normaliser is a penalty (PaLM §5).
    ``mask_documents`` keeps attention within a document and counts positions from its start.
    """
    ids, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    places: dict[str, Any] = document_places(ids) if mask_documents else {}
    found = model.nats(model.hidden(ids, **places), targets)
    return summed(*found, batch["mask"], z_loss)
