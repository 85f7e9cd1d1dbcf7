"""A module that fits whole on every device: data parallel, gradients summed once a step.

Its gradients are of the *sum* of the loss over the global batch, as ``part.Part``'s are, so the
training loop takes either.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from starkiln.model.loss import Batch, Sums
from starkiln.model.parallel.mesh import Mesh

BUCKET = 1 << 24  # gradients that are summed over ranks at a time: 64 MiB

Losses = Callable[[nn.Module, Batch], Sums]  # of a micro-batch, in the run's arithmetic
Measure = Callable[[nn.Module, Batch], Tensor]  # of a micro-batch: numbers [B, ...]


class Replica:
    """This rank's copy of ``module``, and how it computes.

    ``losses(module, batch)`` gives the sums of a micro-batch, ``micro_batch`` sequences at most;
    every tensor of a batch is [B, ...]. Weights are float32 and the first rank's on all; products
    are in ``dtype``. Every rank must take as many sequences a step.
    """

    def __init__(
        self,
        module: nn.Module,
        losses: Losses,
        mesh: Mesh,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        micro_batch: int,
    ) -> None:
        assert mesh.tensor == mesh.pipeline == mesh.context == 1
        self.mesh, self.device, self.dtype, self.micro_batch = mesh, device, dtype, micro_batch
        self.module, self.losses = module.to(device, torch.float32), losses
        if mesh.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0, group=mesh.group("shard"))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The module's own, by its own names."""
        return self.module.named_parameters()

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """What is here is all there is, on every rank."""
        return tensor

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        self.module.train(mode)

    def accumulate(self, batch: Batch) -> Sums:
        """Add the gradients of the sum of the loss over this rank's ``batch``."""
        every = []
        for piece in self._pieces(batch):
            with self._arithmetic():
                sums = self.losses(self.module, piece)
            sums.loss.backward()
            every.append(Sums(*(part.detach() for part in sums)))
        losses, nats, targets = zip(*every, strict=True)
        return Sums(torch.stack(losses).sum(), torch.cat(nats), torch.cat(targets))

    @torch.no_grad()
    def evaluate(self, batch: Batch, measure: Measure) -> Tensor:
        """``measure`` of every micro-batch of ``batch``, one after another; no collective."""
        with self._arithmetic():
            return torch.cat([measure(self.module, piece) for piece in self._pieces(batch)])

    def _pieces(self, batch: Batch) -> Iterator[Batch]:
        here = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        count = len(next(iter(here.values())))
        for first in range(0, count, self.micro_batch):
            yield {name: t[first : first + self.micro_batch] for name, t in here.items()}

    def _arithmetic(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.module.parameters() if p.grad is not None]

    @torch.no_grad()
    def finish(self) -> None:
        """Sum the gradients of a step over all ranks, in a few flat buckets."""
        if self.mesh.world == 1:
            return
        for bucket in _buckets(self._gradients()):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat, group=self.mesh.group("shard"))
            for g, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(summed.view_as(g))

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """The Euclidean norm of the whole gradient, which every rank has."""
        norms = torch._foreach_norm(self._gradients(), 2, dtype=torch.float64)
        return torch.stack(list(norms)).square().sum().item() ** 0.5

    @torch.no_grad()
    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient."""
        torch._foreach_mul_(self._gradients(), factor)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in order, at most ``BUCKET`` numbers or one tensor at a time."""
    bucket: list[Tensor] = []
    room = BUCKET
    for g in gradients:
        if bucket and g.numel() > room:
            yield bucket
            bucket, room = [], BUCKET
        bucket.append(g)
        room -= g.numel()
    if bucket:
        yield bucket
