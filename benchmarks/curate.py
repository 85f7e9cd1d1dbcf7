"""Curation against its peers on the same real code: CPU seconds, peak memory, ratios, bars.

    python benchmarks/curate.py [--small] [row ...]

Rows: near, exact, filters, chain, encode, groupby, commits, memory; without a name, all. The corpus
is that of ``corpus.py`` (≥ 400 MB), made at first; peers run in environments of their own
(``peers/README.md``). Slow ones (BigCode's algorithm, text-dedup, datatrove) run on its subset of
two shards in sixteen, the others and ours on both; a slow peer's ratio is that of the rates, ours
on the whole corpus, and beside it stands the one on the subset. ``--small`` runs all on one shard,
to see that everything works; its figures say nothing.

Costs are of whole processes, interpreters and imports with them: user and system seconds of the
tree, PSS of the tree. What is compiled is compiled before. Ours is the step that ``starkiln run``
makes, from documents on the disk to decisions on the disk (the chain: from Parquet files to the
curated table), on a worker a core. Ours and the quick peers run ``ROUNDS`` times and the least
counts. The peers read the same documents as Parquet.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

import corpus
import truth
from measure import Cost
from sets import PEERS, ROWS, Set, run

HERE = Path(__file__).parent
ROUNDS = 2
ENVIRONMENTS = {
    "daft_dedup": "daft",
    "text_dedup_minhash": "text-dedup",
    "datatrove_chain": "datatrove",
}
Costs = dict[Set, Cost]
verdicts: list[str] = []


def environment(name: str) -> Path:
    """The Python of one of the peers' environments."""
    return corpus.home() / "venvs" / name / "bin" / "python"


def peer(of: Set, name: str, rounds: int, *more: object) -> Cost | None:
    """A peer on the documents of a set, the least of ``rounds``; None, and why, if it cannot."""
    python = environment(ENVIRONMENTS[name]) if name in ENVIRONMENTS else Path(sys.executable)
    if not python.exists():
        print(f"  {name}: no environment '{ENVIRONMENTS[name]}' (peers/README.md), left out")
        return None
    command = [python, PEERS / f"{name}.py", of.flat, *more]
    try:
        costs = [run(command, f"{name}-{of.name}") for _ in range(rounds)]
    except RuntimeError as error:
        print(f"  {name}: failed on {of.name}: {error}")
        return None
    return min(costs, key=lambda cost: cost.cpu_s)


def show(of: Set, name: str, cost: Cost, note: str = "") -> None:
    print(
        f"  {name:<19} {of.name:<7} {cost.cpu_s:8.2f} CPU-s {of.size / cost.cpu_s:7.1f} MB/CPU-s "
        f"{cost.peak_mb:6.0f} MB peak {cost.told['removed']:7,} out  {note}".rstrip(),
        flush=True,
    )


def judge(what: str, bar: float, mine: Costs, theirs: Costs, right: bool = True) -> None:
    """The verdict on one peer, on the largest set that it ran on."""
    if not theirs:
        return
    whole, of = max(mine, key=lambda one: one.size), max(theirs, key=lambda one: one.size)
    ratio = (theirs[of].cpu_s / of.size) / (mine[whole].cpu_s / whole.size)
    same = theirs[of].cpu_s / mine[of].cpu_s
    note = "" if of is whole else f", by the rates; {same:.1f} x on the {of.name}"
    verdict = "PASS" if right and ratio >= bar else "miss"
    verdicts.append(f"{verdict}  {what}: {ratio:.1f} x (bar {bar:g}){note}")
    print(f"  {verdicts[-1]}\n", flush=True)


def found_by(of: Set, name: str) -> Path:
    """Where a peer leaves what it found of each row."""
    return of.work / f"{name}.json"


def clusters(of: Set, name: str) -> np.ndarray:
    return np.array(json.loads(found_by(of, name).read_text()))


# ---- rows


def near(sets: list[Set]) -> None:
    print("near-dedup, 25 x 10 unverified")
    mine: Costs = {}
    for of in sets:
        mine[of] = of.ours("near", ROUNDS)
        show(of, "ours", mine[of], truth.quality(truth.ours(of), of))
    for name, bar in {"bigcode": 20, "daft_dedup": 4, "rensa_readme": 5}.items():
        slow, theirs = name == "bigcode", {}
        for of in sets[:1] if slow else sets:
            cost = peer(of, name, 1 if slow else ROUNDS, found_by(of, name))
            if cost:
                theirs[of] = cost
                show(of, name, cost, truth.quality(clusters(of, name), of))
        judge(f"near-dedup 25 x 10 against {name}", bar, mine, theirs)


