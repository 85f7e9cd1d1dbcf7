"""Which languages, file extensions, licences and owners are taken in."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import AfterValidator, Field

from starkiln.code import languages as table
from starkiln.code import licences as texts
from starkiln.core.errors import UserError
from starkiln.core.settings import File
from starkiln.core.stage import stage

LICENSED = ("code", "notebook-script", "notebook", "commit")  # issues are under no licence
NOTEBOOKS = ("notebook-script", "notebook")  # their path's extension is .ipynb
_REPO = re.compile(r"[^\s/]+(/[^\s/]+)?")


def _known(names: list[str] | None) -> list[str] | None:
    for name in sorted({*(names or ())} - table.LANGUAGES.keys()):
        known = ", ".join(sorted(table.LANGUAGES))
        raise ValueError(f"'{name}' is no language; known: {known}")
    return names


@stage(version=2, reads=("kind", "language", "path"), kinds=LICENSED)
def languages(
    frame: pl.DataFrame,
    *,
    keep: Annotated[
        list[str] | None, AfterValidator(_known), Field(description="names; none: the paper's 88")
    ] = None,
) -> pl.DataFrame:
    """Keep files of known languages with the extensions that were inspected (paper §3.1; rules §2).

    Notebooks are judged by their language alone. Reasons: ``language`` (unknown or not asked
    for), ``extension`` (not kept for the language).
    """
    wanted = set(table.PAPER if keep is None else keep)
    rows = frame.select("kind", "language", "path").iter_rows()
    reasons = [_language(kind, language, path, wanted) for kind, language, path in rows]
    return pl.DataFrame({"reason": pl.Series(reasons, dtype=pl.String)})


def _language(kind: str, language: str, path: str, wanted: set[str]) -> str | None:
    if language not in wanted:
        return "language"
    kept = kind in NOTEBOOKS or table.kept(language, table.extension(path))
    return None if kept else "extension"


@stage(version=2, reads=("licences",), kinds=LICENSED)
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


@stage(version=1, reads=("repo",), ready=lambda settings: opted_out(Path(settings["file"])))
def opt_out(
    frame: pl.DataFrame,
    *,
    file: Annotated[File, Field(description="an owner or owner/repository a line; # comments")],
) -> pl.DataFrame:
    """Drop all of the owners and repositories who asked for it (paper §3.1; rules §1).

    Names count in any case; a repository without an owner goes by its own name. Reason:
    ``opted-out``.
    """
    out = opted_out(Path(file))
    reasons = {repo: "opted-out" for repo in frame["repo"].unique() if _owned(repo, out)}
    found = [reasons.get(repo) for repo in frame["repo"]]
    return pl.DataFrame({"reason": pl.Series(found, dtype=pl.String)})


def opted_out(path: Path) -> frozenset[str]:
    """The names in an opt-out list, in lower case; UserError if it is not one."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(path, error.strerror or "unreadable", "name the opt-out list") from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"not UTF-8: {error.reason}", "save it as UTF-8") from error
    names = [line.partition("#")[0].strip().lower() for line in lines]
    for number, name in enumerate(names, 1):
        if name and not _REPO.fullmatch(name):
            mend = "write one owner or owner/repository a line"
            raise UserError(f"{path}:{number}", f"'{name}' is no owner or repository", mend)
    return frozenset(filter(None, names))


def _owned(repo: str, out: Iterable[str]) -> bool:
    name = repo.lower()
    return name in out or name.partition("/")[0] in out
