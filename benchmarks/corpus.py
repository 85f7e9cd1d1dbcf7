"""Real source for the benchmarks: the standard library and the installed packages."""

import sysconfig
from itertools import chain
from pathlib import Path

import polars as pl

MEGABYTES = 30


def python_files(megabytes: int = MEGABYTES) -> pl.DataFrame:
    """Python files that are not empty, as documents with their text, up to so many megabytes."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = chain.from_iterable(sorted(root.rglob("*.py")) for root in roots)
    rows, size = {}, 0
    for path in files:
        try:
            text = path.read_bytes().decode()
        except (UnicodeDecodeError, OSError):
            continue
        if path not in rows and text.strip() and len(text) < 1 << 20:
            rows[path] = text
            size += len(text.encode())
        if size > megabytes * 1_000_000:
            break
    return pl.DataFrame(
        {
            "id": [str(path) for path in rows],
            "kind": "code",
            "language": "python",
            "repo": "installed",
            "path": [str(path) for path in rows],
            "stars": pl.Series([None] * len(rows), dtype=pl.Int64),
            "text": list(rows.values()),
        }
    )
