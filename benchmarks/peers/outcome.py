"""What every peer prints, and what each has to do with duplicates once it found them.

The standard library alone: a peer runs in an environment of its own.
"""

import json
import resource
import sys
from collections.abc import Iterable
from pathlib import Path


def components(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest member of each one's connected component."""
    parent = list(range(count))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for one, two in edges:
        a, b = root(one), root(two)
        parent[max(a, b)] = min(a, b)
    return [root(x) for x in range(count)]


def tell(rows: int, removed: int, labels: list[int] | None = None, **more: object) -> None:
    """Print one line of JSON; ``labels`` (a row's cluster) go to the file named last, if any.

    ``cpu_s``: user and system seconds of this process and the children it waited for; ``peak_mb``:
    the largest resident set of one of them. Whoever measures from outside sees all, in PSS.
    """
    if labels is not None and len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(labels))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    line = {
        "rows": rows,
        "removed": removed,
        "cpu_s": round(sum(one.ru_utime + one.ru_stime for one in used), 3),
        "peak_mb": round(max(one.ru_maxrss for one in used) / 1024),
        **more,
    }
    print(json.dumps(line), flush=True)
