"""The loop: accumulation, resuming, signals, spikes, and what it refuses."""

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.model import layouts
from starkiln.model.decoder import Decoder, draw, parameter_shapes
from starkiln.model.parallel.mesh import join
from starkiln.model.parallel.part import Part
from starkiln.model.settings import DecoderSettings, ParallelSettings
from starkiln.train import loop, machine, shards
from starkiln.train.settings import RunSettings, TrainSettings

SHAPE = DecoderSettings(n_layer=2, n_embd=32, n_head=2, n_positions=16)
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
VOCAB, LENGTH, SEED = 60, 12, 7
CPU = RunSettings(device="cpu", dtype="fp32", threads=1)
ALONE = join(ParallelSettings(), torch.device("cpu"))


def settings(**changes) -> TrainSettings:
    usual = {"steps": 6, "batch_size": 8, "sequence_length": LENGTH, "warmup_steps": 2}
    every = {"lr": 1e-2, "validation_every": 3, "checkpoint_every": 2}
    return TrainSettings(**{**usual, **every, **changes})


def read(first: int, count: int) -> dict[str, np.ndarray]:
    """Counting sequences of two sources; the number of targets differs from sample to sample."""
    numbers = np.arange(first, first + count)
    starts = [keyed.generator("test", n).integers(VOCAB) for n in numbers.tolist()]
    tokens = (np.array(starts)[:, None] + np.arange(LENGTH + 1)) % VOCAB
    mask = np.arange(LENGTH) <= (numbers % LENGTH)[:, None]
    return {"tokens": tokens, "mask": mask, "source": numbers % 2}


def tensors(first: int = 0) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in read(first, 8).items()}


def decoder(**changes) -> DecoderSettings:
    return SHAPE.model_copy(update=changes)


def part(config: DecoderSettings, here: machine.Machine, kind: type[Part] = Part) -> Part:
    shapes = parameter_shapes(config, VOCAB)
    return kind(
        config,
        VOCAB,
        ALONE,
        parallel=ParallelSettings(),
        device=here.device,
        dtype=here.dtype,
        micro_batch=here.micro_batch,
        read=lambda name, rows: draw(config, SEED, name, shapes[name], rows),
    )


def task(share: Part, **changes) -> loop.Task:
    def validate():
        tokens, mask = torch.arange(LENGTH + 1)[None], torch.ones(1, LENGTH, dtype=torch.bool)
        return {"loss": share.evaluate(tokens, mask).item() / LENGTH}

    usual = {"read": read, "validate": validate, "sources": ["even", "odd"]}
    return loop.Task(**{**usual, "identity": "a", "seed": SEED, **changes})


def run(folder: Path, *, config=SHAPE, kind=Part, how=CPU, events=loop.silent, task_=None, **keys):
    chosen = settings(**keys)
    here = machine.resolve(how, chosen.batch_size)
    share = part(config, here, kind)
    what = task(share, **(task_ or {}))
    return share, loop.train(share, what, chosen, here, ALONE, folder, events)


def rows(folder: Path, name: str = loop.METRICS) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def difference(a: Part, b: Part) -> float:
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return max((p - q).abs().max().item() for (_, p), (_, q) in pairs)


def test_training_learns_and_writes_a_row_a_step(tmp_path):
    _, facts = run(tmp_path, steps=60, validation_every=30)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(1, 61))
    assert found[0]["loss"] == pytest.approx(np.log(VOCAB), rel=0.25)
    assert found[-1]["loss"] < 0.5 * found[0]["loss"]
    assert found[-1]["tokens"] == sum(int(read(n, 1)["mask"].sum()) for n in range(60 * 8))
    assert set(found[0]) == {"step", "tokens", "loss", "lr", "grad_norm", "sources"}
    assert facts["loss"] == found[-1]["loss"]
    assert facts["validation"] == rows(tmp_path, loop.VALIDATION)[-1]
    assert [row["step"] for row in rows(tmp_path, loop.VALIDATION)] == [30, 60]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000060"]


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_any_micro_batch_gives_the_same_gradient(micro):
    """The count of targets differs between sequences, so a mean of means would be wrong."""
    gradients = []
    for size in (8, micro):
        here = machine.resolve(CPU.model_copy(update={"micro_batch": size}), 8)
        share = part(decoder(**NO_DROPOUT), here)
        count = share.accumulate(tensors()).targets.sum()
        gradients.append([p.grad / count for _, p in share.named_parameters()])
    for whole, parts in zip(*gradients, strict=True):
        assert torch.linalg.norm(whole - parts) <= 1e-6 * torch.linalg.norm(whole) + 1e-9


