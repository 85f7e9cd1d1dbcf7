"""Source ``parquet``: The Stack's columns, StarCoderData's, or any other; local or remote."""

import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from starkiln.code.document import set_aside
from starkiln.code.languages import named
from starkiln.code.licences import UNRECOGNISED, declared
from starkiln.core.errors import UserError
from starkiln.core.keyed import digest
from starkiln.core.stage import source
from starkiln.ingest import jupyter, remote
from starkiln.ingest.jupyter import FORMS, PYTHON, Forms, Languages, Style
from starkiln.ingest.rows import cut, place, row

COLUMNS = {  # ours -> theirs: The Stack and StarCoderData, then plain names (rules §1)
    "content": ("content",),
    "path": ("max_stars_repo_path", "path"),
    "repo": ("max_stars_repo_name", "repo_name", "repo"),
    "stars": ("max_stars_count", "stars"),
    "licences": ("max_stars_repo_licenses", "licences", "licenses", "license"),
    "language": ("lang", "language"),
}
NEEDED = ("content", "path", "repo")
BUFFER = 1 << 20  # bytes of a column that are read at a time
BATCH = 4 << 20  # bytes of a batch, about
ROWS = 256  # in a batch at most: a few bytes may stand for many long rows
FREE = 256 << 20  # bytes of content that a unit may hold whatever its size
RATIO = 8  # content to what the file states
GROUP = 1 << 24  # rows of a row group
EXPRESSION = 500  # characters of a licence expression
READERS = 8  # threads that read footers; it is waiting, mostly


def read(unit: dict) -> Iterator[dict]:
    """The rows of one unit of ``parquet``, in the file's order.

    What is lost of a broken row group is set aside row by row as ``parquet-broken``.
    """
    room = max(FREE, RATIO * unit["bytes"])
    with remote.opened(unit["url"]) as handle:
        file = _open(handle, unit["url"])
        if (file.num_row_groups, file.metadata.num_rows) != tuple(unit["shape"]):
            what = "is not what it was when the run was planned"
            raise UserError(unit["url"], what, "run again")
        for group in range(*unit["groups"]):
            done = 0
            for values in _values(file, group, unit["columns"]):
                done += 1
                room -= len(values["content"] or b"")
                yield from _rows(values, unit) if room >= 0 else [_aside(values, "parquet-bomb")]
            for number in range(done, file.metadata.row_group(group).num_rows):
                name = f"{posixpath.basename(unit['url'])}, row group {group}, row {number}"
                yield set_aside("", name, 0, "parquet-broken")


@source(version=2, read=read)
def parquet(
    *,
    paths: list[str],
    columns: Annotated[
        dict[str, str], Field(description="our column -> the file's, where it has another name")
    ] = {},  # noqa: B006 (never written to)
    detect: Annotated[
        bool, Field(description="tell the language by name and content, whatever the file says")
    ] = True,
    notebook_forms: Forms = FORMS,
    notebook_style: Style = "light",
    notebook_languages: Languages = PYTHON,
    max_bytes: int = 1_000_000,
    unit_bytes: int = 32 << 20,
) -> list[dict]:
    """The rows of Parquet files: files, folders of ``*.parquet``, globs, and URLs of them.

    URLs are those that fsspec knows: ``s3://``, ``hf://datasets/…``. The columns of The Stack and
    of StarCoderData are known; ``columns`` names others. Ids are made of the content, whatever the
    file says (``hexsha``). Notebooks (``.ipynb``) become what the source ``notebooks`` makes of
    them. Reasons: no-content, no-repo, no-path, path-name, path-traversal, too-large, empty,
    binary, encoding, parquet-broken, parquet-bomb (a file that unpacks to many times what it
    states), and those of ``jupyter.rows``. Raises ``UserError`` for a file that is no Parquet, or
    that lacks a column or has one of a wrong type.
    """
    making = jupyter.options(
        "notebook_languages", notebook_forms, notebook_style, notebook_languages
    )
    strange = sorted(columns.keys() - COLUMNS.keys())
    if strange:
        raise UserError("columns", f"'{strange[0]}' is no column of ours", f"known: {[*COLUMNS]}")
    found = remote.listed(paths, ".parquet")
    with ThreadPoolExecutor(READERS) as threads:
        listed = list(threads.map(lambda one: _ranges(one, columns, unit_bytes), found))
    told = {"making": making, "detect": detect, "max_bytes": max_bytes}
    ranges = [unit for units in listed for unit in units]
    return [{**unit, "name": f"{k:05d} {unit['name']}", **told} for k, unit in enumerate(ranges)]


