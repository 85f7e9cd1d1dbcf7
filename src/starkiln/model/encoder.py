"""StarEncoder: BERT's bidirectional encoder with its two heads, and the tagger (rules §9).

Norms come after the residual sums, positions are learned, and the head over the vocabulary is
tied to the embeddings. Queries, keys and values are one matrix here.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starkiln.core import keyed
from starkiln.model.attention import sines
from starkiln.model.settings import EncoderSettings


class Block(nn.Module):
    """A post-norm transformer block whose tokens all see each other."""

    def __init__(self, config: EncoderSettings) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm_2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.drop = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, E] from [B, T, E]; ``mask`` is bool [B, 1, 1, T], False at padding."""
        x = self.norm_1(x + self.drop(self.out(self._attend(x, mask))))
        return self.norm_2(x + self.drop(self.down(F.gelu(self.up(x)))))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2)


class Trunk(nn.Module):
    """Embeddings and blocks."""

    def __init__(self, config: EncoderSettings, vocab_size: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.segments = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.drop = nn.Dropout(config.hidden_dropout_prob)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, ids: Tensor, segments: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B, T, E] from ids and segments, int64 [B, T], and a mask as the blocks have it."""
        segment = self.segments.weight[0] if segments is None else self.segments(segments)
        x = self.words(ids) + segment + self.positions.weight[: ids.size(1)]
        x = self.drop(self.norm(x))
        for block in self.blocks:
            x = block(x, mask)
        return x


class Heads(nn.Module):
    """What BERT is trained with: the masked words, and whether one segment follows the other."""

    def __init__(self, config: EncoderSettings, vocab_size: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.bias = nn.Parameter(torch.empty(vocab_size))
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pooler = nn.Linear(width, width)
        self.follows = nn.Linear(width, 2)


class Encoder(nn.Module):
    """BERT as ``BertForPreTraining``; ``ids`` are int64 [B, T], T <= max_position_embeddings."""

    def __init__(
        self,
        config: EncoderSettings,
        vocab_size: int,
        *,
        heads: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``vocab_size`` counts every entry, the four words of an encoder included.

        Weights are those of ``initialise(model, seed)``; device ``meta`` leaves them out. Without
        ``heads`` there is ``hidden`` alone, as in a tagger.
        """
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        with torch.device("meta"):
            self.trunk = Trunk(config, vocab_size).to(dtype)
            self.heads = Heads(config, vocab_size).to(dtype) if heads else None
        _fill(self, seed, device)

    def hidden(
        self, ids: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, T, E]; ``segments`` int64 [B, T] (None: 0), ``mask`` bool [B, T].

        The mask is False at padding, whose own states mean nothing. None is fastest: it lets
        attention run without any. On the CPU a mask without padding is as good as None; on a GPU
        to look would wait for the device.
        """
        if mask is not None and (mask.device.type == "cpu" and bool(mask.all())):
            mask = None
        return self.trunk(ids, segments, None if mask is None else mask[:, None, None, :])

    def words(self, hidden: Tensor) -> Tensor:
        """Logits float32 [..., V] of the words at hidden states [..., E]."""
        heads = self._heads()
        x = heads.norm(F.gelu(heads.dense(hidden)))
        return F.linear(x, self.trunk.words.weight, heads.bias).float()

    def follows(self, hidden: Tensor) -> Tensor:
        """Logits float32 [B, 2] of [B, T, E]: the second segment follows the first, or not."""
        heads = self._heads()
        return heads.follows(heads.pooler(hidden[:, 0]).tanh()).float()

    def _heads(self) -> Heads:
        if self.heads is None:
            raise ValueError("this encoder is a tagger's and has no heads")
        return self.heads


class Tagger(nn.Module):
    """An encoder that gives each token a label, as ``BertForTokenClassification``."""

    def __init__(
        self,
        config: EncoderSettings,
        vocab_size: int,
        labels: Sequence[str],
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``labels`` by number; the rest as for ``Encoder``, whose trunk has the same weights."""
        super().__init__()
        self.config, self.vocab_size, self.labels = config, vocab_size, tuple(labels)
        self.encoder = Encoder(config, vocab_size, heads=False, device="meta", dtype=dtype)
        self.drop = nn.Dropout(config.hidden_dropout_prob)
        with torch.device("meta"):
            self.classifier = nn.Linear(config.hidden_size, len(labels), dtype=dtype)
        _fill(self, seed, device)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits float32 [B, T, L] of ids int64 [B, T]; ``mask`` as for ``Encoder.hidden``."""
        return self.classifier(self.drop(self.encoder.hidden(ids, mask=mask))).float()


def tagger(encoder: Encoder, labels: Sequence[str], seed: int = 0) -> Tagger:
    """A tagger with a copy of a trained encoder's trunk, on its device, and a fresh classifier."""
    weight = encoder.trunk.words.weight
    made = Tagger(
        encoder.config,
        encoder.vocab_size,
        labels,
        seed=seed,
        device=weight.device,
        dtype=weight.dtype,
    )
    made.encoder.trunk.load_state_dict(encoder.trunk.state_dict())
    return made


def draw(config: EncoderSettings, seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Initial values, float32, of a parameter of this name and shape, keyed (seed, name).

    Matrices are normal with ``initializer_range``; biases are 0 and norms' weights 1 (rules §9).
    With ``sinusoids`` the positions are ``sines`` of that amplitude.
    """
    if len(shape) == 1:
        return torch.full(shape, 1.0 if ".norm" in name and name.endswith("weight") else 0.0)
    if config.sinusoids and name == "trunk.positions.weight":
        return sines(*shape).mul_(config.sinusoids)
    stream = keyed.generator("initialise", seed, name)
    values = stream.standard_normal(shape, dtype="float32")
    return torch.from_numpy(values).mul_(config.initializer_range)


@torch.no_grad()
def initialise(model: Encoder | Tagger, seed: int) -> None:
    """Fill every parameter by ``draw``, a tagger's trunk as that of its encoder."""
    for name, parameter in model.named_parameters():
        own = name.removeprefix("encoder.")
        parameter.copy_(draw(model.config, seed, own, tuple(parameter.shape)))


def _fill(model: Encoder | Tagger, seed: int, device: torch.device | str) -> None:
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
        initialise(model, seed)
