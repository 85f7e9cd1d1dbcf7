"""Languages by the names that others give them, and by the look of code that has no file name."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

from starkiln.code import languages

LOOK = 2000  # lines that a guess looks at
LONGEST = 99  # characters of a name
SHARE = 0.5  # of the telling lines that must speak for one language (the paper's bar, rules §4)
VERSION = re.compile(r"[\s\d.]+$")

_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
_LINES = {name: re.compile(pattern) for name, pattern in _DATA["lines"].items()}


def named(spoken: object) -> str | None:
    """Our name of the language that a kernel calls ``spoken`` ("C++17", "octave", "Python 3")."""
    if not isinstance(spoken, str) or len(spoken) > LONGEST:
        return None
    name = spoken.strip().lower()
    plain = VERSION.sub("", name)
    return _DATA["names"].get(plain) or languages.named(name) or languages.named(plain)


def guess(code: str) -> str:
    """The language that most telling lines of ``code`` speak (of equals Python), or "unknown"."""
    votes: defaultdict[str, float] = defaultdict(float)
    telling = 0
    for line in code.split("\n", LOOK)[:LOOK]:
        head = line.strip()[:200]
        spoken = [name for name, pattern in _LINES.items() if pattern.match(head)]
        telling += bool(spoken)
        for name in spoken:
            votes[name] += 1 / len(spoken)
    best = max(votes, key=lambda name: (votes[name], name == "python"), default=languages.UNKNOWN)
    return best if votes[best] >= SHARE * telling else languages.UNKNOWN
