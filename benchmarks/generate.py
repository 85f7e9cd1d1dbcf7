"""Completions: our engine, ``transformers.generate`` and llama.cpp, side by side in one run.

    python benchmarks/generate.py [--quick] [--rounds 3] [--device cuda] [ROW ...]

Each runs in a process of its own, on one thread, with the same random weights (GPTBigCode, 66 M
parameters), which are scaled so that the nucleus holds about 30 tokens; the processes take turns.
Rows: 200 samples of a 200-token prompt (temperature 1, top-p 0.95), a single greedy stream, 64
streams at once in our engine alone. The peers' environments are named in peers/README.md; one that
is missing is left out with a word. Tokens are counted by second of CPU. Only ratios carry over.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

import corpus
from starkiln.model import checkpoint, gguf
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings, parameter_count
from starkiln.tokenizer.tokenizer import fit

PEERS = Path(__file__).parent / "peers"
SHAPES = {
    "cpu": DecoderSettings(n_layer=8, n_embd=640, n_head=10, n_positions=2048),
    "cuda": DecoderSettings(n_layer=24, n_embd=2048, n_head=16, n_positions=8192),
}
VOCABULARY, PROMPT, SCALE, MEGABYTES = 49152, 200, 6.25, 25
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GGUF = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0"}


class Row(NamedTuple):
    """A piece of work: ``n`` completions of ``new`` tokens, and the bars on its ratios."""

    name: str
    n: int
    new: int
    kind: str
    bars: dict[str, float | None]  # a peer without one is there for comparison
    memory: float = 0.0  # most of ours, as a share of transformers' extra memory
    exact: bool = False  # whether transformers must give the same tokens
    limit: float = 0.0  # least share of the memory's speed, on a GPU


ROWS = [
    Row("200 samples", 200, 16, "bf16", {"transformers": 10, "vllm": 4, "llama": 1.3}, 0.25),
    Row("200 samples", 200, 128, "bf16", {"transformers": None, "llama": 1.3}, 0.25),
    Row("one stream", 1, 128, "fp32", {"transformers": None, "llama": None}, exact=True),
    Row("one stream", 1, 128, "bf16", {"transformers": None, "llama": 0.8}),
    Row("one stream", 1, 128, "int8", {"llama": 0.7}),
]
GPU_ROWS = [
    Row("200 samples", 200, 128, "bf16", {"transformers": 10, "unrecorded": None}, 0.25, limit=0.7),
    Row("one stream", 1, 256, "bf16", {"transformers": None, "unrecorded": None}, limit=0.6),
]
LONG = 10_000  # tokens of a row that is run once, and not at all where it must be quick
CLIENTS, REQUESTS, LENGTH, SPREAD = 64, 128, 48, 3.0

Told = dict[str, Any]


def prepare(folder: Path, device: str) -> list[list[int]]:
    """Write the checkpoints and, for a processor, GGUF files; returns prompts."""
    texts = corpus.python_files(MEGABYTES)["text"].to_list()
    tokenizer = fit(texts, VOCABULARY)
    assert tokenizer.vocab_size == VOCABULARY
    model = Decoder(SHAPES[device], VOCABULARY)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(SCALE)
    for kind in {row.kind for row in GPU_ROWS} if device == "cuda" else DTYPES:
        checkpoint.save(folder / kind, model.to(DTYPES[kind]), tokenizer)
    if device == "cpu":
        config, size, read = checkpoint.reader(folder / "fp32")
    for kind in GGUF.values() if device == "cpu" else ():
        path = folder / f"{kind}.gguf"
        gguf.write(path, config, size, tokenizer, read, kind, {"name": "random"})
    found = (tokenizer.encode(text)[:PROMPT] for text in texts)
    return [ids for ids in found if len(ids) == PROMPT][:REQUESTS]


def python(peer: str) -> Path | None:
    """The Python that runs a peer; None if there is none."""
    if peer in ("ours", "unrecorded", "transformers"):
        return Path(sys.executable)
    found = corpus.home() / "venvs" / peer / "bin" / "python"
    return found if found.exists() else None


def run(peer: str, folder: Path, row: Row, **more: object) -> Told:
    """One process of a peer; ``unrecorded`` is ours without CUDA graphs."""
    more["recorded"] = peer != "unrecorded"
    peer = "ours" if peer == "unrecorded" else peer
    files = {"llama": f"{GGUF[row.kind]}.gguf", "ours": "bf16" if row.kind == "int8" else row.kind}
    asked = {
        "model": str(folder / files.get(peer, row.kind)),
        "kind": row.kind,
        "n": row.n,
        "new": row.new,
        "warm": row.n > 1,
        **more,
    }
    command = [python(peer), PEERS / f"generate_{peer}.py", json.dumps(asked)]
    made = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if made.returncode:
        raise RuntimeError(f"{peer}: {made.stderr.strip().splitlines()[-1:]}")
    return json.loads(made.stdout.strip().splitlines()[-1])


def speed(row: Row, told: list[Told], less: str = "") -> float:
    """Tokens a second of CPU, or of a GPU's time; median of rounds, without what ``less`` names."""
    clock = "wall_s" if row.limit else "cpu_s"
    return statistics.median(row.n * row.new / (t[clock] - t.get(less, 0.0)) for t in told)


