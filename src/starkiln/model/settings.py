"""The decoder's settings, without torch: its shape, its regularisation and its size."""

from typing import Literal, Self

from pydantic import model_validator

from starkiln.core.settings import Settings, key

Activation = Literal["gelu_pytorch_tanh", "gelu_new", "gelu"]


class DecoderSettings(Settings):
    """A GPTBigCode decoder, named as in Hugging Face's ``config.json`` (rules §12)."""

    n_layer: int = key(20, "transformer blocks", "§5.4", ge=1)
    n_embd: int = key(768, "width of the residual stream", "§5.4", ge=1)
    n_head: int = key(12, "query heads", "§5.4", ge=1)
    n_inner: int | None = key(None, "width of the MLP; none is 4 n_embd", "§5.4", ge=1)
    n_positions: int = key(8192, "longest context, in tokens (learned positions)", "§5.4", ge=1)
    multi_query: bool = key(True, "one key/value head shared by all query heads", "§5.4")
    activation_function: Activation = key("gelu_pytorch_tanh", "the MLP's activation", "§5.4")
    resid_pdrop: float = key(0.1, "dropout on each residual branch", "§5.4", ge=0, lt=1)
    embd_pdrop: float = key(0.1, "dropout on the embeddings", "§5.4", ge=0, lt=1)
    attn_pdrop: float = key(0.1, "dropout on attention weights", "§5.4", ge=0, lt=1)
    layer_norm_epsilon: float = key(1e-5, "added to the variance in layer norms", "§5.4", gt=0)
    initializer_range: float | None = key(
        None, "standard deviation of initial weights; none is 1/sqrt(n_embd)", "§5.4", gt=0
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head {self.n_head} does not divide n_embd {self.n_embd}")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return 1 if self.multi_query else self.n_head

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return self.n_inner or 4 * self.n_embd

    @property
    def std(self) -> float:
        """Standard deviation of initial weights."""
        return self.initializer_range or self.n_embd**-0.5


def parameter_count(settings: DecoderSettings, vocab_size: int) -> int:
    """The exact number of parameters, the tied head counted once (rules §12)."""
    width, inner = settings.n_embd, settings.inner
    projected = width + 2 * settings.kv_heads * settings.head_dim
    attention = (width + 1) * projected + (width + 1) * width
    mlp = (width + 1) * inner + (inner + 1) * width
    norms = 4 * width
    embeddings = (vocab_size + settings.n_positions) * width
    return embeddings + settings.n_layer * (attention + mlp + norms) + 2 * width
