"""Collectives that autograd goes through, over one group of ranks; ``torch.compile`` traces them.

All shares of a tensor are equal in size. A sum whose result every rank goes on with in the same
way passes its gradient unchanged; one whose result is shared out gathers it.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_ops = torch.ops._c10d_functional


class Group(NamedTuple):
    """Ranks that work together, and this rank's place among them."""

    name: str = ""
    size: int = 1
    rank: int = 0

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> "Group":
        """The ranks of a process group."""
        return cls(group.group_name, group.size(), group.rank())


ALONE = Group()


def gather(x: Tensor, group: Group, dim: int) -> Tensor:
    """All ranks' ``x`` one after another along ``dim``; gradients are summed and shared out."""
    if group.size == 1:
        return x
    return _Gather.apply(x.transpose(0, dim), group.name, group.size).transpose(0, dim)


def scatter(x: Tensor, group: Group, dim: int) -> Tensor:
    """This rank's share along ``dim`` of the sum of all ranks' ``x``; gradients are gathered."""
    if group.size == 1:
        return x
    return _Scatter.apply(x.transpose(0, dim), group.name, group.size).transpose(0, dim)


def total(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' ``x``, for a result that all ranks differentiate alike."""
    return _Total.apply(x, group.name)


@torch.no_grad()
def largest(x: Tensor, group: Group) -> Tensor:
    """The largest of all ranks' ``x``, element by element, without a gradient."""
    return _ops.wait_tensor(_ops.all_reduce(x.contiguous(), "max", group.name))


def _gathered(x: Tensor, name: str, size: int) -> Tensor:
    return _ops.wait_tensor(_ops.all_gather_into_tensor(x.contiguous(), size, name))


def _scattered(x: Tensor, name: str, size: int) -> Tensor:
    return _ops.wait_tensor(_ops.reduce_scatter_tensor(x.contiguous(), "sum", size, name))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, size: int) -> Tensor:
        ctx.group = name, size
        return _gathered(x, name, size)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _scattered(grad_outputs[0], *ctx.group), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, size: int) -> Tensor:
        ctx.group = name, size
        return _scattered(x, name, size)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _gathered(grad_outputs[0], *ctx.group), None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        return _ops.wait_tensor(_ops.all_reduce(x.contiguous(), "sum", name))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None
