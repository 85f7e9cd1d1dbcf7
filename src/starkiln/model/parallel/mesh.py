"""The devices of a run and which share of the work each has (paper §5.6).

Ranks count up over tensor, then context, then data, then pipeline: those that talk most are
neighbours, inside one machine, and only activations go from stage to stage.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from starkiln.core.errors import UserError
from starkiln.model.parallel.collectives import ALONE, Group
from starkiln.model.settings import ParallelSettings


def rank_map(world: int, settings: ParallelSettings) -> Tensor:
    """The rank at each place [pipeline, data, context, tensor]; UserError if none fits."""
    sizes = settings.pipeline, settings.context, settings.tensor
    together = settings.pipeline * settings.context * settings.tensor
    if world % together:
        what = f"pipeline {sizes[0]} x context {sizes[1]} x tensor {sizes[2]} = {together}"
        what += f" does not divide {world} processes"
        mend = f"start a multiple of {together} with torchrun --nproc-per-node, or lower them"
        raise UserError("run.parallel", what, mend)
    return torch.arange(world).view(sizes[0], -1, *sizes[1:])


@dataclass(frozen=True)
class Mesh:
    """This rank's place among all, and the groups it works with; one process alone has none."""

    rank: int = 0
    pipeline: int = 1
    data: int = 1
    context: int = 1
    tensor: int = 1
    devices: DeviceMesh | None = None  # (pipeline, tensor, shard): data and context are one
    contexts: Group = ALONE
    owner: bool = False  # of the process group

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self.pipeline * self.data * self.context * self.tensor

    @property
    def lead(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    @property
    def shards(self) -> int:
        """Over how many ranks each parameter, gradient and moment is spread."""
        return self.data * self.context

    @property
    def tensor_rank(self) -> int:
        """This rank's number among those that share its matrices."""
        return self.rank % self.tensor

    @property
    def shard_rank(self) -> int:
        """This rank's number among those that hold shards of the same parameters."""
        return self.rank // self.tensor % self.shards

    @property
    def data_rank(self) -> int:
        """Which share of the global batch is this rank's."""
        return self.shard_rank // self.context

    @property
    def pipeline_rank(self) -> int:
        """This rank's number among those that share its layers."""
        return self.rank // (self.tensor * self.shards)

    @property
    def seed_offset(self) -> int:
        """What tells ranks' dropout apart: all draw for other tokens, heads or layers."""
        return self.rank

    def group(self, name: str) -> dist.ProcessGroup:
        """This rank's group along ``pipeline``, ``tensor`` or ``shard``."""
        assert self.devices is not None
        return self.devices[name].get_group()

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all ranks, in float64, the same bits on every rank."""
        if self.world == 1:
            return values
        mine = torch.tensor(values, dtype=torch.float64)
        every = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(every, mine)
        return torch.stack(every).sum(0).tolist()

    def share(self, value: Any) -> Any:
        """The first rank's picklable ``value``."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum([0.0])

    def leave(self) -> None:
        """End the process group, if ``join`` began it."""
        if self.owner and dist.is_initialized():
            dist.destroy_process_group()


def join(settings: ParallelSettings, device: torch.device) -> Mesh:
    """Take this process's place among those that torchrun started, on ``device``.

    Collectives are NCCL's on GPUs and gloo's for tensors on the host. Without torchrun the process
    is alone; on a GPU it then is a group of one, so that the arithmetic is that of many. UserError
    if the settings do not fit the number of processes.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    places = rank_map(world, settings)
    gpu, owner = device.type == "cuda", not dist.is_initialized()
    if gpu:
        torch.cuda.set_device(device)
    elif world == 1:
        return Mesh()
    if owner:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            rank=rank,
            world_size=world,
            store=None if "WORLD_SIZE" in os.environ else dist.HashStore(),
            device_id=device if gpu else None,
        )
    shards = places.flatten(1, 2).transpose(1, 2).contiguous()
    pipeline, data, context, tensor = places.shape
    return Mesh(
        rank,
        pipeline,
        data,
        context,
        tensor,
        DeviceMesh(device.type, shards, mesh_dim_names=("pipeline", "tensor", "shard")),
        _contexts(places),
        owner,
    )


def _contexts(places: Tensor) -> Group:
    """The ranks that share this rank's sequences."""
    if places.size(2) == 1:
        return ALONE
    ranks = places.transpose(2, 3).flatten(0, 2).tolist()
    mine, _ = dist.new_subgroups_by_enumeration(ranks)
    assert isinstance(mine, dist.ProcessGroup)
    return Group.of(mine)
