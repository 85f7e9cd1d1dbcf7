"""How this machine computes: device, arithmetic, threads; and the keyed stream of its dropout."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.train.settings import RunSettings


@dataclass(frozen=True)
class Machine:
    """The resolved ``RunSettings``; equal machines and settings give equal bytes.

    The thread count is one of them: PyTorch splits its sums by it.
    """

    device: torch.device
    dtype: torch.dtype
    micro_batch: int
    compile: bool
    threads: int

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest keeps of it."""
        found = {key: v if isinstance(v, int) else str(v) for key, v in asdict(self).items()}
        return {**found, "torch": torch.__version__}

    def autocast(self) -> torch.autocast:
        """The context in which the forward pass runs."""
        mixed = self.dtype is not torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)


def resolve(run: RunSettings, batch_size: int) -> Machine:
    """What ``run`` means here; UserError where the device is missing."""
    device = _device(run.device)
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    fast = device.type == "cuda" or _cpu_has_bfloat16()
    return Machine(
        device=device,
        dtype=dtypes[run.dtype if run.dtype != "auto" else "bf16" if fast else "fp32"],
        micro_batch=min(run.micro_batch or batch_size, batch_size),
        compile=run.compile == "on" or (run.compile == "auto" and device.type == "cuda"),
        threads=run.threads or torch.get_num_threads(),
    )


@contextlib.contextmanager
def ready(machine: Machine) -> Iterator[None]:
    """Set the thread count, and keep the process's own random stream as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    try:
        with torch.random.fork_rng([machine.device] if machine.device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)


def seed_dropout(seed: int, step: int) -> None:
    """Make the draws of a step a function of (seed, step), so that a resumed run has the same."""
    torch.manual_seed(int.from_bytes(keyed.digest("dropout", seed, step)[:8], "little"))


def compile_blocks(model: nn.Module) -> None:
    """Compile each block of ``model`` in place: one block's code serves all."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.compile()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            "run.device", f"'{name}' is not usable: {reason}", "choose auto or cpu"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise UserError("run.device", f"'{name}' is not supported", "choose auto, cpu or cuda")
    return device


def _cpu_has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
