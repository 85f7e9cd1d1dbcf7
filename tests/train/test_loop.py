"""The loop: accumulation, resuming, signals, and what it refuses."""

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
from starkiln.model import checkpoint
from starkiln.model.decoder import Decoder
from starkiln.model.settings import DecoderSettings
from starkiln.train import loop, machine, objectives
from starkiln.train.settings import RunSettings, TrainSettings

SHAPE = DecoderSettings(n_layer=2, n_embd=32, n_head=2, n_positions=16)
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
VOCAB, LENGTH, SEED = 60, 12, 7
CPU = RunSettings(device="cpu", dtype="fp32", threads=1)


def settings(**changes) -> TrainSettings:
    usual = {"steps": 6, "batch_size": 8, "sequence_length": LENGTH, "warmup_steps": 2}
    every = {"lr": 1e-2, "validation_every": 3, "checkpoint_every": 2}
    return TrainSettings(**{**usual, **every, **changes})


def read(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Counting sequences; the number of targets differs from sample to sample."""
    starts = [keyed.generator("test", n).integers(VOCAB) for n in range(first, first + count)]
    tokens = (np.array(starts)[:, None] + np.arange(LENGTH + 1)) % VOCAB
    last = np.arange(first, first + count) % LENGTH
    return tokens, np.arange(LENGTH) <= last[:, None]


def decoder(**changes) -> Decoder:
    return Decoder(SHAPE.model_copy(update=changes), VOCAB, seed=SEED)


def task(**changes) -> loop.Task:
    def validate(model):
        nats, count = model.loss(torch.arange(12)[None], torch.arange(1, 13)[None])
        return {"loss": (nats / count).item()}

    usual = {"objective": objectives.next_token, "read": read, "validate": validate}
    return loop.Task(**{**usual, "identity": "a", "seed": SEED, **changes})


def run(folder: Path, *, what=None, model=None, how=CPU, events=loop.silent, **changes):
    chosen = settings(**changes)
    model = model or decoder()
    here = machine.resolve(how, chosen.batch_size)
    return model, loop.train(model, what or task(), chosen, here, folder, events)


def rows(folder: Path, name: str = loop.METRICS) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def difference(a: torch.nn.Module, b: torch.nn.Module) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters()))


def test_training_learns_and_writes_a_row_a_step(tmp_path):
    _, facts = run(tmp_path, steps=60, validation_every=30)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(1, 61))
    assert found[0]["loss"] == pytest.approx(np.log(VOCAB), rel=0.1)
    assert found[-1]["loss"] < 0.5 * found[0]["loss"]
    assert found[-1]["tokens"] == sum(int(read(n, 1)[1].sum()) for n in range(60 * 8))
    assert set(found[0]) == {"step", "tokens", "loss", "lr", "grad_norm"}
    assert facts["loss"] == found[-1]["loss"]
    assert facts["validation"] == rows(tmp_path, loop.VALIDATION)[-1]
    assert [row["step"] for row in rows(tmp_path, loop.VALIDATION)] == [30, 60]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000060"]


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_any_micro_batch_gives_the_same_gradient(micro):
    """The count of targets differs between sequences, so a mean of means would be wrong."""
    batch = tuple(map(torch.from_numpy, read(0, 8)))
    gradients = []
    for size in (8, micro):
        model = decoder(**NO_DROPOUT)
        here = machine.resolve(CPU.model_copy(update={"micro_batch": size}), 8)
        losses, _ = loop.accumulate(model, objectives.next_token, batch, here)
        count = sum(count for _, count in losses)
        gradients.append([p.grad / count for p in model.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        assert torch.linalg.norm(whole - parts) <= 1e-6 * torch.linalg.norm(whole) + 1e-9


def test_any_micro_batch_gives_the_same_training(tmp_path):
    losses = []
    for size in (8, 1, 3):
        how = CPU.model_copy(update={"micro_batch": size})
        run(tmp_path / str(size), model=decoder(**NO_DROPOUT), how=how, lr=1e-3)
        losses.append([row["loss"] for row in rows(tmp_path / str(size))])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


def by_hand(start: Decoder, chosen: TrainSettings) -> list[float]:
    """The losses of transformers' model in a plain loop, with PyTorch's clipping and schedule."""
    model = transformers.GPTBigCodeForCausalLM(
        transformers.GPTBigCodeConfig(**checkpoint.config(start))
    )
    model.load_state_dict(start.state_dict(), strict=False)
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
        tokens, mask = map(torch.from_numpy, read(8 * step, 8))
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
    start = decoder(**NO_DROPOUT)
    run(tmp_path, model=decoder(**NO_DROPOUT), steps=20, warmup_steps=5, clip=0.5)
    assert [row["loss"] for row in rows(tmp_path)] == pytest.approx(
        by_hand(start, chosen), rel=1e-5
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_two_runs_are_equal_to_the_last_bit(tmp_path, dtype, optimizer):
    how = RunSettings(device="cpu", dtype=dtype, threads=2)
    runs = [run(tmp_path / n, how=how, optimizer=optimizer, steps=3)[0] for n in "ab"]
    assert difference(*runs) == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_dropout_draws_differ_by_step_and_leave_the_process_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    seen = []

    def objective(model, batch):
        seen.append(torch.rand(4))
        return objectives.next_token(model, batch)

    run(tmp_path, what=task(objective=objective), steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*seen)


def test_gradients_are_clipped_by_their_whole_norm(tmp_path):
    """With plain descent the length of an update is the rate times the clipped norm."""
    model = decoder()
    before = [p.detach().clone() for p in model.parameters()]
    chosen = settings(steps=1, warmup_steps=0, clip=0.01)
    here = machine.resolve(CPU, 8)
    running = loop._Run(model, task(), chosen, here, tmp_path, loop.silent)
    running.optimizers = [torch.optim.SGD(model.parameters(), lr=1.0)]
    row = running._update(tuple(map(torch.from_numpy, read(0, 8))))
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), before)])
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
    for name in (loop.METRICS, loop.VALIDATION, "state/step-000009/state.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "died" / name).read_bytes()


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
        run(tmp_path, what=task(identity="b"))


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

    def objective(model, batch):
        (nats, count), further = objectives.next_token(model, batch)
        calls.append(1)
        return (nats * (bad if len(calls) == 11 else 1.0), count), further

    how = CPU.model_copy(update={"micro_batch": 2})
    with pytest.raises(UserError, match=rf"step 3: the loss is {bad} on samples {samples};"):
        run(tmp_path, what=task(objective=objective), how=how)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_gradient_that_is_no_number_names_step_and_samples(tmp_path):
    def objective(model, batch):
        (nats, count), further = objectives.next_token(model, batch)
        return (nats + 0 * torch.sqrt(model.transformer.wte.weight.sum() * 0), count), further

    with pytest.raises(UserError, match="step 1: the gradient's norm is nan on samples 0 to 7;"):
        run(tmp_path, what=task(objective=objective))


def test_a_batch_without_targets_is_refused(tmp_path):
    def blind(first, count):
        tokens, mask = read(first, count)
        return tokens, mask & False

    with pytest.raises(UserError, match="there is no target on samples 0 to 7"):
        run(tmp_path, what=task(read=blind))


def test_an_error_of_the_loader_reaches_the_caller(tmp_path):
    def broken(first, count):
        if first >= 16:
            raise UserError("tokens/python", "is damaged", "pack again")
        return read(first, count)

    with pytest.raises(UserError, match="is damaged"):
        run(tmp_path, what=task(read=broken))
    assert len(rows(tmp_path)) == 2


def test_no_memory_on_the_device_says_what_to_do(tmp_path):
    def hungry(model, batch):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(UserError, match="set micro_batch below 8"):
        run(tmp_path, what=task(objective=hungry))


def test_further_metrics_are_means_over_the_whole_batch(tmp_path):
    def objective(model, batch):
        loss, _ = objectives.next_token(model, batch)
        return loss, {"first": (batch[0][:, 0].sum(), torch.tensor(len(batch[0])))}

    how = CPU.model_copy(update={"micro_batch": 3})
    run(tmp_path, what=task(objective=objective), how=how, steps=1)
    assert rows(tmp_path)[0]["first"] == pytest.approx(read(0, 8)[0][:, 0].mean())


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
