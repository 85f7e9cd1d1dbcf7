"""How much of each source training draws: its natural volume, but for caps and factors.

The paper follows the natural distribution, caps JSON, YAML and CSS and halves commits; it does so
by weights at sampling, and drops nothing (paper §5.5; rules §8).
"""

from collections.abc import Mapping

import polars as pl

from starkiln.code.languages import VOLUMES
from starkiln.curate.settings import MixtureSettings

GB = 1e9
SCHEMA = {
    "source": pl.String,
    "documents": pl.Int64,
    "bytes": pl.Int64,
    "weight": pl.Float64,
    "share": pl.Float64,
    "paper_gb": pl.Float64,
    "paper_share": pl.Float64,
}


def mixture(
    volumes: Mapping[str, tuple[int, int]], caps: Mapping[str, float], factors: Mapping[str, float]
) -> pl.DataFrame:
    """The weight of each source, beside the paper's, largest share first (paper §5.5; rules §8).

    ``volumes``: documents and bytes of each source (a language, or a kind other than code);
    ``caps`` in bytes. ``weight`` is the factor on a source's natural share, which the loader
    takes; ``share`` what comes of it. ``paper_gb`` is what the source counted for in the paper
    (thousand million characters), ``paper_share`` its share there; null where it had none.
    """
    sizes = {source: size for source, (_, size) in volumes.items()}
    weight = weights(sizes, caps, factors)
    share = _shares({source: size * weight[source] for source, size in sizes.items()})
    paper, papers = _paper()
    rows = [
        (
            source,
            documents,
            size,
            weight[source],
            share[source],
            paper.get(source),
            papers.get(source),
        )
        for source, (documents, size) in volumes.items()
    ]
    frame = pl.DataFrame(rows, SCHEMA, orient="row")
    return frame.sort("share", "source", descending=[True, False])


def weights(
    sizes: Mapping[str, float], caps: Mapping[str, float], factors: Mapping[str, float]
) -> dict[str, float]:
    """The factor on each source's natural share that its cap and factor make."""
    return {
        source: min(1.0, caps.get(source, size) / size if size else 1.0) * factors.get(source, 1.0)
        for source, size in sizes.items()
    }


def _shares(sizes: Mapping[str, float]) -> dict[str, float]:
    total = sum(sizes.values()) or 1.0
    return {source: size / total for source, size in sizes.items()}


def _paper() -> tuple[dict[str, float], dict[str, float]]:
    """GB that each source counted for in the paper, and its share."""
    sizes = {source: volume.characters * GB for source, volume in VOLUMES.items()}
    its = MixtureSettings()
    weight = weights(sizes, its.caps, its.factors)
    counted = {source: size * weight[source] / GB for source, size in sizes.items()}
    return counted, _shares(counted)
