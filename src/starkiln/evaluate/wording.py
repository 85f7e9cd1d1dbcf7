"""Numbers and recipes as a person reads them."""

import json
import re
from collections.abc import Mapping
from typing import Any

_GAP = "\N{NO-BREAK SPACE}"


def count(number: float) -> str:
    """12345 -> 12,345."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """A large number in three figures: 12345678 -> 12.3 M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{_GAP}{name}"
    return f"{number:.4g}"


def size(number: float) -> str:
    """Bytes in the unit that fits: 12345678 -> 12.3 MB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:,.1f}{_GAP}{name}"
    return f"{number:.0f}{_GAP}B"


def percent(share: float) -> str:
    """0.123 -> 12.3 %; a share that rounds to nothing but is something: < 0.1 %."""
    return f"<{_GAP}0.1{_GAP}%" if 0 < share < 0.0005 else f"{100 * share:.1f}{_GAP}%"


def clock(seconds: float) -> str:
    """93 -> 1 min 33 s."""
    if seconds < 60:
        return f"{seconds:.1f}{_GAP}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    return words.replace(" ", _GAP)


def toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """``table`` as TOML; a key that is None becomes a comment, since TOML has no null."""
    lines, tables = [], []
    for bare, value in table.items():
        name = bare if re.fullmatch(r"[\w-]+", bare, re.ASCII) else json.dumps(bare)
        if isinstance(value, Mapping):
            tables.append(f"\n[{prefix}{name}]\n{toml(value, f'{prefix}{name}.')}")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            tables += [f"\n[[{prefix}{name}]]\n{toml(v, f'{prefix}{name}.')}" for v in value]
        elif value is None:
            lines.append(f"# {name}: none\n")
        else:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines) + "".join(tables)
