"""Infilling with fill-in-the-middle on and off: the same small model, tokens and prompts, twice.

Run: python benchmarks/infill.py [--quick]. The documents are single statements of the standard
library, the words almost bytes: so a model of half a million parameters and ten million tokens sees
a hole end often enough to learn where to stop, which it does not in longer documents (LOG.md).
Cases are cut from held-out statements, each with text after it. Greedy, up to end of text. A case
counts if the text is exactly what was cut out (both sides stripped, as in SantaCoder's line
infilling). Bar: all kinds and both orders together, the share with FIM is above the 95 % interval
of the share without, which is near zero.
"""

import math
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from starkiln.code.document import SCHEMA, code_document
from starkiln.core import keyed, manifest
from starkiln.model import checkpoint
from starkiln.model.engine import Engine
from starkiln.model.settings import DecoderSettings
from starkiln.tokenizer import fim
from starkiln.tokenizer.settings import (
    FimSettings,
    LayoutSettings,
    PackSettings,
    TokenizerSettings,
)
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.decoder import train_decoder
from starkiln.train.fit_tokenizer import fit_tokenizer
from starkiln.train.pack import is_validation, pack_shard
from starkiln.train.settings import RunSettings, TrainSettings

STEPS, QUICK_STEPS, CASES = 2400, 100, 200
ON = 0.9  # above the paper's 0.5, to see more holes in few tokens; as harmless (rules §13)
LENGTH, BATCH, VOCAB, SEED, HELD_OUT = 128, 32, 276, 0, 0.08
CHARACTERS = range(16, 45)  # of a statement, so that three and more fill a window
SHAPE = DecoderSettings(
    n_layer=4,
    n_embd=96,
    n_head=4,
    n_positions=2 * LENGTH,
    rope_theta=1e4,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)
NEAR_ZERO = 0.02  # of the cases, at most, without FIM
# A hole takes the blank before it along, as words of the tokenizer do.
WORD = re.compile(r" ?[^\W\d]\w*")
KINDS = {"word": 1, "3 words": 3}  # from the first to the last of them

Counts = dict[str, dict[str, tuple[int, int]]]  # kind, mode -> exact, cases


class Case(NamedTuple):
    """A document with a hole."""

    prefix: str
    middle: str
    suffix: str


