"""Every kind of source through every rule: the funnel, the labelled sets, and the golden digests."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import corpus
from starkiln.core import manifest, table
from starkiln.evaluate import account
from test_run import digests

RECIPE = Path(__file__).with_name("all_sources.toml")
BUNDLES = ("storable", "ts3", "go-git-early")
KINDS = {"code", "notebook-script", "notebook", "issue", "commit"}


@pytest.fixture(scope="module")
def curated(shared, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ANN001
    """The work folder of the recipe."""
    work = tmp_path_factory.mktemp("all-sources")
    corpora = shared("corpora")
    for name in BUNDLES:
        bundle, clone = corpora / "git" / f"{name}.bundle", work / "repositories" / name
        command = ["git", "clone", "-q", str(bundle), str(clone)]
        subprocess.run(command, check=True, capture_output=True)
    (work / "files").mkdir()
    corpus.make(work / "files")
    (work / "opted-out.txt").write_text("# asked on 2026-11-23\nbitcoin-core\n")
    text = RECIPE.read_text().replace("CORPORA", str(corpora)).replace("FILES", "files")
    (work / "recipe.toml").write_text(text.replace("REPOSITORIES", "repositories"))
    done = subprocess.run(
        [sys.executable, "-m", "starkiln", "run", str(work / "recipe.toml")],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return work


def test_the_funnel_has_every_kind_and_adds_up(curated: Path) -> None:
    counts = account.tally(curated)
    assert set(counts["kind"]) == KINDS
    read = manifest.read(curated / "documents")
    made = manifest.read(curated / "curated")
    assert read is not None
    assert made is not None
    assert counts["documents"].sum() == read.rows == made.rows + sum(made.drops.values())
    kept = counts.filter(pl.col("stage").is_null())
    assert set(kept["kind"]) == KINDS
    page = (curated / "report" / "report.html").read_text()
    for kind in KINDS:
        assert kind in page
