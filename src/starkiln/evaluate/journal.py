"""What a run has done so far, a line each: a killed run goes on where it was."""

import json
from pathlib import Path
from typing import Any


class Journal:
    """Lines of JSON in a file whose first line is ``key``; another key starts it anew."""

    def __init__(self, path: Path, key: str) -> None:
        self.lines: list[Any] = []
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]  # a kill may have cut the last line
        found = [json.loads(line) for line in whole.splitlines()]
        self._handle = path.open("ab")
        if found and found[0] == key:
            self.lines = found[1:]
            self._handle.truncate(len(whole))
        else:
            self._handle.truncate(0)
            self._write(key)

    def append(self, value: Any) -> None:
        """Add a line; it is with the system when this returns."""
        self.lines.append(value)
        self._write(value)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def _write(self, value: Any) -> None:
        self._handle.write(json.dumps(value).encode() + b"\n")
        self._handle.flush()
