"""Our engine's completions of one prompt, or of many at once.

python generate_ours.py JOB
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from spent import forget, job, resident, spent, tell

from starkiln.model import checkpoint, graphs
from starkiln.model.engine import Engine
from starkiln.model.quantise import quantise


def clocks() -> tuple[float, float]:
    """Seconds of CPU and of the clock."""
    return time.process_time(), time.perf_counter()


def streams(engine: Engine, prompts: list[list[int]], clients: int, new: int) -> dict[str, Any]:
    """Each client asks for a prompt's completion as soon as it was answered, until none is left.

    ``firsts`` and ``gaps`` are seconds of CPU and of the clock until a stream's first piece, and
    from one to the next; ``lost`` counts tokens that were asked for and did not come.
    """
    firsts: list[tuple[float, float]] = []
    gaps: list[tuple[float, float]] = []
    waiting, asked, came = list(enumerate(prompts)), 0, 0

    def ask() -> None:
        nonlocal asked
        if not waiting:
            return
        number, prompt = waiting.pop()
        length, last = new + number % 16, clocks()  # or all would end together
        asked, told = asked + length, firsts

        def listen(piece: Any) -> None:
            nonlocal came, last, told
            now = clocks()
            told.append((now[0] - last[0], now[1] - last[1]))
            last, told = now, gaps
            came += len(piece.tokens)
            if piece.finish:
                ask()

        engine.submit(prompt, listen, max_new_tokens=length)

    for _ in range(clients):
        ask()
    while engine.step():
        pass
    return {"firsts": firsts, "gaps": gaps, "lost": asked - came, "came": came}


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes, of 4 GiB, the best of ten."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = max(best, 2000 * len(source) / begin.elapsed_time(end))
    return best


def main() -> None:
    asked = job()
    torch.set_num_threads(1)
    device = torch.device(asked["device"])
    model, tokenizer = checkpoint.load(Path(asked["model"]), device)
    model = quantise(model, asked["kind"])
    # Memory of earlier prompts and lookups of them would make the rounds after the first free.
    recorded = graphs.recorder if asked["recorded"] else lambda device: None
    engine = Engine(model, tokenizer, end=(), room=0, drafted=0, recorded=recorded)
    warm: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95} if asked["warm"] else {}

    def complete(n: int, new: int) -> dict[str, Any]:
        found = engine.generate(asked["prompt"], n=n, max_new_tokens=new, **warm)
        return {"tokens": found[0].tokens}

    complete(1, 2)  # a kernel's first use costs tens of megabytes once
    before = forget()
    if "prompts" in asked:
        prompts = json.loads(Path(asked["prompts"]).read_text())
        tell(**streams(engine, prompts, asked["n"], asked["new"]))
        return
    if device.type == "cuda":
        complete(asked["n"], asked["new"])  # what is recorded is recorded once
        moved = bandwidth(device)
        weights = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        found = spent(lambda: complete(asked["n"], asked["new"]))
        tell(**found, extra=torch.cuda.max_memory_allocated(device) - weights, bandwidth=moved)
        return
    complete(asked["n"], 2)
    found = spent(lambda: complete(asked["n"], asked["new"]))
    tell(**found, extra=resident("VmHWM") - before)


if __name__ == "__main__":
    main()
