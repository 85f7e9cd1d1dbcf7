"""Training against Hugging Face's Trainer: tokens/s, memory, waiting for data, and MFU on a GPU.

Run: OMP_NUM_THREADS=1 python benchmarks/train.py cpu (6 minutes), or gpu (one NVIDIA GPU, 9
minutes), or smoke (the gpu part's code on a CPU with tiny shapes); none: what there is. Needs
accelerate beside transformers. Each side of a row is a process of its own (``sides.py``): the
same shape, initial weights, samples of one loader with FIM, AdamW and clipping; dropout off.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sides import WORDS, Shape, Side, ours, prepare, run, theirs
from starkiln.model.settings import parameter_count
from starkiln.train import machine
from starkiln.train.settings import RunSettings

PEAK = 989e12  # dense bf16 of an H100 or H200, FLOP/s
BUDGET = 540.0  # seconds of the whole gpu part
ROUNDS = 2


def cpu_rows() -> list[tuple[str, Side, Side, float]]:
    """Name, our side, theirs, and by how much ours is to be faster."""
    quick = {"n_layer": 4, "n_embd": 192, "n_head": 3, "n_positions": 256}
    longer = {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 1024}
    small = Side(quick, WORDS, length=256, batch=4, steps=33)
    large = Side(longer, WORDS, length=1024, batch=2, steps=13)
    default = machine.resolve(RunSettings(device="cpu"), 4).dtype is torch.bfloat16
    own, best = ("bf16", 1.3) if default else ("fp32", 0.95)
    return [
        ("both fp32", small, small, 0.95),
        ("both bf16", replace(small, dtype="bf16"), replace(small, dtype="bf16"), 0.95),
        (f"our default ({own}), theirs", replace(small, dtype=own), small, best),
        ("... with Muon", replace(small, dtype=own, optimizer="muon"), small, 0.0),
        ("larger, both fp32", large, large, 0.95),
        (f"larger, our default ({own})", replace(large, dtype=own), large, best),
    ]


def cpu(data: Path) -> bool:
    """Measure the CPU's rows; whether all bars are reached, and fp32 losses equal."""
    print(f"{torch.get_num_threads()} threads; tokens per CPU-second, the best of rounds in turn")
    print(f"{'':28} {'ours':>7} {'theirs':>7} {'ratio':>6} {'bar':>5}  per second: ours, theirs,"
          "  ratio  MB: ours, theirs  waits: ours, theirs  mean losses differ by")  # fmt: skip
    good = True
    for name, mine, other, bar in cpu_rows():
        rounds = [(run(ours, mine, data), run(theirs, other, data)) for _ in range(ROUNDS)]
        faults = [told["fault"] for pair in rounds for told in pair if "fault" in told]
        if faults:
            print(f"{name:28} {faults[0]}")
            good = False
            continue
        a, b = ({k: min(r[i][k] for r in rounds) for k in rounds[0][i]} for i in (0, 1))
        a_cpu, a_wall = (mine.tokens / a[k] for k in ("cpu", "wall"))
        b_cpu, b_wall = (other.tokens / b[k] for k in ("cpu", "wall"))
        apart = abs(a["loss"] - b["loss"])
        good &= a_cpu / b_cpu >= bar and (mine != other or mine.dtype != "fp32" or apart < 1e-4)
        print(
            f"{name:28} {a_cpu:7,.0f} {b_cpu:7,.0f} {a_cpu / b_cpu:6.2f} {bar:5.2f}"
            f"  {a_wall:13,.0f} {b_wall:9,.0f} {a_wall / b_wall:6.2f}"
            f"  {a['memory'] / 1e6:8,.0f} {b['memory'] / 1e6:7,.0f}"
            f"  {a['waited']:10.1%} {b['waited']:7.1%}  {apart:.1e}",
            flush=True,
        )
    return good


def flops(side: Side) -> tuple[float, float]:
    """FLOPs a token: causal (6 of blocks and head, 6 L d T of attention), and 6 N."""
    c, count = side.config, parameter_count(side.config, side.vocab)
    multiplied = count - (c.n_positions + 2) * c.n_embd
    return 6 * multiplied + 6 * c.n_layer * c.n_embd * side.length, 6 * count


