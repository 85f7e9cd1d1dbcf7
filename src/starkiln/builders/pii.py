"""The steps of personal information: the tagger's examples, and redacted copies of files."""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from starkiln.builders import Job, origins, recorded
from starkiln.builders.origins import PLAIN, Form
from starkiln.catalogue import STAGES, sources, stages
from starkiln.code.document import FILES, SEGMENTS
from starkiln.core import atomic, manifest, table, units
from starkiln.core.errors import UserError
from starkiln.core.manifest import Manifest
from starkiln.curate.pii.synthesis.settings import SynthesisSettings

PLACES = ("repo", "path")
TOO_LONG = "name-too-long"
COPIES = "files"  # the folder of the copied files in the step's own
INDEX = {  # of the list of a shard's files; ``redacted``: the place before it was taken
    "place": pl.String,
    "redacted": pl.String,
    "bytes": pl.Int64,
    "redactions": pl.Int64,
    "recoded": pl.Boolean,  # into UTF-8
}


def examples(job: Job) -> Manifest:
    """Make the tagger's training data of the curated table."""
    curated = job.work / "curated"
    calls = [
        (name, (curated / name, job.out / name, job.recipe.synthesis, job.recipe.seed))
        for name in table.shard_names(curated)
    ]
    return recorded(job, units.run(job.out, examples_shard, calls, job.pool, job.line))


def examples_shard(
    curated: Path, out: Path, settings: SynthesisSettings, seed: int
) -> dict[str, Any]:
    """One unit of the examples; documents too short for one are counted."""
    from starkiln.curate.pii.detect import candidates
    from starkiln.curate.pii.synthesis.examples import examples

    frame = table.read(curated, ["id", "repo", "language", "text"])
    made = examples(frame, settings, seed, lambda texts: candidates(texts.to_list()))
    table.write(out, made)
    used = made["id"].str.split(":").list.first().n_unique()
    return {
        "files": [str(out)],
        "rows": made.height,
        "bytes": made["text"].str.len_bytes().sum(),
        "drops": {"too-short": frame["id"].n_unique() - used},
    }


def copy(job: Job) -> Manifest:
    """Write each curated file to ``files/<repo>/<path>``, and what became of all in summary.json.

    Of files whose place is the same, once redacted, each but the first is written as ``name~2``.
    What is not copied is counted by its reason: what a source passed over or could not read, what
    a stage dropped, kinds that are no files (issues, commits, notebooks in parts). left-out.csv
    names what could not be read or was dropped, redacted too.
    """
    folder = job.work / "curated"
    names = table.shard_names(folder)
    used = sources(job.recipe.source, job.work / "recipe.toml")
    moved, written = _moved(folder, names), _forms(job.work, names, origins.forms(used))
    calls = [
        (name, (folder / name, moved.get(name, {}), written.get(name, {}), job.out))
        for name in names
    ]
    results = units.run(job.out, copy_shard, calls, job.pool, job.line)
    made = recorded(job, results)
    redactions = _redactions(job)
    atomic.write(job.out / "left-out.csv", _left_out(job, redactions, results).write_csv)
    summary = _summary(job.work, results, origins.passed_over(used))
    atomic.write_json(job.out / "summary.json", summary)
    spans = sum(n for reasons in summary["redacted"].values() for n in reasons.values())
    done = f"{spans:,} spans replaced" if redactions else "not redacted: no stage does it"
    job.line.advance(0, f"{summary['files']:,} files, {done}")
    return made


def copy_shard(
    curated: Path, moved: dict[int, str], written: dict[int, Form], out: Path
) -> dict[str, Any]:
    """Write the files of one shard, and a list of them; ``moved`` and ``written`` are by row."""
    frame = table.read(curated, ["repo", "path", "kind", "text", "redactions"])
    listed: list[dict[str, Any]] = []
    lost: list[tuple[str, str, str]] = []
    drops: Counter = Counter()
    for row, (repo, path, kind, text, spans) in enumerate(frame.iter_rows()):
        if kind not in FILES:
            drops[f"kind-{kind}"] += 1
            continue
        own, form = str(PurePosixPath(repo, path)), written.get(row, PLAIN)
        place = moved.get(row, own)
        if ".." in PurePosixPath(place).parts or place.startswith("/"):
            raise UserError(curated, f"leads out of its folder: {place}", "mend the source")
        data, recoded = origins.encoded(text, form)
        if _put(data, out / COPIES / place, form.runs, out / f".{curated.stem}.tmp"):
            told = {"place": place, "redacted": own, "bytes": len(data), "redactions": spans}
            listed.append({**told, "recoded": recoded})
        else:
            lost.append((repo, path, TOO_LONG))
    index = out / curated.name
    table.write(index, pl.DataFrame(listed, schema=INDEX))
    size = sum(int(one["bytes"]) for one in listed)
    if lost:
        drops[TOO_LONG] = len(lost)
    counts = {"rows": len(listed), "bytes": size, "renamed": len(moved), "lost": lost}
    counts["recoded"] = sum(one["recoded"] for one in listed)
    return {"files": [str(index)], **counts, "drops": dict(sorted(drops.items()))}


