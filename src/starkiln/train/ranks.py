"""What all ranks of a run do together, on the host: an error of one is an error of all.

For work that can fail on one rank alone, as writing to a disk does: without it the others would
wait in a collective for ever.
"""

import functools
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from starkiln.core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class Ranks:
    """All ranks, in a gloo group made for this; or one process alone.

    Made by all ranks at once, in the main thread; thereafter any one thread may use it.
    """

    def __init__(self) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.group = _gloo(dist.group.WORLD) if joined else None
        self.rank = dist.get_rank(self.group) if joined else 0
        self.world = dist.get_world_size(self.group) if joined else 1

    def merge(self, work: Callable[[], T], merge: Callable[[list[T]], list[R]]) -> R:
        """This rank's part of ``merge``, which the first rank calls on all ranks' ``work()``.

        What either raises on one rank is raised on all: OSError and UserError as they are, others
        as RuntimeError. ConnectionError if a rank is lost.
        """
        done = self._gather(_attempt(work))
        parts: list[Any] = []
        if self.rank == 0:
            fault = next((fault for _, fault in done if fault), None)
            if not fault:
                parts, fault = _attempt(lambda: merge([value for value, _ in done]))
            parts = [(None, fault)] * self.world if fault else [(part, None) for part in parts]
        part, fault = self._scatter(parts)
        if fault:
            raise fault
        return part

    def same(self, work: Callable[[], T]) -> T:
        """What ``work()`` gives on the first rank, on all."""
        mine: Callable[[], Any] = work if self.rank == 0 else lambda: None
        return self.merge(mine, lambda done: done[:1] * self.world)

    def _gather(self, value: Any) -> list[Any]:
        if not self.group:
            return [value]
        every = [None] * self.world if self.rank == 0 else None
        _joined(dist.gather_object, value, every, group=self.group, group_dst=0)
        return every or []

    def _scatter(self, values: list[Any]) -> Any:
        if not self.group:
            return values[0]
        mine = [None]
        _joined(dist.scatter_object_list, mine, values or None, group=self.group, group_src=0)
        return mine[0]


def _attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except (OSError, UserError) as error:
        return None, error
    except Exception as error:  # noqa: BLE001  (raised again on every rank)
        disk = _disk(error)
        return None, disk or RuntimeError("".join(traceback.format_exception(error)))


def _disk(error: BaseException | None) -> OSError | None:
    """The fault of the disk behind an error of a library that writes, if that is what it was."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _joined(collective: Callable[..., None], *args: Any, **options: Any) -> None:
    try:
        collective(*args, **options)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(f"a rank is lost: {reason}") from error


@functools.lru_cache(maxsize=1)
def _gloo(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """A group of all ranks beside ``world``, whose own collectives other threads make."""
    made = dist.new_group(backend="gloo")
    assert isinstance(made, dist.ProcessGroup)
    return made