def gemm(device: str, size: int) -> float:
    """FLOP/s of a square bf16 product: the mean of ten, after three."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for i in range(13):
        if i == 3:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        a @ b
    if device == "cuda":
        torch.cuda.synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def gpu(data: Path, smoke: bool = False) -> bool:
    """Rows of the GPU, those with bars first, as far as the time goes."""
    started, device = time.perf_counter(), "cpu" if smoke else "cuda"
    rate = gemm(device, 256 if smoke else 8192)
    print(f"{'a CPU' if smoke else torch.cuda.get_device_name()}, torch {torch.__version__}; "
          f"bf16 product {rate / 1e12:,.3f} TFLOP/s; MFU against {PEAK / 1e12:,.0f}")  # fmt: skip
    print(f"{'':46} {'tokens/s':>9} {'MFU causal':>10} {'6N':>6} {'of product':>10} {'GB':>6}"
          f" {'waits':>6}  floor, target")  # fmt: skip
    good = True
    for name, side, bars, against in smoke_rows() if smoke else gpu_rows():
        for who in (ours, theirs)[: 1 + bool(against)]:
            left = BUDGET - (time.perf_counter() - started)
            label = name if who is ours else "... HF Trainer"
            told = run(who, side, data, left) if left > 20 else {"fault": "no time left"}
            if "fault" in told:
                print(f"{label:46} {told['fault']}", flush=True)
                good &= not bars
                continue
            speed = side.tokens / told["wall"]
            causal, whole = (speed * f for f in flops(side))
            ends = "" if who is theirs or not bars else f"{bars[0]:.0%}, {bars[1]:.0%}"
            if who is ours:
                first = speed
                good &= smoke or not bars or causal / PEAK >= bars[0]
            else:
                ends = f"ours is {first / speed:.2f} times as fast; bar {against}"
                good &= smoke or first / speed >= against
            print(
                f"{label:46} {speed:9,.0f} {causal / PEAK:10.1%} {whole / PEAK:6.1%}"
                f" {causal / rate:10.1%} {told['memory'] / 1e9:6.1f} {told['waited']:6.1%}"
                f"  {ends}",
                flush=True,
            )
    return good


def gpu_rows() -> list[tuple[str, Side, tuple[float, float] | None, float]]:
    """Name, side, MFU's floor and target, and what the Trainer is to be beaten by."""

    def shape(n_layer: int, n_embd: int, n_head: int) -> Shape:
        return {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "n_positions": 8192}

    usual = {"vocab": 49_152, "steps": 9, "dtype": "bf16", "device": "cuda", "compile": True}
    one = Side(shape(24, 2048, 16), length=8192, batch=16, micro=4, **usual)
    tiny = Side(shape(20, 768, 12), length=8192, batch=32, micro=8, **usual)
    short = replace(tiny, length=2048, batch=128, micro=32)
    wide = Side(shape(6, 6144, 48), length=8192, batch=8, micro=2, **usual)
    return [
        ("1B, 8K, micro-batch 4", one, (0.45, 0.50), 1.3),
        ("15.5B-wide slice of 6 layers, 8K, micro-batch 2", wide, (0.55, 0.58), 0.0),
        ("164M, 8K, micro-batch 8", tiny, (0.30, 0.36), 0.0),
        ("164M, 2K, micro-batch 32", short, (0.38, 0.45), 0.0),
        ("1B, 8K, micro-batch 2", replace(one, micro=2), None, 0.0),
        ("1B, 8K, micro-batch 4, FlashAttention", replace(one, kernel="FLASH"), None, 0.0),
        ("1B, 8K, micro-batch 4, not compiled", replace(one, compile=False), None, 0.0),
        ("1B, 8K, micro-batch 8, recomputed", replace(one, micro=8, recompute="blocks"), None, 0.0),
    ]  # fmt: skip


def smoke_rows() -> list[tuple[str, Side, tuple[float, float] | None, float]]:
    """The same, small enough for any CPU."""
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 64}
    wrong = {**shape, "n_head": 3}
    side = Side(shape, WORDS, length=64, batch=4, steps=5, micro=2, dtype="bf16")
    return [
        ("tiny, micro-batch 2", side, (0.45, 0.50), 1.3),
        ("tiny, recomputed", replace(side, recompute="blocks"), None, 0.0),
        ("tiny, heads that do not divide (must fail)", replace(side, shape=wrong), None, 0.0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="cpu, gpu, smoke; none: cpu, and gpu if there is")
    what = parser.parse_args().what or ["cpu", *["gpu"] * torch.cuda.is_available()]
    parts = {"cpu": cpu, "gpu": gpu, "smoke": partial(gpu, smoke=True)}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        good = [parts[name](Path(folder)) for name in what]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
