"""Training tokens/s: our loop against a plain loop over transformers' GPTBigCode, side by side.

Run: OMP_NUM_THREADS=1 python benchmarks/train.py. Same shape, initial weights and batches, AdamW,
clipping and schedule; dropout off. The two take turns, and the ratio is that of CPU-seconds a
step, so that a busy machine does not count. Bars: 0.95 at fp32, 1.3 our default against theirs.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

from starkiln.core import keyed
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.train import loop, machine, objectives, optim
from starkiln.train.settings import RunSettings, TrainSettings

VOCAB, LENGTH, BATCH, STEPS, ROUNDS = 2048, 256, 4, 12, 3
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SHAPE = DecoderSettings(n_layer=4, n_embd=192, n_head=3, n_positions=LENGTH, **NO_DROPOUT)
SETTINGS = TrainSettings(
    steps=STEPS,
    batch_size=BATCH,
    sequence_length=LENGTH,
    warmup_steps=4,
    validation_every=STEPS,
    checkpoint_every=STEPS,
)

Steps = tuple[list[float], list[float], list[float]]  # losses, CPU-seconds, seconds


def read(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens."""
    rng = keyed.generator("benchmark", first)
    return rng.integers(0, VOCAB, (count, LENGTH + 1)), np.ones((count, LENGTH), bool)


def ours(dtype: str, optimizer: str = "adam") -> Steps:
    """Each step of ``loop.train``, from event to event."""
    losses, cpu, wall = [], [], []

    def listen(event: str, **fields: float) -> None:
        if event == "step":
            losses.append(fields["loss"])
            cpu.append(time.process_time())
            wall.append(time.perf_counter())

    run = RunSettings(device="cpu", dtype=dtype, compile="off")
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    task = loop.Task(objectives.next_token, read, lambda model: {}, "benchmark", 0)
    with tempfile.TemporaryDirectory() as folder:
        here = machine.resolve(run, BATCH)
        loop.train(Decoder(SHAPE, VOCAB), task, settings, here, Path(folder), listen)
    return losses, np.diff(cpu).tolist(), np.diff(wall).tolist()


def theirs(dtype: str, optimizer: str = "adam") -> Steps:
    """The loop that one writes by hand, or that Trainer runs."""
    start = Decoder(SHAPE, VOCAB)
    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(**checkpoint.config(start)))
    model.load_state_dict(start.state_dict(), strict=False)
    model.tie_weights()
    model.train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=SETTINGS.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: optim.rate(step, SETTINGS))
    losses, cpu, wall = [], [], []
    for step in range(STEPS):
        tokens = torch.from_numpy(read(step * BATCH, BATCH)[0])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            ids = tokens[:, :-1]
            loss = model(input_ids=ids, labels=ids, shift_labels=tokens[:, 1:].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        adam.zero_grad()
        losses.append(loss.item())
        cpu.append(time.process_time())
        wall.append(time.perf_counter())
    return losses, np.diff(cpu).tolist(), np.diff(wall).tolist()


def median(run: Callable[..., Steps], dtype: str, optimizer: str) -> tuple[float, float, float]:
    """One round: last loss, and median CPU-seconds and seconds of a step."""
    losses, cpu, wall = run(dtype, optimizer)
    return losses[-1], statistics.median(cpu), statistics.median(wall)


def main() -> int:
    default = str(machine.resolve(RunSettings(), BATCH).dtype).removeprefix("torch.")
    default = {"bfloat16": "bf16", "float32": "fp32"}[default]
    tokens = LENGTH * BATCH
    rows = [  # ours, theirs, bar
        (("fp32", "adam"), ("fp32", "adam"), 0.95),
        (("bf16", "adam"), ("bf16", "adam"), 0.95),
        ((default, "adam"), ("fp32", "adam"), 1.3 if default == "bf16" else 0.95),
        ((default, "muon"), ("fp32", "adam"), 0.0),
    ]
    print(f"tokens/s at {torch.get_num_threads()} threads; our default here is {default}")
    print(
        f"{'ours':>12} {'theirs':>12} {'/CPU-s':>8} {'/CPU-s':>8} {'ratio':>6} {'bar':>5}", end=""
    )
    print(f" {'/s':>8} {'/s':>8} {'loss differs by':>16}")
    fell_short = False
    for mine, other, bar in rows:
        rounds = [(median(ours, *mine), median(theirs, *other)) for _ in range(ROUNDS)]
        a, b = (min(r[i][1] for r in rounds) for i in (0, 1))
        slow_a, slow_b = (min(r[i][2] for r in rounds) for i in (0, 1))
        apart = max(abs(x[0] - y[0]) for x, y in rounds)
        fell_short |= b / a < bar
        print(
            f"{' '.join(mine):>12} {' '.join(other):>12} {tokens / a:8,.0f} {tokens / b:8,.0f}"
            f" {b / a:6.2f} {bar:5.2f} {tokens / slow_a:8,.0f} {tokens / slow_b:8,.0f}"
            f" {apart:16.1e}"
        )
    return int(fell_short)


if __name__ == "__main__":
    sys.exit(main())
