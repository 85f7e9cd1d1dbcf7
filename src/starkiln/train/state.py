"""What a training run leaves on the disk to be continued from: states and journals.

A state is a folder ``step-NNNNNN`` with all weights and moments, written by all ranks at once,
and a record that holds the hash of every file. It appears whole or not at all; a damaged one is
passed over for the one before it; any number of ranks in any layout goes on from it.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from starkiln.core import atomic, manifest
from starkiln.core.errors import UserError
from starkiln.core.settings import Settings
from starkiln.train.ranks import Ranks
from starkiln.train.settings import POLICY

FORMAT = 2
RECORD = "state.json"
_MENDS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space")
_MENDS[errno.EFBIG] = "lift the limit on a file's size (ulimit -f)"


class Journal:
    """A JSON-lines file that grows, and that a resumed run cuts back to where its state was."""

    def __init__(self, path: Path, size: int) -> None:
        """Keep the first ``size`` bytes of ``path`` (made if need be)."""
        self.path = path
        path.touch()
        if path.stat().st_size < size:
            raise UserError(
                path, f"lacks rows that the saved state has ({size} bytes)", "remove state/ too"
            )
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; it has left this process when the call returns. No number is null there."""
        line = memoryview(json.dumps(_plain(row), allow_nan=False).encode() + b"\n")
        with self._writing():
            while line:  # a disk that fills takes a part first, and then is the error
                line = line[self._file.write(line) :]

    def size(self) -> int:
        """Bytes so far, durable on the disk when the call returns."""
        with self._writing():
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(self.path, f"cannot be written ({error})", _mend(error)) from error


def identity(made_by: Sequence[Settings], inputs: dict[str, str], seed: int) -> str:
    """The fingerprint of what a state must agree with to be gone on from."""
    settings = [
        {
            "name": type(part).__name__,
            "version": 1,
            "settings": part.model_dump(mode="json", exclude=POLICY),
        }
        for part in made_by
    ]
    return manifest.Identity(f"training, seed {seed}", settings, inputs).fingerprint


def _plain(value: Any) -> Any:
    """``value`` with null for numbers that JSON has not."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def last_row(path: Path) -> dict[str, Any]:
    """The newest row of a journal."""
    return json.loads(path.read_bytes().splitlines()[-1])


class Saving:
    """A state on its way to the disk."""

    def __init__(self, path: Path, work: Callable[[], None]) -> None:
        self.path = path
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name=f"saving {path.name}")
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()  # kept nowhere: it holds a copy of the whole state
        except BaseException as error:  # noqa: BLE001  (wait raises it)
            self._error = error

    def wait(self) -> Path:
        """The state's folder, once it is whole on the disk; UserError if it cannot be written."""
        self._thread.join()
        if self._error:
            raise self._error
        return self.path


def save(folder: Path, step: int, values: dict[str, Tensor], record: dict[str, Any]) -> Saving:
    """Write the state after ``step`` steps to ``folder`` and remove all but the last two.

    All ranks call it, each with what it holds: plain tensors, the same wherever a name is, and
    DTensors. ``record`` is the first rank's. ``values`` may change as soon as it returns; the
    call before it must have been waited for.
    """
    from starkiln.train import shards

    final, ranks = folder / f"step-{step:06d}", Ranks()
    pieces = shards.staged(values)
    record = {**record, "format": FORMAT, "step": step}
    return Saving(final, lambda: _write(final, pieces, record, ranks))


def _write(final: Path, pieces: Any, record: dict[str, Any], ranks: Ranks) -> None:
    from starkiln.train import shards

    new = final.with_name(f".{final.name}.new")
    try:
        ranks.same(lambda: _clean(final.parent))
        files = shards.write(new, pieces, ranks)
        ranks.same(lambda: _commit(new, final, {**record, "files": files}))
    except OSError as error:
        if ranks.rank == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise UserError(final, f"cannot be written ({error})", _mend(error)) from error


def _mend(error: OSError) -> str:
    mend = _MENDS.get(error.errno or 0, "mend that")
    return f"{mend} and run again: it goes on from the last state, if there is one"


