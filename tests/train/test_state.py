"""States: whole or passed over; and runs that are killed at any moment."""

import json
import os
import resource
import shutil

import pytest
import torch
from torch import nn

from starkiln.core.errors import UserError
from starkiln.train import optim, state
from starkiln.train.settings import TrainSettings


def made(steps: int = 1) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    optimizers = optim.optimizers(model, TrainSettings(optimizer="muon"))
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for optimizer in optimizers:
            optimizer.step()
    return model, optimizers


def saved(folder, *steps: int) -> None:
    for step in steps:
        state.save(folder, step, state.tensors(*made(min(step, 12))), {"identity": "a"})


def newest(folder, events: list | None = None, identity: str = "a"):
    def listen(event, **fields):
        if events is not None:
            events.append((event, fields))

    return state.newest(folder, identity, listen)


def test_what_is_saved_comes_back(tmp_path):
    saved(tmp_path, 3)
    record, tensors = newest(tmp_path)
    assert record["step"] == 3
    model, optimizers = made(0)
    state.fill(model, optimizers, tensors)
    expected = state.tensors(*made(3))
    found = state.tensors(model, optimizers)
    assert found.keys() == expected.keys()
    assert len(found) == 4 + 2 + 2 * 3  # weights, Muon's momenta, Adam's moments and step
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_last_two_are_kept_and_nothing_else_lies_about(tmp_path):
    saved(tmp_path, 5, 10, 999_999, 1_000_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    assert newest(tmp_path)[0]["step"] == 1_000_000


def test_all_files_have_the_mode_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        saved(tmp_path, 3)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("step-*/*")}
    assert modes == {state.TENSORS: 0o640, state.RECORD: 0o640}


def test_no_state_is_none(tmp_path):
    assert newest(tmp_path / "absent") is None


def flip(path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "no record": lambda folder: (folder / state.RECORD).unlink(),
    "no tensors": lambda folder: (folder / state.TENSORS).unlink(),
    "empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "half the tensors": lambda folder: (folder / state.TENSORS).write_bytes(
        (folder / state.TENSORS).read_bytes()[:-100]
    ),
    "a bit in a weight": lambda folder: flip(folder / state.TENSORS, 0.9),
    "a bit in the header": lambda folder: flip(folder / state.TENSORS, 0.05),
    "half the record": lambda folder: (folder / state.RECORD).write_text('{"step": 10,'),
    "a list as record": lambda folder: (folder / state.RECORD).write_text("[]"),
    "another step": lambda folder: (folder / state.RECORD).write_text(
        (folder / state.RECORD).read_text().replace('"step": 10', '"step": 11')
    ),
    "a folder as tensors": lambda folder: (
        (folder / state.TENSORS).unlink(),
        (folder / state.TENSORS).mkdir(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, damage):
    saved(tmp_path, 5, 10)
    DAMAGE[damage](tmp_path / "step-000010")
    events: list = []
    assert newest(tmp_path, events)[0]["step"] == 5
    assert [event for event, _ in events] == ["state_damaged"]
    assert events[0][1]["path"].endswith("step-000010")
    assert events[0][1]["reason"]
    saved(tmp_path, 10)
    assert newest(tmp_path)[0]["step"] == 10


def test_stray_names_are_no_states(tmp_path):
    saved(tmp_path, 5)
    for name in ("step-old", ".step-000009.new", "notes"):
        (tmp_path / name).mkdir()
    assert newest(tmp_path)[0]["step"] == 5


def test_another_identity_is_refused(tmp_path):
    saved(tmp_path, 5)
    with pytest.raises(UserError, match="other settings or data"):
        newest(tmp_path, identity="b")


def test_a_disk_that_is_full_keeps_the_state_before(tmp_path):
    """A limit on a file's size stands for the full disk."""
    saved(tmp_path, 5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        with pytest.raises(UserError, match="free some space"):
            saved(tmp_path, 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert newest(tmp_path)[0]["step"] == 5


def test_a_journal_is_cut_back_and_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = state.Journal(path, 0)
    journal.append({"step": 1})
    size = journal.size()
    journal.append({"step": 2})
    journal.close()
    again = state.Journal(path, size)
    again.append({"step": 3})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    assert state.last_row(path) == {"step": 3}


def test_a_journal_that_lost_rows_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="lacks rows"):
        state.Journal(path, 100)
