"""What a model is asked for: each objective gives a sum of nats and the count of its targets."""

from starkiln.model.decoder import Decoder
from starkiln.train.loop import Batch, Ratio


def next_token(model: Decoder, batch: Batch) -> tuple[Ratio, dict[str, Ratio]]:
    """The decoder's loss on (tokens int64 [B, T+1], mask bool [B, T] over targets)."""
    tokens, mask = batch
    return model.loss(tokens[:, :-1], tokens[:, 1:], mask), {}
