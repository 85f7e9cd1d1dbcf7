"""A manifest says how a folder came to be: written last, atomically.

Identity is a readable path plus a fingerprint of (format, kind, stages with versions and resolved
settings, fingerprints of the inputs). Clock times are in ``events.jsonl``, never here, so that the
same recipe on the same input gives the same bytes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from starkiln.core import atomic
from starkiln.core.errors import UserError

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class Identity:
    """What an artefact is made from; equal identities mean equal artefacts."""

    kind: str
    stages: list[dict[str, Any]]  # name, version, settings
    inputs: dict[str, str]  # name -> fingerprint

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash of the identity (128 bits)."""
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The record of a finished artefact."""

    identity: Identity
    rows: int = 0  # documents, or samples
    bytes: int = 0  # of text, not of files
    drops: dict[str, int] = field(default_factory=dict)  # reason -> rows
    shards: list[dict[str, Any]] = field(default_factory=list)  # name, rows, bytes, sha256
    facts: dict[str, Any] = field(default_factory=dict)  # what the report needs


def write(folder: Path, manifest: Manifest) -> None:
    """Write ``folder/manifest.json``."""
    identity = asdict(manifest.identity)
    rest = {key: value for key, value in asdict(manifest).items() if key != "identity"}
    value = {"format": FORMAT, "fingerprint": manifest.identity.fingerprint, **identity, **rest}
    atomic.write_json(folder / NAME, value)


def read(folder: Path) -> Manifest | None:
    """The manifest of ``folder``, None when there is none; ``UserError`` when it is damaged."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text())
        if value["format"] != FORMAT:
            raise UserError(
                path, f"format {value['format']}, expected {FORMAT}", "use the matching release"
            )
        identity = Identity(value["kind"], value["stages"], value["inputs"])
        names = ("rows", "bytes", "drops", "shards", "facts")
        return Manifest(identity, **{name: value[name] for name in names})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(path, f"damaged ({error})", "remove its folder and run again") from error


def current(work: Path, name: str) -> Manifest | None:
    """The manifest of artefact ``name``; None where what it was made from is gone or is another."""
    made = read(work / name)
    if made is None or made.identity.kind == "documents":
        return made
    for before, fingerprint in made.identity.inputs.items():
        source = current(work, before)
        if source is None or source.identity.fingerprint != fingerprint:
            return None
    return made


def difference(old: Identity, new: Identity) -> list[str]:
    """What changed from ``old`` to ``new``, a phrase each: ``near_dedup.threshold 0.7 -> 0.8``."""
    before, after = ({s["name"]: s for s in identity.stages} for identity in (old, new))
    changes = [f"{name} added" for name in after.keys() - before.keys()]
    changes += [f"{name} removed" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        changes += _changed(f"{name}.version", before[name]["version"], after[name]["version"])
        changes += _changed(name, before[name]["settings"], after[name]["settings"])
    if not changes and list(before) != list(after):
        changes.append("order of stages")
    names = sorted(old.inputs.keys() | new.inputs.keys())
    changes += [f"input {n} changed" for n in names if old.inputs.get(n) != new.inputs.get(n)]
    return sorted(changes)


def _changed(name: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            change
            for key in sorted(before.keys() | after.keys())
            for change in _changed(f"{name}.{key}", before.get(key), after.get(key))
        ]
    return [] if before == after else [f"{name} {json.dumps(before)} -> {json.dumps(after)}"]