def test_any_micro_batch_gives_the_same_training(tmp_path):
    losses = []
    for size in (8, 1, 3):
        how = CPU.model_copy(update={"micro_batch": size})
        run(tmp_path / str(size), config=decoder(**NO_DROPOUT), how=how, lr=1e-3)
        losses.append([row["loss"] for row in rows(tmp_path / str(size))])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


def by_hand(start: Decoder, chosen: TrainSettings) -> list[float]:
    """The losses of transformers' model in a plain loop, with PyTorch's clipping and schedule."""
    model = transformers.GPTBigCodeForCausalLM(
        transformers.GPTBigCodeConfig(**layouts.written(start.config, VOCAB, "float32"))
    )
    state = start.state_dict()
    for name in [n for n in state if "q_attn" in n]:  # one matrix there
        both = torch.cat([state.pop(name), state.pop(name.replace("q_attn", "kv_attn"))])
        state[name.replace("q_attn", "c_attn")] = both
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    model.train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=chosen.lr, betas=(0.9, 0.95), eps=1e-8)
    warm = torch.optim.lr_scheduler.LinearLR(adam, 1 / chosen.warmup_steps, 1.0, 4)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 15, 0.1 * chosen.lr)
    schedule = torch.optim.lr_scheduler.SequentialLR(adam, [warm, fall], [4])
    losses = []
    for step in range(chosen.steps):
        tokens, mask, _ = tensors(8 * step).values()
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits[mask], tokens[:, 1:][mask])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), chosen.clip)
        adam.step()
        schedule.step()
        adam.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_losses_are_those_of_transformers_in_a_plain_loop(tmp_path):
    chosen = settings(steps=20, warmup_steps=5, clip=0.5)
    start = Decoder(decoder(**NO_DROPOUT), VOCAB, seed=SEED)
    run(tmp_path, config=start.config, steps=20, warmup_steps=5, clip=0.5)
    assert [row["loss"] for row in rows(tmp_path)] == pytest.approx(
        by_hand(start, chosen), rel=1e-5
    )


@pytest.mark.parametrize(
    ("optimizer", "dtype", "threads"),
    [("adam", "fp32", 1), ("adam", "bf16", 1), ("muon", "fp32", 2), ("muon", "bf16", 1)],
)
def test_two_runs_are_equal_to_the_last_bit(tmp_path, optimizer, dtype, threads):
    how = RunSettings(device="cpu", dtype=dtype, threads=threads)
    runs = [run(tmp_path / n, how=how, optimizer=optimizer, steps=3)[0] for n in "ab"]
    assert difference(*runs) == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_dropout_draws_differ_by_step_and_leave_the_process_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    seen = []

    class Watched(Part):
        def accumulate(self, batch):
            seen.append(torch.rand(4))
            return super().accumulate(batch)

    run(tmp_path, kind=Watched, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*seen)


def test_gradients_are_clipped_by_their_whole_norm(tmp_path):
    """With plain descent the length of an update is the rate times the clipped norm."""
    chosen = settings(steps=1, warmup_steps=0, clip=0.01)
    here = machine.resolve(CPU, 8)
    share = part(SHAPE, here)
    weights = [p for _, p in share.named_parameters()]
    before = [p.detach().clone() for p in weights]
    running = loop._Run(share, task(share), chosen, here, ALONE, tmp_path, loop.silent)
    running.optimizers = [torch.optim.SGD(weights, lr=1.0)]
    row, _ = running._update(tensors(), threading.Event())
    moved = torch.cat([(p - q).flatten() for p, q in zip(weights, before)])
    assert row["grad_norm"] > 0.1
    share = running.optimizers[0].param_groups[0]["lr"]
    assert moved.norm().item() == pytest.approx(0.01 * share, rel=1e-3)
    running.close()


