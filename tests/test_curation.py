"""Every kind of source through every rule: the funnel, and the scores on labelled files."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import corpus
from starkiln.core import manifest
from starkiln.evaluate import account

RECIPE = Path(__file__).with_name("all_sources.toml")
BUNDLES = ("storable", "ts3", "go-git-early")
KINDS = {"code", "notebook-script", "notebook", "issue", "commit"}


@pytest.fixture(scope="module")
def curated(shared, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_the_funnel_of_each_kind_is_as_the_rules_say(curated: Path) -> None:
    counts = account.tally(curated)

    def stages_of(kind: str) -> set[str]:
        return set(counts.filter(pl.col("kind") == kind)["stage"].drop_nulls())

    files = {"languages", "licences", "long_lines", "alphanumeric", "xml", "html", "size"}
    assert files | {"near_dedup", "decontaminate"} <= stages_of("code")
    assert stages_of("issue") - {"exact_dedup"} == {"opt_out", "issue_size", "english"}
    assert {"commits", "one_commit_per_file"} <= stages_of("commit")
    assert not stages_of("commit") & {"near_dedup", "exact_dedup", "long_lines"}
    assert not stages_of("notebook") & {"long_lines", "alphanumeric", "xml"}


def test_the_labelled_sets_are_scored(curated: Path) -> None:
    facts = account.facts(curated, "audit")
    pairs, files = facts["near_duplicates"], facts["contamination"]
    assert pairs["recall"] >= 0.99
    assert pairs["precision"] >= 0.99
    assert pairs["wrong_removals"] == 0
    found = {(row["variant"], row["benchmark"]): row for row in files["variants"]}
    sure = [row for (variant, _), row in found.items() if "renamed" not in variant]
    assert all(row["found"] == row["files"] for row in sure if row["contaminated"])
    wrong = {row["variant"] for row in sure if row["found"] and not row["contaminated"]}
    assert wrong == {"hard_negative_generic_code"}
    page = (curated / "report" / "report.html").read_text()
    assert "Scored on labelled files" in page
    assert "HumanEval/" in page


def test_what_opted_out_is_gone(curated: Path) -> None:
    shards = sorted((curated / "curated").glob("[0-9]*[0-9].parquet"))
    repos = pl.concat(pl.read_parquet(path, columns=["repo"]) for path in shards)["repo"]
    assert not repos.str.starts_with("bitcoin-core/").any()
    assert repos.n_unique() > 100
