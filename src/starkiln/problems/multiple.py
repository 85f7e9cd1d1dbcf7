"""MultiPL-E: HumanEval and MBPP translated to other languages, the docstring as a comment."""

import re
from pathlib import Path
from typing import Any

from starkiln.problems.problem import Needle, array, convert

# The last comment of a prompt is the problem; what comes before it is the language's preamble.
_LINES = re.compile(r"(?:^[ \t]*(?://|--|;|#(?![!]|include|lang)).*\n)+", re.MULTILINE)
_BLOCK = re.compile(r'/\*(.*?)\*/|"""(.*?)"""', re.DOTALL)
_ARGUMENTS = re.compile(r"(?:^#\s*\n)?^# \$.*", re.DOTALL | re.MULTILINE)  # of a shell function


def needles(paths: list[Path]) -> list[Needle]:
    """The comments of ``DATASET-LANGUAGE-reworded.json``, examples included, as they stand.

    A problem is named alike in all languages; wordings that several share come several times.
    """
    return [needle for path in paths for needle in convert(path, array(path), _row)]


def _row(row: dict[str, Any]) -> Needle:
    prompt = row["prompt"]
    block = _BLOCK.search(prompt)
    if block:
        text = block[1] or block[2] or ""
    else:
        text = _ARGUMENTS.sub("", [found[0] for found in _LINES.finditer(prompt)][-1])
    return Needle(f"MultiPL-E/{row['name']}", "docstring", text.strip())
