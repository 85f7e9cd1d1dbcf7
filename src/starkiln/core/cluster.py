"""The same calls on a Ray cluster: what ``core.pool`` is to one machine.

Every machine needs this package, and the work folder under the same path (a shared file system).
Ray is imported only here, and only when a recipe asks for it.
"""

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from starkiln.core.errors import UserError
from starkiln.core.pool import LIVES, Pool, measured

PATIENCE = 10  # seconds until a head node counts as absent
LOCAL = "local"  # an address of our own: a cluster of worker processes on this machine


def _knock(address: str) -> None:
    """Raise OSError where nobody answers; Ray itself would ask for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


class Cluster(Pool):
    """The workers of a Ray cluster, joined at the first use; Ray repeats what a lost one was at.

    A cluster of its own on this machine ends with this process.
    """

    def __init__(self, address: str, workers: int) -> None:
        super().__init__(workers)
        self.address = address

    def completed(
        self, function: Callable[..., Any], calls: Iterable[tuple]
    ) -> Iterator[tuple[int, Any]]:
        """(index of the call, result) for each argument tuple, as they finish."""
        ray = self._ray()
        remote = ray.remote(num_cpus=1, max_retries=LIVES)(measured)
        room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: dict[Any, int] = {}
        queue = enumerate(calls)
        while True:
            for index, call in queue:
                waiting[remote.remote(function, call)] = index
                if len(waiting) >= room:
                    break
            if not waiting:
                return
            for done in ray.wait(list(waiting))[0]:
                yield waiting.pop(done), self._spent(self._result(done))

    def _ray(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "run.cluster", "Ray is not installed", "pip install 'starkiln[ray]'"
            ) from error
        if not ray.is_initialized():
            place: dict[str, Any] = {"address": self.address}
            if self.address == LOCAL:
                place = {"num_cpus": self.workers, "include_dashboard": False}
            try:
                _knock(self.address)
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **place)
            except (OSError, ValueError) as error:  # ConnectionError is one of the former
                raise UserError(
                    "run.cluster", f"no cluster at '{self.address}'", "ray start --head, or 'local'"
                ) from error
        return ray

    def _result(self, done: Any) -> Any:
        import ray

        try:
            return ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # the fault itself, as a local worker would raise it
        except ray.exceptions.RayError as error:  # lost as often as is allowed, or out of memory
            what = f"a worker was lost {LIVES} times ({type(error).__name__})"
            raise UserError("run.cluster", what, "lower ingest.shard_mb") from error
