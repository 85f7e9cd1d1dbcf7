"""The data steps on a Ray cluster of several worker processes: the same bytes, whoever dies."""

import subprocess
import sys
from pathlib import Path

import pytest

import corpus
from test_run import digests

ONCE = """
import os
import signal
from pathlib import Path

from starkiln.core.stage import document_filter


@document_filter(version=1)
def once(path: str, *, folder: str) -> str | None:
    \"\"\"Kill the worker at the first document that it sees of two files.\"\"\"
    note = Path(folder) / path.replace("/", "-")
    if path.endswith(("decoder.py", "client.py")) and not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return None
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.make(tmp_path_factory.mktemp("repositories"))


def curated(folder: Path, repositories: Path, notes: Path, run: str) -> dict[str, str]:
    """Digests of what the data steps make, with a filter that may kill its worker."""
    folder.mkdir()
    (folder / "own.py").write_text(ONCE)
    (folder / "recipe.toml").write_text(
        f"""extends = "tiny"
[[source]]
use = "files"
paths = ["{repositories}"]
[curate]
stages = ["languages", "licences", "once", "exact_dedup", "xml", "near_dedup", "redact"]
[curate.once]
use = "own.py:once"
folder = "{notes}"
[run]
until = "curated"
{run}
"""
    )
    command = [sys.executable, "-m", "starkiln", "run", str(folder / "recipe.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (folder / "report" / "report.html").is_file()
    return {k: v for k, v in digests(folder).items() if not k.startswith(("own.py", "__pycache__"))}


def test_a_cluster_makes_the_same_bytes_though_its_workers_die(
    repositories: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    killed = curated(tmp_path / "a", repositories, notes, 'cluster = "local"\nworkers = 3')
    assert len(list(notes.iterdir())) >= 2, "no worker was killed"
    assert curated(tmp_path / "b", repositories, notes, "workers = 1") == killed  # none dies
    for note in notes.iterdir():
        note.unlink()
    assert curated(tmp_path / "c", repositories, notes, "workers = 2") == killed
    assert list(notes.iterdir()), "no worker was killed"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_no_such_cluster_is_one_sentence(repositories: Path, tmp_path: Path, address: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'extends = "tiny"\n[[source]]\nuse = "files"\npaths = ["{repositories}"]\n')
    sets = ["--set", f"run.cluster={address}", "--set", "run.until=curated"]
    command = [sys.executable, "-m", "starkiln", "run", str(path), *sets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 2
    assert f"run.cluster: no cluster at '{address}'" in done.stderr
    assert "Traceback" not in done.stderr
