"""Of each group of documents the best copy stays: chosen out of core, told to each shard.

The members of groups are shuffled by group, each group elects one, and the outcome is shuffled
back to the shards. Memory holds one part of the groups, or one run of shards, at a time.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from starkiln.core import atomic, keyed, shuffle
from starkiln.curate import bands

BALLOTS = 1 << 18  # members of groups in one part
PROVENANCE = ("stars", "repo", "path", "id")
LONE = -1


def elect(
    view: Any,
    places: bands.Places,
    root: np.ndarray,
    reason: str,
    *,
    same: Sequence[str] = (),
    lot: int | None = None,
) -> Iterator[pl.DataFrame]:
    """A decision frame a shard: ``reason``, and of what is kept ``duplicate_of`` and ``cluster``.

    ``root`` (int64) names the group of each document; members that differ in a column of ``same``
    are of different groups. Kept is the copy with most stars, then by repository, path and id; with
    ``lot``, the one with the lowest digest of (``lot``, id). ``duplicate_of`` is the kept copy's
    ``repo/path``, for those dropped; ``cluster`` its id, for every member of a group.
    """
    listed = bands.runs(view)
    groups, members = _groups(root)
    state = view.scratch / "groups"
    atomic.write(state, groups.tofile)
    parts, starts = 1 + members // BALLOTS, places.starts.tolist()
    calls = [
        (run, (run, shards, places.heights[k], k, starts[k], state, parts, lot))
        for k, (run, shards) in enumerate(listed)
    ]
    view.run("ballots", _ballots, calls)
    ballots = [view.scratch / "ballots" / run for run, _ in listed]
    calls = [
        (f"{part:06d}", (f"{part:06d}", ballots, part, tuple(same), reason))
        for part in range(parts if listed else 0)
    ]
    view.run("elected", _elected, calls)
    outcomes = [view.scratch / "elected" / part for part, _ in calls]
    for k, heights in enumerate(places.heights):
        yield from _decisions(list(shuffle.read(outcomes, k)), heights)


def _groups(root: np.ndarray) -> tuple[np.ndarray, int]:
    """``root`` with LONE for those that are alone, and how many are not."""
    several = root != np.arange(len(root))
    several[root[several]] = True
    return np.where(several, root, LONE), int(several.sum())


def _ballots(
    folder: Path, run: str, shards: list, heights: list, k: int, start: int, groups: Path,
    parts: int, lot: int | None,
) -> dict[str, Any]:  # fmt: skip
    group = np.fromfile(groups, np.int64, sum(heights), offset=8 * start)
    frames, begin = [], 0
    for shard, height in zip(shards, heights, strict=True):
        here = group[begin : begin + height]
        frame = bands.chosen(shard, PROVENANCE, here != LONE).with_columns(
            pl.Series("group", here[here != LONE]),
            pl.Series("row", begin + np.flatnonzero(here != LONE)),
        )
        frames.append(frame)
        begin += height
    frame = pl.concat(frames).with_columns(run=pl.lit(k), lot=_lots(frames, lot))
    by_part = frame.with_columns(part=pl.col("group") % parts)
    shuffle.write(folder / run, _packed(by_part, "part", parts))
    return {"files": [folder / run]}


def _lots(frames: list[pl.DataFrame], lot: int | None) -> pl.Series:
    ids = (one for frame in frames for one in frame["id"])
    found = [None if lot is None else keyed.digest("lot", lot, one) for one in ids]
    return pl.Series(found, dtype=pl.Binary)


def _elected(
    folder: Path, name: str, ballots: list[Path], part: int, same: tuple, reason: str
) -> dict[str, Any]:
    frame = _unpacked(shuffle.read(ballots, part))
    if frame is None:
        shuffle.write(folder / name, [b""] * len(ballots))
        return {"files": [folder / name]}
    group = ["group", *same]
    order = ["lot", *PROVENANCE, "run", "row"]
    descending = [column == "stars" for column in order]
    frame = frame.sort(order, descending=descending, nulls_last=True)
    kept = pl.int_range(pl.len()).over(group) == 0
    place = pl.concat_str("repo", "path", separator="/")
    frame = frame.with_columns(
        dropped=~kept,
        place=place.first().over(group),
        best=pl.col("id").first().over(group),
    ).filter(pl.len().over(group) > 1)
    told = frame.select(
        "run",
        "row",
        reason=pl.when("dropped").then(pl.lit(reason)),
        duplicate_of=pl.when("dropped").then("place"),
        cluster="best",
    )
    shuffle.write(folder / name, _packed(told, "run", len(ballots)))
    return {"files": [folder / name]}


def _decisions(told: list[bytes], heights: list[int]) -> Iterator[pl.DataFrame]:
    """The decisions of each shard of a run."""
    empty = {"reason": pl.String, "duplicate_of": pl.String, "cluster": pl.String}
    found = _unpacked(told)
    if found is None:
        found = pl.DataFrame(schema={"row": pl.Int64, **empty})
    rows = pl.DataFrame({"row": pl.int_range(sum(heights), dtype=pl.Int64, eager=True)})
    whole = rows.join(found, on="row", how="left", maintain_order="left").select(*empty)
    for height in heights:
        yield whole.head(height)
        whole = whole.slice(height)


def _packed(frame: pl.DataFrame, column: str, parts: int) -> list[bytes]:
    """The rows of each part, without the column that names it; nothing for an empty part."""
    by_part = frame.partition_by(column, as_dict=True, include_key=False)
    return [_bytes(by_part[(part,)]) if (part,) in by_part else b"" for part in range(parts)]


def _bytes(frame: pl.DataFrame) -> bytes:
    held = BytesIO()
    frame.write_ipc(held, compression="lz4")
    return held.getvalue()


def _unpacked(pieces: Iterator[bytes] | list[bytes]) -> pl.DataFrame | None:
    frames = [pl.read_ipc(BytesIO(piece)) for piece in pieces if piece]
    return pl.concat(frames) if frames else None
