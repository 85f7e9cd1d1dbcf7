"""Ranks of a gloo process group on this machine, as torchrun would start them.

A fork server that has torch loaded makes them, so a group of four is there in half a second.
"""

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch.distributed as dist

LOADED = ["torch", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.distributed"]
LOADED += ["torch.distributed.checkpoint", "torch.distributed.pipelining", "torch.optim"]
PATIENCE = 10.0  # seconds that the other ranks have left when one has failed


class RankError(Exception):
    """One or more ranks raised, died or did not come to an end; says which, with tracebacks."""


def run(
    world: int,
    function: Callable[..., Any],
    *args: Any,
    joined: bool = True,
    seconds: float = 120,
) -> list[Any]:
    """What ``function(*args)`` returned on each of ``world`` ranks, by rank.

    ``function`` is at the top of a test's module. Every rank has torchrun's environment, one
    thread, and is in a gloo process group unless ``joined`` is False. RankError if any rank
    raises, dies or needs more than ``seconds``; how a rank ends once it has answered is of no
    account.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    work = pickle.dumps((function, args))  # by itself: torch's own pickling shares the memory
    ends, processes = [], []
    for rank in range(world):
        here, there = context.Pipe(duplex=False)
        given = (there, _environment(rank, world, store.port), joined, work)
        processes.append(context.Process(target=_rank, args=given, daemon=True))
        processes[-1].start()
        there.close()
        ends.append(here)
    try:
        results = _collect(ends, time.monotonic() + seconds)
    finally:
        for process in processes:
            process.join(0.5)
            process.kill()
            process.join()
            process.close()
    faults = [f"rank {rank}: {text}" for rank, (good, text) in sorted(results.items()) if not good]
    if faults:
        raise RankError("\n".join(faults))
    return [value for _, (_, value) in sorted(results.items())]


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here and not with rank 0
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", loopback),
    }


def _collect(ends: list[Connection], deadline: float) -> dict[int, tuple[bool, Any]]:
    """By rank: whether it went well, and the result or the reason."""
    found: dict[int, tuple[bool, Any]] = {}
    while len(found) < len(ends):
        waiting = [end for rank, end in enumerate(ends) if rank not in found]
        ready = wait(waiting, max(0, deadline - time.monotonic()))
        for end in ready:
            try:
                answer = pickle.loads(end.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                answer = (False, "died without an answer")
            found[ends.index(end)] = answer  # type: ignore[arg-type]
            if not answer[0]:
                deadline = min(deadline, time.monotonic() + PATIENCE)
        if not ready:
            late = (rank for rank in range(len(ends)) if rank not in found)
            found |= dict.fromkeys(late, (False, "did not come to an end"))
    return found


def _rank(answers: Connection, environment: dict[str, str], joined: bool, work: bytes) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        function, args = pickle.loads(work)
        if joined:
            dist.init_process_group("gloo", timeout=timedelta(seconds=60))
        answer = pickle.dumps((True, function(*args)))
    except BaseException:  # noqa: BLE001  (also SystemExit and KeyboardInterrupt go to the test)
        answer = pickle.dumps((False, traceback.format_exc()))
    answers.send_bytes(answer)
    if joined and dist.is_initialized():
        dist.destroy_process_group()
    os._exit(0)  # no teardown of gloo's threads
