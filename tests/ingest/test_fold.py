"""A source whose documents are made of records that lie scattered over its units."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from starkiln.code.document import document, set_aside
from starkiln.core.stage import source
from starkiln.ingest import shard
from starkiln.ingest.shard import fold_shard, scatter

HERE = f"{__name__}:letters"


def read(unit: dict) -> Iterator[dict]:
    for number, text in enumerate(unit["texts"]):
        if not text:
            yield set_aside("acme/thing", f"{unit['name']}:{number}", 0, "empty")
        else:
            yield {"key": text[0], "text": text}


def fold(key: str, records: list[dict], settings: dict) -> Iterator[dict]:
    joined = settings["between"].join(record["text"] for record in records)
    yield document("issue", [("", joined)], repo="a/b", path=key, language="unknown", licences=[])


@source(version=1, read=read, fold=fold)
def letters(*, between: str = "+") -> list[dict]:
    return []


def unit(name: str, *texts: str) -> dict:
    return {"name": name, "bytes": 1, "stamp": "", "texts": texts}


@pytest.fixture(params=[1, shard.HELD])
def shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three units in two groups, folded into four shards, as one table and what was set aside.

    Records are put on the disk one by one, or all of a group's together.
    """
    monkeypatch.setattr(shard, "HELD", request.param)
    monkeypatch.setattr("starkiln.core.stage.load", lambda use, where: letters)
    groups = [[unit("a", "k1", "q1", ""), unit("b", "k2", "m1")], [unit("c", "k3", "", "z1")]]
    for number, group in enumerate(groups):
        counted = scatter(tmp_path, f"{number:05d}", HERE, group, 4)
        assert counted["rows"] == sum(bool(t) for one in group for t in one["texts"])
    assert len(list(tmp_path.iterdir())) == 4  # of either group the records and what is set aside
    spilled = [tmp_path / f"{number:05d}.bin" for number in range(2)]
    out = tmp_path / "documents"
    out.mkdir()
    for part in range(4):
        fold_shard(out, f"{part:05d}", HERE, {"between": "+"}, spilled, part, 4, ["MIT"])
    whole = [pl.read_parquet(out / f"{part:05d}.parquet") for part in range(4)]
    aside = [pl.read_parquet(out / f"{part:05d}.dropped.parquet") for part in range(4)]
    return pl.concat(whole), pl.concat(aside)


def test_each_key_is_folded_once_with_its_records_in_order(shards: tuple) -> None:
    texts = {row["path"]: row["segments"][0]["text"] for row in shards[0].to_dicts()}
    assert texts == {"k": "k1+k2+k3", "q": "q1", "m": "m1", "z": "z1"}
    assert shards[0]["licences"].to_list() == [["MIT"]] * 4


def test_what_was_set_aside_while_reading_is_counted_once(shards: tuple) -> None:
    assert sorted(shards[1]["path"]) == ["a:2", "c:1"]
    assert shards[1]["reason"].to_list() == ["empty", "empty"]


PEAK = """
import sys
from pathlib import Path
from starkiln.ingest.shard import scatter

def peak():  # since this program began; a resource's ru_maxrss may be its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))

folder, source, *files = sys.argv[1:]
for number, file in enumerate(files):
    unit = {"name": file, "bytes": 1, "stamp": "", "file": file}
    print(scatter(Path(folder), f"{number:05d}", source, [unit], 40)["rows"], peak())
"""
LINES = """
from pathlib import Path
from starkiln.core.stage import source

def read(unit):
    with Path(unit["file"]).open() as lines:
        for number, line in enumerate(lines):
            yield {"key": str(number), "text": line}
            if number % 2:
                yield {"reason": "odd", "repo": "r", "path": f"line {number}", "bytes": 9}

def fold(key, records, settings): ...

@source(version=1, read=read, fold=fold)
def lines(): ...
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_follow_the_file(tmp_path: Path) -> None:
    """One unit of 40 MB, then one of 160: as much is held of either."""
    (tmp_path / "lines.py").write_text(LINES)
    noise = random.Random(1)
    paths = [tmp_path / name for name in ("small", "large")]
    for path, count in zip(paths, (4_000, 16_000)):
        with path.open("w") as file:
            file.writelines(noise.randbytes(5_000).hex() + "\n" for _ in range(count))
    command = [sys.executable, "-c", PEAK, tmp_path, f"{tmp_path / 'lines.py'}:lines", *paths]
    told = subprocess.check_output(command, text=True).split()
    small, before, large, after = map(int, told)
    assert (small, large) == (4_000, 16_000)
    assert after - before < 30, f"{before} MB for 40 MB of records, {after} for 160"
