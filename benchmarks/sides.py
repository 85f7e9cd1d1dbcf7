"""The two sides of ``train.py``: one run of our loop, or of Hugging Face's Trainer, per process.

``python benchmarks/sides.py TOLD`` runs one and prints a line of JSON; ``run`` calls it so.
"""

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch

from starkiln.code.document import SCHEMA, code_document
from starkiln.model import attention, layouts
from starkiln.model.decoder import draw, parameter_shapes
from starkiln.model.parallel.mesh import join
from starkiln.model.parallel.part import Part
from starkiln.model.settings import DecoderSettings, ParallelSettings
from starkiln.tokenizer.settings import LayoutSettings, PackSettings, TokenizerSettings
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train import loop, machine
from starkiln.train.fit_tokenizer import fit_tokenizer
from starkiln.train.loader import Loader
from starkiln.train.pack import pack_shard
from starkiln.train.settings import RunSettings, TrainSettings

WORDS, LR = 2048, 3e-4
WARM = 3  # steps that are not timed: compilation, caches
Shape = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One training run: what it computes, and how."""

    shape: Shape
    vocab: int
    length: int
    batch: int
    steps: int
    dtype: str = "fp32"
    optimizer: str = "adam"
    micro: int = 0
    device: str = "cpu"
    compile: bool = False
    kernel: str = ""  # of attention; empty: as chosen by itself
    recompute: str = "none"

    @property
    def config(self) -> DecoderSettings:
        """The decoder, without dropout."""
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return DecoderSettings(**self.shape, **off)

    @property
    def tokens(self) -> int:
        """A step's."""
        return self.batch * self.length


@dataclass
class Clock:
    """Times and memory between the last warm-up step and the last one."""

    side: Side
    steps: int = 0
    marks: list[tuple[float, float]] = field(default_factory=list)
    waited: float = 0.0
    losses: list[float] = field(default_factory=list)

    def step(self) -> bool:
        """Note that a step is done; whether it was the last."""
        self.steps += 1
        if self.steps in (WARM, self.side.steps):
            if self.side.device == "cuda":
                torch.cuda.synchronize()
            self.marks.append((time.perf_counter(), time.process_time()))
            if self.steps == WARM:
                self.waited = 0.0
        return self.steps == self.side.steps

    def told(self, loss: float) -> dict[str, float]:
        """What the other process reads; ``loss`` is the mean of all steps."""
        (wall, cpu), timed = self.marks[0], self.side.steps - WARM
        wall, cpu = self.marks[1][0] - wall, self.marks[1][1] - cpu
        if self.side.device == "cuda":
            memory = torch.cuda.max_memory_allocated()
        else:
            status = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
            memory = 1024 * int(status.split()[0])
        found = {"wall": wall / timed, "cpu": cpu / timed, "waited": self.waited / wall}
        return {**found, "loss": loss, "memory": memory}


def samples(data: Path, length: int) -> Loader:
    """What both sides train on."""
    rates = {"fim_rate": 0.5, "spm_rate": 0.5}
    words = Tokenizer.load(data)
    return Loader(data / "tokens", words, split="train", sequence_length=length, seed=0, **rates)


def weights(side: Side) -> Callable[[str, range | None], torch.Tensor]:
    """Initial weights; on a GPU drawn there, since the keyed ones would take a minute."""
    shapes = parameter_shapes(side.config, side.vocab)

    def on_gpu(name: str, rows: range | None) -> torch.Tensor:
        shape = shapes[name] if rows is None else (len(rows), *shapes[name][1:])
        if len(shape) == 1:
            return draw(side.config, 0, name, shapes[name], rows)
        return torch.randn(shape, device="cuda") * side.config.std

    if side.device == "cuda":
        return on_gpu
    return lambda name, rows: draw(side.config, 0, name, shapes[name], rows)


class Done(Exception):
    """Enough steps were made: nothing is to be validated or saved."""


