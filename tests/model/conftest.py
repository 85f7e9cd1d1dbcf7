"""Small random models and a small tokenizer."""

from collections.abc import Callable

import pytest
import torch

from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.tokenizer import Tokenizer, fit

SHAPE = {"n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
VOCAB = 299


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    made = fit(["def stop(value):\n    return value\n# naïve café → 東京 🙂\n"] * 4, VOCAB)
    assert made.vocab_size == VOCAB
    return made


@pytest.fixture(scope="session")
def make() -> Callable[..., Decoder]:
    """``make(seed=..., **settings)``: a decoder in eval mode with livelier weights than usual."""

    def decoder(*, seed: int = 0, **keys) -> Decoder:
        model = Decoder(DecoderSettings(**{**SHAPE, **keys}), VOCAB, seed=seed).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # norms and biases that are not 1 and 0
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    return decoder
