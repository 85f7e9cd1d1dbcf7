"""What a model is asked for: each objective gives a sum of nats and the count of its targets."""

import torch
from torch import Tensor, nn

from starkiln.train.loop import Batch, Ratio


def next_token(model: nn.Module, batch: Batch) -> tuple[Ratio, dict[str, Ratio]]:
    """The decoder's loss on (tokens int64 [B, T+1], mask bool [B, T] over targets)."""
    tokens, mask = batch
    return model.loss(tokens[:, :-1], tokens[:, 1:], mask), {}
