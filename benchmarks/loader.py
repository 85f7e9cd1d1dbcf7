"""What the loader gives: tokens/s per core, beside a busy main thread, and from many shards.

Run: RAYON_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/loader.py (2 CPU-minutes). The corpus
is installed Python source, up to 40 MB, with a vocabulary of 49,152. Bars: 1 M tokens per CPU
second with FIM (1.3 M is the target) and 10 M without; 300,000 tokens/s in a thread beside a main
thread that launches small operations, as training's does, in at most half of the time.
"""

import base64
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from starkiln.code.document import SCHEMA, code_document
from starkiln.code.sentinels import END_OF_TEXT
from starkiln.core import keyed
from starkiln.tokenizer import shards
from starkiln.tokenizer.layout import Layouts
from starkiln.tokenizer.settings import LayoutSettings, PackSettings, TokenizerSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.fit_tokenizer import fit_tokenizer
from starkiln.train.loader import Loader
from starkiln.train.pack import pack_shard

VOCABULARY, BYTES = 49_152, 40_000_000
SECONDS = 3.0
BARS = {0.0: 1e7, 0.5: 1e6}  # tokens per CPU-second, by FIM rate
APPETITE = 300_000  # tokens/s: what the 164M shape takes in on an H200
SHARE = 0.5  # of the time that reading may take then
SHARDS = 5_000


def corpus(out: Path) -> None:
    """The standard library and what is installed as one curated shard, and texts without words."""
    rows, size = [], 0
    for place in ("stdlib", "purelib"):
        root = Path(sysconfig.get_paths()[place])
        for path in sorted(root.rglob("*.py")):
            told = {"repo": "o/r", "path": str(path.relative_to(root)), "licences": ["PSF-2.0"]}
            text = path.read_text(encoding="utf-8", errors="ignore")
            if size < BYTES and (place == "purelib" or "site-packages" not in path.parts):
                size += len(text)
                rows.append(code_document(text, language="Python", **told))
    for i in range(100):  # one endless line each
        text = base64.b64encode(keyed.generator("loader", i).bytes(30_000)).decode()
        told = {"repo": "o/r", "path": f"{i}", "licences": ["PSF-2.0"]}
        rows.append(code_document(text, language="Endless", **told))
    pl.DataFrame(rows, SCHEMA).unique("id", maintain_order=True).write_parquet(out)


def loader(folder: Path, words: Tokenizer, length: int, fim: float, source: str) -> Loader:
    """A loader of one source."""
    return Loader(
        folder / "tokens",
        words,
        split="train",
        sequence_length=length,
        seed=0,
        fim_rate=fim,
        spm_rate=0.5,
        only=[source],
    )


def rate(one: Loader) -> float:
    """Tokens per CPU-second of all threads."""
    count = max(1, 65_536 // one.length)
    one.batch(0, count)
    tokens, first, start = 0, count, time.process_time()
    while time.process_time() - start < SECONDS:
        tokens += one.batch(first, count)["mask"].size
        first += count
    return tokens / (time.process_time() - start)


def spin(stop: threading.Event) -> int:
    """Python that never lets the interpreter go by itself."""
    rounds = 0
    while not stop.is_set():
        for _ in range(1000):
            rounds += 1
    return rounds


def launch(stop: threading.Event) -> int:
    """Small operations of PyTorch, one after the other."""
    x, rounds = torch.ones(64, 64), 0
    while not stop.is_set():
        for _ in range(100):
            torch.add(x, x)
        rounds += 1
    return rounds


def timed(work: Callable[[threading.Event], int]) -> float:
    """Rounds of ``work`` a second."""
    stop = threading.Event()
    threading.Timer(SECONDS, stop.set).start()
    start = time.perf_counter()
    return work(stop) / (time.perf_counter() - start)


def beside(one: Loader, work: Callable[[threading.Event], int]) -> tuple[float, float]:
    """Share of the time that a thread reads ``APPETITE``, and what the main thread keeps."""
    alone, stop, spent = timed(work), threading.Event(), []
    count = max(1, 65_536 // one.length)
    due = count * one.length / APPETITE

    def read() -> None:
        first = 0
        while not stop.is_set():
            start = time.perf_counter()
            one.batch(first, count)
            first += count
            spent.append(time.perf_counter() - start)
            time.sleep(max(0.0, due - spent[-1]))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        kept = timed(work) / alone
    finally:
        stop.set()
        thread.join()
    return sum(spent) / len(spent) / due, kept


def many(folder: Path, words: Tokenizer) -> None:
    """``SHARDS`` small shards of one source under ``folder``/tokens."""
    rng, known = keyed.generator("loader", "many"), shards.vocabulary(words)
    ids = rng.integers(19, words.vocab_size, (50, 400), dtype=np.uint32)
    ids[:, -1] = END_OF_TEXT
    layouts = Layouts(ids.ravel(), np.arange(0, ids.size + 1, 400), np.zeros(50, np.int64))
    place = folder / "tokens" / "train" / "Many"
    place.mkdir(parents=True)
    bin_path, idx_path = shards.write(place / "00000", layouts, known)
    for i in range(1, SHARDS):
        (place / f"{i:05}.bin").write_bytes(bin_path.read_bytes())
        (place / f"{i:05}.idx").write_bytes(idx_path.read_bytes())


def main() -> int:
    fell_short = False

    def tell(name: str, value: str, good: bool = True) -> None:
        nonlocal fell_short
        fell_short |= not good
        print(f"{name:44} {value}{'' if good else '   below the bar'}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        curated = folder / "00000.parquet"
        corpus(curated)
        start, pack = time.process_time(), PackSettings()
        settings = TokenizerSettings(vocab_size=VOCABULARY, sample_bytes=BYTES)
        fit_tokenizer([curated], folder, settings=settings, pack=pack, seed=0)
        tell(f"fit {VOCABULARY:,}", f"{time.process_time() - start:.0f} CPU-s")
        start = time.process_time()
        made = pack_shard(curated, folder / "tokens", folder, LayoutSettings(), pack, 0)
        speed = made["tokens"] / (time.process_time() - start)
        tell("pack", f"{speed:,.0f} tokens/CPU-s of {made['tokens']:,} ({made['encoder']})")
        words = Tokenizer.load(folder)
        for source, length in (("Python", 2048), ("Python", 8192), ("Endless", 8192)):
            for fim, bar in BARS.items():
                speed = rate(loader(folder, words, length, fim, source))
                what = f"{source}, T {length}, FIM {fim}"
                good = speed >= bar or source == "Endless"  # the worst that there is
                tell(what, f"{speed:14,.0f} tokens/CPU-s, bar {bar:,.0f}", good)
        for length in (2048, 8192):
            one = loader(folder, words, length, 0.5, "Python")
            for work, counts in ((launch, True), (spin, False)):
                share, kept = beside(one, work)
                what = f"{APPETITE:,} tokens/s at T {length} beside {work.__name__}"
                told = f"reads {share:5.1%} of the time; the main thread keeps {kept:.0%}"
                tell(what, told, share <= SHARE or not counts)
        many(folder, words)
        start = time.perf_counter()
        one = loader(folder, words, 8192, 0.5, "Many")
        tell(f"open {SHARDS:,} shards", f"{time.perf_counter() - start:.2f} s")
        speed = rate(one)
        files = len(list(Path("/proc/self/fd").iterdir()))
        tell("... FIM 0.5", f"{speed:14,.0f} tokens/CPU-s, {files} open files", speed >= BARS[0.5])
    return int(fell_short)


if __name__ == "__main__":
    sys.exit(main())