class Stop(Exception):
    """Stands for a death between two steps."""


def dying_at(step: int):
    def listen(event, **fields):
        if event == "step" and fields["step"] == step:
            raise Stop

    return listen


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_that_died_goes_on_to_the_same_bytes(tmp_path, optimizer):
    whole, facts = run(tmp_path / "whole", optimizer=optimizer, steps=9)
    for step in (5, 8):
        with pytest.raises(Stop):
            run(tmp_path / "died", optimizer=optimizer, steps=9, events=dying_at(step))
    assert len(rows(tmp_path / "died")) == 8
    again, facts_again = run(tmp_path / "died", optimizer=optimizer, steps=9)
    assert difference(whole, again) == 0
    assert facts == facts_again
    for path in filter(Path.is_file, (tmp_path / "whole").rglob("*")):
        twin = tmp_path / "died" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == twin.read_bytes(), path


def test_saved_is_said_of_a_state_that_lies_on_the_disk(tmp_path):
    said, found = [], []

    def listen(event, **fields):
        if event == "saved":
            said.append((fields["step"], fields["seconds"] > 0))
            found.append(
                (tmp_path / "state" / f"step-{fields['step']:06d}" / "state.json").exists()
            )

    run(tmp_path, events=listen)
    assert said == [(2, True), (4, True), (6, True)]
    assert all(found)


def test_what_the_writing_raises_does_not_hide_why_a_run_ended(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("of the writing")

    monkeypatch.setattr(shards, "write", broken)
    with pytest.raises(Stop):
        run(tmp_path / "a", events=dying_at(3))
    with pytest.raises(RuntimeError, match="of the writing"):
        run(tmp_path / "b")


def test_a_finished_run_is_read_not_repeated(tmp_path):
    model, facts = run(tmp_path)
    events = []
    again, facts_again = run(tmp_path, events=lambda event, **_: events.append(event))
    assert events == ["resumed"]
    assert difference(model, again) == 0
    assert facts == facts_again


def test_a_state_of_another_run_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="other settings or data"):
        run(tmp_path, task_={"identity": "b"})


def test_another_machine_may_go_on_and_is_recorded(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, events=dying_at(5))
    _, facts = run(tmp_path, how=CPU.model_copy(update={"micro_batch": 2}))
    assert [(m["from_step"], m["micro_batch"]) for m in facts["machines"]] == [(0, 8), (4, 2)]


@pytest.mark.parametrize(
    ("bad", "samples"), [(float("nan"), "20 to 21"), (float("inf"), "20 to 21")]
)
def test_a_loss_that_is_no_number_names_step_and_samples(tmp_path, bad, samples):
    calls = []

    class Bad(Part):
        def accumulate(self, batch):
            sums = super().accumulate(batch)
            calls.append(1)
            if len(calls) == 3:
                sums.nats[4:6] = bad
            return sums

    with pytest.raises(UserError, match=rf"step 3: the loss is {bad} on samples {samples};"):
        run(tmp_path, kind=Bad)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_gradient_that_is_no_number_names_step_and_samples(tmp_path):
    class Bad(Part):
        def finish(self):
            super().finish()
            next(p for _, p in self.named_parameters()).grad[0, 0] = float("nan")

    with pytest.raises(UserError, match="step 1: the gradient's norm is nan on samples 0 to 7;"):
        run(tmp_path, kind=Bad)


def test_a_bad_step_may_be_left_out(tmp_path):
    """The weights stay as they were, the journal says so, and a resumed run does the same."""
    calls, seen = [], {}

    class Bad(Part):
        def accumulate(self, batch):
            sums = super().accumulate(batch)
            calls.append(1)
            seen[len(calls)] = [p.detach().clone() for _, p in self.named_parameters()]
            if len(calls) == 3:
                sums.nats[4] = float("nan")
                next(p for _, p in self.named_parameters()).grad[0, 0] = float("nan")
            return sums

    _, facts = run(tmp_path, kind=Bad, on_spike="skip")
    found = rows(tmp_path)
    assert [row["step"] for row in found if "skipped" in row] == [3]
    assert "on samples 20 to 20" in found[2]["skipped"]
    assert all(torch.equal(a, b) for a, b in zip(seen[3], seen[4]))
    assert not all(torch.equal(a, b) for a, b in zip(seen[4], seen[5]))
    assert facts["steps"] == 6


