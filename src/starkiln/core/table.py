"""A table is a folder of Parquet shards; decisions lie beside it, aligned row by row.

Documents never change. A curate step writes one decision shard for each document shard, with the
same rows in the same order: ``reason`` is null for a row that is kept. So a later step finds the
survivors without a join, and a changed threshold never rewrites text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from starkiln.core import atomic, manifest, stage, units
from starkiln.core.errors import UserError
from starkiln.core.log import Sink
from starkiln.core.pool import Pool

T = TypeVar("T")
DROP = {"stage": pl.String, "reason": pl.String}
_SHARD = re.compile(r"[0-9]+\.parquet")  # what lies beside it has a longer name


def shard_names(folder: Path) -> list[str]:
    """``NNNNN.parquet`` files of a table, in order; UserError for one that was made and is gone."""
    names = {p.name for p in folder.glob("[0-9]*.parquet") if _SHARD.fullmatch(p.name)}
    made = manifest.read(folder)
    for shard in made.shards if made else ():
        name = shard["name"]
        if _SHARD.fullmatch(name) and name not in names:
            raise UserError(folder / name, "is gone", "run again: what is missing is made anew")
    return sorted(names)


def write(path: Path, frame: pl.DataFrame) -> None:
    """Write one shard (zstd Parquet) atomically."""
    atomic.write(path, lambda temporary: frame.write_parquet(temporary, compression="zstd"))


def read(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read one shard; ``text`` is made of ``segments`` when it is asked for."""
    if columns is None:
        return _whole(path, lambda: pl.read_parquet(path))
    stored = [c for c in columns if c != "text"]
    if "text" in columns and "segments" not in stored:
        stored.append("segments")
    frame = _whole(path, lambda: pl.read_parquet(path, columns=stored))
    if "text" in columns:
        frame = frame.with_columns(text())
    return frame.select(columns)


def columns_of(path: Path) -> list[str]:
    """The names of a shard's columns."""
    return _whole(path, lambda: list(pl.read_parquet_schema(path)))


