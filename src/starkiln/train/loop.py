"""The one training loop, from one process to many: whatever ``Part`` computes its sums.

Every step is a function of its number and of the weights before it: batch, learning rate and
dropout are keyed, so a run that was killed and resumed writes the same bytes as one that was not.
"""

import contextlib
import math
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from starkiln.core.errors import UserError
from starkiln.model.loss import Batch, Sums
from starkiln.model.parallel.mesh import Mesh
from starkiln.train import machine as machines
from starkiln.train import optim, state
from starkiln.train.machine import Machine
from starkiln.train.settings import STATE, TrainSettings

Read = Callable[[int, int], dict[str, np.ndarray]]

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
_LEFT_OUT = 10  # steps in a row; then it is the weights that are broken
_GENTLER = "lower the learning rate or lengthen warmup_steps"
_NORMS = 100  # of the last steps, by whose median a spike is known


class Share(Protocol):
    """This process's share of a model; ``model.parallel.part.Part`` is one."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The parameters here by their names in the whole model."""
        ...

    def accumulate(self, batch: Batch) -> Sums:
        """Add the gradients of the sum of the loss over ``batch``."""
        ...

    def finish(self) -> None:
        """Complete the gradients once all of a step's are added."""
        ...

    def gradient_norm(self) -> float:
        """The Euclidean norm of the whole model's gradient."""
        ...

    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off."""
        ...

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter or moment as the share that it is of the whole one."""
        ...


@dataclass(frozen=True)
class Task:
    """What is trained and how it is judged.

    ``read(first, count)`` gives samples ``first``.. as arrays [count, ...], as a pure function;
    its ``source`` is the number of each sample's source in ``sources``.
    ``validate()`` gives the fields of a row of ``validation.jsonl``, on every process.
    ``identity`` names settings and data: a state of another identity is not resumed.
    ``judge_first`` asks for a validation before the first step.
    """

    read: Read
    validate: Callable[[], dict[str, Any]]
    sources: list[str]
    identity: str
    seed: int
    judge_first: bool = False


def silent(event: str, **fields: Any) -> None:
    """Hear an event and say nothing."""


