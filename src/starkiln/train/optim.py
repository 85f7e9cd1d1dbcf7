"""Optimizers, the learning rate as a function of the step, and the norm of a gradient.

Parameters may be whole, slices of a tensor-parallel matrix, or FSDP's DTensors: AdamW works on
what is here, and Muon, which needs whole matrices, sees them through a ``View``.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from starkiln.train.settings import TrainSettings

View = Callable[[str, Tensor], Tensor]  # name, what is here of it -> the whole, as a DTensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic of the Muon note: steepest at zero
STACK = 1 << 24  # elements orthogonalised at once at most, so that large models need little room


_COURSES: dict[str, Callable[[float], float]] = {  # from 1 to 0 over the share that is done
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "wsd": lambda done: 1 - math.sqrt(done),
    "constant": lambda done: 1.0,
}


def rate(step: int, settings: TrainSettings) -> float:
    """The share of the peak learning rate at 0-based ``step``: linear warm-up, then the schedule.

    The last step has ``min_lr_ratio`` (rules §14) but of a constant one. Wsd stays at the peak
    and comes down in the last ``decay_share`` of all steps, by 1 - sqrt (Hägele 2024).
    """
    warm, low, steps = settings.warmup_steps, settings.min_lr_ratio, settings.steps
    if step < warm:
        return (step + 1) / warm
    begin = warm
    if settings.schedule == "wsd":
        begin = max(warm, steps - max(1, round(settings.decay_share * steps)))
    done = (step + 1 - begin) / (steps - begin)
    return low + (1 - low) * _COURSES[settings.schedule](min(max(done, 0.0), 1.0))


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: a matrix inside a numbered block, so no embedding."""
    return parameter.ndim == 2 and any(part.isdigit() for part in name.split("."))


def whole(name: str, tensor: Tensor) -> Tensor:
    """The view of a process that is alone: what is here is all."""
    return tensor


def optimizers(
    named: Iterable[tuple[str, nn.Parameter]],
    settings: TrainSettings,
    dtype: torch.dtype = torch.float32,
    view: View = whole,
) -> list[torch.optim.Optimizer]:
    """The optimizers of these parameters, frozen ones left out; 1-D ones have no decay.

    ``dtype`` is the arithmetic of Muon's orthogonalisation. ``view`` gives the whole of what is
    here of a parameter or its moment, and is asked for matrices of blocks alone.
    """
    trained = [(name, p) for name, p in named if p.requires_grad]
    muon = settings.optimizer == "muon"
    matrices = {p: name for name, p in trained if muon and is_block_matrix(name, p)}
    rest = [p for _, p in trained if p not in matrices]
    made: list[torch.optim.Optimizer] = []
    if rest:
        made.append(
            torch.optim.AdamW(
                _groups(rest, settings.weight_decay),
                lr=settings.lr,
                betas=(settings.beta1, settings.beta2),
                eps=settings.epsilon,
                fused=True,
            )
        )
    return [*made, Muon(matrices, settings, dtype, view)] if matrices else made


