"""The models' settings, without torch: their shape, their regularisation and their size."""

import math
from typing import Literal, Self

from pydantic import model_validator

from starkiln.core.settings import Settings, key

LOGITS_AT_ONCE = 2**25  # of the loss: 128 MiB of float32
DEFERRED = 0.1  # share of a GPU's memory for gradients that wait for the step's last backward

Activation = Literal["gelu_pytorch_tanh", "gelu_new", "gelu"]


class DecoderSettings(Settings):
    """A GPTBigCode decoder, named as in Hugging Face's ``config.json`` (rules §12)."""

    n_layer: int = key(20, "transformer blocks", "§5.4", ge=1)
    n_embd: int = key(768, "width of the residual stream", "§5.4", ge=1)
    n_head: int = key(12, "query heads", "§5.4", ge=1)
    n_inner: int | None = key(None, "width of the MLP; none is 4 n_embd", "§5.4", ge=1)
    n_positions: int = key(8192, "longest context, in tokens (learned positions)", "§5.4", ge=1)
    multi_query: bool = key(True, "one key/value head shared by all query heads", "§5.4")
    num_key_value_heads: int | None = key(
        None, "grouped queries: key/value heads; none is 1 if multi_query, else n_head", ge=1
    )
    rope_theta: float | None = key(
        None, "rotary positions with this base; none is learned positions", "§5.4", gt=0
    )
    activation_function: Activation = key("gelu_pytorch_tanh", "the MLP's activation", "§5.4")
    resid_pdrop: float = key(0.1, "dropout on each residual branch", "§5.4", ge=0, lt=1)
    embd_pdrop: float = key(0.1, "dropout on the embeddings", "§5.4", ge=0, lt=1)
    attn_pdrop: float = key(0.1, "dropout on attention weights", "§5.4", ge=0, lt=1)
    layer_norm_epsilon: float = key(1e-5, "added to the variance in layer norms", "§5.4", gt=0)
    initializer_range: float | None = key(
        None, "standard deviation of initial weights; none is 1/sqrt(n_embd)", "§5.4", gt=0
    )
    sinusoids: float = key(
        0.0, "amplitude of the sines that positions begin as; 0: drawn like all", ge=0
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head {self.n_head} does not divide n_embd {self.n_embd}")
        if self.n_head % self.kv_heads:
            raise ValueError(f"num_key_value_heads {self.kv_heads} does not divide {self.n_head}")
        if self.rope_theta and self.head_dim % 2:
            raise ValueError(f"rotary positions need heads of even width, not {self.head_dim}")
        if self.rope_theta and self.sinusoids:
            raise ValueError("rotary positions begin as nothing: set rope_theta or sinusoids")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_key_value_heads or (1 if self.multi_query else self.n_head)

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return self.n_inner or 4 * self.n_embd

    @property
    def std(self) -> float:
        """Standard deviation of initial weights."""
        return self.initializer_range or self.n_embd**-0.5


class EncoderSettings(Settings):
    """A BERT encoder, named as in Hugging Face's ``config.json`` (rules §9)."""

    hidden_size: int = key(768, "width of the residual stream", "§9", ge=1)
    num_hidden_layers: int = key(12, "transformer blocks", "§9", ge=1)
    num_attention_heads: int = key(12, "attention heads", "§9", ge=1)
    intermediate_size: int = key(3072, "width of the MLP", "§9", ge=1)
    max_position_embeddings: int = key(1024, "longest sequence, in tokens", "§9", ge=1)
    type_vocab_size: int = key(2, "kinds of segments", "§9", ge=1)
    layer_norm_eps: float = key(1e-12, "added to the variance in layer norms", "§9", gt=0)
    hidden_dropout_prob: float = key(0.1, "dropout on embeddings and branches", "§9", ge=0, lt=1)
    attention_probs_dropout_prob: float = key(0.1, "dropout on attention weights", "§9", ge=0, lt=1)
    initializer_range: float = key(0.02, "standard deviation of initial weights", "§9", gt=0)
    sinusoids: float = key(
        0.0, "amplitude of the sines that positions begin as; 0: drawn like all", "§9; ours", ge=0
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide "
                f"hidden_size {self.hidden_size}"
            )
        return self


class ParallelSettings(Settings):
    """How many devices share one model; data parallelism takes the rest of them (paper §5.6)."""

    tensor: int = key(1, "devices that share each matrix and each sequence", "§5.6", ge=1)
    pipeline: int = key(1, "devices that share the layers, in stages", "§5.6", ge=1)
    context: int = key(1, "devices that share each sequence for attention", ge=1)
    chunks: int = key(1, "stages on one device; more than 1 interleaves them", ge=1)
    recompute: Literal["none", "blocks"] = key(
        "none", "blocks: keep each block's input alone and compute the rest again", "§5.6"
    )


def parameter_shapes(settings: DecoderSettings, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """The name and shape of each parameter in the model's order; the tied head is ``wte``."""
    width, inner, keys = settings.n_embd, settings.inner, 2 * settings.kv_heads * settings.head_dim
    block = {
        "ln_1": (width,),
        "attn.q_attn": (width, width),
        "attn.kv_attn": (keys, width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (inner, width),
        "mlp.c_proj": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (vocab_size, width)}
    if not settings.rope_theta:
        shapes["transformer.wpe.weight"] = (settings.n_positions, width)
    for layer in range(settings.n_layer):
        for name, shape in block.items():
            shapes[f"transformer.h.{layer}.{name}.weight"] = shape
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape[:1]
    return shapes | dict.fromkeys(("transformer.ln_f.weight", "transformer.ln_f.bias"), (width,))


def parameter_count(settings: DecoderSettings, vocab_size: int) -> int:
    """The exact number of parameters, the tied head counted once (rules §12)."""
    return sum(map(math.prod, parameter_shapes(settings, vocab_size).values()))


def encoder_shapes(
    settings: EncoderSettings, vocab_size: int, labels: int = 0
) -> dict[str, tuple[int, ...]]:
    """The name and shape of each parameter of an encoder, or of a tagger with so many labels.

    In the model's order; ``vocab_size`` counts all entries, the four words included. A tagger has
    a classifier in place of the encoder's heads.
    """
    width, inner = settings.hidden_size, settings.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "trunk.words.weight": (vocab_size, width),
        "trunk.positions.weight": (settings.max_position_embeddings, width),
        "trunk.segments.weight": (settings.type_vocab_size, width),
        **_affine("trunk.norm", width),
    }
    for layer in range(settings.num_hidden_layers):
        block = f"trunk.blocks.{layer}."
        shapes |= _affine(f"{block}qkv", 3 * width, width) | _affine(f"{block}out", width, width)
        shapes |= _affine(f"{block}norm_1", width)
        shapes |= _affine(f"{block}up", inner, width) | _affine(f"{block}down", width, inner)
        shapes |= _affine(f"{block}norm_2", width)
    if labels:
        held = {f"encoder.{name}": shape for name, shape in shapes.items()}
        return held | _affine("classifier", labels, width)
    return {
        **shapes,
        "heads.bias": (vocab_size,),
        **_affine("heads.dense", width, width),
        **_affine("heads.norm", width),
        **_affine("heads.pooler", width, width),
        **_affine("heads.follows", 2, width),
    }


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def encoder_count(settings: EncoderSettings, vocab_size: int, labels: int = 0) -> int:
    """The exact number of parameters, the tied head counted once (rules §9)."""
    return sum(map(math.prod, encoder_shapes(settings, vocab_size, labels).values()))
