"""States: whole or passed over, for any number of ranks, on any of their layouts."""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import ranks
from starkiln.core.errors import UserError
from starkiln.train import shards, state

DATA = "__0_0.distcp"

# name: shape, type, dimension that tensor parallelism shards, pipeline stage (None: every)
TABLE = {
    "model/h.0.rows": ((7, 5), torch.float32, 0, 0),
    "model/h.0.columns": ((6, 9), torch.float32, 1, 0),
    "model/h.0.norm": ((5,), torch.bfloat16, None, 0),
    "model/h.1.rows": ((3, 4), torch.bfloat16, 0, 1),
    "model/h.1.count": ((6,), torch.int64, None, 1),
    "model/shared": ((8, 3), torch.float32, None, None),
    "optimizer/h.0.rows/step": ((), torch.float32, None, 0),
}
FOUR = [(4, 1, 1), (1, 1, 4), (2, 1, 2), (2, 2, 1), (1, 2, 2)]  # tensor, pipeline, data
TWO = [(2, 1, 1), (1, 1, 2), (1, 2, 1)]


def whole(seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the table, as a process alone has them."""
    draw = torch.Generator().manual_seed(seed)
    size = torch.iinfo(torch.int32)
    made = {n: torch.randint(size.min, size.max, s, generator=draw) for n, (s, *_) in TABLE.items()}
    return {name: value.to(TABLE[name][1]) for name, value in made.items()}


def laid(layout: tuple[int, int, int], seed: int = 0) -> dict[str, Tensor]:
    """What this rank of ``layout`` has of them: plain where there is one dimension only."""
    tensor, pipeline, data = layout
    mesh = init_device_mesh("cpu", (pipeline, tensor, data), mesh_dim_names=("p", "t", "d"))
    stage, mesh = mesh["p"].get_local_rank(), mesh["t", "d"]
    held = {}
    for name, value in whole(seed).items():
        _, _, dim, home = TABLE[name]
        if pipeline > 1 and home not in (None, stage):
            continue
        placements = [Replicate() if dim is None else Shard(dim), Shard(0)]
        sharded = value.ndim and name != "model/shared"
        held[name] = value
        if sharded:
            held[name] = distribute_tensor(value, mesh, placements, src_data_rank=None)
    return held


def local(value: Tensor) -> Tensor:
    return value.to_local() if hasattr(value, "to_local") else value


def zeros(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in values.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(local(found[n]), local(expected[n])) for n in expected)


def saved(folder: Path, *steps: int, seed: int = 0) -> None:
    for step in steps:
        state.save(folder, step, whole(seed), {"identity": "a"}).wait()


def newest(folder: Path, events: list | None = None, identity: str = "a"):
    def listen(event, **fields):
        if events is not None:
            events.append((event, fields))

    return state.newest(folder, identity, listen)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


def loaded(path: Path, values: dict[str, Tensor]) -> bool:
    """Whether filling zeros in the layout of ``values`` from ``path`` gives them."""
    found = zeros(values)
    state.fill(path, found)
    return same(found, values)


# One process


def test_what_is_saved_comes_back(tmp_path):
    state.save(tmp_path, 3, whole(), {"identity": "a", "tokens": 7}).wait()
    record, path = newest(tmp_path)
    assert (record["step"], record["tokens"]) == (3, 7)
    assert loaded(path, whole())
    assert same(dict(state.read(path)), whole())


def test_weights_and_moments_of_a_model_go_on(tmp_path):
    torch.manual_seed(0)
    models = [nn.Linear(4, 8) for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for model in models]

    def step(i: int) -> None:
        for k, p in enumerate(models[i].parameters()):
            p.grad = torch.full_like(p, 0.5 + k)
        optimizers[i].step()

    def values(i: int) -> dict[str, Tensor]:
        found = {f"model/{name}": p for name, p in models[i].named_parameters()}
        for name, p in models[i].named_parameters():
            moments = optimizers[i].state[p].items()
            found |= {f"optimizer/{name}/{kind}": value for kind, value in moments}
        return found

    for i in (0, 0, 0, 1):
        step(i)
    path = state.save(tmp_path, 3, values(0), {"identity": "a"}).wait()
    state.fill(path, values(1))
    for i in range(2):
        step(i)
    assert same(values(1), values(0))
    assert values(1)["optimizer/weight/step"] == 4


def test_training_may_change_values_while_they_are_written(tmp_path):
    values = whole()
    saving = state.save(tmp_path, 3, values, {"identity": "a"})
    for value in values.values():
        value.zero_()
    assert loaded(saving.wait(), whole())


def test_equal_values_give_equal_bytes(tmp_path):
    saved(tmp_path / "one", 3)
    resumed = zeros(whole())
    state.fill(tmp_path / "one" / "step-000003", resumed)
    backwards = dict(reversed(resumed.items()))
    state.save(tmp_path / "two", 3, backwards, {"identity": "a"}).wait()
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


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
    assert modes == dict.fromkeys((DATA, ".metadata", state.RECORD), 0o640)


def test_no_state_is_none(tmp_path):
    assert newest(tmp_path / "absent") is None


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES = (DATA, ".metadata", state.RECORD)
DAMAGE = {
    "no {}": Path.unlink,
    "half of {}": cut,
    "an early bit in {}": lambda path: flip(path, 0.05),
    "a late bit in {}": lambda path: flip(path, 0.9),
    "an empty {}": lambda path: path.write_bytes(b""),
    "a folder as {}": to_folder,
}
OTHERS = {
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a list as record": lambda folder: (folder / state.RECORD).write_text("[]"),
    "a deep record": lambda folder: (folder / state.RECORD).write_text("[" * 100_000),
    "another step": lambda folder: (folder / state.RECORD).write_text(
        (folder / state.RECORD).read_text().replace('"step": 10', '"step": 11')
    ),
}
CASES = OTHERS | {
    how.format(name): lambda folder, name=name, act=act: act(folder / name)
    for how, act in DAMAGE.items()
    for name in FILES
}


@pytest.mark.parametrize("damage", CASES)
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, damage):
    saved(tmp_path, 5, 10)
    CASES[damage](tmp_path / "step-000010")
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
    saved(tmp_path, 6)
    assert not (tmp_path / ".step-000009.new").exists()


def test_another_identity_is_refused(tmp_path):
    saved(tmp_path, 5)
    with pytest.raises(UserError, match="other settings or data"):
        newest(tmp_path, identity="b")


def test_another_version_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "FORMAT", 1)
    saved(tmp_path, 5)
    monkeypatch.undo()
    with pytest.raises(UserError, match="another version"):
        newest(tmp_path)


OTHER_MODELS = {
    "less": (lambda v: v.pop("model/shared"), "model/shared .1 in all. is there and not here"),
    "more": (lambda v: v.update(x=torch.ones(2)), "x is absent there and .2. float32 here"),
    "shape": (
        lambda v: v.update({"model/shared": torch.ones(3, 8)}),
        r"model/shared is \[8, 3\] float32 there and \[3, 8\] float32 here",
    ),
    "type": (
        lambda v: v.update({"model/h.0.norm": torch.ones(5)}),
        r"model/h.0.norm is \[5\] bfloat16 there and \[5\] float32 here",
    ),
}


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_another_model_is_refused_and_left_as_it_is(tmp_path, case):
    change, message = OTHER_MODELS[case]
    saved(tmp_path, 5)
    values = zeros(whole())
    change(values)
    with pytest.raises(UserError, match=message):
        state.fill(tmp_path / "step-000005", values)
    assert not values["model/h.0.rows"].any()


def test_reading_a_name_that_is_not_there_is_refused(tmp_path):
    saved(tmp_path, 5)
    assert [n for n, _ in state.read(tmp_path / "step-000005", ["model/shared"])] == [
        "model/shared"
    ]
    with pytest.raises(UserError, match="x is not there"):
        list(state.read(tmp_path / "step-000005", ["x"]))


def peak() -> int:
    """The most memory that this process has had, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def growth_while_reading(path: Path) -> tuple[int, float]:
    next(state.read(path))
    before = peak()
    total = sum(float(tensor[-1]) for _, tensor in state.read(path))
    return peak() - before, total


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_reading_holds_one_tensor_at_a_time(tmp_path):
    values = {str(i): torch.full((1 << 19,), float(i)) for i in range(24)}  # 2 MiB each
    path = state.save(tmp_path, 1, values, {"identity": "a"}).wait()
    [(grown, total)] = ranks.run(1, growth_while_reading, path, joined=False)
    assert total == sum(range(24))
    assert grown < 10 * 2  # torch.load holds four times what it reads


# Disks that fill, processes that die


def limited(bytes_a_file: int):
    """A limit on a file's size stands for the full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 500, 10_500])
def test_a_disk_that_is_full_keeps_the_state_before(tmp_path, room):
    saved(tmp_path, 5)
    lift = limited(room)
    try:
        with pytest.raises(UserError, match=r"cannot be written .*too large.* lift the limit"):
            saved(tmp_path, 6)
    finally:
        lift()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert newest(tmp_path)[0]["step"] == 5
    saved(tmp_path, 6)
    assert newest(tmp_path)[0]["step"] == 6


def save_and_die(folder: Path, step: int, touch: int) -> None:
    """Save, and die of SIGKILL right before touching the disk for the ``touch``-th time."""
    left = touch

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        ours = event in ("os.remove", "os.rmdir") or str(args[:1]).find(str(folder)) >= 0
        if ours and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    state.save(folder, step, whole(step), {"identity": "a"}).wait()


def test_a_kill_at_any_touch_of_the_disk_loses_no_state(tmp_path):
    saved(tmp_path, 1, seed=1)
    last = died = 1
    for touch in range(1, 60):
        step = last + 1
        try:
            ranks.run(1, save_and_die, tmp_path, step, touch, joined=False)
            break
        except ranks.RankError as error:
            if "died" not in str(error):
                raise
            died += 1
        events: list = []
        record, path = newest(tmp_path, events)
        assert record["step"] in (last, step)
        assert not events
        assert loaded(path, whole(record["step"]))
        last = record["step"]
    assert died > 10
    assert newest(tmp_path)[0]["step"] == step
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step-{step - 1:06d}",
        f"step-{step:06d}",
    }


# Several ranks


def every_way(folder: Path, alone: Path) -> dict[str, str]:
    """Save on every layout of four, and load on every one what any, or one process, saved."""
    held = {str(layout): laid(layout) for layout in FOUR}
    paths = {
        name: state.save(folder / name, 3, values, {"identity": "a"}).wait()
        for name, values in held.items()
    }
    for source in (alone, *paths.values()):
        for name, values in held.items():
            assert loaded(source, values), (source, name)
    state.save(folder / "again", 3, held[str(FOUR[2])], {"identity": "a"}).wait()
    return {name: str(path) for name, path in paths.items()}


def load_on_two(folder: Path) -> None:
    for source in sorted(folder.glob("(*/step-000003")):
        for layout in TWO:
            assert loaded(source, laid(layout)), (source, layout)


def test_any_layout_goes_on_from_any_other(tmp_path):
    saved(tmp_path / "alone", 3)
    paths = ranks.run(4, every_way, tmp_path, tmp_path / "alone" / "step-000003")[0]
    assert len(paths) == len(FOUR)
    ranks.run(2, load_on_two, tmp_path)
    for path in map(Path, paths.values()):
        assert loaded(path, whole())
        assert same(dict(state.read(path)), whole())
    first = next(state.read(Path(paths[str(FOUR[0])]), ["model/h.0.rows"]))[1]
    assert torch.equal(first, whole()["model/h.0.rows"])
    assert digests(tmp_path / "again") == digests(tmp_path / str(FOUR[2]))


def pick(folder: Path) -> tuple[int, list[str]]:
    events: list = []
    found = newest(folder, events)
    return found[0]["step"] if found else 0, [fields["reason"] for _, fields in events]


def save_damage_and_pick(folder: Path) -> list[tuple[int, list[str]]]:
    """What the ranks pick after damage to a file that only one of them looks at."""
    found = []
    for name in ("__0_0.distcp", "__1_0.distcp", ".metadata"):
        values = laid((1, 1, 2))
        for step in (5, 10):
            state.save(folder / name, step, values, {"identity": "a"}).wait()
        if dist.get_rank() == 0:
            flip(folder / name / "step-000010" / name, 0.5)
        dist.barrier()
        found.append(pick(folder / name))
    return found


def test_ranks_agree_on_a_damage_that_one_sees(tmp_path):
    one, other = ranks.run(2, save_damage_and_pick, tmp_path)
    assert one == other
    names = ("__0_0.distcp", "__1_0.distcp", ".metadata")
    assert one == [(5, [f"{name} is damaged"]) for name in names]


def fail_alone(folder: Path) -> list[str]:
    """What this rank hears when the disk of the one or the other is full, or its model another."""
    values, heard = laid((1, 1, 2)), []
    state.save(folder, 5, values, {"identity": "a"}).wait()
    for full in range(2):
        lift = limited(500) if dist.get_rank() == full else int
        try:
            state.save(folder, 6, values, {"identity": "a"}).wait()
        except UserError as error:
            heard.append(str(error))
        lift()
    if dist.get_rank() == 1:
        values["x"] = torch.ones(2)
    try:
        state.fill(folder / "step-000005", values)
    except UserError as error:
        heard.append(str(error))
    values.pop("x", None)
    assert loaded(folder / "step-000005", values)
    state.save(folder, 7, values, {"identity": "a"}).wait()
    return heard


def test_what_fails_on_one_rank_is_heard_on_all(tmp_path):
    one, other = ranks.run(2, fail_alone, tmp_path)
    assert one == other
    assert [("too large" in text, "lift the limit" in text) for text in one[:2]] == [(1, 1)] * 2
    assert "x is absent there" in one[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005", "step-000007"]


def save_to_disks_of_their_own(folder: Path) -> str:
    own = folder / str(dist.get_rank())
    try:
        state.save(own, 5, laid((1, 1, 2)), {"identity": "a"}).wait()
    except UserError as error:
        return str(error)
    return ""


def test_disks_that_the_nodes_do_not_share_are_refused(tmp_path):
    one, other = ranks.run(2, save_to_disks_of_their_own, tmp_path)
    assert one == other
    assert "__1_0.distcp of another node is not here; put the work folder on a disk that" in one


def hold_and_save(folder: Path) -> bool:
    """Whether nothing holds the copy of the state once it is written."""
    held = []
    staged = shards.staged
    shards.staged = lambda values: held.append(staged(values)) or held[0]
    saving = state.save(folder, 5, whole(), {"identity": "a"})
    watch = weakref.ref(held.pop()["model/shared"])
    saving.wait()
    return watch() is None


def test_the_copy_is_let_go_once_it_is_written(tmp_path):
    assert ranks.run(1, hold_and_save, tmp_path) == [True]


def die_in_the_write(folder: Path) -> None:
    values = laid((1, 1, 2))
    state.save(folder, 5, values, {"identity": "a"}).wait()
    if dist.get_rank() == 1:
        shards._Writer.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    state.save(folder, 6, values, {"identity": "a"}).wait()


def die_in_the_read(folder: Path) -> None:
    values = laid((1, 1, 2))
    path = state.save(folder, 5, values, {"identity": "a"}).wait()
    if dist.get_rank() == 1:
        shards.read = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    state.fill(path, values)


def test_a_rank_that_dies_is_no_fault_of_the_disk(tmp_path):
    with pytest.raises(ranks.RankError) as caught:
        ranks.run(2, die_in_the_read, tmp_path)
    assert "rank 1: died" in str(caught.value)
    assert "ConnectionError: a rank is lost" in str(caught.value)
    assert "UserError" not in str(caught.value)


def test_a_rank_that_dies_ends_the_others_and_no_state(tmp_path):
    with pytest.raises(ranks.RankError) as caught:
        ranks.run(2, die_in_the_write, tmp_path)
    assert "rank 1: died" in str(caught.value)
    assert "step-000006: cannot be written (a rank is lost" in str(caught.value)
    record, path = newest(tmp_path)
    assert record["step"] == 5
    assert loaded(path, whole())


# Journals


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


def test_a_row_that_is_cut_short_by_a_full_disk_is_an_error(tmp_path):
    journal = state.Journal(tmp_path / "rows.jsonl", 0)
    lift = limited(100)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            journal.append({"row": "x" * 200})
    finally:
        lift()
        journal.close()


def test_a_journal_that_lost_rows_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="lacks rows"):
        state.Journal(path, 100)