def _put(data: bytes, target: Path, runs: bool, temporary: Path) -> bool:
    """Write a file whole, by way of ``temporary``; False where its name is too long, redacted."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a run that was killed
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if runs:
            mode = temporary.stat().st_mode
            temporary.chmod(mode | (mode & 0o444) >> 2)
        temporary.replace(target)
        atomic.sync_folder(target.parent)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        temporary.unlink(missing_ok=True)
        return False
    return True


def _moved(folder: Path, names: list[str]) -> dict[str, dict[int, str]]:
    """Shard -> row -> place, of the files whose own place another file or a folder has."""
    rows = list(_files(folder, names))
    wanted = {place for _, _, place in rows}
    taken = {str(parent) for place in wanted for parent in PurePosixPath(place).parents}
    next_: Counter = Counter()
    moved: dict[str, dict[int, str]] = {}
    for name, row, place in rows:
        new = place
        while new in taken or (new != place and new in wanted):
            next_[place] += 1
            path = PurePosixPath(place)
            new = str(path.with_name(f"{path.stem}~{next_[place] + 1}{path.suffix}"))
        taken.add(new)
        if new != place:
            moved.setdefault(name, {})[row] = new
    return moved


def _files(folder: Path, names: list[str]) -> Iterator[tuple[str, int, str]]:
    """Shard, row and place of each file of a table."""
    for name in names:
        frame = table.read(folder / name, ["repo", "path", "kind"])
        for row, (repo, path, kind) in enumerate(frame.iter_rows()):
            if kind in FILES:
                yield name, row, str(PurePosixPath(repo, path))


def _forms(
    work: Path, names: list[str], known: dict[tuple[str, str], Form]
) -> dict[str, dict[int, Form]]:
    """Shard -> row of the curated table -> form, of the files that ``known`` names."""
    found: dict[str, dict[int, Form]] = {}
    decided, _ = table.decision_folders(work / "documents")
    for name in names if known else ():
        frame = table.read(work / "documents" / name, ["repo", "path"])
        kept = table.survivors(one / name for one in decided)
        places = frame.filter(kept) if kept is not None else frame
        rows = ((row, known.get(place)) for row, place in enumerate(places.iter_rows()))
        found[name] = {row: form for row, form in rows if form}
    return found


def _redactions(job: Job) -> list[dict[str, Any]]:
    """The settings of each stage that redacts."""
    used = stages(job.recipe.curate, job.work / "recipe.toml")
    return [use.settings for use in used if use.use == STAGES["redact"]]


def _left_out(
    job: Job, redactions: list[dict[str, Any]], results: list[dict[str, Any]]
) -> pl.DataFrame:
    """``repo``, ``path`` and ``reason`` of what was set aside or dropped; null: not to be told."""
    columns = ["repo", "path", "reason"]
    aside = _beside(job.work / "documents").select(columns)
    lost = pl.DataFrame(
        [row for result in results for row in result["lost"]],
        schema=dict.fromkeys(columns, pl.String),
        orient="row",
    )
    for settings in redactions:
        aside = _unnamed(aside, settings)
    reason = pl.concat_str("stage", "reason", separator=":").alias("reason")
    dropped = _beside(job.work / "curated").with_columns(reason).select(columns)
    return pl.concat([aside, dropped, lost])


def _unnamed(frame: pl.DataFrame, settings: dict[str, Any]) -> pl.DataFrame:
    """``frame`` with ``repo`` and ``path`` redacted; null where that fails."""
    from starkiln.curate.mix import redacted
    from starkiln.curate.pii.redact import redact

    bare = frame.select("repo", "path", segments=pl.lit([], dtype=SEGMENTS))
    made = redact(bare, **settings)
    new = [
        redacted(row, spans)[0] if reason is None else {"repo": None, "path": None}
        for row, (reason, spans) in zip(bare.to_dicts(), made.iter_rows(), strict=True)
    ]
    places = {place: pl.Series([one[place] for one in new], dtype=pl.String) for place in PLACES}
    return frame.with_columns(**places)


def _beside(folder: Path) -> pl.DataFrame:
    """What was dropped of all shards of a table."""
    names = table.shard_names(folder)
    return pl.concat(table.read(folder / f"{Path(name).stem}.dropped.parquet") for name in names)


def _summary(work: Path, results: list[dict[str, Any]], passed: Counter) -> dict[str, Any]:
    """Files copied; spans replaced and kept by label and rule; files left out by reason."""
    ledgers = sorted((work / "curated").glob("[0-9]*.ledger.parquet"))
    counts: dict[bool, dict[str, Counter]] = {True: {}, False: {}}
    for path in ledgers:
        replaced = pl.col("replacement").is_not_null().alias("replaced")
        grouped = pl.read_parquet(path).group_by(replaced, "label", "reason").len()
        for done, label, reason, n in grouped.iter_rows():
            counts[done].setdefault(label, Counter())[reason] += n
    left = passed.copy()
    for name in ("documents", "curated"):
        made = manifest.read(work / name)
        left.update(made.drops if made else {})
    for result in results:
        left.update(result["drops"])
    return {
        "files": sum(result["rows"] for result in results),
        "bytes": sum(result["bytes"] for result in results),
        "renamed": sum(result["renamed"] for result in results),
        "recoded": sum(result["recoded"] for result in results),
        "redacted": {k: dict(sorted(v.items())) for k, v in sorted(counts[True].items())},
        "kept": {k: dict(sorted(v.items())) for k, v in sorted(counts[False].items())},
        "left_out": dict(sorted(left.items())),
    }