def ours(side: Side, data: Path) -> dict[str, float]:
    """Our loop, up to its last step."""
    if side.kernel:
        attention._HOPPER[:] = [torch.nn.attention.SDPBackend[f"{side.kernel}_ATTENTION"]]
    parallel = ParallelSettings(recompute=side.recompute)
    run = RunSettings(
        device=side.device, dtype=side.dtype, micro_batch=side.micro, parallel=parallel,
        compile="on" if side.compile else "off",
    )  # fmt: skip
    settings = TrainSettings(
        steps=side.steps, batch_size=side.batch, sequence_length=side.length, warmup_steps=0,
        schedule="constant", lr=LR, optimizer=side.optimizer,
    )  # fmt: skip
    here, clock, loader = machine.resolve(run, side.batch), Clock(side), samples(data, side.length)

    def listen(event: str, **fields: Any) -> None:
        if event == "step":
            clock.losses.append(fields["loss"])
            clock.waited += fields["waited"]
            if clock.step():
                raise Done

    mesh = join(parallel, here.device)
    part = Part(
        side.config, side.vocab, mesh, parallel=parallel, device=here.device, dtype=here.dtype,
        micro_batch=here.micro_batch, read=weights(side), compile=here.compile,
    )  # fmt: skip
    task = loop.Task(loader.batch, dict, loader.names, "benchmark", 0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            loop.train(part, task, settings, here, mesh, Path(folder), listen)
        except Done:
            return clock.told(statistics.mean(clock.losses))
    raise RuntimeError("it ended before its last step")


def theirs(side: Side, data: Path) -> dict[str, float]:
    """Trainer with its defaults, but for what the row says."""
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    loader, clock = samples(data, side.length), Clock(side)
    micro = side.micro or side.batch

    class Samples(Dataset):
        def __len__(self) -> int:
            return side.steps * side.batch

        def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
            start = time.perf_counter()
            batch = loader.batch(n, 1)
            ids, mask = torch.from_numpy(batch["tokens"][0]), torch.from_numpy(batch["mask"][0])
            targets = ids[1:].masked_fill(~mask, -100)
            clock.waited += time.perf_counter() - start
            return {"input_ids": ids[:-1], "labels": targets, "shift_labels": targets}

    class Listen(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    on_gpu = side.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=side.steps, per_device_train_batch_size=micro,
            gradient_accumulation_steps=side.batch // micro, learning_rate=LR,
            lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95,
            bf16=side.dtype == "bf16", torch_compile=side.compile, use_cpu=not on_gpu,
            report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            train_sampling_strategy="sequential", remove_unused_columns=False,
            dataloader_num_workers=4 if on_gpu else 0,
        )  # fmt: skip
        model = peer(side)
        made = Trainer(model, arguments, train_dataset=Samples(), callbacks=[Listen()])
        loss = made.train().training_loss
    if on_gpu:
        clock.waited = float("nan")  # processes of its data loader read ahead
    return clock.told(loss)


def peer(side: Side) -> torch.nn.Module:
    """transformers' GPTBigCode; on a CPU with our initial weights."""
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    described = layouts.written(side.config, side.vocab, "float32")
    config = GPTBigCodeConfig(**{k: v for k, v in described.items() if k != "architectures"})
    config._attn_implementation = "sdpa"
    with torch.device(side.device):
        model = GPTBigCodeForCausalLM(config)
    if side.device == "cpu":
        read = weights(side)
        state = {name: read(name, None) for name in parameter_shapes(side.config, side.vocab)}
        for name in [name for name in state if "q_attn" in name]:  # one matrix there
            both = [state.pop(name), state.pop(name.replace("q_attn", "kv_attn"))]
            state[name.replace("q_attn", "c_attn")] = torch.cat(both)
        model.load_state_dict(state, strict=False)
        model.tie_weights()
    return model


def run(who: Callable, side: Side, data: Path, limit: float = 600.0) -> dict[str, Any]:
    """``who``'s run in a process of its own; ``fault`` in place of figures where it fails."""
    told = json.dumps({"who": who.__name__, "data": str(data), "side": asdict(side)})
    command = [sys.executable, __file__, told]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        made = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=os.environ | quiet
        )
    except subprocess.TimeoutExpired:
        return {"fault": f"not done in {limit:.0f} s"}
    if made.returncode:
        lines = [line for line in made.stderr.splitlines() if "Error" in line]
        return {"fault": (lines or [f"status {made.returncode}"])[-1][:150]}
    return json.loads(made.stdout.strip().splitlines()[-1])


def prepare(data: Path) -> None:
    """The standard library, packed with a small vocabulary."""
    root, curated = Path(sysconfig.get_paths()["stdlib"]), data / "00000.parquet"
    told = {"repo": "o/r", "language": "Python", "licences": ["PSF-2.0"]}
    paths = [p for p in sorted(root.rglob("*.py")) if "-packages" not in str(p)][:600]
    texts = ((p.name, p.read_text(encoding="utf-8", errors="ignore")) for p in paths)
    rows = [code_document(text, path=name, **told) for name, text in texts]
    pl.DataFrame(rows, SCHEMA).unique("id", maintain_order=True).write_parquet(curated)
    settings, pack = TokenizerSettings(vocab_size=WORDS, sample_bytes=4_000_000), PackSettings()
    fit_tokenizer([curated], data, settings=settings, pack=pack, seed=0)
    pack_shard(curated, data / "tokens", data, LayoutSettings(), pack, 0)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    who = {"ours": ours, "theirs": theirs}[told["who"]]
    print(json.dumps(who(Side(**told["side"]), Path(told["data"]))))
