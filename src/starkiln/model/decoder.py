"""StarCoder's decoder (GPTBigCode): a GPT-2 with multi-query attention (paper §5.4, rules §12).

It knows nothing of parallelism: ``model.parallel`` replaces modules and leaves blocks out. Beyond
the paper it has grouped queries and rotary positions. The head is tied to ``wte``.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starkiln.core import keyed
from starkiln.model.attention import attention, rotate, rotation, sines
from starkiln.model.loss import scores
from starkiln.model.settings import LOGITS_AT_ONCE, DecoderSettings, parameter_shapes

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

_ROWS_AT_ONCE = 1024  # rows of a matrix that one stream of initial weights gives

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
    """Self-attention of ``n_head`` query heads over ``kv_heads`` key/value heads."""

    def __init__(self, config: DecoderSettings) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.n_head, config.kv_heads, config.head_dim
        self.dropout = config.attn_pdrop
        width = config.n_embd
        self.q_attn = nn.Linear(width, self.heads * self.dim)
        self.kv_attn = nn.Linear(width, 2 * self.kv_heads * self.dim)
        self.c_proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, T, H * D], and keys and values [B, T, K * 2 * D] of [B, T, E]."""
        return self.q_attn(x), self.kv_attn(x)

    def split(self, x: Tensor, turn: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Q [B, H, T, D], k and v [B, K, T, D] of hidden states [B, T, E], q and k ``turn``ed."""
        q, kv = self.project(x)
        q = q.view(*q.shape[:2], self.heads, self.dim).transpose(1, 2)
        kv = kv.view(*kv.shape[:2], self.kv_heads, 2 * self.dim).transpose(1, 2)
        k, v = kv.chunk(2, dim=-1)
        return (q, k, v) if turn is None else (rotate(q, turn), rotate(k, turn), v)

    def forward(
        self, x: Tensor, turn: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """[B, T, E] from [B, T, E]; ``attend`` replaces plain causal attention."""
        attend = attend or attention
        if self.training and self.dropout:
            attend = partial(attend, dropout=self.dropout)
        return self.c_proj(attend(*self.split(x, turn)).transpose(1, 2).flatten(2))


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

    def forward(
        self, x: Tensor, turn: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """[B, T, E] from [B, T, E]."""
        x = x + self.drop(self.attn(self.ln_1(x), turn, attend))
        return x + self.drop(self.mlp(self.ln_2(x)))


class Trunk(nn.Module):
    """Embeddings, blocks by number and the last norm, as named under ``transformer.``."""

    def __init__(self, config: DecoderSettings, vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        if not config.rope_theta:
            self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleDict({str(layer): Block(config) for layer in range(config.n_layer)})
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)


class Decoder(nn.Module):
    """The language model. ``ids`` are int64 [B, T] everywhere, T <= n_positions.

    ``positions`` are int64 [T], or [B, T] where they begin anew in a sequence; none: 0 to T - 1.
    """

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

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What the first block reads, [B, T, E]."""
        trunk = self.transformer
        x = trunk.wte(ids)
        return trunk.drop(x if self.config.rope_theta else x + trunk.wpe(positions))

    def blocks(
        self,
        x: Tensor,
        positions: Tensor,
        attend: Callable[[int], Attend | None] = lambda layer: None,
    ) -> Tensor:
        """[B, T, E] behind the blocks that are here; ``attend(layer)`` attends in a block."""
        config = self.config
        turn = rotation(positions, config.head_dim, config.rope_theta, x.dtype)
        for layer, block in self.transformer.h.items():
            x = block(x, turn, attend(int(layer)))
        return x

    def hidden(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states [B, T, E] after the last norm.

        ``documents`` (int64 [B, T]) keeps attention within runs of one number.
        """
        if positions is None:
            positions = torch.arange(ids.size(1), device=ids.device)
        attend = partial(attention, documents=documents) if documents is not None else None
        x = self.blocks(
            self.embed(ids, positions),
            positions,
            (lambda layer: partial(cache.attend, layer)) if cache else lambda layer: attend,
        )
        return self.transformer.ln_f(x)

    def output(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., E], in their dtype."""
        return F.linear(hidden, self.transformer.wte.weight)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits float32 [..., V] of hidden states [..., E]."""
        return self.output(hidden).float()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits float32 [B, T, V]."""
        return self.head(self.hidden(ids))

    def nats(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and log of the normaliser, float32 nats [B, T], of [B, T, E]."""
        wanted, normaliser = self._scores(hidden.flatten(0, 1), targets.flatten())
        return (normaliser - wanted).view(targets.shape), normaliser.view(targets.shape)

    def _scores(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, LOGITS_AT_ONCE // self.vocab_size)
        return scores(hidden, self.transformer.wte.weight, targets, rows)


def is_norm(name: str) -> bool:
    """Whether a parameter of this name is a norm's weight, which begins as ones."""
    return ".ln_" in name and name.endswith("weight")


def draw(
    config: DecoderSettings,
    seed: int,
    name: str,
    shape: tuple[int, ...],
    rows: range | None = None,
) -> Tensor:
    """Initial values, float32, of ``rows`` (none: all) of a parameter of this name and shape.

    Each block of 1,024 rows has a stream of its own, keyed (seed, name, block): no layout
    matters. Matrices are normal with ``config.std``, residual projections scaled by
    1/sqrt(2 n_layer); biases are 0 and norms' weights 1 (rules §12). With ``sinusoids`` the
    positions are ``sines`` of that amplitude.
    """
    rows = range(shape[0]) if rows is None else rows
    if len(shape) == 1:
        return torch.full((len(rows),), 1.0 if is_norm(name) else 0.0)
    if config.sinusoids and name == "transformer.wpe.weight":
        return sines(*shape)[rows.start : rows.stop].mul_(config.sinusoids)
    std = config.std
    if name.endswith("c_proj.weight"):
        std *= (2 * config.n_layer) ** -0.5
    first, last = rows.start // _ROWS_AT_ONCE, -(-rows.stop // _ROWS_AT_ONCE)
    blocks = [
        keyed.generator("initialise", seed, name, block).standard_normal(
            (min(_ROWS_AT_ONCE, shape[0] - block * _ROWS_AT_ONCE), *shape[1:]), dtype="float32"
        )
        for block in range(first, last)
    ]
    whole = torch.from_numpy(np.concatenate(blocks)) if blocks else torch.empty(0, *shape[1:])
    start = rows.start - first * _ROWS_AT_ONCE
    return whole[start : start + len(rows)].mul_(std)


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Fill every parameter by ``draw``."""
    shapes = parameter_shapes(model.config, model.vocab_size)
    for name, parameter in model.named_parameters():
        parameter.copy_(draw(model.config, seed, name, shapes[name]))
