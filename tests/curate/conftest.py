"""A table's view in memory, and the real one on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from starkiln.code.document import SCHEMA, code_document
from starkiln.core import table
from starkiln.core.pool import Pool


class Shards:
    """What a global stage sees of a table, for frames that never touch a disk."""

    def __init__(self, frames: list[pl.DataFrame]) -> None:
        self.frames = [f.with_columns(table.text()) for f in frames]

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, i: int, columns: list[str]) -> pl.DataFrame:
        return self.frames[i].select(columns)

    def map(self, function: Callable, columns: list[str], **kwargs: Any) -> Iterator[Any]:
        return (function(frame.select(columns), **kwargs) for frame in self.frames)


class Quiet:
    """A sink that shows nothing."""

    def total(self, units: float) -> None: ...

    def advance(self, units: float, note: str) -> None: ...

    def reach(self, done: float, note: str) -> None: ...


@pytest.fixture(scope="session")
def shards() -> type[Shards]:
    return Shards


@pytest.fixture(scope="session")
def documents() -> Callable[..., pl.DataFrame]:
    """Documents of code from (text, and what differs from the defaults)."""

    def make(*rows: str | dict) -> pl.DataFrame:
        built = []
        for number, row in enumerate(rows):
            row = {"text": row} if isinstance(row, str) else row
            own = {
                "repo": "acme/thing",
                "path": f"src/f{number}.py",
                "language": "python",
                "licences": ["MIT"],
            }
            kind = row.get("kind", "code")
            wanted = own | {k: v for k, v in row.items() if k != "kind"}
            built.append(code_document(**wanted) | {"kind": kind})
        return pl.DataFrame(built, schema=SCHEMA)

    return make


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[list[pl.DataFrame], Pool], table.View]:
    """The real view of frames written as shards."""

    def make(frames: list[pl.DataFrame], pool: Pool) -> table.View:
        folder = tmp_path / "documents"
        folder.mkdir()
        for number, frame in enumerate(frames):
            table.write(folder / f"{number:05d}.parquet", frame)
        return table.View(folder, [], tmp_path / "scratch", pool, Quiet())

    return make
