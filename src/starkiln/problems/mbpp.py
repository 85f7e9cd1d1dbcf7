"""MBPP: basic Python problems from one sentence and a test; the test split is ids 11 to 510."""

import re
from pathlib import Path
from typing import Any

from starkiln.problems.problem import Needle, Problem, array, convert, rows

STOP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
TEST_IDS = range(11, 511)


def mbpp(path: Path) -> list[Problem]:
    """The 500 test problems of ``mbpp.jsonl``; the prompt shows the first test (rules §15)."""
    return convert(path, _test_rows(path), _problem)


def needles(paths: list[Path]) -> list[Needle]:
    """Questions and solutions of the test split, for decontamination (rules §7).

    ``paths`` are the original and ``sanitized-mbpp.json``, whose wording was edited by hand: the
    same problems, and both wordings are about.
    """
    return [n for path in paths for pair in convert(path, _test_rows(path), _needles) for n in pair]


def _test_rows(path: Path) -> list[dict[str, Any]]:
    found = array(path) if path.suffix == ".json" else rows(path)
    return [row for row in found if row.get("task_id") in TEST_IDS]


def _problem(row: dict[str, Any]) -> Problem:
    code, first = row["code"].replace("\r\n", "\n"), row["test_list"][0]
    defined = set(re.findall(r"^def\s+(\w+)", code, re.MULTILINE))
    called = [name for name in re.findall(r"(\w+)\s*\(", first) if name in defined]
    return Problem(
        id=f"MBPP/{row['task_id']}",
        prompt=f'"""\n{row["text"]}\n{first}\n"""\n',
        canonical=code,
        tests="\n".join([row["test_setup_code"], *row["test_list"]]).replace("\r\n", "\n"),
        entry_point=called[0],
        context="",
        stop=STOP,
    )


def _needles(row: dict[str, Any]) -> list[Needle]:
    name = f"MBPP/{row['task_id']}"
    return [
        Needle(name, "question", (row.get("text") or row["prompt"]).strip()),
        Needle(name, "solution", row["code"].strip()),
    ]
