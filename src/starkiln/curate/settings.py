"""Settings of curation that belong to no single stage."""

from typing import Annotated

from pydantic import AfterValidator, Field

from starkiln.code.document import KINDS
from starkiln.code.languages import LANGUAGES, UNKNOWN
from starkiln.core.settings import Settings, key

SOURCES = {*LANGUAGES, UNKNOWN, *KINDS} - {"code"}  # what the mixture tells apart


def _known(table: dict[str, float]) -> dict[str, float]:
    for name in sorted(table.keys() - SOURCES):
        raise ValueError(f"'{name}' is no source; name a language, or a kind as commit")
    return table


Cap = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 0 leaves a source out


class MixtureSettings(Settings):
    """How much of each source is drawn; the defaults are the paper's (rules §8)."""

    caps: Annotated[dict[str, Cap], AfterValidator(_known)] = key(
        {"json": 1e9, "yaml": 1e9, "css": 3e9},
        "bytes that a source counts for at most; it is drawn less often, not cut",
        "§5.5; rules §8",
    )
    factors: Annotated[dict[str, Factor], AfterValidator(_known)] = key(
        {"commit": 0.5}, "factor on a source's volume, after its cap", "§5.5; rules §8"
    )
