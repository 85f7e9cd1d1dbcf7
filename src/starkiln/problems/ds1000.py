"""DS-1000: questions about seven Python libraries, many of them from Stack Overflow."""

import re
from pathlib import Path
from typing import Any

from starkiln.problems.problem import Needle, convert, rows

_ANSWER = re.compile(r"^(?:A:\s*|# SOLUTION START|BEGIN SOLUTION)$", re.MULTILINE)
SHORTEST = 60  # letters and digits: shorter solutions are lines that anybody writes
_QUESTION = re.compile(r"\AProblem:\s*")


def needles(paths: list[Path]) -> list[Needle]:
    """Questions and solutions of ``ds1000.jsonl.gz`` (rules §7).

    The original searched the prompt up to the solution, with the code that sets the question up;
    a question without that code is found too here, for it is what people copy.
    """
    found = [n for path in paths for pair in convert(path, rows(path), _row) for n in pair]
    return [n for n in found if n.part != "solution" or _letters(n.text) >= SHORTEST]


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _row(row: dict[str, Any]) -> list[Needle]:
    name = f"DS-1000/{row['metadata']['problem_id']}"
    prompt = row["prompt"]
    answer = _ANSWER.search(prompt)
    question = _QUESTION.sub("", prompt[: answer.start()] if answer else prompt)
    return [
        Needle(name, "question", question.strip()),
        Needle(name, "solution", row["reference_code"].strip()),
    ]