def train(
    part: Share,
    task: Task,
    settings: TrainSettings,
    machine: Machine,
    mesh: Mesh,
    folder: Path,
    on_event: Callable[..., None] = silent,
) -> dict[str, Any]:
    """Train what of ``part`` requires a gradient, from the newest state in ``folder`` if any.

    The first process writes ``metrics.jsonl`` (a row a step: step, tokens, loss in nats a target,
    lr, grad_norm, the loss of each source) and ``validation.jsonl``, without clock times, and
    all end with one state, that of the last step. ``on_event(name, **fields)`` hears of every
    step with its time. Returns the run's facts, the same for a resumed run.

    SIGINT and SIGTERM finish the step, save the state and raise KeyboardInterrupt. UserError when
    a loss or gradient is not finite, when a state is of another run, or when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part.train()
    run = _Run(part, task, settings, machine, mesh, folder, on_event if mesh.lead else silent)
    with machines.ready(machine), _interruption() as stop, ThreadPoolExecutor(1) as pool:
        try:
            if task.judge_first and not run.step:
                run.validate()
            for batch, waited in _prefetched(run, pool):
                run.advance(batch, waited, stop)
            run.saved()
        finally:
            run.close()
    if mesh.lead:
        state.keep_last(folder / STATE, 1)
    mesh.barrier()
    return run.facts()


class _Run:
    """A run in progress: its optimizers, its journals, and how far it has come."""

    def __init__(
        self,
        part: Share,
        task: Task,
        settings: TrainSettings,
        machine: Machine,
        mesh: Mesh,
        folder: Path,
        on_event: Callable[..., None],
    ) -> None:
        self.part, self.task, self.settings, self.machine = part, task, settings, machine
        self.mesh, self.folder, self.on_event = mesh, folder, on_event
        self.trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
        self.optimizers = optim.optimizers(self.trained.items(), settings, machine.dtype, part.view)
        record = self._restore()
        self.step, self.tokens = record.get("step", 0), record.get("tokens", 0)
        self.norms = deque(record.get("norms", []), _NORMS)
        self.left_out = record.get("left_out", 0)  # steps in a row
        self.machines = record.get("machines", [])
        before = {k: v for k, v in (self.machines or [{}])[-1].items() if k != "from_step"}
        if before != machine.facts:
            self.machines.append({"from_step": self.step, **machine.facts})
        sizes = record.get("journals", {})
        self.journals = {
            name: state.Journal(folder / name, sizes.get(name, 0))
            for name in (METRICS, VALIDATION)
            if mesh.lead
        }
        self.saving: tuple[state.Saving, int, float] | None = None
        self.last: dict[str, dict[str, Any]] = {}
        self.clock = time.perf_counter()  # the end of the step before, so that waiting counts

    def _restore(self) -> dict[str, Any]:
        found = state.newest(self.folder / STATE, self.task.identity, self.on_event)
        if found is None:
            return {}
        record, path = found
        optim.prime(self.optimizers)
        state.fill(path, self._values())
        self.on_event("resumed", step=record["step"])
        return record

    def _values(self) -> dict[str, Tensor]:
        """Weights and moments by flat name, as the shares that they are of the whole ones."""
        view, named = self.part.view, self.trained
        values = {f"model/{name}": view(name, p.detach()) for name, p in named.items()}
        for flat, value in optim.moments(self.optimizers, named).items():
            name = flat.partition("/")[2].rpartition("/")[0]
            values[flat] = view(name, value) if value.ndim else value
        return values

    def samples(self, step: int) -> range:
        """The global numbers of the samples of 0-based ``step``."""
        size = self.settings.batch_size
        return range(step * size, (step + 1) * size)

    def own(self, step: int) -> range:
        """Those of them that are this process's."""
        size = self.settings.batch_size // self.mesh.data
        return self.samples(step)[self.mesh.data_rank * size :][:size]

    def advance(self, batch: Batch, waited: float, stop: threading.Event) -> None:
        """Make one step, and validate and save where it is time to."""
        row, stopping = self._update(batch, stop)
        self.step, self.tokens = row["step"], row["tokens"]
        self._note(METRICS, row)
        self.on_event("step", **row, waited=waited, seconds=time.perf_counter() - self.clock)
        stopping |= self.mesh.world == 1 and stop.is_set()  # of many, all must stop at one step
        last, settings = self.step == self.settings.steps, self.settings
        if last or self.step % settings.validation_every == 0:
            self.validate()
        if last or self.step % settings.checkpoint_every == 0 or stopping:
            self._save()
        if stopping:
            self.saved()
            raise KeyboardInterrupt
        self.clock = time.perf_counter()

    def _update(self, batch: Batch, stop: threading.Event) -> tuple[dict[str, Any], bool]:
        share = optim.rate(self.step, self.settings)
        optim.set_rate(self.optimizers, share)
        machines.seed_dropout(self.task.seed, self.step, self.mesh.seed_offset)
        sums = self.part.accumulate(batch)
        nats, targets, stopping = self._summed(batch["source"], sums, stop.is_set())
        count = int(targets.sum())
        self.part.finish()
        norm = self.part.gradient_norm() / max(1, count)
        fault = self._fault(float(nats.sum()), count, norm, sums)
        if fault:
            self.on_event("skipped", step=self.step + 1, reason=fault)
        else:
            clip = self.settings.clip
            self.part.scale_gradients(clip / max(norm, clip) / count)
            self.norms.append(norm)
        for optimizer in self.optimizers:
            if not fault:
                optimizer.step()
            optimizer.zero_grad()
        each = {name: float(n / t) for name, n, t in zip(self.task.sources, nats, targets) if t}
        row = {
            "step": self.step + 1,
            "tokens": self.tokens + count,
            "loss": float(nats.sum()) / max(1, count),
            "lr": self.settings.lr * share,
            "grad_norm": norm,
            "sources": each,
        }
        return row | ({"skipped": fault} if fault else {}), stopping

    def _summed(
        self, sources: Tensor, sums: Sums, stop: bool
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Nats and targets of each source in the whole batch, and whether anyone is to stop."""
        size, where = len(self.task.sources), sources.numpy()
        own = np.zeros(2 * size + 1)
        np.add.at(own, where, sums.nats.double().cpu().numpy())
        np.add.at(own[size:], where, sums.targets.cpu().numpy())
        own[-1] = stop
        every = np.array(self.mesh.sum(own.tolist()))
        return every[:size], every[size:-1], bool(every[-1])

    def _fault(self, nats: float, count: int, norm: float, sums: Sums) -> str:
        """Why the step must not be made; UserError where the settings say to stop then."""
        mend = f"look at these samples, {_GENTLER}"
        what, samples, spike = "", self.samples(self.step), self.settings.spike
        if not math.isfinite(nats):
            what, samples = f"the loss is {nats}", self._culprits(sums)
        elif count == 0:
            what = "there is no target"
        elif not math.isfinite(norm):
            what = f"the gradient's norm is {norm}"
        elif spike and len(self.norms) == _NORMS and norm > spike * statistics.median(self.norms):
            what = f"the gradient's norm is {norm:.3g}, {spike:g} times the usual or more"
        if not what:
            self.left_out = 0
            return ""
        what += f" on samples {samples[0]} to {samples[-1]}"
        self.left_out += 1
        if self.settings.on_spike == "stop" or self.left_out > _LEFT_OUT:
            if self.left_out > _LEFT_OUT:
                what = f"no step could be made {self.left_out} times in a row: {what}"
            else:
                mend += ", or set train.on_spike = 'skip'"
            raise UserError(f"training, step {self.step + 1}", what, mend)
        return what

    def _culprits(self, sums: Sums) -> list[int]:
        """The samples of this step whose loss is not finite, on whatever process."""
        flags, own = [0.0] * self.settings.batch_size, self.own(self.step)
        for i, bad in enumerate((~sums.nats.isfinite()).tolist()):
            flags[own[i] - self.samples(self.step).start] = float(bad)
        return [self.samples(self.step)[i] for i, bad in enumerate(self.mesh.sum(flags)) if bad]

    def validate(self) -> None:
        """Add a row to the journal of validations."""
        began = time.perf_counter()
        self.part.train(False)
        with torch.no_grad():
            fields = self.task.validate()
        self.part.train()
        if not math.isfinite(fields["loss"]):
            what = f"the loss of what is held out is {fields['loss']}"
            raise UserError(f"training, step {self.step}", what, _GENTLER)
        row = {"step": self.step, "tokens": self.tokens, **fields}
        self._note(VALIDATION, row)
        self.on_event("validated", **row, seconds=time.perf_counter() - began)

    def _note(self, journal: str, row: dict[str, Any]) -> None:
        self.last[journal] = row
        if self.mesh.lead:
            self.journals[journal].append(row)

    def _save(self) -> None:
        self.saved()
        began = time.perf_counter()
        record = {
            "identity": self.task.identity,
            "tokens": self.tokens,
            "norms": list(self.norms),
            "left_out": self.left_out,
            "machines": self.machines,
            "journals": {name: journal.size() for name, journal in self.journals.items()},
        }
        saving = state.save(self.folder / STATE, self.step, self._values(), record)
        self.saving = saving, self.step, time.perf_counter() - began

    def saved(self) -> None:
        """Wait until the state that is being written lies on the disk.

        ``saved`` then tells its step, and the seconds for which training stood still for it.
        """
        if self.saving is None:
            return
        (saving, step, held), began = self.saving, time.perf_counter()
        saving.wait()
        self.saving = None
        self.on_event("saved", step=step, seconds=held + time.perf_counter() - began)

    def close(self) -> None:
        """Let go of the journals, and of a state that is being written when it is written."""
        with contextlib.suppress(Exception):  # whatever ends the run comes first
            self.saved()
        for journal in self.journals.values():
            journal.close()

    def facts(self) -> dict[str, Any]:
        """What became of the run; on the first process alone."""
        if not self.mesh.lead:
            return {}
        return {
            "steps": self.step,
            "samples": self.step * self.settings.batch_size,
            "tokens": self.tokens,
            "loss": state.last_row(self.folder / METRICS)["loss"],
            "validation": state.last_row(self.folder / VALIDATION),
            "machines": self.machines,
        }


def _prefetched(run: _Run, pool: ThreadPoolExecutor) -> Iterator[tuple[Batch, float]]:
    """The batches from the run's step on, and the seconds that each was waited for.

    The next one is read while one is trained on.
    """

    def fetch(step: int) -> Batch:
        samples = run.own(step)
        arrays = run.task.read(samples.start, len(samples))
        on_gpu = run.machine.device.type == "cuda"
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {k: t.pin_memory() if on_gpu and k != "source" else t for k, t in tensors.items()}

    steps = range(run.step, run.settings.steps)
    ahead = deque(pool.submit(fetch, step) for step in steps[:1])
    for step in steps:
        began = time.perf_counter()
        batch = ahead.popleft().result()
        waited = time.perf_counter() - began
        if step + 1 < run.settings.steps:
            ahead.append(pool.submit(fetch, step + 1))
        yield batch, waited


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one acts as it did before."""
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