def _whole(path: Path, reading: Callable[[], T]) -> T:
    """What ``reading`` gives; UserError where the shard is gone or damaged."""
    try:
        return reading()
    except (pl.exceptions.PolarsError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        fault = str(error).partition("\n")[0]
        raise UserError(path, f"unreadable ({fault})", "remove its folder and run again") from error


def text() -> pl.Expr:
    """The text of a document: the texts of its segments joined by a newline."""
    texts = pl.element().struct.field("text")
    return pl.col("segments").list.eval(texts).list.join("\n").alias("text")


def survivors(decisions: Iterable[Path]) -> pl.Series | None:
    """Which rows no decision shard has dropped so far (Boolean); None when nothing decided."""
    kept: pl.Series | None = None
    for path in decisions:
        one = read(path, ["reason"])["reason"].is_null()
        kept = one if kept is None else kept & one
    return kept


def decision_folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """The decision tables made from the table at ``folder``, in order, and those out of date."""
    beside = [(one, manifest.read(one)) for one in folder.parent.glob("decisions/[!.]*")]
    mine = [(one, made) for one, made in beside if made and folder.name in made.identity.inputs]
    ordered = [one for one, _ in sorted(mine, key=lambda m: (len(m[1].identity.inputs), m[0]))]
    fresh = [one for one in ordered if manifest.current(folder.parent, f"decisions/{one.name}")]
    return fresh, [one for one in ordered if one not in fresh]


def fates(decisions: Iterable[Path], height: int) -> pl.DataFrame:
    """``stage`` and ``reason`` of each row: of the first decision that dropped it, or null."""
    found = [pl.DataFrame({c: pl.Series([None] * height, dtype=kind) for c, kind in DROP.items()})]
    for path in decisions:
        found.append(read(path, list(DROP)))
        if found[-1].height != height:
            what = f"{found[-1].height} decisions for {height} documents"
            raise UserError(path, what, "remove its folder and run again")
    return pl.select(pl.coalesce(one[column] for one in found) for column in DROP)


def text_bytes() -> pl.Expr:
    """The bytes of a document's texts (Int64), as ``bytes``."""
    sizes = pl.element().struct.field("text").str.len_bytes()
    return pl.col("segments").list.eval(sizes).list.sum().cast(pl.Int64).alias("bytes")


def decide(
    documents: Path,
    decisions: list[Path],
    stages: list[tuple[str, str, dict, list[str] | None]],
    out: Path,
) -> dict[str, Any]:
    """One pass of consecutive row-local stages over one shard; writes its decision shard.

    ``stages`` holds (name, use, settings, kinds). The first stage that gives a reason drops the
    row, and later stages do not see it. Returns rows, drops by ``stage:reason``.
    """
    functions = [(name, stage.load(use, name), given, kinds) for name, use, given, kinds in stages]
    _check_reads(documents, [(name, function) for name, function, *_ in functions])
    columns = {c for _, f, *_ in functions for c in stage.spec(f).reads} | {"id"}
    columns |= {"kind" for *_, kinds in functions if kinds is not None}
    frame = read(documents, sorted(columns)).with_row_index("row")
    height = frame.height
    alive = survivors(decisions)
    if alive is not None:
        frame = frame.filter(alive)
    found = pl.DataFrame({"row": pl.int_range(height, dtype=pl.UInt32, eager=True)})
    found = found.with_columns(pl.lit(None, dtype).alias(c) for c, dtype in DROP.items())
    for name, function, settings, kinds in functions:
        mine = frame if kinds is None else frame.filter(pl.col("kind").is_in(kinds))
        result = apply(name, function, mine.drop("row"), settings).with_columns(row=mine["row"])
        found = _merge(found, name, result)
        if "reason" in result.columns:
            dropped = result.filter(pl.col("reason").is_not_null())["row"]
            frame = frame.filter(~pl.col("row").is_in(dropped.implode()))
    write(out, found.drop("row"))
    drops = found.filter(pl.col("reason").is_not_null()).group_by("stage", "reason").len()
    return {"rows": height, "drops": {f"{s}:{r}": n for s, r, n in sorted(drops.iter_rows())}}


def _check_reads(documents: Path, functions: list[tuple[str, Callable]]) -> None:
    known = [*columns_of(documents), "text"]
    for name, function in functions:
        wrong = [c for c in stage.spec(function).reads if c not in known]
        if wrong:
            raise UserError(name, f"reads '{wrong[0]}'", f"documents have {', '.join(known)}")


def _merge(found: pl.DataFrame, name: str, result: pl.DataFrame) -> pl.DataFrame:
    """Put one stage's result, for some rows, beside what is known of all rows."""
    if "reason" in result.columns:
        hit = result.filter(pl.col("reason").is_not_null())
        new = hit.select("row", pl.lit(name).alias("stage"), "reason")
        found = found.update(new, on="row", how="left")
    adds = result.drop("reason", strict=False)
    known = [c for c in adds.columns if c in found.columns and c != "row"]
    if known:
        raise UserError(name, f"adds column '{known[0]}' a second time", "rename it in the stage")
    return found.join(adds, on="row", how="left", maintain_order="left")


def apply(name: str, function: Callable, frame: pl.DataFrame, settings: dict) -> pl.DataFrame:
    """Run one row-local stage or document filter on a frame; its columns are checked."""
    spec = stage.spec(function)
    try:
        if spec.kind == "document":
            rows = frame.select(spec.reads).iter_rows()
            reasons = [function(*row, **settings) for row in rows]
            result = pl.DataFrame({"reason": pl.Series(reasons, dtype=pl.String)})
        else:
            result = function(frame.select(spec.reads), **settings)
    except UserError:
        raise
    except Exception as error:
        raise UserError(name, f"the stage failed ({error!r})", "mend the stage") from error
    return _checked(name, spec, result, frame.height)


def _checked(name: str, spec: stage.Spec, result: pl.DataFrame, height: int) -> pl.DataFrame:
    expected = {"reason": pl.String, **spec.adds}
    if not isinstance(result, pl.DataFrame):
        what = f"the stage returned {type(result).__name__}, not a frame"
        raise UserError(name, what, "return a Polars DataFrame")
    wrong = [c for c in result.columns if c not in expected]
    if result.height != height or wrong:
        what = f"undeclared column '{wrong[0]}'" if wrong else f"{result.height} rows for {height}"
        raise UserError(name, f"the stage returned {what}", "return one row a document")
    return result.cast({c: expected[c] for c in result.columns})


@dataclass(frozen=True)
class Shard:
    """One shard as a global stage sees it: the rows kept so far, of its kinds of document."""

    documents: Path
    decisions: tuple[Path, ...]
    kinds: tuple[str, ...] | None

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """The rows that are seen, in order."""
        frame = read(self.documents, columns)
        seen = self.seen()
        return frame if seen is None else frame.filter(seen)

    def seen(self) -> pl.Series | None:
        """Which rows those are (Boolean); None for all."""
        alive = survivors(self.decisions)
        if self.kinds is None:
            return alive
        mine = read(self.documents, ["kind"])["kind"].is_in(list(self.kinds))
        return mine if alive is None else mine & alive


class View:
    """All shards of a table as a global stage sees them."""

    def __init__(
        self,
        documents: Path,
        decisions: Sequence[Path],
        scratch: Path,
        pool: Pool,
        sink: Sink,
        kinds: Sequence[str] | None = None,
    ) -> None:
        self.documents, self.decisions = documents, decisions
        self.scratch, self.pool, self.sink = scratch, pool, sink
        self.kinds = None if kinds is None else tuple(kinds)
        self.shards = shard_names(documents)

    def __len__(self) -> int:
        return len(self.shards)

    def shard(self, i: int) -> Shard:
        """Shard ``i``, to be handed to a worker."""
        name = self.shards[i]
        decisions = tuple(folder / name for folder in self.decisions)
        return Shard(self.documents / name, decisions, self.kinds)

    def read(self, i: int, columns: Sequence[str]) -> pl.DataFrame:
        """The rows of shard ``i`` that are seen."""
        return self.shard(i).read(columns)

    def map(self, function: Callable, columns: Sequence[str], **kwargs: Any) -> Iterator[Any]:
        """``function(frame, **kwargs)`` on every shard in workers, results in shard order."""
        place = stage.place_of(function)
        calls = ((place, self.shard(i), tuple(columns), kwargs) for i in range(len(self)))
        for result in self.pool.map(_call, calls):
            self.sink.advance(1, "")
            yield result

    def run(
        self, name: str, function: Callable[..., dict], calls: Iterable[tuple[str, tuple]]
    ) -> list[dict[str, Any]]:
        """``function(folder, *arguments)`` for each (unit, arguments) in workers, results in order.

        For what is too large to be sent back: a unit writes files into ``folder`` (one for all
        units, below ``scratch``) and names them in ``files`` of its result. Finished units are not
        done again when a killed run is taken up.
        """
        folder = self.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        place = stage.place_of(function)
        placed = [(unit, (place, folder, arguments)) for unit, arguments in calls]
        return units.run(folder, _run, placed, self.pool, self.sink)

    def expand(self, i: int, name: str, spec: stage.Spec, result: pl.DataFrame) -> pl.DataFrame:
        """A global stage's decisions on the rows it saw of shard ``i``, for all of its rows."""
        shard = self.shard(i)
        height = read(shard.documents, ["id"]).height
        seen = shard.seen()
        rows = pl.int_range(height, dtype=pl.UInt32, eager=True).alias("row")
        kept = rows if seen is None else rows.filter(seen)
        result = _checked(name, spec, result, kept.len()).with_columns(kept)
        found = pl.DataFrame(rows)
        found = found.with_columns(pl.lit(None, dtype).alias(c) for c, dtype in DROP.items())
        return _merge(found, name, result).drop("row")


def _call(place: tuple[str, str], shard: Shard, columns: tuple, kwargs: dict) -> Any:
    function = stage.found_at(*place)  # a user's own file is no module that workers could import
    return function(shard.read(columns), **kwargs)


def _run(place: tuple[str, str], folder: Path, arguments: tuple) -> dict[str, Any]:
    return stage.found_at(*place)(folder, *arguments)
