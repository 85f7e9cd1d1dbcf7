"""Small random models and a real byte-level tokenizer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from starkiln.code.sentinels import SENTINELS
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings

SHAPE = {"n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}


class Bytes:
    """A byte-level tokenizer with a few merges, and the sentinels."""

    def __init__(self) -> None:
        self.inner = tokenizers.Tokenizer(models.BPE())
        self.inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=len(SENTINELS) + 280,
            special_tokens=list(SENTINELS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        text = ["def stop(return, value):\n    return value\n# naïve café → 東京 🙂\n" * 4]
        self.inner.train_from_iterator(text, trainer)
        self.vocab_size = self.inner.get_vocab_size()
        self.token_bytes = [self._bytes(i) for i in range(self.vocab_size)]

    def _bytes(self, token: int) -> bytes:
        piece = self.inner.id_to_token(token)
        if token < len(SENTINELS):
            return b""
        table = {
            character: i for i, character in zip([*range(256)], _byte_characters(), strict=True)
        }
        return bytes(table[character] for character in piece)

    def save(self, folder: Path) -> None:
        self.inner.save(str(folder / "tokenizer.json"))

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode(ids, skip_special_tokens=False)


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


@pytest.fixture(scope="session")
def tokenizer() -> Bytes:
    return Bytes()


@pytest.fixture(scope="session")
def make(tokenizer: Bytes) -> Callable[..., Decoder]:
    """``make(seed=..., **settings)``: a decoder in eval mode with livelier weights than usual."""

    def decoder(*, seed: int = 0, vocab_size: int = tokenizer.vocab_size, **keys) -> Decoder:
        model = Decoder(DecoderSettings(**{**SHAPE, **keys}), vocab_size, seed=seed).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # norms and biases that are not 1 and 0
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    return decoder
