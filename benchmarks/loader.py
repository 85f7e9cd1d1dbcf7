"""Tokens per CPU-second of the loader, FIM on and off, on the Python standard library.

Run: RAYON_NUM_THREADS=1 python benchmarks/loader.py. Bar: 1 M tokens/s per core with FIM.
"""

import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import polars as pl

from starkiln.code.document import SCHEMA, code_document
from starkiln.tokenizer.settings import LayoutSettings, PackSettings, TokenizerSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.fit_tokenizer import fit_tokenizer
from starkiln.train.loader import Loader
from starkiln.train.pack import pack_shard

BAR = 1e6
SECONDS = 4.0


def corpus(out: Path) -> None:
    """The standard library as one curated shard."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="ignore")
            name = str(path.relative_to(root))
            rows.append(
                code_document(
                    text, repo="python/cpython", path=name, language="Python", licences=["PSF-2.0"]
                )
            )
    pl.DataFrame(rows, SCHEMA).write_parquet(out)


def rate(loader: Loader, batch: int) -> float:
    """Tokens per CPU-second of all threads."""
    loader.batch(0, batch)
    tokens, first, start = 0, 0, time.process_time()
    while time.process_time() - start < SECONDS:
        tokens += loader.batch(first, batch)[0].size
        first += batch
    return tokens / (time.process_time() - start)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus(folder / "00000.parquet")
        pack = PackSettings()
        start = time.process_time()
        settings = TokenizerSettings(vocab_size=4096, sample_bytes=10_000_000)
        fit_tokenizer([folder / "00000.parquet"], folder, settings=settings, pack=pack, seed=0)
        print(f"fit 4,096 on 10 MB        {time.process_time() - start:10.1f} CPU-s")
        start = time.process_time()
        made = pack_shard(
            folder / "00000.parquet", folder / "tokens", folder, LayoutSettings(), pack, 0
        )
        spent = time.process_time() - start
        print(
            f"pack                      {made['tokens'] / spent:10,.0f} tokens/CPU-s"
            f"  ({made['tokens']:,} tokens, {made['bytes'] / made['tokens']:.2f} bytes each)"
        )
        tokenizer = Tokenizer.load(folder)
        worst = float("inf")
        for length in (256, 2048, 8192):
            for fim in (0.0, 0.5):
                loader = Loader(
                    folder / "tokens",
                    tokenizer,
                    split="train",
                    sequence_length=length,
                    seed=0,
                    fim_rate=fim,
                    spm_rate=0.5,
                )
                speed = rate(loader, 16)
                worst = min(worst, speed) if fim else worst
                print(f"load T={length:<5} FIM {fim:3.1f}       {speed:10,.0f} tokens/CPU-s")
    print(f"slowest with FIM / bar: {worst / BAR:.1f}")
    return int(worst < BAR)


if __name__ == "__main__":
    sys.exit(main())
