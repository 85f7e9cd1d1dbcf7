"""Attention over local tensors: one call for training and prefill, one for shared prompts.

A single key/value head is never copied out to the query heads, and fewer than them only where no
kernel takes groups. Documents are skipped by FlashAttention on GPUs if there is no dropout, and
masked elsewhere.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's kernels are about twice as fast as FlashAttention-2 on Hopper, and slower elsewhere.
_HOPPER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_FOLDED_LENGTH = 1024  # above it, SDPA's tiles beat one large product
_HALVES = (torch.bfloat16, torch.float16)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dropout: float = 0.0,
    documents: Tensor | None = None,
) -> Tensor:
    """Causal attention of the last T of S positions; float32 [B, H, T, D] or the inputs' dtype.

    ``q`` is [B, H, T, D]; ``k`` and ``v`` are [B, K, S, D] with K a divisor of H, and S >= T:
    query t sees keys 0 to S - T + t. Scores are scaled by 1/sqrt(D) (paper §5.4). With
    ``documents`` (int64 [B, S], a number for each run of positions) a query sees keys of its own
    document alone.
    """
    heads, new, seen = q.size(1), q.size(2), k.size(2)
    if documents is not None and _is_varlen(q, k, dropout):
        return _varlen(q, k, v, documents)
    if documents is None and _folds(q, k, dropout):
        return _folded(q, k, v)
    mask = None
    if documents is not None:
        own = documents[:, None, seen - new :, None] == documents[:, None, None, :]
        mask = own.tril(seen - new)
    elif 1 < new < seen:
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
    call = partial(
        F.scaled_dot_product_attention,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=False if new == 1 else mask is None,  # no symbol, if compiled for any length
    )
    if _groups(q, k, mask):
        call = partial(call, enable_gqa=True)
    else:
        k, v = (_expanded(x, heads) for x in (k, v))
    if not _is_hopper(q.device):
        return call(q, k, v)
    with sdpa_kernel(_HOPPER, set_priority=True):
        return call(q, k, v)


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def _groups(q: Tensor, k: Tensor, mask: Tensor | None) -> bool:
    """Whether SDPA has a kernel that reads each of several key/value heads for its own group."""
    some = 1 < k.size(1) < q.size(1)
    return some and (q.is_cpu or (mask is None and q.dtype in _HALVES))


def _expanded(x: Tensor, heads: int) -> Tensor:
    """[B, H, S, D] of [B, K, S, D]: each head for its group, a single one without a copy."""
    if x.size(1) == 1:
        return x.expand(-1, heads, -1, -1)
    return x if x.size(1) == heads else x.repeat_interleave(heads // x.size(1), 1)


def _is_varlen(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether FlashAttention can take the documents one by one; it has no dropout there."""
    fits = q.is_cuda and q.dtype in _HALVES and q.size(2) == k.size(2) and q.size(-1) % 8 == 0
    fits = fits and q.size(-1) <= 256 and not dropout
    return fits and torch.cuda.get_device_capability(q.device) >= (8, 0)


@torch.compiler.disable  # the number of documents is not known before
def _varlen(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
    from torch.nn.attention import varlen  # it registers operators: 50 ms

    batch, heads, length, _ = q.shape
    call: Callable[..., Any] = partial(varlen.varlen_attn, window_size=(-1, 0))
    if "enable_gqa" in inspect.signature(call).parameters:  # torch 2.12 has it
        call = partial(call, enable_gqa=k.size(1) != heads)
    else:
        k, v = (_expanded(x, heads) for x in (k, v))
    begins = F.pad(documents.diff(dim=1) != 0, (1, 0), value=True).flatten().nonzero()[:, 0]
    bounds = F.pad(begins, (0, 1), value=batch * length).int()
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    out = call(q, k, v, bounds, bounds, length, length)
    return out.unflatten(0, (batch, length)).transpose(1, 2)


def rotation(positions: Tensor, dim: int, theta: float | None, dtype: torch.dtype) -> Tensor | None:
    """Cosines and sines [2, B or 1, 1, T, D / 2] of rotary positions; None without ``theta``."""
    if theta is None:
        return None
    angles = _angles(positions, dim, theta)
    angles = angles if angles.ndim == 3 else angles[None]
    return torch.stack([angles.cos(), angles.sin()])[:, :, None].to(dtype)


def sines(length: int, width: int) -> Tensor:
    """[length, width] sines and cosines of wavelengths from 2 pi to 20,000 pi positions.

    As first values of learned positions: "so many tokens further on" is a turn from the start,
    which small models spend most of their steps to learn.
    """
    angles = _angles(torch.arange(length), width, 10_000.0)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def _angles(positions: Tensor, dim: int, theta: float) -> Tensor:
    steps = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    return positions.float()[..., None] * theta**-steps


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Queries or keys [B, H, T, D] turned, the halves of D being the two coordinates."""
    (cos, sin), (a, b) = turn.to(x.dtype), x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _folds(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether folding the heads is faster than SDPA: it is on CPUs, in bf16, for short texts."""
    short = 1 < q.size(2) == k.size(2) <= _FOLDED_LENGTH
    return short and k.size(1) == 1 and q.dtype == torch.bfloat16 and q.is_cpu and not dropout


def _folded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal multi-query attention with all heads as one long query: two products a sequence."""
    batch, heads, length, dim = q.shape
    mask = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1).repeat(heads, 1)
    folded = (q * dim**-0.5).reshape(batch, heads * length, dim)
    scores = torch.baddbmm(mask.expand(batch, -1, -1), folded, k[:, 0].mT)
    return (scores.softmax(-1) @ v[:, 0]).view(batch, heads, length, dim)


def partial_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of scaled ``q`` [B, K, R, D] over some of the keys and values alone, [B, K, S, D].

    Returns [B, K, R, D] and the logarithm of its weight (float32 [B, K, R, 1]), by which ``merge``
    joins it with that over other keys. ``bias`` [B, 1, R, S] in q's dtype is added to the scores.
    """
    if q.is_cpu:
        call = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, weight = call(q, k, v, attn_mask=bias, scale=1.0)
        return out, weight[..., None]
    return _products(q, k, v, bias)


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``partial_attention`` where no kernel tells the weights."""
    scores = (q @ k.mT).float()
    if bias is not None:
        scores += bias
    weight = scores.logsumexp(-1, keepdim=True)
    return scores.sub_(weight).exp_().to(v.dtype) @ v, weight


def merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The exact attention over the keys of two ``partial_attention`` together."""
    (a, of_a), (b, of_b) = one, other
    share = (of_a - of_b).sigmoid().to(a.dtype)  # of a in the sum of both weights
    return b.lerp(a, share), torch.logaddexp(of_a, of_b)


def shared_prefix_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``partial_attention`` of B rows, ``q`` [B, K, R, D], over one prefix [K, P, D] of them all.

    The prefix is stored and read once: one dense product for all rows and heads. ``bias`` [P] is
    of all rows.
    """
    together = q.transpose(0, 1).flatten(1, 2)[None]
    found = partial_attention(
        together, k[None], v[None], bias if bias is None else bias.view(1, 1, 1, -1)
    )
    out, weight = (x[0].unflatten(1, (len(q), -1)).transpose(0, 1) for x in found)
    return out, weight
