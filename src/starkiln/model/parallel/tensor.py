"""Tensor parallel: each rank has some rows or columns of the large matrices of a block.

Between blocks, the activations of a sequence are shared out too, [B, T / n, E] (sequence
parallel). A parameter that is whole on every rank so has a gradient of its rank's tokens or heads
alone: it must be summed over the group once a step (rules §15; training §2 trap 1).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starkiln.model import loss
from starkiln.model.decoder import Attention, Block, Decoder
from starkiln.model.parallel.collectives import Group, gather, largest, scatter, total
from starkiln.model.settings import DecoderSettings

_DIMENSIONS = {
    "wte.weight": 0,
    "q_attn.weight": 0,
    "q_attn.bias": 0,
    "kv_attn.weight": 0,
    "kv_attn.bias": 0,
    "c_fc.weight": 0,
    "c_fc.bias": 0,
    "c_proj.weight": 1,
}


def dimension(name: str, config: DecoderSettings, size: int) -> int | None:
    """Which dimension of a parameter is shared out over ``size`` ranks; None: each has it whole."""
    if size == 1 or ("kv_attn" in name and config.kv_heads % size):
        return None
    return _DIMENSIONS.get(".".join(name.split(".")[-2:]))


def span(count: int, parts: int, index: int) -> range:
    """The ``index``-th of ``parts`` shares of ``count``, as torch.chunk and DTensor share out."""
    size = -(-count // parts)
    return range(min(index * size, count), min((index + 1) * size, count))


class ColumnLinear(nn.Linear):
    """Some of a linear layer's outputs [B, T, out / n], of every token's input [B, T / n, in]."""

    def __init__(self, inputs: int, outputs: int, group: Group) -> None:
        super().__init__(inputs, outputs // group.size)
        self.group = group

    def forward(self, input: Tensor) -> Tensor:
        """The sequence is gathered first."""
        return super().forward(gather(input, self.group, 1))


class RowLinear(nn.Linear):
    """A linear layer's outputs [B, T / n, out] from some of its inputs [B, T, in / n]."""

    def __init__(self, inputs: int, outputs: int, group: Group) -> None:
        super().__init__(inputs // group.size, outputs)
        self.group = group

    def forward(self, input: Tensor) -> Tensor:
        """The bias is added once, to the sum."""
        return scatter(F.linear(input, self.weight), self.group, 1) + self.bias


class OneKeyValue(nn.Linear):
    """Keys and values of one head of several, that of this rank's queries."""

    def __init__(self, config: DecoderSettings, group: Group) -> None:
        super().__init__(config.n_embd, 2 * config.kv_heads * config.head_dim)
        rows = 2 * config.head_dim
        head = group.rank * config.kv_heads // group.size
        self.rows = slice(head * rows, (head + 1) * rows)

    def forward(self, input: Tensor) -> Tensor:
        """[B, T, 2 D] from [B, T, E]."""
        return F.linear(input, self.weight[self.rows], self.bias[self.rows])


class SharedAttention(Attention):
    """Some query heads, and the key/value heads they look at; queries and keys gather once."""

    def __init__(self, config: DecoderSettings, group: Group) -> None:
        super().__init__(config)
        self.group = group
        width = config.n_embd
        self.heads = config.n_head // group.size
        self.q_attn = nn.Linear(width, self.heads * self.dim)
        if config.kv_heads % group.size == 0:
            self.kv_heads = config.kv_heads // group.size
            self.kv_attn = nn.Linear(width, 2 * self.kv_heads * self.dim)
        else:
            self.kv_heads = 1
            self.kv_attn = OneKeyValue(config, group)
        self.c_proj = RowLinear(width, width, group)

    def split(self, x: Tensor, turn: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Of x [B, T / n, E]: q [B, H / n, T, D], k and v [B, K / n or 1, T, D]."""
        return super().split(gather(x, self.group, 1), turn)


class Vocabulary(nn.Embedding):
    """The embeddings of some ids: [B, T / n, E] of ids [B, T]."""

    def __init__(self, vocab_size: int, width: int, group: Group) -> None:
        self.group, self.ids = group, span(vocab_size, group.size, group.rank)
        super().__init__(len(self.ids), width)

    def here(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The local number of each id, 0 where it is not here; and where that is."""
        elsewhere = (ids < self.ids.start) | (ids >= self.ids.stop)
        return (ids - self.ids.start).masked_fill(elsewhere, 0), elsewhere

    def forward(self, input: Tensor) -> Tensor:
        """Each rank gives its ids' embeddings, and nothing for others'."""
        local, elsewhere = self.here(input)
        return scatter(super().forward(local).masked_fill(elsewhere[..., None], 0), self.group, 1)


class Positions(nn.Embedding):
    """The embeddings of this rank's tokens' positions: [..., T / n, E] of [..., T]."""

    def __init__(self, count: int, width: int, group: Group) -> None:
        super().__init__(count, width)
        self.group = group

    def forward(self, input: Tensor) -> Tensor:
        """Of every token's positions, this rank's."""
        return super().forward(input.chunk(self.group.size, -1)[self.group.rank])


def share_out(model: Decoder, group: Group) -> None:
    """Leave this rank's share of ``model``, which must be on the meta device."""
    config, trunk = model.config, model.transformer
    with torch.device("meta"):
        if hasattr(trunk, "wte"):
            trunk.wte = Vocabulary(model.vocab_size, config.n_embd, group)
        if hasattr(trunk, "wpe"):
            trunk.wpe = Positions(config.n_positions, config.n_embd, group)
        for block in trunk.h.values():
            block.attn = SharedAttention(config, group)
            assert isinstance(block, Block)
            block.mlp.c_fc = ColumnLinear(config.n_embd, config.inner, group)
            block.mlp.c_proj = RowLinear(config.inner, config.n_embd, group)


def scores(hidden: Tensor, targets: Tensor, wte: Vocabulary, rows: int) -> tuple[Tensor, Tensor]:
    """``loss.scores`` of hidden states [N, E] and targets [N], each rank having some logits."""
    group = wte.group
    found = loss.scores(hidden, wte.weight, targets - wte.ids.start, rows, partial(_levels, group))
    return total(found[0], group), found[1]


def _levels(group: Group, logits: Tensor) -> Tensor:
    """Normalisers of all ranks' logits together."""
    top = largest(logits.amax(-1), group)
    return total((logits - top[:, None]).exp_().sum(-1), group).log() + top
