"""The decoder's loss: scores of targets, a chunk of logits at a time, and sums over a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from starkiln.code.sentinels import END_OF_TEXT

Batch = dict[str, Tensor]  # each [B, ...]
Normalise = Callable[[Tensor], Tensor]


class Sums(NamedTuple):
    """Of the sequences of a batch."""

    loss: Tensor  # scalar: what to differentiate, the sum of nats and of penalties
    nats: Tensor  # float32 [B]
    targets: Tensor  # int64 [B]


def normalisers(logits: Tensor) -> Tensor:
    """Log of each softmax's normaliser [N], of logits [N, V]."""
    return logits[:, 0] - logits.log_softmax(-1)[:, 0]  # on CPUs twice as fast as logsumexp


def scores(
    hidden: Tensor, head: Tensor, targets: Tensor, rows: int, normalise: Normalise = normalisers
) -> tuple[Tensor, Tensor]:
    """Each target's logit and the log of the normaliser, float32 [N], of hidden states [N, E].

    A target that is none of the rows of ``head`` [V, E] has the logit 0. The logits of ``rows``
    states are there at a time. ``normalise`` gives normalisers of logits.
    """
    return _Scores.apply(hidden, head, targets, rows, normalise)


class _Scores(torch.autograd.Function):
    """Backward, logits are computed anew if they were several chunks.

    Over the chunks the gradient of the head is summed in float32, whatever its type: in bfloat16
    each sum would round it.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, rows: int, normalise: Normalise
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            hidden, head = (x.to(torch.get_autocast_dtype(kind)) for x in (hidden, head))
        here = (targets >= 0) & (targets < len(head))
        places, found, logits = targets.where(here, 0)[:, None], [], None
        for h, place in zip(hidden.split(rows), places.split(rows), strict=True):
            logits = F.linear(h, head).float()
            found.append((logits.gather(-1, place)[:, 0], normalise(logits)))
        wanted, normaliser = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = logits if len(found) == 1 else None
        ctx.rows = rows
        ctx.save_for_backward(hidden, head, places, here, normaliser, kept)
        return wanted.where(here, 0.0), normaliser

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, places, here, normaliser, kept = ctx.saved_tensors
        on_wanted, on_normaliser = grad_outputs
        each = hidden, places, normaliser[:, None], on_normaliser[:, None]
        each = *each, on_wanted.where(here, 0.0)[:, None]
        on_hidden, on_head = [], None
        for h, place, level, up, down in zip(*(x.split(ctx.rows) for x in each), strict=True):
            logits = F.linear(h, head).float() if kept is None else kept
            slope = (logits - level).exp_().mul_(up).scatter_add_(1, place, down).to(head.dtype)
            on_hidden.append(slope @ head)
            if ctx.needs_input_grad[1]:
                on_head = _added(on_head, slope.T @ h)
        return torch.cat(on_hidden), on_head, None, None, None


def _added(sums: Tensor | None, x: Tensor) -> Tensor:
    """Sums in float32 at least."""
    if sums is None:
        return x.to(torch.promote_types(x.dtype, torch.float32))
    return sums.add_(x)


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
