"""Attention over local tensors: one call for training and prefill, one for shared prompts.

Few key/value heads are never copied out to the query heads: they are expanded with stride 0.
"""

from functools import partial

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


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Causal attention of the last T of S positions; float32 [B, H, T, D] or the inputs' dtype.

    ``q`` is [B, H, T, D]; ``k`` and ``v`` are [B, K, S, D] with K = 1 (multi-query) or K = H,
    and S >= T: query t sees keys 0 to S - T + t. Scores are scaled by 1/sqrt(D) (paper §5.4).
    """
    heads, new, seen = q.size(1), q.size(2), k.size(2)
    if _folds(q, k, dropout):
        return _folded(q, k, v)
    mask = None
    if 1 < new < seen:
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
    k, v = (x.expand(-1, heads, -1, -1) for x in (k, v))
    call = partial(
        F.scaled_dot_product_attention,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=new == seen and new > 1,
    )
    if not _is_hopper(q.device):
        return call(q, k, v)
    with sdpa_kernel(_HOPPER, set_priority=True):
        return call(q, k, v)


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


def shared_prefix_attention(
    q: Tensor, prefix_k: Tensor, prefix_v: Tensor, tail_k: Tensor, tail_v: Tensor
) -> Tensor:
    """One new token of B samples over one shared prefix and each one's own tail: [B, H, 1, D].

    ``q`` is [B, H, 1, D], ``prefix_*`` [K, P, D] (stored once, not B times), ``tail_*``
    [B, K, t, D]. The prefix part is one dense product for all samples and heads. Both parts'
    scores go through one float32 softmax, which is their exact merge by log-sum-exp.
    """
    batch, heads, _, dim = q.shape
    kv_heads, length, _ = prefix_k.shape
    group = heads // kv_heads
    q = q.reshape(batch, kv_heads, group, dim) * dim**-0.5
    together = q.transpose(0, 1).reshape(kv_heads, batch * group, dim)
    on_prefix = (together @ prefix_k.mT).view(kv_heads, batch, group, length).transpose(0, 1)
    scores = torch.cat([on_prefix, q @ tail_k.mT], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    on_prefix, on_tail = weights.split([length, tail_k.size(2)], dim=-1)
    together = on_prefix.transpose(0, 1).reshape(kv_heads, batch * group, length) @ prefix_v
    mixed = together.view(kv_heads, batch, group, dim).transpose(0, 1) + on_tail @ tail_v
    return mixed.reshape(batch, heads, 1, dim)
