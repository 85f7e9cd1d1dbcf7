"""How likely a model finds a text's own tokens."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from starkiln.model.cache import Prefix, Reading
from starkiln.model.decoder import Decoder
from starkiln.model.sampling import likeliest
from starkiln.model.settings import LOGITS_AT_ONCE


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of tokens in nats, each given those before; the first has none: 0.0.

    ``top`` has for each place the likeliest ids with theirs, likeliest first; the first has none.
    """

    tokens: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]]


@torch.inference_mode()
def scoring(
    model: Decoder, blank: Tensor, ids: Sequence[int], top: int, chunk: Callable[[], int]
) -> Generator[None, None, Scores]:
    """Read ``ids``, at most n_positions, piece by piece; ``chunk`` says how many tokens are next.

    ``blank`` [L, 2, K, 0, D] is as the cache's.
    """
    if not ids:
        return Scores([], [], [])
    reading = Reading(Prefix(None, np.empty(0, np.int32), blank), np.array(ids, np.int32), [])
    logprobs: list[float] = [0.0]
    tops: list[list[tuple[int, float]]] = [[]]
    most = max(1, LOGITS_AT_ONCE // model.vocab_size)
    tokens = torch.tensor([ids], device=blank.device)
    while (first := reading.at) < len(ids) - 1:
        part = slice(first, min(first + min(most, chunk()), len(ids) - 1))
        positions = torch.arange(part.start, part.stop, device=blank.device)
        hidden = model.hidden(tokens[:, part], positions=positions, cache=reading)
        reading.at = part.stop
        logits = model.head(hidden[0])
        wanted = logits.gather(1, tokens[0, part.start + 1 : part.stop + 1, None])[:, 0]
        logprobs += (wanted - logits.logsumexp(-1)).tolist()
        tops += likeliest(logits, top) if top else [[]] * len(logits)
        yield
    return Scores(list(ids), logprobs, tops)