# ---- what there is to read


def _ranges(found: remote.Found, columns: dict[str, str], unit_bytes: int) -> list[dict]:
    """The units of one file: row groups in succession, of about ``unit_bytes`` together."""
    with remote.opened(found.url) as handle:
        file = _open(handle, found.url)
        theirs = _columns(file.schema_arrow, columns, found.url)
        shape = (file.num_row_groups, file.metadata.num_rows)
        facts = [file.metadata.row_group(group) for group in range(shape[0])]
        sizes = _sizes(facts, shape[1], found.url)
    pieces = cut(range(len(sizes)), sizes.__getitem__, unit_bytes)
    return [
        {
            "name": f"{found.name} {first}-{last}",
            "bytes": sum(sizes[first:last]),
            "stamp": digest(found.name, found.stamp, first, last).hex(),
            "url": found.url,
            "groups": (first, last),
            "shape": shape,
            "columns": theirs,
        }
        for first, last in ((piece[0], piece[-1] + 1) for piece in pieces)
    ]


def _open(handle: Any, url: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        streamed = {"buffer_size": BUFFER, "pre_buffer": False}  # never a whole row group
        file = pq.ParquetFile(handle, page_checksum_verification=True, **streamed)
        _ = file.schema_arrow  # a type that Arrow lacks fails here
        return file
    except (pa.ArrowException, OSError, ValueError) as fault:
        what = f"is no readable Parquet file ({_short(fault)})"
        raise UserError(url, what, "get it again, or leave it out") from fault


def _short(fault: Exception) -> str:
    return " ".join(str(fault).split())[:200]


def _sizes(groups: list[Any], rows: int, url: str) -> list[int]:
    """Unpacked bytes of each row group as the file states them, all columns together.

    A column's own facts are not asked for: on a damaged footer Arrow then ends the process.
    """
    counts = [group.num_rows for group in groups]
    if sum(counts) != rows or min(counts, default=0) < 0:
        what = f"is damaged (its row groups hold {sum(counts):,} rows, not {rows:,})"
        raise UserError(url, what, "get it again, or leave it out")
    if max(counts, default=0) > GROUP:
        what = f"a row group of {max(counts):,} rows"
        raise UserError(url, what, f"write it again with at most {GROUP:,} rows in each")
    return [max(group.total_byte_size, 0) for group in groups]


def _columns(schema: Any, asked: dict[str, str], url: str) -> dict[str, str]:
    """Ours -> theirs for the columns that the file has; ``UserError`` for what it lacks."""
    found = {}
    for ours, usual in COLUMNS.items():
        theirs = (asked[ours],) if ours in asked else usual
        present = [name for name in theirs if schema.get_field_index(name) >= 0]  # and once
        if not present and (ours in NEEDED or ours in asked):
            has = ", ".join(schema.names)[:500]
            what = f"has no column '{theirs[0]}' for '{ours}'"
            raise UserError(url, what, f"name it in columns.{ours}; the file has {has}")
        if present:
            found[ours] = present[0]
            _check(ours, schema.field(present[0]), url)
    return found


def _check(ours: str, field: Any, url: str) -> None:
    from pyarrow import types

    kind = field.type
    if ours == "stars":
        fits = types.is_integer(kind) or types.is_floating(kind)
    elif ours == "licences" and (types.is_list(kind) or types.is_large_list(kind)):
        fits = _is_text(kind.value_type)
    else:
        fits = _is_text(kind)
    if not fits and not types.is_null(kind):
        mend = "name another, or write it again as text" if ours != "stars" else "name another"
        raise UserError(url, f"column '{field.name}' for '{ours}' is of type {kind}", mend)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (types.is_string, types.is_large_string, types.is_string_view,
             types.is_binary, types.is_large_binary, types.is_binary_view)  # fmt: skip
    return any(test(kind) for test in tests)


# ---- reading


def _values(file: Any, group: int, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a row group by our column, text as bytes; ends where the row group breaks."""
    import pyarrow as pa

    facts = file.metadata.row_group(group)
    each = max(1, facts.total_byte_size // max(1, facts.num_rows))
    wanted = {"row_groups": [group], "columns": list(columns.values()), "use_threads": False}
    try:
        for batch in file.iter_batches(min(ROWS, max(1, BATCH // each)), **wanted):
            lists = [_plain(batch.column(theirs)) for theirs in columns.values()]
            blank: dict[str, Any] = dict.fromkeys(COLUMNS)
            for values in zip(*lists):
                yield blank | dict(zip(columns, values))
    except (pa.ArrowException, ValueError):
        return
    except OSError as fault:  # Arrow's own has no number: the data are broken
        if type(fault) is not OSError or fault.errno:
            raise  # the disk or the network: the file may be whole


def _plain(array: Any) -> list:
    """A column as Python values; text as bytes, for it need not be UTF-8."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_list(array.type) or types.is_large_list(array.type):
        return array.cast(pa.large_list(pa.large_binary())).to_pylist()
    return (array.cast(pa.large_binary()) if _is_text(array.type) else array).to_pylist()


def _rows(values: dict[str, Any], unit: dict) -> Iterator[dict]:
    """What becomes of one row: a document, a notebook's two, or the reason why not."""
    data = values["content"]
    reason = "no-content" if data is None else None
    reason = reason or ("no-repo" if not values["repo"] else None)
    path, odd = place((values["path"] or b"").decode("utf-8", "surrogateescape"))
    reason = reason or odd or (None if path else "no-path")
    if reason or len(data) > unit["max_bytes"]:
        yield _aside(values, reason or "too-large")
        return
    told: dict[str, Any] = {
        "repo": values["repo"].decode("utf-8", "replace"),
        "path": path,
        "licences": _licences(values["licences"]),
        "stars": _stars(values["stars"]),
    }
    if path.lower().endswith(".ipynb"):
        yield from jupyter.rows(data, **told, **unit["making"])
        return
    spoken = b"" if unit["detect"] else values["language"] or b""
    yield row(data, **told, language=named(spoken.decode("utf-8", "replace")) if spoken else None)


def _aside(values: dict[str, Any], reason: str) -> dict:
    repo, path = ((values[one] or b"").decode("utf-8", "replace") for one in ("repo", "path"))
    return set_aside(repo, place(path)[0], len(values["content"] or b""), reason)


def _stars(value: float | None) -> int | None:
    """A count that fits a column of 64 bits; floats come where pandas met a null."""
    return int(value) if value is not None and 0 <= value < 1 << 63 else None


def _licences(value: bytes | list | None) -> list[str]:
    """SPDX ids of a licence expression or of a list of them, all of which are in force."""
    parts = value if isinstance(value, list) else [value]
    texts = (part.decode("utf-8", "replace").strip() for part in parts if part)
    return list(dict.fromkeys(one for text in texts if text for one in _spdx(text)))


@lru_cache(maxsize=4096)
def _spdx(text: str) -> tuple[str, ...]:
    return tuple(declared(text) if len(text) <= EXPRESSION else ()) or (UNRECOGNISED,)
