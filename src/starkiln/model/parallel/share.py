"""A stage of a decoder, cut to one rank's share of its matrices and sequences."""

import contextlib
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from starkiln.model.attention import attention
from starkiln.model.decoder import Decoder
from starkiln.model.loss import document_places
from starkiln.model.parallel import context, tensor
from starkiln.model.parallel.collectives import ALONE, Group, gather
from starkiln.model.settings import LOGITS_AT_ONCE, DecoderSettings


class Stage(NamedTuple):
    """One of ``count`` runs of layers, of equal length or nearly."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it embeds."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether it has the head."""
        return self.index == self.count - 1

    def layers(self, total: int) -> range:
        """The numbers of its blocks, of ``total``."""
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)


WHOLE = Stage()


class Share(Decoder):
    """What one rank has of a decoder; on the meta device, names as in the whole one."""

    def __init__(
        self,
        config: DecoderSettings,
        vocab_size: int,
        *,
        stage: Stage = WHOLE,
        tensors: Group = ALONE,
        contexts: Group = ALONE,
        mask_documents: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, vocab_size, device="meta")
        self.stage, self.tensors, self.contexts = stage, tensors, contexts
        self.mask_documents, self.autocast = mask_documents, autocast
        self._cut()
        self.note_shapes()
        if tensors.size > 1:
            tensor.share_out(self, tensors)

    def _cut(self) -> None:
        trunk, layers = self.transformer, self.stage.layers(self.config.n_layer)
        for name in list(trunk.h):
            if int(name) not in layers:
                del trunk.h[name]
        if not self.stage.last:
            del trunk.ln_f
        if not (self.stage.first or self.stage.last):  # the head is tied to the embeddings
            del trunk.wte
        if not self.stage.first and hasattr(trunk, "wpe"):
            del trunk.wpe

    def note_shapes(self) -> None:
        """Keep the shape of each parameter, as yet of the whole model."""
        self.shapes = {name: tuple(p.shape) for name, p in self.named_parameters()}

    def work(self, *, compile: bool, recompute: bool) -> None:
        """Compile each block, and keep its input alone, computing the rest again backward."""
        for block in self.transformer.h.values():
            if compile:
                block.forward = torch.compile(block.forward)  # one block's code serves all
            if recompute:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def run(self, x: Tensor | None, ids: Tensor, targets: Tensor) -> Tensor:
        """What the stage after this one needs of the whole ``ids`` [B, T]: [B, T / (C n), E].

        ``x`` is what the stage before gave; none: embed. The last stage gives nats and
        normalisers of ``targets`` [B, T]: [B, 2, T / C], those of this context rank.
        """
        with self._autocast(ids.device):
            places = document_places(ids) if self.mask_documents else {}
            positions = places.get("positions", torch.arange(ids.size(1), device=ids.device))
            positions = context.share(positions, self.contexts)
            if x is None:
                x = self.embed(context.share(ids, self.contexts), positions)
            attend = self._attend(places.get("documents"))
            x = self.blocks(x, positions, lambda layer: attend)
            if not self.stage.last:
                return x.contiguous()
            x = gather(self.transformer.ln_f(x), self.tensors, 1)
            wanted = context.share(targets, self.contexts)
            return torch.stack(self.nats(x, wanted), 1)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.autocast)

    def _attend(self, documents: Tensor | None) -> partial[Tensor] | None:
        if self.contexts.size > 1:
            return partial(context.attend, group=self.contexts, documents=documents)
        return None if documents is None else partial(attention, documents=documents)

    def _scores(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.tensors.size == 1:
            return super()._scores(hidden, targets)
        wte, rows = self.transformer.wte, LOGITS_AT_ONCE * self.tensors.size // self.vocab_size
        assert isinstance(wte, tensor.Vocabulary)
        return tensor.scores(hidden, targets, wte, max(1, rows))
