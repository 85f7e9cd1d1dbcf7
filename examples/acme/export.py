"""Acme's own source: the JSON-lines export of its review tool, one file of code a line."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from starkiln.code.document import code_document, set_aside
from starkiln.code.languages import detect
from starkiln.core.errors import UserError
from starkiln.core.stage import source


def read(unit: dict) -> Iterator[dict]:
    """A document for each line; a line that is not one is set aside with its reason."""
    path = Path(unit["path"])
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                project, file, text = entry["project"], entry["file"], entry["body"]
            except (ValueError, KeyError, TypeError):
                yield set_aside("", f"{path.name}:{number}", len(line), "not-an-entry")
                continue
            language = detect(file, text)
            yield code_document(text, repo=project, path=file, language=language, licences=[])


@source(version=1, read=read)
def export(*, paths: list[str]) -> list[dict]:
    """One unit for each export file, which should fit in memory."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise UserError("source export", f"no such file: {missing[0]}", "mend 'paths'")
    return [_unit(Path(path)) for path in paths]


def _unit(path: Path) -> dict:
    data = path.read_bytes()
    stamp = hashlib.sha256(data).hexdigest()  # a changed export makes the documents stale
    return {"name": path.name, "path": str(path), "bytes": len(data), "stamp": stamp}
