"""GSM8K: grade-school mathematics in words; only its questions are looked for."""

from pathlib import Path

from starkiln.problems.problem import Needle, convert, rows


def needles(paths: list[Path]) -> list[Needle]:
    """The questions of ``test.jsonl``, numbered from 0 (rules §7)."""
    return [
        Needle(f"GSM8K/{number}", "question", text)
        for path in paths
        for number, text in enumerate(
            convert(path, rows(path), lambda row: row["question"].strip())
        )
    ]