def _groups(params: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """By decay, and by mesh: one fused update takes no tensors of several meshes."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for p in sorted(params, key=lambda p: p.ndim <= 1):
        mesh = p.device_mesh if isinstance(p, DTensor) else None
        groups.setdefault((decay if p.ndim > 1 else 0.0, mesh), []).append(p)
    return [{"params": some, "weight_decay": share} for (share, _), some in groups.items()]


def prime(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Make all moments that are not there yet, as before a first step; no weight changes."""
    for optimizer in optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if not optimizer.state[p]:
                optimizer.state[p] |= _zeros(p, isinstance(optimizer, Muon))


def _zeros(p: Tensor, muon: bool) -> dict[str, Tensor]:
    if muon:
        return {"momentum": torch.zeros_like(p)}
    step = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def moments(
    optimizers: Iterable[torch.optim.Optimizer], named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All moments there are, as ``optimizer/NAME/MOMENT``."""
    names: dict[Tensor, str] = {p: name for name, p in named.items()}
    return {
        f"optimizer/{names[p]}/{moment}": value
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for moment, value in state.items()
    }


def set_rate(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set every learning rate to ``share`` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * share


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together: float64, so that no square overflows."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for matrices (Jordan 2024; Liu 2025's RMS match).

    Matrices of one shape are orthogonalised together, a third faster on a CPU than one by one,
    and in the arithmetic of the run, since bfloat16 is slow on CPUs that lack it.
    """

    def __init__(
        self,
        named: Mapping[nn.Parameter, str],
        settings: TrainSettings,
        dtype: torch.dtype,
        view: View = whole,
    ) -> None:
        self.names, self.dtype, self.view = named, dtype, view
        super().__init__(
            list(named),
            {
                "lr": settings.muon_lr,
                "momentum": settings.momentum,
                "weight_decay": settings.weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore
        """Update every matrix that has a gradient."""
        prime([self])
        for group in self.param_groups:
            for shape, params in self._by_shape(group["params"]).items():
                several = max(1, STACK // math.prod(shape)) * _ranks(self._whole(params[0]))
                for i in range(0, len(params), several):
                    self._update(params[i : i + several], max(shape), group)

    def _update(self, params: list[nn.Parameter], length: int, group: dict) -> None:
        momentum, lr = group["momentum"], group["lr"]
        looks = []
        for p in params:
            gradient, buffer = p.grad, self.state[p]["momentum"]
            assert gradient is not None
            buffer.lerp_(gradient, 1 - momentum)
            look = gradient.lerp(buffer, momentum)  # Nesterov
            looks.append(self.view(self.names[p], look.to(self.dtype)))
        for p, update in zip(params, _shared_out(looks), strict=True):
            here = p.to_local() if isinstance(p, DTensor) else p
            here.mul_(1 - lr * group["weight_decay"])
            here.add_(update, alpha=-0.2 * lr * math.sqrt(length))

    def _whole(self, p: nn.Parameter) -> Tensor:
        return self.view(self.names[p], p)

    def _by_shape(self, params: list[nn.Parameter]) -> dict[tuple[int, ...], list[nn.Parameter]]:
        """Parameters with a gradient by the sides of the whole matrix."""
        stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in params:
            if p.grad is not None:
                stacks.setdefault(tuple(sorted(self._whole(p).shape)), []).append(p)
        return stacks


def _ranks(matrix: Tensor) -> int:
    return matrix.device_mesh.size() if isinstance(matrix, DTensor) else 1


def _shared_out(looks: list[Tensor]) -> Iterable[Tensor]:
    """What is here of each matrix, orthogonalised: every rank does an equal share of them."""
    spread = [look for look in looks if isinstance(look, DTensor)]
    if not spread:
        return _together(looks)
    mesh, world = spread[0].device_mesh, _ranks(spread[0])
    me = mesh.mesh.flatten().tolist().index(mesh.get_rank())
    wholes = (look.full_tensor() for look in spread)
    mine = [i % world == me for i in range(len(spread))]
    done = iter(_together(list(itertools.compress(wholes, mine))))
    return (_scattered(next(done) if own else None, x) for own, x in zip(mine, spread, strict=True))


def _scattered(update: Tensor | None, like: DTensor) -> Tensor:
    """The slice here of the update that one rank of the mesh has whole and the others lack.

    They add zeros, so that one reduction brings each rank its slice and no more.
    """
    if update is None:
        update = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    mesh = like.device_mesh
    summed = DTensor.from_local(update.contiguous(), mesh, [Partial()] * mesh.ndim, run_check=False)
    return summed.redistribute(placements=like.placements).to_local()


def _together(matrices: list[Tensor]) -> list[Tensor]:
    """Matrices of one shape or its transpose, orthogonalised."""
    if not matrices:
        return []
    done = orthogonalise(torch.stack([x if _is_wide(x) else x.mT for x in matrices]))
    return [x if _is_wide(like) else x.mT for x, like in zip(done, matrices, strict=True)]


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Matrices [N, m, n], m <= n, with every singular value moved near 1 (0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _is_wide(x: Tensor) -> bool:
    return x.shape[0] <= x.shape[1]
