"""The paper's own arithmetic, and the rules on small volumes."""

import polars as pl
import pytest

from starkiln.code.languages import VOLUMES
from starkiln.core import recipe
from starkiln.core.errors import UserError
from starkiln.curate.mixture import GB, mixture
from starkiln.curate.settings import MixtureSettings

PAPER = MixtureSettings()
# Percentages of the paper's table of languages (rules §2).
PERCENT = {
    "c": 7.027,
    "c-sharp": 5.823,
    "cpp": 6.379,
    "go": 3.101,
    "html": 3.828,
    "java": 11.336,
    "javascript": 8.437,
    "markdown": 9.770,
    "php": 7.939,
    "python": 7.875,
    "typescript": 3.458,
    "json": 0.13,
    "yaml": 0.13,
    "css": 0.39,
    "commit": 4.2,
}


def _mixture(volumes: dict, settings: MixtureSettings = PAPER) -> dict[str, dict]:
    frame = mixture(volumes, settings.caps, settings.factors)
    return {row["source"]: row for row in frame.iter_rows(named=True)}


def _counted(rows: dict[str, dict]) -> float:
    return sum(row["bytes"] * row["weight"] for row in rows.values()) / GB


def _volumes(sizes: dict[str, float]) -> dict[str, tuple[int, int]]:
    return {source: (1, round(size * GB)) for source, size in sizes.items()}


def test_the_papers_sums_from_its_own_totals():
    """815.68 GB in all, of which 64.86 GB were commits: 799.37 weighed, 766.94 in the shares."""
    capped = {"json": 5.56, "yaml": 3.79, "css": 11.97}
    sizes = capped | {"commit": 64.86}
    volumes = _volumes(sizes | {"python": 815.68 - sum(sizes.values())})
    whole = MixtureSettings(factors={})
    assert _counted(_mixture(volumes, whole)) == pytest.approx(799.37, abs=0.015)
    assert _counted(_mixture(volumes)) == pytest.approx(766.94, abs=0.015)


def test_the_papers_shares_from_the_published_volumes():
    """The published data holds 56.83 GB of commits, not 64.86, and rounds: within 0.5 %."""
    rows = _mixture(_volumes({name: one.characters for name, one in VOLUMES.items()}))
    assert _counted(rows) == pytest.approx(766.94, rel=0.005)
    for source, percent in PERCENT.items():
        wide = 0.6 if source == "commit" else 0.07
        assert 100 * rows[source]["share"] == pytest.approx(percent, abs=wide), source
        assert rows[source]["share"] == pytest.approx(rows[source]["paper_share"])
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert (rows["json"]["paper_gb"], rows["css"]["paper_gb"]) == (1.0, 3.0)


def test_caps_and_factors_are_weights():
    volumes = {"json": (10, 4000), "python": (5, 2000), "commit": (3, 2000), "swift": (1, 0)}
    rows = _mixture(volumes, MixtureSettings(caps={"json": 1000, "python": 9000}))
    weights = {source: row["weight"] for source, row in rows.items()}
    assert weights == {"json": 0.25, "python": 1.0, "commit": 0.5, "swift": 1.0}
    assert [rows[s]["share"] for s in ("json", "python", "commit")] == [0.25, 0.5, 0.25]
    assert (rows["json"]["documents"], rows["json"]["bytes"]) == (10, 4000)
    assert (rows["swift"]["paper_gb"], rows["swift"]["paper_share"]) == (None, None)


def test_a_cap_and_a_factor_multiply():
    settings = MixtureSettings(caps={"commit": 100}, factors={"commit": 0.5})
    assert _mixture({"commit": (1, 400)}, settings)["commit"]["weight"] == 0.125


def test_the_largest_share_comes_first_and_names_break_ties():
    frame = mixture({"rust": (1, 5), "go": (1, 5), "java": (1, 9)}, {}, {})
    assert frame["source"].to_list() == ["java", "go", "rust"]


def test_no_volumes_make_an_empty_table():
    frame = mixture({}, PAPER.caps, PAPER.factors)
    assert frame.height == 0
    assert frame.schema["share"] == pl.Float64


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"caps": {"jsn": 1e9}}, "'jsn' is no source"),
        ({"factors": {"code": 0.5}}, "'code' is no source"),
        ({"caps": {"json": 0}}, "greater than 0"),
        ({"factors": {"commit": -1}}, "greater than or equal to 0"),
    ],
)
def test_wrong_settings_are_refused(table, fault):
    with pytest.raises(UserError, match=fault):
        recipe.check(MixtureSettings, table, "recipe")
