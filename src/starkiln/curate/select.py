"""Which languages, file extensions and licences are taken in."""

from typing import Annotated

import polars as pl
from pydantic import Field

from starkiln.code import languages as table
from starkiln.code import licences as texts
from starkiln.core.errors import UserError
from starkiln.core.stage import stage


@stage(version=1, reads=("language", "path"))
def languages(
    frame: pl.DataFrame,
    *,
    keep: Annotated[list[str] | None, Field(description="names; none: the paper's 88")] = None,
) -> pl.DataFrame:
    """Keep files of known languages with the extensions that were inspected (paper §3.1; rules §2).

    Reasons: ``language`` (unknown or not asked for), ``extension`` (not kept for the language).
    """
    wanted = set(table.PAPER if keep is None else keep)
    strange = sorted(wanted - set(table.LANGUAGES))
    if strange:
        known = ", ".join(sorted(table.LANGUAGES))
        raise UserError("languages.keep", f"'{strange[0]}' is no language", f"known: {known}")
    reasons = [_language(language, path, wanted) for language, path in frame.iter_rows()]
    return pl.DataFrame({"reason": pl.Series(reasons, dtype=pl.String)})


def _language(language: str, path: str, wanted: set[str]) -> str | None:
    if language not in wanted:
        return "language"
    return None if table.kept(language, table.extension(path)) else "extension"


@stage(version=1, reads=("licences",))
def licences(
    frame: pl.DataFrame,
    *,
    permissive_only: Annotated[bool, Field(description="drop all that is not permissive")] = True,
    allow: Annotated[list[str], Field(description="SPDX ids accepted as well")] = [],  # noqa: B006
) -> pl.DataFrame:
    """Keep files under permissive licences only (paper §3.1; rules §1).

    Every licence found must be permissive or in ``allow``. Reasons: ``licence-missing``,
    ``licence-not-permissive``. With ``permissive_only`` off everything is kept.
    """
    found = frame["licences"].to_list()
    allowed = set(allow)
    reasons = [_licence(ids or [], allowed) if permissive_only else None for ids in found]
    return pl.DataFrame({"reason": pl.Series(reasons, dtype=pl.String)})


def _licence(ids: list[str], allowed: set[str]) -> str | None:
    if not ids:
        return "licence-missing"
    others = [one for one in ids if one not in allowed]
    return None if not others or texts.permissive(others) else "licence-not-permissive"
