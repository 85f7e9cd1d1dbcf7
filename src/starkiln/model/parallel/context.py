"""Context parallel: each rank holds two pieces of every sequence and gathers keys and values.

Of 2 C equal pieces rank i has the i-th from the start and the i-th from the end, so that causal
attention is the same work on every rank. With multi-query attention keys and values are few
numbers a token, and gathering them is less traffic than a ring of queries (training §2).
"""

import torch
from torch import Tensor

from starkiln.model.attention import attention
from starkiln.model.parallel.collectives import Group, gather


def share(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    """This rank's two pieces of ``x`` along ``dim``."""
    if group.size == 1:
        return x
    pieces = x.chunk(2 * group.size, dim)
    return torch.cat([pieces[group.rank], pieces[-1 - group.rank]], dim)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: Group,
    dropout: float = 0.0,
    documents: Tensor | None = None,
) -> Tensor:
    """``attention`` of this rank's positions: [B, H, T / C, D].

    ``q`` [B, H, T / C, D], ``k`` and ``v`` [B, K, T / C, D] are shares; ``documents`` [B, T] whole.
    """
    k, v = _whole(torch.stack([k, v]), group)
    piece = q.size(2) // 2
    ends = (group.rank + 1) * piece, (2 * group.size - group.rank) * piece
    parts = [
        attention(
            part,
            k[:, :, :end],
            v[:, :, :end],
            dropout=dropout,
            documents=None if documents is None else documents[:, :end],
        )
        for part, end in zip(q.split(piece, 2), ends, strict=True)
    ]
    return torch.cat(parts, 2)


def _whole(x: Tensor, group: Group) -> Tensor:
    """[..., T, D] in the order of the sequence, of shares [..., T / C, D]."""
    pieces = gather(x, group, x.ndim - 2).unflatten(-2, (group.size, 2, -1))
    early, late = pieces.unbind(-3)
    return torch.cat([early, late.flip(-3)], -3).flatten(-3, -2)
