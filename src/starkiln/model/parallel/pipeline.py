"""Pipeline parallel: stages on different ranks, micro-batches in flight between them.

Training goes by PyTorch's schedules: 1F1B, or its interleaved form where a rank has several
stages (Narayanan et al. 2021; paper §5.6). Their shapes are said beforehand, so that they infer
none, and the stages are plain modules to them: FSDP is told here what the last backward is.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from starkiln.model.parallel import sharding
from starkiln.model.parallel.share import Share

Loss = Callable[[Tensor, Tensor], Tensor]


class _Plain(nn.Module):
    """A stage as the schedules call it, which says when the step's last backward begins."""

    def __init__(self, share: Share, count: int) -> None:
        super().__init__()
        self.share, self.count, self.left = share, count, count

    def forward(self, x: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        out = self.share.run(None if self.share.stage.first else x, ids, targets)
        out.register_hook(self._backward)
        return out

    def _backward(self, gradient: Tensor) -> None:
        self.left = (self.left or self.count) - 1
        sharding.announce(self.share, last=not self.left, reduce=False, keep=True)


class Pipe:
    """The stages of a rank under the schedule for ``count`` micro-batches of [B, T] ids.

    ``loss(out, mask)`` is what the last stage differentiates.
    """

    def __init__(
        self,
        shares: list[Share],
        group: dist.ProcessGroup,
        count: int,
        ids: Tensor,
        dtype: torch.dtype,
        loss: Loss,
    ) -> None:
        dist.all_reduce(torch.zeros(1, device=ids.device), group=group)  # NCCL connects all now
        stages = [_stage(share, group, count, ids, dtype) for share in shares]
        options: dict[str, Any] = {"loss_fn": loss, "scale_grads": False}
        self.schedule: Any
        if len(stages) > 1:
            self.schedule = ScheduleInterleaved1F1B([*stages], count, **options)
        else:
            self.schedule = Schedule1F1B(stages[0], count, **options)
        self.first = shares[0].stage.first

    def step(self, ids: Tensor, targets: Tensor, mask: Tensor) -> Tensor | None:
        """Forward and backward of all micro-batches; what the last stage gave, if it is here."""
        args = (ids,) if self.first else ()
        return self.schedule.step(*args, target=mask, ids=ids, targets=targets)


def _stage(
    share: Share, group: dist.ProcessGroup, count: int, ids: Tensor, dtype: torch.dtype
) -> PipelineStage:
    between = activations(share, ids, dtype, "meta").requires_grad_()
    nats = torch.empty(len(ids), 2, ids.size(1) // share.contexts.size, device="meta")
    return PipelineStage(
        _Plain(share, count),
        *share.stage,
        ids.device,
        input_args=(ids.to("meta") if share.stage.first else between,),
        output_args=(nats.requires_grad_() if share.stage.last else between,),
        group=group,
    )


def activations(
    share: Share, ids: Tensor, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Room for what goes from stage to stage for ``ids`` [B, T]."""
    length = ids.size(1) // (share.contexts.size * share.tensors.size)
    return torch.empty(len(ids), length, share.config.n_embd, dtype=dtype, device=device)


@torch.no_grad()
def forward(
    shares: list[Share],
    group: dist.ProcessGroup,
    ids: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
) -> Tensor | None:
    """One micro-batch through all stages: what the last one gives, None on other ranks."""
    here, out = group.rank(), None
    for share in shares:
        x = None
        if not share.stage.first:
            x = activations(share, ids, dtype, ids.device)
            dist.recv(x, group=group, group_src=(here - 1) % group.size())
        out = share.run(x, ids, targets)
        if not share.stage.last:
            dist.send(out, group=group, group_dst=(here + 1) % group.size())
    return out if shares[-1].stage.last else None


def tied_sum(gradient: Tensor, group: dist.ProcessGroup) -> None:
    """Add to a gradient of the first stage's rank that of the last one's, and the reverse."""
    other = group.size() - 1 - group.rank()
    peer = dist.get_global_rank(group, other)
    theirs = torch.empty_like(gradient)
    exchange = [
        dist.P2POp(dist.isend, gradient.contiguous(), peer, group),
        dist.P2POp(dist.irecv, theirs, peer, group),
    ]
    for work in dist.batch_isend_irecv(exchange):
        work.wait()
    gradient.add_(theirs)
