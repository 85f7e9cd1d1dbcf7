"""The one training loop: any objective that gives a sum of nats and a count of targets.

Every step is a function of its number and of the weights before it: batch, learning rate and
dropout are keyed, so a run that was killed and resumed writes the same bytes as one that was not.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from starkiln.core.errors import UserError
from starkiln.train import machine as machines
from starkiln.train import optim, state
from starkiln.train.machine import Machine
from starkiln.train.settings import TrainSettings

Batch = tuple[Tensor, ...]
Ratio = tuple[Tensor, Tensor]  # a sum and the count that it is over
Objective = Callable[[nn.Module, Batch], tuple[Ratio, dict[str, Ratio]]]
Read = Callable[[int, int], tuple[np.ndarray, ...]]

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
_EVENT_SECONDS = 5.0


def silent(event: str, **fields: Any) -> None:
    """Hear an event and say nothing."""


@dataclass(frozen=True)
class Task:
    """What is trained and how it is judged.

    ``read(first, count)`` gives samples ``first``.. as arrays [count, ...], as a pure function.
    ``objective(model, batch)`` gives (sum of nats, count of targets) and further named ratios.
    ``validate(model)`` gives the fields of a row of ``validation.jsonl``.
    ``identity`` names settings and data: a state of another identity is not resumed.
    """

    objective: Objective
    read: Read
    validate: Callable[[nn.Module], dict[str, Any]]
    identity: str
    seed: int


@dataclass
class Totals:
    """Sums over one batch, on the device until the step is over."""

    losses: list[Tensor] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    metrics: dict[str, list[Ratio]] = field(default_factory=dict)

    def add(self, loss: Ratio, metrics: dict[str, Ratio]) -> None:
        """Add a micro-batch."""
        self.losses.append(loss[0].detach())
        self.counts.append(loss[1])
        for name, (total, count) in metrics.items():
            self.metrics.setdefault(name, []).append((total.detach(), count))

    def means(self) -> dict[str, float]:
        """Each further metric over the whole batch."""
        return {
            name: sum(float(total) for total, _ in parts) / max(1, sum(int(n) for _, n in parts))
            for name, parts in self.metrics.items()
        }


def train(
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    machine: Machine,
    folder: Path,
    on_event: Callable[..., None] = silent,
) -> dict[str, Any]:
    """Train ``model`` in place, from the newest state in ``folder/state`` if there is one.

    Writes ``metrics.jsonl`` (a row a step: step, tokens, loss in nats a target, lr, grad_norm)
    and ``validation.jsonl`` beside it, without clock times, and ends with one state, that of the
    last step. ``on_event(name, **fields)`` hears the times. Returns facts of the run.

    SIGINT and SIGTERM finish the step, save the state and raise KeyboardInterrupt. UserError when
    a loss or gradient is not finite, when a state is of another run, or when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(machine.device).train()
    if machine.compile:
        machines.compile_blocks(model)
    run = Run(model, task, settings, machine, folder, on_event)
    try:
        with machines.ready(machine), _interruption() as interrupted:
            with ThreadPoolExecutor(1, "batches") as pool:
                run.steps(pool, interrupted)
    except torch.OutOfMemoryError as error:
        mend = f"set micro_batch below {machine.micro_batch}; results stay the same"
        raise UserError("run.micro_batch", f"no memory left on {machine.device}", mend) from error
    finally:
        run.close()
    state.keep_last(run.states, 1)
    return run.facts()


class Run:
    """A run in progress: the optimizers, the journals, and how far it has come."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainSettings,
        machine: Machine,
        folder: Path,
        on_event: Callable[..., None],
    ) -> None:
        self.model, self.task, self.settings, self.machine = model, task, settings, machine
        self.states, self.on_event = folder / "state", on_event
        self.optimizers = optim.optimizers(model, settings, machine.dtype)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        found = state.newest(self.states, task.identity, self._reject)
        record = found[0] if found else {}
        if found:
            state.fill(model, self.optimizers, found[1])
        self.step, self.tokens = record.get("step", 0), record.get("tokens", 0)
        self.saved = self.step if found else -1
        self.machines = [m for m in record.get("machines", []) if m["from_step"] < self.step]
        if not self.machines or self.machines[-1].items() - machine.facts.items() != set():
            pass
        sizes = record.get("journals", {})
        self.journals = {
            name: state.Journal(folder / name, sizes.get(name, 0)) for name in (METRICS, VALIDATION)
        }
