"""What a training run leaves on the disk to be continued from: states and journals.

A state is a folder ``step-NNNNNN`` with all weights and moments and a record that holds their
hash. It appears whole or not at all; a damaged one is passed over for the one before it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from starkiln.core import atomic
from starkiln.core.errors import UserError
from starkiln.model.checkpoint import write_tensors

FORMAT = 1
TENSORS = "state.safetensors"
RECORD = "state.json"


class Journal:
    """A JSON-lines file that grows, and that a resumed run cuts back to where its state was."""

    def __init__(self, path: Path, size: int) -> None:
        """Keep the first ``size`` bytes of ``path`` (made if need be)."""
        self.path = path
        path.touch()
        if path.stat().st_size < size:
            raise UserError(
                path, f"lacks rows that the saved state has ({size} bytes)", "remove state/ too"
            )
        self._file = path.open("r+b")
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; it has left this process when the call returns."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes so far, durable on the disk when the call returns."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def last_row(path: Path) -> dict[str, Any]:
    """The newest row of a journal."""
    return json.loads(path.read_bytes().splitlines()[-1])


def tensors(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All weights and moments by name: ``model/NAME`` and ``optimizer/NAME/MOMENT``."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    found = {f"model/{name}": p.detach() for p, name in names.items()}
    for optimizer in optimizers:
        for p, moments in optimizer.state.items():
            for moment, value in moments.items():
                found[f"optimizer/{names[p]}/{moment}"] = value
    return found


@torch.no_grad()
def fill(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], saved: dict[str, Tensor]
) -> None:
    """Put what ``tensors`` gave back into the same model and optimizers."""
    owner = {
        p: optimizer
        for optimizer in optimizers
        for g in optimizer.param_groups
        for p in g["params"]
    }
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.copy_(saved[f"model/{name}"])
    for key, value in saved.items():
        kind, _, rest = key.partition("/")
        if kind == "optimizer":
            name, _, moment = rest.rpartition("/")
            parameter = parameters[name]
            owner[parameter].state[parameter][moment] = value.to(parameter.device)


def save(folder: Path, step: int, values: dict[str, Tensor], record: dict[str, Any]) -> Path:
    """Write the state after ``step`` steps to ``folder`` and remove all but the last two."""
    final = folder / f"step-{step:06d}"
    new = folder / f".{final.name}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*"):  # by a process that was killed
            shutil.rmtree(left)
        new.mkdir()
        held = {name: value.cpu().contiguous() for name, value in values.items()}
        write_tensors(new / TENSORS, held)
        whole = {**record, "format": FORMAT, "step": step, "sha256": atomic.sha256(new / TENSORS)}
        atomic.write_json(new / RECORD, {**whole, "digest": _digest(whole)})
        atomic.swap(new, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        mend = "free some space and run again: it goes on from the last state"
        raise UserError(final, f"cannot be written ({error})", mend) from error
    keep_last(folder, 2)
    return final


def keep_last(folder: Path, count: int) -> None:
    """Remove all states of ``folder`` but the ``count`` newest."""
    for path in states(folder)[count:]:
        shutil.rmtree(path)


def states(folder: Path) -> list[Path]:
    """The states in ``folder``, newest first, whole or not."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdecimal())
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def newest(
    folder: Path, identity: str, on_event: Callable[..., None]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Record and tensors of the newest whole state; None without one.

    ``on_event`` hears of every damaged state that is passed over. UserError if the state belongs
    to a run of another ``identity``.
    """
    for path in states(folder):
        try:
            record = _record(path)
            values = load_file(path / TENSORS)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            on_event("state_damaged", path=str(path), reason=str(error) or repr(error))
            continue
        if record["identity"] != identity:
            raise UserError(
                path, "is of a run with other settings or data", f"remove {folder} to begin anew"
            )
        return record, values
    return None


def _record(path: Path) -> dict[str, Any]:
    record = json.loads((path / RECORD).read_bytes())
    if record.pop("digest") != _digest(record):
        raise ValueError(f"{RECORD} is damaged")
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']}, not {FORMAT}")
    if record["sha256"] != atomic.sha256(path / TENSORS):
        raise ValueError(f"{TENSORS} is damaged")
    return record


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
