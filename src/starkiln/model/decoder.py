"""StarCoder's decoder (GPTBigCode): a GPT-2 with multi-query attention (paper §5.4, rules §12).

The modules' names are those of Hugging Face's state dict; the head is tied to ``wte``.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from starkiln.core import keyed
from starkiln.model.attention import attention
from starkiln.model.settings import DecoderSettings

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

_LOGITS_AT_ONCE = 2**25  # of the loss: 128 MiB of float32

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
}


class Cache(Protocol):
    """Keys and values of earlier tokens, which attends in the blocks' stead."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, H, T, D] from q [B, H, T, D] and new k, v [B, K, T, D]."""
        ...


class Attention(nn.Module):
    """Self-attention; ``c_attn`` gives rows [Q.., K, V] if multi-query, else q, k, v per head."""

    def __init__(self, config: DecoderSettings) -> None:
        super().__init__()
        self.heads, self.dim = config.n_head, config.head_dim
        self.multi_query, self.dropout = config.multi_query, config.attn_pdrop
        width = config.n_embd
        self.c_attn = nn.Linear(width, width + 2 * config.kv_heads * self.dim)
        self.c_proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q [B, H, T, D], k and v [B, K, T, D] of hidden states [B, T, E]."""
        batch, length, width = x.shape
        projected = self.c_attn(x)
        if self.multi_query:
            q, k, v = projected.split([width, self.dim, self.dim], dim=-1)
            q = q.view(batch, length, self.heads, self.dim).transpose(1, 2)
            return q, k[:, None], v[:, None]
        q, k, v = projected.view(batch, length, self.heads, 3, self.dim).permute(3, 0, 2, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        """[B, T, E] from [B, T, E]; ``attend`` replaces plain causal attention."""
        attend = attend or partial(attention, dropout=self.dropout if self.training else 0.0)
        return self.c_proj(attend(*self.split(x)).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: DecoderSettings) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner)
        self.c_proj = nn.Linear(config.inner, config.n_embd)
        self.activation = _ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] from [..., E]."""
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: DecoderSettings) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = Mlp(config)
        self.drop = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        """[B, T, E] from [B, T, E]."""
        x = x + self.drop(self.attn(self.ln_1(x), attend))
        return x + self.drop(self.mlp(self.ln_2(x)))


class Trunk(nn.Module):
    """Embeddings, blocks and the last norm, as named under ``transformer.``."""

    def __init__(self, config: DecoderSettings, vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)


class Decoder(nn.Module):
    """The language model. ``ids`` are int64 [B, T] everywhere, T <= n_positions."""

    def __init__(
        self,
        config: DecoderSettings,
        vocab_size: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Weights are those of ``initialise(model, seed)``; device ``meta`` leaves them out."""
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        with torch.device("meta"):
            self.transformer = Trunk(config, vocab_size).to(dtype)
        if torch.device(device).type != "meta":
            self.to_empty(device=device)
            initialise(self, seed)

    def hidden(self, ids: Tensor, *, start: int = 0, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, E] of ``ids`` at positions ``start``.. after the last norm."""
        trunk = self.transformer
        positions = torch.arange(start, start + ids.size(1), device=ids.device)
        x = trunk.drop(trunk.wte(ids) + trunk.wpe(positions))
        for layer, block in enumerate(trunk.h):
            x = block(x, partial(cache.attend, layer) if cache else None)
        return trunk.ln_f(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits float32 [..., V] of hidden states [..., E]."""
        return F.linear(hidden, self.transformer.wte.weight).float()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits float32 [B, T, V]."""
        return self.head(self.hidden(ids))

    def nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each target, float32 nats [B, T]; never all logits at once."""
        hidden, flat = self.hidden(ids).flatten(0, 1), targets.flatten()
        rows = max(1, _LOGITS_AT_ONCE // self.vocab_size)
        if len(flat) <= rows:
            return self._nats(hidden, flat).view(targets.shape)
        parts = [  # the backward pass recomputes a chunk's logits rather than keep them
            checkpoint(self._nats, h, t, use_reentrant=False, preserve_rng_state=False)
            for h, t in zip(hidden.split(rows), flat.split(rows), strict=True)
        ]
        return torch.cat(parts).view(targets.shape)

    def _nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(hidden), targets, reduction="none")

    def loss(
        self, ids: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum of nats (float32) and number of targets (int64), over ``mask`` (bool [B, T])."""
        nats = self.nats(ids, targets)
        if mask is None:
            mask = torch.ones_like(targets, dtype=torch.bool)
        return nats.masked_fill(~mask, 0.0).sum(), mask.sum()


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Fill every parameter from a stream of its own, keyed (seed, name): no layout matters.

    Matrices are normal with ``config.std``, residual projections scaled by 1/sqrt(2 n_layer);
    biases are 0 and norms' weights 1 (rules §12).
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
            continue
        std = model.config.std
        if name.endswith("c_proj.weight"):
            std *= (2 * model.config.n_layer) ** -0.5
        draws = keyed.generator("initialise", seed, name).standard_normal(
            tuple(parameter.shape), dtype="float32"
        )
        parameter.copy_(torch.from_numpy(draws).mul_(std))
