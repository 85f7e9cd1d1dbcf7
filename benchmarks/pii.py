"""Personal information: ours beside the scanners people use today; quality, noise, speed, bars.

    python benchmarks/pii.py quality [LABELLED] [--tagger FOLDER]
    python benchmarks/pii.py noise [--tagger FOLDER]
    python benchmarks/pii.py speed [--tagger FOLDER]
    python benchmarks/pii.py rescan

``quality`` scores spans on labelled excerpts: ``pii/labelled.jsonl`` below ``$STARKILN_DATA``, or
another file of that form. The other rows take about 20 MB of unselected files out of the corpus of
``corpus.py``. Without a tagger its rows are left out.

Peers run in environments and processes of their own (``scanners.py``, ``peers/pii_*.py``); what
does not install is left out. Their rate is bytes by CPU-seconds of the scanning alone, on as much
of the sample as ``LIMIT`` seconds allow. Exit code 1 where a bar is missed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl

import corpus
import scanners
from scanners import rows_of, scanned, with_tagger
from starkiln.code.spans import LABELS, SECRETS, SURE, Gold, Score, Span, leaked, score
from starkiln.core import keyed

LIMIT = 20.0  # CPU seconds of a peer in ``speed``
TAGGED_LIMIT = 300.0  # of ours in ``noise``
ROUNDS = 3  # of ours in ``speed``; the least counts
MEGABYTES = 20
SHOWN = 200  # spans to read by eye
COLUMNS = {
    **{label: (label,) for label in ("EMAIL", "IP_ADDRESS", "NAME", "USERNAME", *SECRETS)},
    "KEY+PASSWORD": SECRETS,
}
F1 = dict(zip(COLUMNS, (99, 97, 92, 68, 65, 85, 70), strict=True))
F1_TAGGER = dict(zip(COLUMNS, (99, 97, 95, 75, 82, 88, 84), strict=True))
LEAKED = 10  # per cent of the characters of secrets, with the tagger
NOISE = 40  # spans per MB that are no e-mail address, name or IP address
GATED, WHOLE_PATH, TAGGED = 200, 10, 0.05  # MB a CPU-second
TIMES = {"BigCode, e-mail+IP": 2.5, "BigCode, keys": 15, "detect-secrets": 40}  # the whole path
TIMES_TAGGED = {"Rampart": 10}
verdicts: list[str] = []


def judge(what: str, figure: float, bar: float, *, least: bool = True, form: str = ".1f") -> None:
    good = figure >= bar if least else figure <= bar
    sign = "≥" if least else "≤"
    verdicts.append(f"{'PASS' if good else 'miss'}  {what}: {figure:{form}} (bar {sign} {bar:g})")


# ---- quality


def quality(labelled: Path, tagger: str | None) -> None:
    rows = list(rows_of(labelled))
    gold = [[Gold(s["start"], s["end"], s["type"], s["tier"]) for s in r["spans"]] for r in rows]
    lines = []
    with tempfile.TemporaryDirectory() as place:
        texts = Path(place) / "texts.jsonl"
        told = ({"name": row["source"], "text": row["text"]} for row in rows)
        texts.write_text("".join(json.dumps(one) + "\n" for one in told))
        full = with_tagger(tagger)
        ours = {"ours, patterns": (scanners.PATTERNS,), **full}
        for name, peers in {**ours, **scanners.SCANNERS}.items():
            found = scanners.together(peers, texts, needed=name in ours)
            if found is None:
                continue
            lines.append(shown(name, gold, found))
            if name in ours:
                _judge_quality(name, gold, found, F1_TAGGER if name in full else F1)
            if name in scanners.WORDY:
                found = [[s for s in f if _full(s, r["text"])] for f, r in zip(found, rows)]
                lines.append(shown(f"{name}, full names", gold, found))
    print(f"\n{'lenient F1, exact F1, per cent':<32}", end="")
    print(*(f"{column:>12}" for column in COLUMNS), f"{'leaked':>7}", sep=" ")
    print(*lines, sep="\n")


def _full(span: Span, text: str) -> bool:
    return span.label != "NAME" or len(text[span.start : span.end].split()) > 1


def _judge_quality(
    name: str, gold: list[list[Gold]], found: list[list[Span]], bars: dict[str, float]
) -> None:
    for column, bar in bars.items():
        judge(f"{name}: lenient F1 of {column}", 100 * score(gold, found, COLUMNS[column]).f1, bar)
    if bars is F1_TAGGER:
        share = 100 * leaked(gold, found)
        judge(f"{name}: per cent of secret characters leaked", share, LEAKED, least=False)


def shown(name: str, gold: list[list[Gold]], found: list[list[Span]]) -> str:
    """Print the table of one scanner; its line of the summary."""
    line, leak = f"{name:<32}", leaked(gold, found)
    print(f"\n{name}: {leak:.1%} of the characters of secrets leaked", flush=True)
    print(f"  {'':<12} {'core':>5} {'lenient P':>10} {'R':>6} {'F1':>6} {'95 %':>12}", end="")
    print(f" {'exact P':>9} {'R':>6} {'F1':>6} {'95 %':>12}")
    for column, labels in COLUMNS.items():
        if not any(span.label in labels for spans in found for span in spans):
            line += f" {'–':>12}"
            continue
        lenient, exact = score(gold, found, labels), score(gold, found, labels, exact=True)
        print(f"  {column:<12} {lenient.entities:5}{_figures(lenient, 11)}{_figures(exact, 10)}")
        line += f" {100 * lenient.f1:7.1f} {100 * exact.f1:4.0f}"
    return f"{line} {leak:7.0%}"


def _figures(one: Score, width: int) -> str:
    spread = f"{100 * one.low:.1f}–{100 * one.high:.1f}"
    p, r, f1 = (f"{100 * figure:.1f}" for figure in one[:3])
    return f"{p:>{width}} {r:>6} {f1:>6} {spread:>12}"


# ---- unselected code


def sample() -> Path:
    """About ``MEGABYTES`` of unselected files of the corpus, as a peer reads them."""
    path = corpus.home() / "work" / "pii-sample.jsonl"
    shards = corpus.whole()
    if not path.exists() or path.stat().st_mtime < shards[0].stat().st_mtime:
        size = pl.col("content").str.len_bytes().sum()
        whole = pl.scan_parquet(shards).select(size).collect(engine="streaming").item()
        kept = []
        for shard in shards:
            names = ["max_stars_repo_name", "max_stars_repo_path"]
            frame = pl.read_parquet(shard, columns=[*names, "content"])
            drawn = [keyed.uniform("pii-sample", *row) for row in frame.select(names).iter_rows()]
            frame = frame.with_columns(drawn=pl.Series(drawn))
            kept.append(frame.filter(pl.col("drawn") < MEGABYTES * 1e6 / whole))
        path.parent.mkdir(parents=True, exist_ok=True)
        told = pl.concat(kept).sort("drawn")
        told = told.select(pl.col("max_stars_repo_path").alias("name"), text="content")
        told.write_ndjson(path)
    return path


def noise(tagger: str | None) -> None:
    texts = sample()
    names = {"ours, patterns": scanners.PATTERNS}
    names |= {name: peers[0] for name, peers in with_tagger(tagger).items()}
    for name, peer in names.items():
        found, size, _ = scanned(peer, texts, TAGGED_LIMIT)
        counts = Counter(span.label for spans in found for span in spans)
        print(f"{name}: spans per MB on {size:.1f} MB of {len(found):,} unselected files")
        print(*(f"  {label:<12} {counts[label] / size:7.1f}" for label in LABELS), sep="\n")
        beyond = sum(counts[label] for label in ("KEY", "PASSWORD", "USERNAME")) / size
        judge(f"{name}: spans per MB beyond e-mail, name and IP", beyond, NOISE, least=False)
        to_read(texts, found, name)
    found, size, _ = scanned(scanners.CANDIDATES, texts)
    wide = sum(span.confidence < SURE for spans in found for span in spans)
    print(f"candidates that only a tagger may confirm: {wide / size:.0f} per MB")


def to_read(texts: Path, found: list[list[Span]], name: str) -> None:
    """A keyed sample of spans in their context, in a file that is not of the repository."""
    places = [(number, span) for number, spans in enumerate(found) for span in spans]
    drawn = sorted(places, key=lambda place: keyed.digest("pii-noise", place[0], *place[1]))[:SHOWN]
    wanted = {number for number, _ in drawn}
    rows = {number: row for number, row in enumerate(rows_of(texts)) if number in wanted}
    lines = []
    for number, span in sorted(drawn, key=lambda place: (place[1].label, place[0])):
        row = rows[number]
        text = row["text"]
        parts = text[max(0, span.start - 60) : span.start], text[span.start : span.end]
        parts = (*parts, text[span.end : span.end + 40])
        before, value, after = (part.replace("\n", "⏎") for part in parts)
        told = f"{span.label:<11} {span.reason:<20} {span.confidence:.2f}"
        lines.append(f"{told} {before}⟦{value[:160]}⟧{after}  {row['name']}")
    path = Path(tempfile.gettempdir()) / f"pii {name}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"  {len(lines)} of them to read: {path}")


def rescan() -> None:
    texts = sample()
    found, size, _ = scanned(scanners.RESCAN, texts)
    print(f"{size:.1f} MB redacted and scanned again")
    left = [(span, row["name"]) for row, spans in zip(rows_of(texts), found) for span in spans]
    for span, name in left[:SHOWN]:
        print(f"  {span.label} {span.reason} {span.confidence:.2f} at {span.start} of {name}")
    judge("spans that a second redaction replaces", len(left), 0, least=False, form="d")


def speed(tagger: str | None) -> None:
    texts = sample()
    rates: dict[str, float] = {}
    full = {name: peers[0] for name, peers in with_tagger(tagger).items()}
    ours = {"ours, gate": scanners.GATE, "ours, detected and redacted": scanners.REDACT}
    for name, peer in {**ours, **full, **scanners.ALONE}.items():
        made = scanners.tried(peer, texts, LIMIT, needed=name in ours or name in full)
        if made is None:
            continue
        again = [scanned(peer, texts, LIMIT) for _ in range(ROUNDS - 1)] if name in ours else []
        rates[name] = made.megabytes / min(one.cpu_s for one in [made, *again])
        spans = sum(map(len, made.found)) / made.megabytes
        print(f"{name:<30} {rates[name]:9.3f} MB/CPU-s on {made.megabytes:5.2f} MB", end="")
        print(f" {spans:7.0f} spans per MB" if spans else "", flush=True)
    whole = rates["ours, detected and redacted"]
    judge("MB a CPU-second, gate", rates["ours, gate"], GATED)
    judge("MB a CPU-second, detected and redacted", whole, WHOLE_PATH)
    _judge_times("patterns", whole, rates, TIMES)
    for name in full:
        own = rates[name] * read_share(texts)
        print(f"{name}: {own:.3f} MB/CPU-s of the windows that it reads")
        judge(f"MB of windows a CPU-second, {name}", own, TAGGED, form=".3f")
        _judge_times(name, rates[name], rates, TIMES_TAGGED)


def read_share(texts: Path) -> float:
    """The share of the texts that lies in the windows that a tagger reads."""
    from starkiln.curate.pii.tag import HEAD, REACH
    from starkiln.model.tagging import excerpts

    read = whole = 0
    for row, spans in zip(rows_of(texts), scanned(scanners.CANDIDATES, texts).found, strict=True):
        seen = (span._replace(end=min(span.end, span.start + HEAD)) for span in spans)
        whole += len(row["text"])
        read += sum(end - start for start, end in excerpts(len(row["text"]), seen, REACH))
    return read / whole


def _judge_times(what: str, own: float, rates: dict[str, float], bars: dict[str, float]) -> None:
    for name, rate in rates.items():
        if name in bars:
            judge(f"{what}, times {name}", own / rate, bars[name])
        elif not name.startswith("ours"):
            print(f"  {what}: {own / rate:.2f} times {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=["quality", "noise", "speed", "rescan"])
    parser.add_argument("labelled", nargs="?", type=Path, help="a labelled file, for quality")
    parser.add_argument("--tagger", help="folder of the tagger")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if asked.row == "quality":
        quality(asked.labelled or corpus.shared("pii/labelled.jsonl"), asked.tagger)
    elif asked.row == "rescan":
        rescan()
    else:
        {"noise": noise, "speed": speed}[asked.row](asked.tagger)
    print("", *sorted(verdicts), sep="\n")  # what was missed is last
    sys.exit(any(line.startswith("miss") for line in verdicts))


if __name__ == "__main__":
    main()
