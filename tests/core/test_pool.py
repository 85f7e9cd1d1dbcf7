import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from starkiln.core.errors import UserError
from starkiln.core.pool import Pool


def slow_first(n: int) -> int:
    time.sleep(0.2 if n == 0 else 0)
    return n


def fault(n: int) -> int:
    raise UserError("here", f"{n} is odd", "mend it")


def die() -> None:
    os._exit(9)


def test_map_keeps_order() -> None:
    with Pool(2) as pool:
        assert list(pool.map(slow_first, [(n,) for n in range(7)])) == list(range(7))


def test_a_users_error_crosses_the_process_border() -> None:
    with Pool(2) as pool, pytest.raises(UserError, match="here: 1 is odd; mend it"):
        list(pool.map(fault, [(1,)]))


def die_once(place: str, n: int) -> int:
    note = Path(place) / str(n)
    if n in (3, 8) and not note.exists():
        note.touch()
        os._exit(9)
    return n


def die_once_each(place: str, n: int) -> int:
    note = Path(place) / str(n)
    if n == 0:
        time.sleep(2)
    elif not note.exists():
        note.touch()
        os._exit(9)
    return n


def burn(n: int) -> int:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        n += 1
    return n


def test_others_deaths_are_not_counted_against_a_call(tmp_path: Path) -> None:
    with Pool(2) as pool:
        found = list(pool.map(die_once_each, [(str(tmp_path), n) for n in range(6)]))
    assert found == list(range(6))


def test_what_workers_spend_is_known() -> None:
    with Pool(2) as pool:
        list(pool.map(burn, [(n,) for n in range(4)]))
        assert 0.7 < pool.cpu_seconds < 4
        assert pool.peak_mb > 5


def test_work_that_kills_every_worker_is_one_sentence() -> None:
    with Pool(2) as pool, pytest.raises(UserError, match=r"run\.workers: a worker process died"):
        list(pool.map(die, [()]))


def test_a_dead_worker_costs_only_what_it_was_at(tmp_path: Path) -> None:
    with Pool(2) as pool:
        found = list(pool.map(die_once, [(str(tmp_path), n) for n in range(12)]))
    assert found == list(range(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "8"]


def test_workers_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from starkiln.core.pool import Pool\n"
        "def work(path):\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        list(pool.map(work, [(sys.argv[1],)]))\n"
    )
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, script, note])
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(note.read_text())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline
