"""What every peer of `pii.py` does: texts in, spans out, and what that took.

    python pii_PEER.py TEXTS SECONDS SPANS [...]

TEXTS and SPANS are JSON lines: ``{"name": path, "text": ...}`` a text, and for each text that was
scanned a list of ``[start, end, label, reason]`` in code points. A peer stops at the end of the
texts, or before a batch when SECONDS of CPU went into them. It prints one line of JSON: ``texts``,
``bytes`` and ``cpu_s``, user and system seconds of the process, its threads and children, in the
scanning alone: neither start, imports and models nor the reading and writing here. The standard
library alone: a peer runs in an environment of its own.
"""

import json
import resource
import sys
from collections.abc import Callable
from itertools import islice

WARM = "# Kim Lee <kim@corp.io>, 81.2.69.142\npassword = 'aZ4kQ9xW2mV7tR8b'\n"
Spans = list[tuple]  # (start, end, label, reason), ours with a confidence
Texts = list[tuple[str, str]]  # name, text


def scan(find: Callable[[Texts], list[Spans]], batch: int = 1) -> None:
    """Call ``find`` on batches of texts, after one on ``WARM``: what loads late is loaded then."""
    given, limit, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    find([("a.py", WARM)])
    texts, size, seconds = 0, 0, 0.0
    with open(given, encoding="utf-8") as lines, open(out, "w", encoding="utf-8") as spans:  # noqa: PTH123
        while seconds < limit:
            rows = [json.loads(line) for line in islice(lines, batch)]
            if not rows:
                break
            start = _cpu()
            found = find([(row["name"], row["text"]) for row in rows])
            seconds += _cpu() - start
            spans.writelines(json.dumps(one) + "\n" for one in found)
            texts += len(rows)
            size += sum(len(row["text"].encode()) for row in rows)
    print(json.dumps({"texts": texts, "bytes": size, "cpu_s": seconds}), flush=True)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def place(text: str, line: int, value: str, column: int = 0) -> tuple[int, int] | None:
    """Where ``value`` stands: first from that place of the ``line``-th line on, then anywhere."""
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
        if not start:
            break
    tries = (text.find(value, begin) for begin in (start + column, start, 0))
    at = next((one for one in tries if one >= 0), -1)
    return None if at < 0 or not value else (at, at + len(value))


def told(words: str) -> str:
    """PASSWORD or KEY for a finding that may be either: by its rule's name or what precedes it."""
    known = ("passw", "pwd", "passphrase")
    return "PASSWORD" if any(word in words.lower() for word in known) else "KEY"


def before(text: str, start: int) -> str:
    """What precedes a place in its line, 80 characters at most."""
    return text[max(text.rfind("\n", 0, start) + 1, start - 80) : start]
