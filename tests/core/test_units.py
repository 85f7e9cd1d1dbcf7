from pathlib import Path
from typing import Any

from starkiln.core import units
from starkiln.core.pool import Pool


class Quiet:
    def total(self, units: float) -> None: ...

    def advance(self, units: float, note: str) -> None: ...


def square(folder: Path, n: int) -> dict[str, Any]:
    path = folder / f"{n}.txt"
    path.write_text(str(n * n))
    with (folder.parent / "calls").open("a") as handle:
        handle.write(f"{n}\n")
    return {"files": [str(path)], "rows": n}


def work(folder: Path, workers: int = 1) -> list[dict]:
    folder.mkdir(exist_ok=True)
    calls = [(str(n), (folder, n)) for n in range(6)]
    with Pool(workers) as pool:
        return units.run(folder, square, calls, pool, Quiet())


def calls(folder: Path) -> list[str]:
    return (folder.parent / "calls").read_text().split()


def test_results_keep_their_order_at_any_worker_count(tmp_path: Path) -> None:
    one = work(tmp_path / "one")
    assert one == work(tmp_path / "three", 3)
    assert [r["rows"] for r in one] == list(range(6))


def test_finished_units_are_not_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    first = work(folder)
    assert work(folder) == first
    assert calls(folder) == list("012345")


def test_a_unit_counts_only_when_journal_and_files_agree(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    work(folder)
    (folder / "1.txt").write_text("torn")
    (folder / "2.txt").unlink()
    journal = folder / units.JOURNAL
    journal.write_bytes(journal.read_bytes()[:-9])  # the last line is cut by a crash
    work(folder)
    assert sorted(calls(folder)[6:]) == ["1", "2", "5"]
    assert (folder / "1.txt").read_text() == "1"
