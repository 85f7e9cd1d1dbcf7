"""Source ``notebooks``: Jupyter notebooks in folders and archives, in two forms."""

from collections.abc import Iterator

from starkiln.core.stage import source
from starkiln.ingest import files, jupyter
from starkiln.ingest.archives import Bounds
from starkiln.ingest.jupyter import FORMS, PYTHON, Forms, Languages, Style, options

EXCLUDE = [*files.EXCLUDE, ".ipynb_checkpoints"]


def read(unit: dict) -> Iterator[dict]:
    """The rows of one unit of ``notebooks``: one for each form of each notebook (rules §4)."""
    return files.rows(unit, lambda data, **told: jupyter.rows(data, **told, **unit["making"]))


@source(version=2, read=read)
def notebooks(
    *,
    paths: list[str],
    forms: Forms = FORMS,
    style: Style = "light",
    languages: Languages = PYTHON,
    exclude: list[str] = EXCLUDE,
    max_bytes: int = 10_000_000,
    archive_bytes: int = 1 << 30,
    archive_members: int = 200_000,
    archive_ratio: int = 200,
    unit_bytes: int = 32 << 20,
) -> list[dict]:
    """Every ``.ipynb`` file where the source ``files`` would look, with the licences found there.

    Each gives a document of kind "notebook-script" and one of kind "notebook" (rules §4), or for
    either the reason why not. Raises ``UserError`` for a path that does not exist and for an
    unknown language.
    """
    making = options("languages", forms, style, languages)
    bounds = Bounds(max_bytes, archive_bytes, archive_members, archive_ratio)
    units = files.units(paths, exclude, bounds, unit_bytes, ending=".ipynb")
    return [{**unit, "making": making} for unit in units]