def test_a_spike_is_known_by_the_usual_norm(tmp_path):
    calls = []

    class Spiky(Part):
        def finish(self):
            super().finish()
            calls.append(1)
            if len(calls) == 105:
                self.scale_gradients(1e4)

    keys = {"steps": 108, "validation_every": 200, "checkpoint_every": 50, "spike": 50.0}
    run(tmp_path / "skipped", kind=Spiky, on_spike="skip", **keys)
    skipped = [row["step"] for row in rows(tmp_path / "skipped") if "skipped" in row]
    assert skipped == [105]
    calls.clear()
    with pytest.raises(UserError, match=r"step 105: .* 50 times the usual or more on samples 832"):
        run(tmp_path / "stopped", kind=Spiky, **keys)


def test_the_loss_of_each_source_is_in_the_journal(tmp_path):
    run(tmp_path, steps=1)
    row = rows(tmp_path)[0]
    share = part(SHAPE.model_copy(update=NO_DROPOUT), machine.resolve(CPU, 8))
    counts = read(0, 8)["mask"].sum(1)
    weights = [counts[0::2].sum() / counts.sum(), counts[1::2].sum() / counts.sum()]
    assert set(row["sources"]) == {"even", "odd"}
    mean = sum(w * row["sources"][name] for w, name in zip(weights, ["even", "odd"]))
    assert mean == pytest.approx(row["loss"])
    nats = share.accumulate(tensors()).nats.numpy()
    run(tmp_path / "b", config=share.modules[0].config, steps=1)
    assert rows(tmp_path / "b")[0]["sources"]["odd"] == pytest.approx(
        nats[1::2].sum() / counts[1::2].sum(), rel=1e-5
    )


def test_a_validation_before_the_first_step_if_asked(tmp_path):
    run(tmp_path, task_={"judge_first": True})
    assert [row["step"] for row in rows(tmp_path, loop.VALIDATION)] == [0, 3, 6]
    run(tmp_path, task_={"judge_first": True})
    assert [row["step"] for row in rows(tmp_path, loop.VALIDATION)] == [0, 3, 6]


def test_a_batch_without_targets_is_refused(tmp_path):
    def blind(first, count):
        arrays = read(first, count)
        return arrays | {"mask": arrays["mask"] & False}

    with pytest.raises(UserError, match="there is no target on samples 0 to 7"):
        run(tmp_path, task_={"read": blind})


def test_an_error_of_the_loader_reaches_the_caller(tmp_path):
    def broken(first, count):
        if first >= 16:
            raise UserError("tokens/python", "is damaged", "pack again")
        return read(first, count)

    with pytest.raises(UserError, match="is damaged"):
        run(tmp_path, task_={"read": broken})
    assert len(rows(tmp_path)) == 2


def test_the_loop_runs_outside_the_main_thread(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(run(tmp_path, steps=2)))
    thread.start()
    thread.join()
    assert done
    assert len(rows(tmp_path)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_in_hand(tmp_path, number):
    before = signal.getsignal(number)

    def listen(event, **fields):
        if event == "step" and fields["step"] == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, events=listen, checkpoint_every=100)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000005"]
    assert signal.getsignal(number) is before
    again, _ = run(tmp_path, checkpoint_every=100)
    assert difference(again, run(tmp_path / "whole", checkpoint_every=100)[0]) == 0


def test_weights_that_are_broken_end_the_run_whatever_the_settings(tmp_path):
    class Broken(Part):
        def accumulate(self, batch):
            sums = super().accumulate(batch)
            sums.nats[:] = float("nan")
            return sums

    with pytest.raises(UserError, match="step 11: no step could be made 11 times in a row"):
        run(tmp_path, kind=Broken, steps=30, on_spike="skip", validation_every=99)
    assert {row["loss"] for row in rows(tmp_path)} == {None}


def test_a_last_step_that_ruins_the_weights_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="step 1: the loss of what is held out is nan; lower the"):
        run(tmp_path, steps=1, lr=1e38, warmup_steps=0)
    assert not list(tmp_path.glob("state/step-*"))
