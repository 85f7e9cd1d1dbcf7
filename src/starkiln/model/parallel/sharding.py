"""FSDP2: parameters, gradients and moments spread over the data and context ranks.

Weights are float32 shards; on GPUs a block computes with a copy in the run's arithmetic, and
gradients are summed in float32 (rules §14). All calls here are public in torch 2.11 to 2.13.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from starkiln.model.parallel.share import Share


def shard(share: Share, mesh: DeviceMesh, dtype: torch.dtype, keep: bool) -> None:
    """Spread ``share`` over ``mesh``; ``keep`` holds gathered weights until the last backward."""
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for module in (*share.transformer.h.values(), share):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
    register_fsdp_forward_method(share, "run")
    for module in modules(share):  # gradients are of sums: no division by the number of ranks
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def modules(share: nn.Module) -> list[FSDPModule]:
    """Those that gather and free their weights."""
    return [module for module in share.modules() if isinstance(module, FSDPModule)]


def announce(share: nn.Module, *, last: bool, reduce: bool, keep: bool) -> None:
    """What the backward pass that comes next is to do: whether it is the step's last, whether it
    sums gradients over ranks, and whether weights stay gathered after it."""
    if isinstance(share, FSDPModule):
        share.set_is_last_backward(last)
        share.set_requires_gradient_sync(last or reduce)
        share.set_reshard_after_backward(last or not keep)


def free(share: nn.Module) -> None:
    """Free gathered weights, after a forward pass without a backward one."""
    for module in modules(share):
        module.reshard()
