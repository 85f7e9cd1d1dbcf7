"""Optimizers, the learning rate as a function of the step, and the norm of a gradient."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from starkiln.train.settings import TrainSettings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic of the Muon note: steepest at zero
STACK = 1 << 24  # elements orthogonalised at once at most, so that large models need little room


def rate(step: int, settings: TrainSettings) -> float:
    """The share of the peak learning rate at 0-based ``step``: linear warm-up, then the schedule.

    The last step of a cosine has ``min_lr_ratio`` (rules §14).
    """
    warm, low = settings.warmup_steps, settings.min_lr_ratio
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "constant":
        return 1.0
    done = (step + 1 - warm) / (settings.steps - warm)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: a matrix inside a numbered block, so no embedding."""
    return parameter.ndim == 2 and any(part.isdigit() for part in name.split("."))


def optimizers(
    model: nn.Module, settings: TrainSettings, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """The optimizers of ``model``; each parameter is in one of them, 1-D ones without decay.

    ``dtype`` is the arithmetic of Muon's orthogonalisation.
    """
    named = list(model.named_parameters())
    muon = settings.optimizer == "muon"
    matrices = [p for name, p in named if muon and is_block_matrix(name, p)]
    taken = set(map(id, matrices))
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
    return [adam, Muon(matrices, settings, dtype)] if matrices else [adam]


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

    def __init__(self, params: list[nn.Parameter], settings: TrainSettings, dtype: torch.dtype):
        self.dtype = dtype
        super().__init__(
            params,
            {
                "lr": settings.muon_lr,
                "momentum": settings.momentum,
                "weight_decay": settings.weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for shape, params in _by_shape(group["params"]).items():
                several = max(1, STACK // math.prod(shape))
                for i in range(0, len(params), several):
                    self._update(params[i : i + several], group)

    def _update(self, params: list[nn.Parameter], group: dict) -> None:
        momentum, lr = group["momentum"], group["lr"]
        looks = []
        for p in params:
            gradient = p.grad
            assert gradient is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            buffer = state["momentum"]
            buffer.lerp_(gradient, 1 - momentum)
            look = gradient.lerp(buffer, momentum)  # Nesterov
            looks.append((look if _wide(p) else look.mT).to(self.dtype))
        size = 0.2 * lr * math.sqrt(max(params[0].shape))
        for p, update in zip(params, orthogonalise(torch.stack(looks)), strict=True):
            p.mul_(1 - lr * group["weight_decay"])
            p.add_(update if _wide(p) else update.mT, alpha=-size)


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Matrices [N, m, n], m <= n, with every singular value moved near 1 (0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _wide(p: Tensor) -> bool:
    return p.shape[0] <= p.shape[1]


def _by_shape(params: list[nn.Parameter]) -> dict[tuple[int, ...], list[nn.Parameter]]:
    stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for p in params:
        if p.grad is not None:
            stacks.setdefault(tuple(sorted(p.shape)), []).append(p)
    return stacks
