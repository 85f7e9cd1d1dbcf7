"""Which slice of each parameter of the whole model lies on a rank: to fill it, and to view it.

``tensor`` slices rows or columns, and of that FSDP slices rows over data and context ranks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from starkiln.model.parallel.mesh import Mesh
from starkiln.model.parallel.tensor import dimension, span
from starkiln.model.settings import DecoderSettings

Read = Callable[[str, range | None], Tensor]

_ROWS_READ = 4096  # of a matrix at a time, so that no rank ever holds the whole one


def local(tensor: Tensor) -> Tensor:
    """What is here of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True)
class Slices:
    """Those of parameters of these whole ``shapes``."""

    config: DecoderSettings
    mesh: Mesh
    shapes: Mapping[str, tuple[int, ...]]

    def dimension(self, name: str) -> int | None:
        """The one that tensor ranks share out; None: each of them has all of it."""
        return dimension(name, self.config, self.mesh.tensor)

    def replicas(self, name: str) -> int:
        """On how many tensor ranks each number of a parameter is."""
        return self.mesh.tensor if self.dimension(name) is None else 1

    @torch.no_grad()
    def fill(self, name: str, tensor: Tensor, read: Read) -> None:
        """Put into a parameter what ``read(name, rows)`` gives of the whole one."""
        here, mesh, dim, shape = local(tensor), self.mesh, self.dimension(name), self.shapes[name]
        shares = [range(size) for size in shape]
        if dim is not None:
            shares[dim] = span(shape[dim], mesh.tensor, mesh.tensor_rank)
        if isinstance(tensor, DTensor):
            own = span(len(shares[0]), mesh.shards, mesh.shard_rank)
            shares[0] = shares[0][own.start : own.stop]
        for first in range(0, len(shares[0]), _ROWS_READ):
            piece = read(name, shares[0][first : first + _ROWS_READ])
            if dim == 1:
                piece = piece[:, shares[1].start : shares[1].stop]
            here[first : first + _ROWS_READ].copy_(piece)

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter, or a tensor like it, as a DTensor of the whole one; alone: as it is."""
        here, mesh, dim = local(tensor), self.mesh, self.dimension(name)
        if mesh.world == 1 or mesh.devices is None:
            return here
        shape = torch.Size(self.shapes[name])
        places = {"shard": Shard(0)}
        if mesh.tensor > 1:
            places = {"tensor": Replicate() if dim is None else Shard(dim)} | (
                places if mesh.shards > 1 else {}
            )
        return DTensor.from_local(
            here,
            mesh.devices[tuple(places)],
            list(places.values()),
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )
