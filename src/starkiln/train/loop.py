"""The one training loop: any objective that gives a sum of nats and a count of targets.

Every step is a function of its number and of the weights before it: batch, learning rate and
dropout are keyed, so a run that was killed and resumed writes the same bytes as one that was not.
"""

import contextlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
Objective = Callable[[Any, Batch], tuple[Ratio, dict[str, Ratio]]]
Read = Callable[[int, int], tuple[np.ndarray, ...]]

METRICS, VALIDATION, STATE = "metrics.jsonl", "validation.jsonl", "state"


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
    validate: Callable[[Any], dict[str, Any]]
    identity: str
    seed: int


def silent(event: str, **fields: Any) -> None:
    """Hear an event and say nothing."""


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
    last step. ``on_event(name, **fields)`` hears of every step with its time. Returns the run's
    facts, the same for a resumed run.

    SIGINT and SIGTERM finish the step, save the state and raise KeyboardInterrupt. UserError when
    a loss or gradient is not finite, when a state is of another run, or when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(machine.device).train()
    if machine.compile:
        machines.compile_blocks(model)
    run = _Run(model, task, settings, machine, folder, on_event)
    try:
        with machines.ready(machine), _interruption() as stop, ThreadPoolExecutor(1) as pool:
            for batch in _prefetched(run, pool):
                run.advance(batch, stop)
    except torch.OutOfMemoryError as error:
        mend = f"set micro_batch below {machine.micro_batch}; batch and schedule stay the same"
        raise UserError("run.micro_batch", f"no memory left on {machine.device}", mend) from error
    finally:
        run.close()
    state.keep_last(folder / STATE, 1)
    return run.facts()


class _Run:
    """A run in progress: its optimizers, its journals, and how far it has come."""

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
        self.folder, self.on_event = folder, on_event
        self.optimizers = optim.optimizers(model, settings, machine.dtype)
        found = state.newest(folder / STATE, task.identity, on_event)
        record, tensors = found or ({}, {})
        if found:
            state.fill(model, self.optimizers, tensors)
            on_event("resumed", step=record["step"])
        self.step, self.tokens = record.get("step", 0), record.get("tokens", 0)
        self.machines = record.get("machines", [])
        if not self.machines or machine.facts.items() - self.machines[-1].items():
            self.machines.append({"from_step": self.step, **machine.facts})
        sizes = record.get("journals", {})
        self.journals = {
            name: state.Journal(folder / name, sizes.get(name, 0)) for name in (METRICS, VALIDATION)
        }
        self.clock = time.perf_counter()  # the end of the step before, so that waiting counts

    def samples(self, step: int) -> range:
        """The global numbers of the samples of 0-based ``step``."""
        size = self.settings.batch_size
        return range(step * size, (step + 1) * size)

    def advance(self, batch: Batch, stop: threading.Event) -> None:
        """Make one step, and validate and save where it is time to."""
        row = self._update(batch)
        self.step, self.tokens = row["step"], row["tokens"]
        self.journals[METRICS].append(row)
        self.on_event("step", **row, seconds=time.perf_counter() - self.clock)
        last, settings = self.step == self.settings.steps, self.settings
        if last or self.step % settings.validation_every == 0:
            self._validate()
        if last or self.step % settings.checkpoint_every == 0 or stop.is_set():
            self._save()
        if stop.is_set():
            raise KeyboardInterrupt
        self.clock = time.perf_counter()

    def _update(self, batch: Batch) -> dict[str, Any]:
        share = optim.rate(self.step, self.settings)
        optim.set_rate(self.optimizers, share)
        machines.seed_dropout(self.task.seed, self.step)
        losses, parts = accumulate(self.model, self.task.objective, batch, self.machine)
        loss, count = self._sum(losses)
        norm = self._scale(count)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return {
            "step": self.step + 1,
            "tokens": self.tokens + count,
            "loss": loss / count,
            "lr": self.settings.lr * share,
            "grad_norm": norm,
            **{name: _mean(ratios) for name, ratios in parts.items()},
        }

    def _sum(self, losses: list[Ratio]) -> tuple[float, int]:
        """Nats and targets of the whole batch, once it is sure that they are numbers."""
        nats = torch.stack([nats.detach() for nats, _ in losses]).tolist()
        count = int(sum(count for _, count in losses))
        for i, value in enumerate(nats):
            if not math.isfinite(value):
                first = i * self.machine.micro_batch
                self._refuse(f"the loss is {value}", slice(first, first + self.machine.micro_batch))
        if count == 0:
            self._refuse("there is no target", slice(None))
        return math.fsum(nats), count

    def _scale(self, count: int) -> float:
        """Turn gradients of the sum into clipped ones of the mean; their norm before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = optim.gradient_norm(gradients).item() / count
        if not math.isfinite(norm):
            self._refuse(f"the gradient's norm is {norm}", slice(None))
        clip = self.settings.clip
        torch._foreach_mul_(gradients, clip / max(norm, clip) / count)
        return norm

    def _refuse(self, what: str, part: slice) -> None:
        samples = self.samples(self.step)[part]
        raise UserError(
            f"training, step {self.step + 1}",
            f"{what} on samples {samples[0]} to {samples[-1]}",
            "look at these samples, lower the learning rate or lengthen warmup_steps",
        )

    def _validate(self) -> None:
        began = time.perf_counter()
        self.model.eval()
        with torch.no_grad(), self.machine.autocast():
            fields = self.task.validate(self.model)
        self.model.train()
        row = {"step": self.step, "tokens": self.tokens, **fields}
        self.journals[VALIDATION].append(row)
        self.on_event("validated", **row, seconds=time.perf_counter() - began)

    def _save(self) -> None:
        began = time.perf_counter()
        record = {
            "identity": self.task.identity,
            "tokens": self.tokens,
            "machines": self.machines,
            "journals": {name: journal.size() for name, journal in self.journals.items()},
        }
        values = state.tensors(self.model, self.optimizers)
        state.save(self.folder / STATE, self.step, values, record)
        self.on_event("saved", step=self.step, seconds=time.perf_counter() - began)

    def close(self) -> None:
        """Close the journals."""
        for journal in self.journals.values():
            journal.close()

    def facts(self) -> dict[str, Any]:
        """What became of the run."""
        return {
            "steps": self.step,
            "samples": self.step * self.settings.batch_size,
            "tokens": self.tokens,
            "loss": state.last_row(self.folder / METRICS)["loss"],
            "validation": state.last_row(self.folder / VALIDATION),
            "machines": self.machines,
        }


def accumulate(
    model: nn.Module, objective: Objective, batch: Batch, machine: Machine
) -> tuple[list[Ratio], dict[str, list[Ratio]]]:
    """Add the gradients of the *sum* of nats, a micro-batch at a time.

    Divided by the count of the whole batch they are the same for any micro-batch, also where
    some sequences have fewer targets. Returns each micro-batch's loss and further ratios.
    """
    losses: list[Ratio] = []
    parts: dict[str, list[Ratio]] = {}
    for first in range(0, len(batch[0]), machine.micro_batch):
        piece = (part[first : first + machine.micro_batch] for part in batch)
        with machine.autocast():
            loss, further = objective(
                model, tuple(p.to(machine.device, non_blocking=True) for p in piece)
            )
        loss[0].backward()
        losses.append(loss)
        for name, ratio in further.items():
            parts.setdefault(name, []).append(ratio)
    return losses, parts


def _mean(ratios: list[Ratio]) -> float:
    return sum(float(total) for total, _ in ratios) / max(1, sum(int(n) for _, n in ratios))


def _prefetched(run: _Run, pool: ThreadPoolExecutor) -> Iterator[Batch]:
    """The batches from the run's step on; the next one is read while one is trained on."""

    def fetch(step: int) -> Batch:
        samples = run.samples(step)
        arrays = map(torch.from_numpy, run.task.read(samples.start, len(samples)))
        on_gpu = run.machine.device.type == "cuda"
        return tuple(array.pin_memory() if on_gpu else array for array in arrays)

    steps = range(run.step, run.settings.steps)
    ahead = deque(pool.submit(fetch, step) for step in steps[:1])
    for step in steps:
        batch = ahead.popleft().result()
        if step + 1 in steps:
            ahead.append(pool.submit(fetch, step + 1))
        yield batch


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal acts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
