"""A stage's rows change only with its version: what tests/golden.py made, compared with what is.

After a deliberate change: raise the version, run ``python tests/golden.py``, and say in the
changelog what changed.
"""

import json
from pathlib import Path

import golden


def test_no_source_or_stage_changes_its_rows_unawares(tmp_path: Path) -> None:
    assert golden.digests(tmp_path) == json.loads(golden.GOLDEN.read_text())


def test_the_corpus_gives_each_stage_something_to_drop(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    golden.table.write(tmp_path / "documents" / "00000.parquet", golden.documents())
    idle = [
        name
        for name in golden.STAGES
        if name != "redact" and golden.decided(name, tmp_path)["reason"].drop_nulls().is_empty()
    ]
    assert idle == []
