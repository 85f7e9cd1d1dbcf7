"""One documents shard: the units of a source, read and written beside what was set aside.

Where a source makes documents of records that lie scattered, two passes do it: ``scatter`` puts the
records of some units on the disk by their key, ``fold_shard`` makes the documents of some keys.
"""

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from starkiln.code.document import SCHEMA, SET_ASIDE
from starkiln.code.licences import UNRECOGNISED
from starkiln.core import keyed, shuffle, stage, table
from starkiln.core.errors import UserError

HELD = 16 << 20  # bytes of records that ``scatter`` holds
ITEM = 500  # bytes that an item takes beside its text


def group(units: list[dict], shard_bytes: int) -> list[list[dict]]:
    """Consecutive units, put together until a shard holds about ``shard_bytes`` of files."""
    groups: list[list[dict]] = []
    filled = shard_bytes
    for unit in units:
        if filled >= shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(unit)
        filled += unit["bytes"]
    return groups


def read_shard(
    folder: Path, name: str, use: str, units: list[dict], licences: list[str]
) -> dict[str, Any]:
    """Write ``name.parquet`` and ``name.dropped.parquet``; returns files, rows, bytes, drops.

    ``licences`` govern the rows in which no known licence was found. A source that raises, or
    yields a row that is none, gives a ``UserError`` with its name and the unit's.
    """
    read = _reader(use)
    parts = [_framed(use, unit["name"], read(unit), licences) for unit in units]
    return _written(folder, name, parts)


def scatter(
    folder: Path, name: str, use: str, units: list[dict], partitions: int
) -> dict[str, Any]:
    """Put the records of ``units`` into ``folder/name.bin`` by key, and the set-aside beside it.

    They go to the disk ``HELD`` bytes at a time; at the end what lies of each part is put together.
    """
    paths = [folder / f"{name}.bin", folder / f"{name}.dropped.parquet"]
    aside = [_frame([], SET_ASIDE)]
    rows = 0
    with tempfile.TemporaryDirectory(dir=folder) as place:
        packs: list[Path] = []
        for records, dropped in _batches(use, units):
            packs.append(Path(place, str(len(packs))))
            shuffle.write(packs[-1], _packed(records, partitions))
            aside.append(_frame(dropped, SET_ASIDE))
            rows += len(records)
        shuffle.write(paths[0], (b"".join(shuffle.read(packs, k)) for k in range(partitions)))
    table.write(paths[1], pl.concat(aside, rechunk=True))
    return {"files": [str(p) for p in paths], "rows": rows}


def _batches(use: str, units: list[dict]) -> Iterator[tuple[list[tuple[str, str]], list[dict]]]:
    """((key, JSON) of records, rows set aside) in order, of about ``HELD`` bytes together."""
    read = _reader(use)
    records: list[tuple[str, str]] = []
    aside: list[dict] = []
    held = 0
    for unit in units:
        with _named(use, unit["name"]):
            for record in read(unit):
                if "reason" in record:
                    aside.append(record)
                else:
                    records.append((record["key"], json.dumps(record)))
                    held += len(records[-1][1])
                held += ITEM
                if held >= HELD:
                    yield records, aside
                    records, aside, held = [], [], 0
    yield records, aside


def _packed(records: list[tuple[str, str]], partitions: int) -> Iterator[bytes]:
    """The records of each part as lines; packs of one part end to end are a pack too."""
    lines: list[list[str]] = [[] for _ in range(partitions)]
    for key, line in records:
        lines[_partition(key, partitions)].append(f"{line}\n")
    for part in lines:
        yield gzip.compress("".join(part).encode(), 1, mtime=0) if part else b""


def _partition(key: str, partitions: int) -> int:
    return int.from_bytes(keyed.digest("scatter", key)[:8], "little") % partitions


def fold_shard(
    folder: Path,
    name: str,
    use: str,
    settings: dict[str, Any],
    scattered: list[Path],
    part: int,
    partitions: int,
    licences: list[str],
) -> dict[str, Any]:
    """Write the shard of the keys of one part; what ``scatter`` set aside is shared out."""
    fold = stage.spec(stage.load(use, "source")).fold
    assert fold is not None
    groups: dict[str, list[dict]] = {}
    for packed in shuffle.read(scattered, part):
        for line in gzip.decompress(packed).splitlines():
            record = json.loads(line)
            groups.setdefault(record["key"], []).append(record)
    aside = [table.read(p.with_suffix(".dropped.parquet")) for p in scattered[part::partitions]]
    rows = (row for key in sorted(groups) for row in fold(key, groups[key], settings))
    parts = [_framed(use, f"part {part}", rows, licences)]
    return _written(folder, name, parts + [(pl.DataFrame(schema=SCHEMA), one) for one in aside])


def _written(
    folder: Path, name: str, parts: list[tuple[pl.DataFrame, pl.DataFrame]]
) -> dict[str, Any]:
    found = pl.concat([pl.DataFrame(schema=SCHEMA), *(kept for kept, _ in parts)], rechunk=True)
    aside = pl.concat([pl.DataFrame(schema=SET_ASIDE), *(one for _, one in parts)], rechunk=True)
    paths = [folder / f"{name}.parquet", folder / f"{name}.dropped.parquet"]
    for path, frame in zip(paths, (found, aside), strict=True):
        table.write(path, frame)
    texts = pl.element().struct.field("text").str.len_bytes()
    counts = Counter(aside["reason"])
    return {
        "files": [str(p) for p in paths],
        "rows": found.height,
        "bytes": found["segments"].list.eval(texts).list.sum().sum(),
        "drops": dict(sorted(counts.items())),
    }


def _reader(use: str) -> Callable[[dict], Iterator[dict]]:
    read = stage.spec(stage.load(use, "source")).read
    assert read is not None
    return read


@contextmanager
def _named(use: str, unit: str) -> Iterator[None]:
    """A source's own fault as a ``UserError`` with its name and the unit's."""
    try:
        yield
    except (UserError, MemoryError, OSError):
        raise
    except Exception as fault:
        what = f"unit '{unit}': {type(fault).__name__}: {fault}"
        raise UserError(use, what, "mend the source") from fault


def _framed(
    use: str, unit: str, found: Iterable[dict], licences: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents of one unit and what is set aside."""
    rows: list[dict] = []
    aside: list[dict] = []
    with _named(use, unit):
        for row in found:
            if "reason" in row:
                aside.append(row)
                continue
            if licences and set(row["licences"]) <= {UNRECOGNISED}:
                row["licences"] = licences
            rows.append(row)
        return _frame(rows, SCHEMA, ("stars",)), _frame(aside, SET_ASIDE)
    raise AssertionError  # for the type checker: _named never swallows


def _frame(rows: list[dict], schema: dict[str, Any], optional: Sequence[str] = ()) -> pl.DataFrame:
    """Rows as a table; ``ValueError`` for one in which a column of ``schema`` is not its type."""
    for row in rows:
        for column, kind in schema.items():
            value = row.get(column)
            if not _fits(value, kind) and not (value is None and column in optional):
                state = f"'{column}' is not a {kind}" if column in row else f"no '{column}'"
                raise ValueError(f"row {row.get('path')!r}: {state}")
    return pl.DataFrame(rows, schema=schema)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, pl.List):
        return isinstance(value, list) and all(_fits(one, kind.inner) for one in value)
    if isinstance(kind, pl.Struct):
        fields = kind.fields
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.dtype) for f in fields)
    return isinstance(value, str if kind == pl.String else int)