def _clean(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step-*"):  # by a process that was killed
        shutil.rmtree(left)


def _commit(new: Path, final: Path, record: dict[str, Any]) -> None:
    for name in record["files"]:
        if not (new / name).exists():
            mend = "put the work folder on a disk that all nodes share"
            raise UserError(final, f"{name} of another node is not here", mend)
    atomic.write_json(new / RECORD, {**record, "digest": _digest(record)})
    atomic.swap(new, final)
    keep_last(final.parent, 2)


def keep_last(folder: Path, count: int) -> None:
    """Remove all states of ``folder`` but the ``count`` newest."""
    for path in states(folder)[count:]:
        shutil.rmtree(path)


def states(folder: Path) -> list[Path]:
    """The states in ``folder``, newest first, whole or not."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdecimal())
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def newest(
    folder: Path, identity: str, on_event: Callable[..., None]
) -> tuple[dict[str, Any], Path] | None:
    """Record and folder of the newest whole state, the same on all ranks; None if there is none.

    The ranks share the hashing. ``on_event`` hears on each of every damaged state that is passed
    over. UserError if the state is of a run of another ``identity`` or of another version, and if
    all there are damaged: what was trained must not be begun anew without a word.
    """
    ranks = Ranks()
    found, reason = ranks.same(lambda: states(folder)), ""
    for path in found:
        record, reason = ranks.same(lambda path=path: _opened(path))
        mend = f"remove {folder} to begin anew"
        if not reason and record["format"] != FORMAT:
            raise UserError(path, "was written by another version of starkiln", mend)
        reason = reason or _damage(path, record["files"], ranks)
        if reason:
            on_event("state_damaged", path=str(path), reason=reason)
        elif record["identity"] != identity:
            raise UserError(path, "is of a run with other settings or data", mend)
        else:
            return record, path
    if found:
        what = f"no state is whole: {reason} in {found[-1].name}"
        raise UserError(folder, what, "bring back a copy, or remove the folder to begin anew")
    return None


def _opened(path: Path) -> tuple[dict[str, Any], str]:
    """The record of a state, or why there is none."""
    try:
        record = json.loads((path / RECORD).read_bytes())
        if record.pop("digest") == _digest(record):
            return record, ""
        return {}, f"{RECORD} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, str(error) or repr(error)


def _damage(path: Path, files: dict[str, tuple[int, str]], ranks: Ranks) -> str:
    """What is wrong with the files of a state, or nothing; each rank looks at its share."""
    by_size = sorted(files, key=lambda name: (-files[name][0], name))

    def look() -> str:
        mine = by_size[ranks.rank :: ranks.world]
        return "; ".join(filter(None, (_differs(path / name, *files[name]) for name in mine)))

    return ranks.merge(look, lambda found: ["; ".join(filter(None, found))] * ranks.world)


def _differs(path: Path, size: int, digest: str) -> str:
    try:
        there = path.stat().st_size
        if there != size:
            return f"{path.name} has {there} bytes, not {size}"
        return "" if atomic.sha256(path) == digest else f"{path.name} is damaged"
    except OSError as error:
        return str(error)


def fill(path: Path, values: dict[str, Tensor]) -> None:
    """Copy the state in ``path`` into ``values`` on all ranks, whatever layout wrote it.

    UserError if names, shapes or types are not those of the state; ConnectionError if a rank is
    lost.
    """
    from starkiln.train import shards

    ranks = Ranks()

    def check() -> tuple[set[str], set[str]]:
        saved = shards.contents(path)
        for name, value in values.items():
            asked, found = (value.shape, value.dtype), saved.get(name)
            if asked != found:
                raise _other(path, f"{name} is {_shown(found)} there and {_shown(asked)} here")
        return set(values), set(saved)

    def whole(checked: list[tuple[set[str], set[str]]]) -> list[None]:
        if more := sorted(checked[0][1].difference(*(names for names, _ in checked))):
            raise _other(path, f"{more[0]} ({len(more)} in all) is there and not here")
        return [None] * ranks.world

    ranks.merge(check, whole)
    try:
        ranks.merge(lambda: shards.read(path, values), lambda done: done)
    except ConnectionError:
        raise
    except OSError as error:
        raise UserError(path, f"cannot be read ({error})", "mend the disk and run again") from error


def read(path: Path, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the state in ``path``, of these names or of all, whole and one at a time.

    For one process alone, whatever layout wrote it. UserError if a name is not there.
    """
    from starkiln.train import shards

    saved = shards.contents(path)
    asked = sorted(saved) if names is None else list(names)
    for name in asked:
        if name not in saved:
            raise _other(path, f"{name} is not there")
    yield from shards.whole(path, asked)


def _other(path: Path, what: str) -> UserError:
    return UserError(path, f"is of another model: {what}", f"remove {path.parent} to begin anew")


def _shown(what: tuple[Any, Any] | None) -> str:
    return f"{list(what[0])} {str(what[1]).removeprefix('torch.')}" if what else "absent"


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