def verdict(what: str, value: float, bar: float | None, below: bool = False) -> None:
    if bar is None:
        print(f"        {what}: {value:.2f}", flush=True)
        return
    fine = value <= bar if below else value >= bar
    print(f"  {'PASS' if fine else 'miss'}  {what}: {value:.2f} (bar {bar:g})", flush=True)


def compare(row: Row, folder: Path, prompt: list[int], rounds: int, device: str) -> None:
    """Print what each peer does in a row, and the ratios."""
    print(f"{row.name}, {row.new} new tokens, {row.kind}", flush=True)
    peers = [peer for peer in ("ours", *row.bars) if python(peer)]
    told: dict[str, list[Told]] = {peer: [] for peer in peers}
    for _ in range(rounds if row.n * row.new < LONG else 1):
        for peer in peers:
            told[peer].append(run(peer, folder, row, prompt=prompt, device=device))
    for peer in peers:
        extra = statistics.median(t["extra"] for t in told[peer]) / 1e6
        print(f"  {peer:13} {speed(row, told[peer]):8.1f} tokens/s {extra:7.0f} MB extra")
    for peer, bar in row.bars.items():
        if peer not in told:
            print(f"  {peer}: no environment (peers/README.md), left out")
            continue
        mine, theirs = speed(row, told["ours"]), speed(row, told[peer])
        verdict(f"speed against {peer}", mine / theirs, bar)
        if "chosen_s" in told[peer][0] and row.n > 1:
            bare = speed(row, told[peer], "chosen_s")
            print(f"        {mine / bare:.2f} if its choice of tokens cost nothing ({bare:.0f}/s)")
    extra = {peer: statistics.median(t["extra"] for t in told[peer]) for peer in peers}
    if row.memory and "transformers" in extra:
        share = extra["ours"] / extra["transformers"]
        verdict("extra memory, share of transformers'", share, row.memory, below=True)
    if row.limit:
        share = statistics.median(bound(row, t) for t in told["ours"])
        verdict("share of the memory's speed", share, row.limit)
    if row.n == 1:
        tell_tokens(row, {peer: found[0]["tokens"] for peer, found in told.items()})


def bound(row: Row, told: Told) -> float:
    """Bytes that steps have to read, by what a copy moves in the time that they took."""
    shape = SHAPES["cuda"]
    token = shape.n_layer * 2 * shape.kv_heads * shape.head_dim * 2
    weights = 2 * parameter_count(shape, VOCABULARY)
    step = weights + token * (PROMPT + row.n * row.new / 2)
    return step * row.new / (told["wall_s"] * told["bandwidth"])


def tell_tokens(row: Row, tokens: dict[str, list[int]]) -> None:
    """Print how many first tokens are ours."""
    for peer, theirs in tokens.items():
        if peer == "ours":
            continue
        alike = next((i for i, (a, b) in enumerate(zip(tokens["ours"], theirs)) if a != b), row.new)
        if row.exact and peer == "transformers":
            verdict(f"greedy tokens as {peer}'s", alike, row.new)
        else:  # llama.cpp looks GELU up in a table of float16, even where all else is float32
            print(f"        greedy tokens as {peer}'s: the first {alike} of {row.new}")


def together(folder: Path, path: Path, prompt: list[int], rounds: int) -> None:
    """Print the times between pieces of many streams."""
    print(f"{CLIENTS} streams at once, {REQUESTS} requests, bf16")
    row = Row("streams", CLIENTS, LENGTH, "bf16", {})
    more = {"prompt": prompt, "prompts": str(path), "device": "cpu"}
    told = [run("ours", folder, row, **more) for _ in range(rounds)]
    verdict("lost tokens", sum(t["lost"] for t in told), 0, below=True)
    for i, clock in enumerate(("CPU", "clock")):
        for name, key in (("first piece", "firsts"), ("between pieces", "gaps")):
            times = sorted(one[i] for t in told for one in t[key])
            middle, high = (1000 * times[int(len(times) * at)] for at in (0.5, 0.99))
            print(f"        {name}, {clock}: p50 {middle:.0f} ms, p99 {high:.0f} ms")
            if (key, clock) == ("gaps", "CPU"):
                verdict("p99 / p50", high / middle, SPREAD, below=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, without the longest row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    parser.add_argument("row", nargs="*", type=int)
    how = parser.parse_args()
    shape, rows = SHAPES[how.device], GPU_ROWS if how.device == "cuda" else ROWS
    rounds = 1 if how.quick else how.rounds
    print(
        f"{parameter_count(shape, VOCABULARY):,} parameters, prompt of {PROMPT} tokens, "
        f"torch {torch.__version__}, one thread; medians of {rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prompts = prepare(folder, how.device)
        for number, row in enumerate(rows, 1):
            if number in (how.row or [number]) and not (how.quick and row.n * row.new >= LONG):
                compare(row, folder, prompts[0], rounds, how.device)
        if how.device == "cpu" and len(rows) + 1 in (how.row or [len(rows) + 1]):
            path = folder / "prompts.json"
            path.write_text(json.dumps(prompts))
            together(folder, path, prompts[0], rounds)


if __name__ == "__main__":
    main()