def exact(sets: list[Set]) -> None:
    print("near-dedup, the default: each pair verified")
    mine, theirs, right = {}, {}, True
    for of in sets:
        mine[of] = of.ours("exact", ROUNDS)
        recall, wrong = truth.worth(truth.ours(of), of)
        right = right and recall >= 0.999 and not wrong
        true = truth.pairs(of).height
        show(of, "ours", mine[of], f"recall {recall:.5f} of {true:,} pairs, {wrong} wrong removals")
    name, of = "text_dedup_minhash", sets[0]
    cost = peer(of, name, 1, found_by(of, name))
    if cost:
        theirs[of] = cost
        show(of, name, cost, truth.quality(clusters(of, name), of))
    judge("near-dedup, exact, against text-dedup", 30, mine, theirs, right)


def filters(sets: list[Set]) -> None:
    from starkiln.core import table

    print("row filters")
    mine, theirs, right = {}, {}, True
    for of in sets:
        mine[of] = of.ours("filters", ROUNDS)
        show(of, "ours", mine[of])
        cost = peer(of, "polars_filters", ROUNDS, found_by(of, "polars_filters"))
        if cost:
            folder = of.work / ROWS["filters"][2]
            parts = [table.read(folder / n, ["reason"]) for n in table.shard_names(folder)]
            dropped = pl.concat(parts)["reason"].is_not_null().to_numpy()
            same = bool((dropped == clusters(of, "polars_filters")).all())
            right, theirs[of] = right and same, cost
            show(of, "polars_filters", cost, "same keep set" if same else "OTHER KEEP SET")
    judge("row filters against Polars expressions", 3, mine, theirs, right)


def chain(sets: list[Set]) -> None:
    print("code chain: read, filter, exact and near dedup, decontaminate, PII, write")
    mine: Costs = {}
    for of in sets:
        mine[of] = of.ours("chain", 1)
        show(of, "ours", mine[of])
    cost = peer(sets[0], "datatrove_chain", 1)
    if cost:
        show(sets[0], "datatrove_chain", cost)
        judge("code chain against datatrove", 10, mine, {sets[0]: cost})


def other(name: str, *arguments: object) -> None:
    """Another benchmark, with bars of its own: what it prints, and whether it met them."""
    words = [f"{name}.py", *map(str, arguments)]
    if not (HERE / words[0]).exists():
        print(f"there is no {words[0]}, left out\n")
        return
    print(" ".join(words), flush=True)
    done = subprocess.run([sys.executable, HERE / words[0], *words[1:]])
    verdicts.append(f"{'miss' if done.returncode else 'PASS'}  {' '.join(words)}: see above")
    print()


def groupby(small: bool) -> None:
    """At 20 and at 80 million rows, where DuckDB has an environment."""
    python = environment("duckdb")
    duckdb = ["--duckdb", python] if python.exists() else []
    for rows in [2_000_000] if small else [20_000_000, 80_000_000]:
        other("groupby", rows, *duckdb)


ALONE = {
    "encode": lambda small: other("encode", *([6] if small else [])),
    "groupby": groupby,
    "commits": lambda small: other("commits"),
    "memory": lambda small: other("memory", *(["--small"] if small else [])),
}
PEERED = {"near": near, "exact": exact, "filters": filters, "chain": chain}


def main() -> None:
    small = "--small" in sys.argv
    asked = [word for word in sys.argv[1:] if word != "--small"] or [*PEERED, *ALONE]
    unknown = [name for name in asked if name not in PEERED | ALONE]
    if unknown:
        sys.exit(f"no row '{unknown[0]}'; there are {', '.join(PEERED | ALONE)}")
    shards = corpus.whole()
    sets = [Set("subset", shards[: corpus.SUBSET]), Set("whole", shards)]
    sets = [Set("small", shards[:1])] if small else sets
    for of in sets if PEERED.keys() & asked else []:
        of.prepare()
        print(f"{of.name}: {of.size:.0f} MB", flush=True)
    for name in asked:
        PEERED[name](sets) if name in PEERED else ALONE[name](small)
    print("\n".join(verdicts))
    sys.exit(any(line.startswith("miss") for line in verdicts))


if __name__ == "__main__":
    main()
