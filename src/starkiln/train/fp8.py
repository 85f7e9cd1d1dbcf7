"""FP8: the products of the blocks' large matrices in 8 bits, through ``torchao``.

A matrix and what it is multiplied by are scaled by their largest value and rounded: e4m3 forward,
e5m2 for gradients. Weights, moments, sums and all else stay as they are, and so do the names.
"""

import importlib.metadata

import torch
from torch import nn

from starkiln.core.errors import UserError

CAPABILITY = (8, 9)  # of the first GPUs with 8-bit products: Ada, then Hopper and Blackwell
SMALLEST = 1024  # side of a matrix; of smaller ones the scaling costs more than it saves
_UNIT = 16  # what the hardware wants each side to be a multiple of


def ready() -> None:
    """UserError where this process's GPU, or the package ``torchao``, is missing."""
    here = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    if here is None or here < CAPABILITY:
        found = f"this one has {here[0]}.{here[1]}" if here else "here is none"
        what = f"fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or newer; {found}"
        raise UserError("run.dtype", what, "choose bf16 or auto")
    _installed()


def prepare(model: nn.Module) -> nn.Module:
    """``model`` with the large matrices of its blocks multiplied in 8 bits, in place.

    UserError where GPU or package is missing, or where no matrix is large enough.
    """
    ready()
    return convert(model)


def convert(model: nn.Module) -> nn.Module:
    """``prepare`` on any device: CPUs have the arithmetic too, and gain nothing by it."""
    _installed()
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    layers = [
        (parent, name, child)
        for block in model.get_submodule("transformer.h").children()
        for parent in block.modules()
        for name, child in parent.named_children()
        if _is_large(child)
    ]
    if not layers:
        what = f"fp8 pays for matrices from {SMALLEST} a side, and the decoder's are smaller"
        raise UserError("run.dtype", what, "choose bf16 or auto")
    config = Float8LinearConfig(pad_inner_dim=True)  # for any number of tokens
    for parent, name, child in layers:
        setattr(parent, name, convert_to_float8_training(child, config=config))
    return model


def _installed() -> None:
    try:
        importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError as error:
        what = "fp8 needs the package torchao, which is not here"
        raise UserError("run.dtype", what, "pip install 'starkiln[fp8]'") from error


def _is_large(module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear):
        return False
    sides = (module.in_features, module.out_features)
    return min(sides) >= SMALLEST and not any(side % _UNIT for side in sides)
