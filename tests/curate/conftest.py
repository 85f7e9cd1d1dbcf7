"""Documents, and the view of a table that global stages get."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from starkiln.code.document import SCHEMA, code_document
from starkiln.core import table
from starkiln.core.pool import Pool


class Quiet:
    """A sink that shows nothing."""

    def total(self, units: float) -> None: ...

    def advance(self, units: float, note: str) -> None: ...

    def reach(self, done: float, note: str) -> None: ...


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., table.View]:
    """The view of frames written as shards, with ``scratch`` in a folder of its own."""

    def make(
        frames: list[pl.DataFrame], pool: Pool | None = None, kinds: Sequence[str] | None = None
    ) -> table.View:
        folder = tmp_path_factory.mktemp("table")
        scratch, documents = folder / "scratch", folder / "documents"
        scratch.mkdir()
        documents.mkdir()
        for number, frame in enumerate(frames):
            table.write(documents / f"{number:05d}.parquet", frame)
        return table.View(documents, [], scratch, pool or Pool(1), Quiet(), kinds)

    return make


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
