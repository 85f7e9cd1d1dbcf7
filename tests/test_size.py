"""A mirror, not a reason to write dense code: how much source there is, and how long its files."""

import io
import tokenize
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "starkiln"
SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def source_lines(path: Path) -> int:
    """Lines that hold code: comments and docstrings are free."""
    found: set[int] = set()
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        docstring = token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT)
        if token.type not in (*SKIPPED, tokenize.ENDMARKER) and not docstring:
            found.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = tokenize.NEWLINE if token.type == tokenize.DEDENT else token.type
    return len(found)


def test_the_house_stays_small() -> None:
    sizes = {path.relative_to(SOURCE): source_lines(path) for path in SOURCE.rglob("*.py")}
    rooms: dict[str, int] = {}
    for path, lines in sizes.items():
        rooms[path.parts[0]] = rooms.get(path.parts[0], 0) + lines
    print(dict(sorted(rooms.items())), sum(sizes.values()))  # noqa: T201
    assert sum(sizes.values()) < 9_000
    assert max(sizes.values()) < 350, max(sizes, key=lambda path: sizes[path])