def statements() -> list[str]:
    """The standard library's lines of such a length in ASCII, each once, in order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "dist-packages"} & set(path.parts):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        some = (line.strip() for line in text.split("\n"))
        found |= dict.fromkeys(
            line
            for line in some
            if len(line) in CHARACTERS and line.isascii() and re.search(r"\w", line)
        )
    return list(found)


def pack(folder: Path, texts: list[str]) -> list[str]:
    """Token shards and tokenizer of the statements in ``folder``; returns the held-out ones."""
    settings = PackSettings(validation=HELD_OUT)
    frame = pl.DataFrame(
        [
            code_document(text, repo="python", path=f"{i}.py", language="Python", licences=[])
            for i, text in enumerate(texts)
        ],
        schema=SCHEMA,
    )
    curated = folder / "00000.parquet"
    frame.write_parquet(curated)
    words = TokenizerSettings(vocab_size=VOCAB, sample_bytes=2_000_000)
    fit_tokenizer([curated], folder / "tokenizer", settings=words, pack=settings, seed=SEED)
    bare = LayoutSettings(repo_p=0, path_p=0, stars_p=0)
    pack_shard(curated, folder / "tokens", folder / "tokenizer", bare, settings, SEED)
    manifest.write(folder / "tokens", manifest.Manifest(manifest.Identity("tokens", [], {})))
    names = zip(frame["id"], texts, strict=True)
    return [text for name, text in names if is_validation(name, HELD_OUT, SEED)]


def train(folder: Path, out: Path, rate: float, steps: int) -> dict[str, Any]:
    """Train on the shards of ``folder`` with FIM at ``rate``; the facts of the run."""
    settings = TrainSettings(
        steps=steps,
        batch_size=BATCH,
        sequence_length=LENGTH,
        optimizer="muon",
        lr=1.5e-2,
        muon_lr=6e-3,
        warmup_steps=50,
        mask_documents=True,
        validation_every=steps,
        validation_tokens=65_536,
        checkpoint_every=steps,
    )
    return train_decoder(
        tokens=folder / "tokens",
        tokenizer=folder / "tokenizer",
        out=out,
        decoder=SHAPE,
        train=settings,
        fim=FimSettings(rate=rate),
        run=RunSettings(device="cpu"),
        seed=SEED,
    )


def holes(text: str, words: int) -> list[tuple[int, int]]:
    """Where so many ``words`` may be cut from ``text``, as offsets."""
    spans = [found.span() for found in WORD.finditer(text)]
    return [(a, b) for (a, _), (_, b) in zip(spans, spans[words - 1 :], strict=False)]


def cases(held_out: list[str], kind: str, count: int) -> Iterator[Case]:
    """One hole a document, in keyed order."""
    ordered = sorted(held_out, key=lambda text: keyed.digest("case", SEED, kind, text))
    spots = ((text, found) for text in ordered if (found := holes(text, KINDS[kind])))
    for (text, found), _ in zip(spots, range(count), strict=False):
        a, b = found[int(keyed.uniform("hole", SEED, kind, text) * len(found))]
        if text[b:].strip():
            yield Case(text[:a], text[a:b], text[b:])


def is_exact(engine: Engine, tokenizer: Tokenizer, case: Case, mode: fim.Mode) -> bool:
    """Whether the model writes the middle and ends."""
    room = len(tokenizer.encode(case.middle)) + 4  # what is longer is wrong
    ids = fim.prompt(case.prefix, case.suffix, tokenizer, mode=mode, limit=LENGTH - room)
    (made,) = engine.generate(ids, max_new_tokens=room)
    return made.finish == "end" and made.text.strip() == case.middle.strip()


def score(folder: Path, tests: dict[str, list[Case]]) -> Counts:
    """Exact matches of the checkpoint in ``folder``."""
    model, tokenizer = checkpoint.load(folder)
    engine = Engine(model, tokenizer)
    modes: tuple[fim.Mode, ...] = ("psm", "spm")
    return {
        kind: {
            mode: (sum(is_exact(engine, tokenizer, case, mode) for case in some), len(some))
            for mode in modes
        }
        for kind, some in tests.items()
    }


def ablation(folder: Path, steps: int = STEPS, count: int = CASES) -> dict[float, dict[str, Any]]:
    """``exact`` (counts by kind and mode) and ``facts`` of the run, for FIM at ``ON`` and at 0."""
    held_out = pack(folder, statements())
    tests = {kind: list(cases(held_out, kind, count)) for kind in KINDS}
    found = {}
    for rate in (ON, 0.0):
        out = folder / f"rate-{rate}"
        facts = train(folder, out, rate, steps)
        found[rate] = {"facts": facts, "exact": score(out, tests)}
    return found


def wilson(exact: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z, p = 1.96, exact / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return middle - half, middle + half


def show(kind: str, mode: str, on: int, off: int, count: int) -> tuple[float, float]:
    """Print a row; the lower end of the share with FIM and the upper end of that without."""
    shares = [(k / count, *wilson(k, count)) for k in (on, off)]
    cells = [f"{share:7.1%} ({a:5.1%}-{b:5.1%})" for share, a, b in shares]
    print(f"{kind:>12} {mode:>4} {count:6} {cells[0]:>22} {cells[1]:>22}")
    return shares[0][1], shares[1][2]


def main() -> int:
    steps = QUICK_STEPS if "--quick" in sys.argv else STEPS
    with tempfile.TemporaryDirectory() as folder:
        found = ablation(Path(folder), steps)
    for rate, made in found.items():
        last = made["facts"]["validation"]
        print(
            f"FIM {rate}: {made['facts']['parameters']:,} parameters, "
            f"{made['facts']['tokens']:,} tokens, held-out {last['bits_per_byte']:.3f} bits per "
            f"byte left to right"
        )
    print(f"{'exact match':>12} {'mode':>4} {'cases':>6} {'FIM on':>22} {'FIM off':>22}")
    total = np.zeros(3, int)
    for kind, modes in found[ON]["exact"].items():
        for mode, (on, count) in modes.items():
            off = found[0.0]["exact"][kind][mode][0]
            total += np.array([on, off, count])
            show(kind, mode, on, off, count)
    low, high = show("all", "", *total.tolist())
    return int(not (low > high and total[1] / total[2] <= NEAR_ZERO))


if __name__ == "__main__":
    sys.exit(main())
