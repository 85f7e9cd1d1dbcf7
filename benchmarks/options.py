"""Options beyond the paper at equal tokens: bits per byte on held-out code against its choices.

Run: python benchmarks/options.py [--quick]; 20 minutes on two quiet cores, or 2. A small decoder
learns the standard library's statements (see infill.py). Each row changes the paper's choice in one
place, and is compared with it seed by seed: same initial weights where shapes agree, same batches.
8-bit products are for large matrices on GPUs and are not here.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from infill import LENGTH, pack, statements
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer.settings import FimSettings
from starkiln.train.decoder import train_decoder
from starkiln.train.settings import RunSettings, TrainSettings

STEPS, SEEDS = 1300, 3
QUICK_STEPS, QUICK_SEEDS = 150, 1
PAPER = "the paper's"
SHAPE = DecoderSettings(n_layer=2, n_embd=128, n_head=4, n_positions=LENGTH)
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the decoder, of the training
    PAPER: ({}, {}),
    "Muon": ({}, {"optimizer": "muon", "lr": 1.5e-2, "muon_lr": 3e-3}),
    "WSD": ({}, {"schedule": "wsd"}),
    "z-loss": ({}, {"z_loss": 1e-4}),
    "documents apart": ({}, {"mask_documents": True}),
    "rotary positions": ({"rope_theta": 10_000.0}, {}),
    "2 key/value heads": ({"num_key_value_heads": 2}, {}),
    "multi-head": ({"multi_query": False}, {}),
    "no dropout": (NO_DROPOUT, {}),
}


def run(folder: Path, name: str, seed: int, steps: int) -> dict[str, Any]:
    """One training; bits per byte, parameters and CPU-seconds."""
    shape, changes = OPTIONS[name]
    usual = {
        "steps": steps,
        "batch_size": 8,
        "sequence_length": LENGTH,
        "lr": 8e-3,  # the best of 1, 2, 4, 8 and 16e-3 for the paper's choice at 400 steps
        "warmup_steps": steps // 20,
        "validation_every": steps,
        "validation_tokens": 131_072,
        "checkpoint_every": steps,
    }
    began = time.process_time()
    facts = train_decoder(
        tokens=folder / "tokens",
        tokenizer=folder / "tokenizer",
        out=folder / f"{name}-{seed}".replace("/", "-"),
        decoder=SHAPE.model_copy(update=shape),
        train=TrainSettings(**{**usual, **changes}),
        fim=FimSettings(),
        run=RunSettings(device="cpu", threads=1),
        seed=seed,
    )
    bits = facts["validation"]["bits_per_byte"]
    seconds = time.process_time() - began
    return {"bits": bits, "parameters": facts["parameters"], "seconds": seconds}


def table(found: dict[tuple[str, int], dict[str, Any]], seeds: range) -> Iterator[str]:
    """The rows: bits per byte, and the difference to the paper's choice with its spread."""
    head = f"{'':>18} {'parameters':>10} {'CPU-s':>6} {'bits/byte':>9}"
    yield f"{head} {'difference':>11}  each seed's"
    for name in OPTIONS:
        rows = [found[name, seed] for seed in seeds]
        apart = [row["bits"] - found[PAPER, seed]["bits"] for row, seed in zip(rows, seeds)]
        bits, seconds = (statistics.mean(row[key] for row in rows) for key in ("bits", "seconds"))
        yield (
            f"{name:>18} {rows[0]['parameters']:10,} {seconds:6.0f} {bits:9.4f} "
            f"{statistics.mean(apart):+11.4f}  {' '.join(f'{a:+.4f}' for a in apart)}"
        )
    own = [found[PAPER, seed]["bits"] for seed in seeds]
    yield f"seeds of the paper's choice differ by {max(own) - min(own):.4f} bits per byte"


def main() -> None:
    quick = "--quick" in sys.argv
    steps, seeds = (QUICK_STEPS, range(QUICK_SEEDS)) if quick else (STEPS, range(SEEDS))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pack(folder, statements())
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            jobs = {
                (name, seed): pool.submit(run, folder, name, seed, steps)
                for seed in seeds
                for name in OPTIONS
            }
            found = {key: job.result() for key, job in jobs.items()}
    print(f"{steps * 8 * LENGTH:,} tokens a run, {len(seeds)} seeds")
    print(*table(found, seeds), sep="\n")


if __name__ == "__main__":
    main()
