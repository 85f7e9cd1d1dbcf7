"""APPS: problems of programming contests; only its questions are looked for."""

from pathlib import Path

from starkiln.problems.problem import Needle, convert, rows


def needles(paths: list[Path]) -> list[Needle]:
    """The questions of ``test.jsonl`` (rules §7); its solutions, 1.2 GB of them, are passed over.

    ``problem_id`` and ``question`` are read, a line at a time.
    """
    return [
        needle
        for path in paths
        for needle in convert(
            path,
            rows(path),
            lambda row: Needle(f"APPS/{row['problem_id']}", "question", row["question"].strip()),
        )
    ]
