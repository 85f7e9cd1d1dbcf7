"""Named tensors of all ranks in one folder, on torch's distributed checkpoint (DCP).

Its plans say which rank writes what, and which bytes a rank of another layout reads; its files
are the standard ones. Apart from ``train.state`` since DCP and DTensor take a second to import.
"""

import hashlib
import io
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    FileSystemReader,
    FileSystemWriter,
    Metadata,
)
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from starkiln.train.ranks import Ranks

Sums = dict[str, tuple[int, str]]  # a file's size in bytes and its SHA-256, by name


@dataclass(frozen=True)
class Piece:
    """What a rank holds of a tensor of ``size``: the box ``data`` at ``offsets``, on the host."""

    size: torch.Size
    offsets: torch.Size
    data: Tensor


def staged(values: dict[str, Tensor]) -> dict[str, Piece]:
    """Copies of what this rank holds of ``values``, by name in order; done when it returns."""
    found = {name: _piece(values[name]) for name in sorted(values)}
    if any(value.device.type == "cuda" for value in values.values()):
        torch.cuda.current_stream().synchronize()
    return found


def _piece(value: Tensor) -> Piece:
    local, offsets = value.detach(), torch.Size([0] * value.ndim)
    if isinstance(local, DTensor):
        local, offsets = local.to_local(), local.__create_chunk_list__()[0].offsets
    held = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
    return Piece(value.size(), offsets, held.copy_(local, non_blocking=True))


def write(path: Path, pieces: dict[str, Piece], ranks: Ranks) -> Sums:
    """Write the pieces of all ranks to the folder ``path``; on each rank the sums of all files.

    What several ranks hold is written once. Every file is on the disk when the call returns.
    Equal pieces on equal layouts give equal bytes.
    """
    planner, writer = _Planner(pieces), _Writer(path)
    metadata = Metadata({})

    def plan(plans: list[SavePlan]) -> list[SavePlan]:
        nonlocal metadata
        plans, metadata = planner.create_global_plan(plans)
        return writer.prepare_global_plan(plans)

    def finish(written: list[tuple[list[WriteResult], Sums]]) -> list[Sums]:
        writer.finish(metadata, [results for results, _ in written])
        sums = {name: seen for _, part in written for name, seen in part.items()}
        return [sums | writer.sums] * ranks.world

    mine = ranks.merge(planner.create_local_plan, plan)
    return ranks.merge(lambda: writer.write(mine, planner), finish)


class _Planner(DefaultSavePlanner):
    """DCP's own plan, of pieces that are on the host."""

    def __init__(self, pieces: dict[str, Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.pieces = pieces

    def create_local_plan(self) -> SavePlan:
        return SavePlan([_item(name, piece) for name, piece in self.pieces.items()])

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.pieces[index.fqn].data


def _item(name: str, piece: Piece) -> WriteItem:
    chunk = ChunkStorageMetadata(piece.offsets, piece.data.size())
    data = TensorWriteData(chunk, TensorProperties(piece.data.dtype), piece.size)
    index = MetadataIndex(name, piece.offsets)
    return WriteItem(index, WriteItemType.SHARD, tensor_data=data)


class _Summed(io.BufferedWriter):
    """A new file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return super().write(data)


class _Summing(FileSystem):
    """DCP's way to files, which keeps the sums of those that it wrote."""

    def __init__(self, sums: Sums) -> None:
        self.sums = sums

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.IOBase, None, None]:
        with _Summed(path) as stream:
            yield stream
        self.sums[path.name] = (path.stat().st_size, stream.hash.hexdigest())

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.sums[new_path.name] = self.sums.pop(path.name)


class _Writer(FileSystemWriter):
    """DCP's files, summed; equal tensors give equal bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, per_thread_copy_ahead=0)  # or it sorts by size where CUDA is
        self.sums: Sums = {}
        self.fs = _Summing(self.sums)

    def storage_meta(self) -> StorageMeta | None:
        return None  # the path and a random name

    def write(self, plan: SavePlan, planner: _Planner) -> tuple[list[WriteResult], Sums]:
        """Write this rank's share of the plan."""
        self.fs.mkdir(self.path)
        if not plan.items:
            return [], {}
        return self.write_data(plan, planner).value(), self.sums


def contents(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in the folder ``path``."""
    _, metadata = _opened(path)
    return {name: (entry.size, entry.properties.dtype) for name, entry in _tensors(metadata)}


def read(path: Path, values: dict[str, Tensor]) -> None:
    """Copy from ``path`` what this rank holds of ``values``, whatever layout wrote it."""
    reader, metadata = _opened(path)
    _read(reader, metadata, values)


def whole(path: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of these names, one at a time."""
    reader, metadata = _opened(path)
    entries = dict(_tensors(metadata))

    def one(name: str) -> Tensor:
        tensor = torch.empty(entries[name].size, dtype=entries[name].properties.dtype)
        _read(reader, metadata, {name: tensor})
        return tensor

    for name in names:
        yield name, one(name)  # kept by nothing here while the next is read


def _opened(path: Path) -> tuple[FileSystemReader, Metadata]:
    reader = FileSystemReader(path)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    return reader, metadata


def _tensors(metadata: Metadata) -> Iterator[tuple[str, TensorStorageMetadata]]:
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        yield name, entry


def _read(reader: FileSystemReader, metadata: Metadata, values: dict[str, Tensor]) -> None:
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(values, metadata, is_coordinator=True)
    reader.read_data(planner.create_local_plan(), planner).wait()
