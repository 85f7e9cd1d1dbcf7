"""LoRA: low-rank updates of a frozen decoder's matrices, trained through ``peft``.

A matrix ``MODULE.weight`` [out, in] gets ``MODULE.lora_A.default.weight`` [rank, in] and
``MODULE.lora_B.default.weight`` [out, rank]; itself it becomes ``MODULE.base_layer.weight``. What
is computed is W + alpha / rank * B A. Only A and B require a gradient.
"""

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from starkiln.core import atomic, keyed
from starkiln.core.errors import UserError
from starkiln.model import layouts
from starkiln.model.checkpoint import write_tensors
from starkiln.model.settings import DecoderSettings, parameter_shapes
from starkiln.train.settings import BaseSettings

Read = Callable[[str, range | None], Tensor]
Shapes = Mapping[str, tuple[int, ...]]

_A, _B = "lora_A.default.weight", "lora_B.default.weight"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft names them


def ready() -> None:
    """UserError where ``peft`` is not installed."""
    try:
        importlib.metadata.version("peft")
    except importlib.metadata.PackageNotFoundError as error:
        what = "LoRA needs the package peft, which is not here"
        raise UserError("base.lora_rank", what, "pip install 'starkiln[peft]'") from error


def prepare(model: nn.Module, *, tune: BaseSettings) -> nn.Module:
    """``model`` with its updates put in, in place, on its own device; all else is frozen.

    Their values are those of ``reader``, which is for the caller to fill in.
    """
    ready()
    from peft import LoraConfig, inject_adapter_in_model

    settings: dict[str, Any] = {
        "r": tune.lora_rank,
        "lora_alpha": tune.lora_alpha,
        "lora_dropout": tune.lora_dropout,
        "target_modules": list(tune.lora_targets),
    }
    device = next(model.parameters()).device
    on_meta = device.type == "meta"
    inject_adapter_in_model(LoraConfig(**settings), model, low_cpu_mem_usage=on_meta)
    return model


def added(shapes: Shapes, tune: BaseSettings) -> dict[str, tuple[int, int]]:
    """Name and shape of each parameter that LoRA adds to those of a decoder."""
    found = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module != name and module.rpartition(".")[2] in tune.lora_targets:
            found[f"{module}.{_A}"] = (tune.lora_rank, shape[1])
            found[f"{module}.{_B}"] = (shape[0], tune.lora_rank)
    return found


def reader(read: Read, shapes: Shapes, tune: BaseSettings, seed: int) -> Read:
    """``read`` by the names of a prepared model: A drawn by its name and ``seed``, B of zeros."""
    new = added(shapes, tune)

    def filled(name: str, rows: range | None) -> Tensor:
        if name not in new:
            return read(name.replace(".base_layer.", "."), rows)
        if name.endswith(_B):
            whole = torch.zeros(new[name])
        else:
            bound = new[name][1] ** -0.5
            drawn = keyed.generator("lora", seed, name).random(new[name], dtype="float32")
            whole = torch.from_numpy(drawn).mul_(2 * bound).sub_(bound)
        return whole if rows is None else whole[rows.start : rows.stop]

    return filled


@torch.no_grad()
def merged(
    tensors: Iterable[tuple[str, Tensor]], adapted: Mapping[str, Tensor], tune: BaseSettings
) -> Iterator[tuple[str, Tensor]]:
    """The base's ``tensors`` by plain name, with the updates in ``adapted`` added to them."""
    for name, tensor in tensors:
        module = name.removesuffix(".weight")
        if f"{module}.{_A}" in adapted:
            a, b = adapted[f"{module}.{_A}"].float(), adapted[f"{module}.{_B}"].float()
            update = (tune.lora_alpha / tune.lora_rank) * (b @ a)
            tensor = (tensor.float() + update).to(tensor.dtype)
        yield name, tensor


def save_adapter(
    folder: Path, adapted: Mapping[str, Tensor], decoder: DecoderSettings, tune: BaseSettings
) -> None:
    """Write the updates as ``peft`` loads them on the base as ``transformers`` has it.

    Matrices that are one there, as queries, keys and values are, get one update of the summed
    rank: the A's one above the other, the B's each in its own rows and columns. The scale stays.
    """
    values: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module, (a, b) in _fused(adapted, decoder).items():
        values[f"base_model.model.{module}.lora_A.weight"] = a
        values[f"base_model.model.{module}.lora_B.weight"] = b
        ranks[module.rpartition(".")[2]] = len(a)
    rank, scale = tune.lora_rank, tune.lora_alpha / tune.lora_rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": tune.checkpoint,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": tune.lora_alpha,
        "lora_dropout": tune.lora_dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: scale * r for name, r in ranks.items() if r != rank},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / _WEIGHTS, values, {"format": "pt"})
    atomic.write_json(folder / _CONFIG, config)


def _fused(
    adapted: Mapping[str, Tensor], decoder: DecoderSettings
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each matrix of the Hugging Face folder that has an update, by its module."""
    shapes = parameter_shapes(decoder, 1)  # the vocabulary has no update
    pieces = layouts.pieces(layouts.of(decoder), decoder, shapes)
    sizes = layouts.stored_shapes(pieces, shapes)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, places in pieces.items():
        module = name.removesuffix(".weight")
        if f"{module}.{_B}" not in adapted:
            continue
        a, b = adapted[f"{module}.{_A}"].float(), adapted[f"{module}.{_B}"].float()
        rows = iter(b.split([len(place) for _, place in places]))
        spread = {stored: b.new_zeros(sizes[stored][0], b.size(1)) for stored, _ in places}
        for stored, place in places:
            spread[stored][place.start : place.stop] = next(rows)
        for stored, whole in spread.items():
            parts.setdefault(stored.removesuffix(".weight"), []).append((a, whole))
    return {
        module: (torch.cat([a for a, _ in each]), torch.cat([b for _, b in each], dim=1))
        for module, each in parts.items()
    }
