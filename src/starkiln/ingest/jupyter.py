"""One Jupyter notebook: the bytes of an .ipynb file to a script and to text-code-output triplets.

Rules §4. Formats 1 to 4 are read. Of a notebook's own metadata only the language is used: what
it asks of a converter, and raw cells, are written for tools.
"""

import difflib
import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from starkiln.code.document import document, set_aside, well_formed
from starkiln.code.languages import LANGUAGES, UNKNOWN, Language, detect
from starkiln.core.errors import UserError
from starkiln.ingest.spoken import guess, named

Form = Literal["script", "structured"]
Forms = Annotated[
    list[Form], Field(min_length=1, description="what is made of each notebook: either, or both")
]
Style = Annotated[
    Literal["light", "percent"], Field(description="jupytext's format of scripts; light: paper's")
]
Languages = Annotated[
    list[str], Field(description="languages of the structured form; the paper: Python alone")
]
FORMS: list[Form] = ["script", "structured"]
PYTHON = ["python"]

LONGEST = 1_000_000  # characters of all cells, as of a source file; outputs are not counted
CELLS = 10_000
LINE = 10_000  # characters of a line from which on jupytext's expressions may take minutes
OUTPUT = 1000  # characters of an output that are kept
CUT = "[...]"
TEXTS = (".ipynb", ".md")  # extensions that jupytext writes otherwise than as a script
TAG = re.compile(r"<!--[^<>]*-->|</?[A-Za-z][\w:-]*(?:\s[^<>]*)?/?>")
HEADING = re.compile(r"\A[ \t]*#+[ \t]*")
PATHS = (  # to a language's name in the metadata, the surest first
    ("language_info", "name"), ("kernelspec", "language"), ("jupytext", "main_language"),
)  # fmt: skip


class Unfit(Exception):
    """A notebook, or one form of it, is set aside; the message is the reason."""


class Cell(NamedTuple):
    """One cell: "markdown" or "code", its text, and the text of its first output."""

    kind: str
    text: str
    output: str


class Notebook(NamedTuple):
    """What is used of a notebook: our name of its language, and its cells that are not blank."""

    language: str
    cells: list[Cell]


def options(where: str, forms: Forms, style: Style, languages: Languages) -> dict:
    """The settings as ``jupyter.rows`` takes them; ``UserError`` for an unknown language."""
    strange = [name for name in languages if name not in LANGUAGES]
    if strange:
        near = [named(strange[0]), *difflib.get_close_matches(strange[0].lower(), LANGUAGES, 1)]
        hint = next((f"did you mean '{name}'?" for name in near if name), "name one like 'python'")
        raise UserError(where, f"'{strange[0]}' is no language", hint)
    return {"forms": forms, "style": style, "structured": languages}


def rows(
    data: bytes,
    *,
    repo: str,
    path: str,
    licences: list[str],
    stars: int | None = None,
    forms: Forms = FORMS,
    style: Style = "light",
    structured: Languages = PYTHON,
) -> Iterator[dict]:
    """One row for each form of a notebook: a document, or what is set aside with the reason.

    ``script`` gives kind "notebook-script", one segment of code with the text as comments;
    ``structured`` gives kind "notebook", if its language is one of ``structured``. Reasons for a
    whole notebook: empty, encoding, too-large, notebook-json, notebook-shape, notebook-empty (no
    code), notebook-language (not known); for one form: binary (holds NUL), structured-language,
    structured-pairs (no text with code behind it).
    """
    told: dict[str, Any] = {"repo": repo, "path": path, "licences": licences, "stars": stars}
    try:
        notebook = parse(data)
    except Unfit as reason:
        yield set_aside(repo, path, len(data), str(reason))
        return
    told["language"] = notebook.language
    for form in forms:
        try:
            if form == "script":
                yield document("notebook-script", _clean([("", script(notebook, style))]), **told)
            else:
                yield document("notebook", _clean(triplets(notebook, structured)), **told)
        except Unfit as reason:
            yield set_aside(repo, path, len(data), str(reason))


def _clean(segments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if any("\0" in text for _, text in segments):
        raise Unfit("binary")
    return segments


# ---- reading


def parse(data: bytes) -> Notebook:
    """The language and the cells of a notebook in UTF-8 (or -16, -32); ``Unfit`` if it is none."""
    if not data.strip():
        raise Unfit("empty")
    try:
        whole = json.loads(data)
    except UnicodeDecodeError as fault:
        raise Unfit("encoding") from fault
    except (ValueError, RecursionError) as fault:  # ValueError also for a number beyond all bounds
        raise Unfit("notebook-json") from fault
    if not isinstance(whole, dict):
        raise Unfit("notebook-shape")
    raw = _raw_cells(whole)
    cells = [cell for cell in map(_cell, raw) if cell and cell.text.strip()]
    if len(cells) > CELLS or sum(len(cell.text) for cell in cells) > LONGEST:
        raise Unfit("too-large")
    code = "\n".join(cell.text for cell in cells if cell.kind == "code")
    if not code:
        raise Unfit("notebook-empty")
    return Notebook(_language(_table(whole, "metadata"), raw, code), cells)


def _raw_cells(whole: dict) -> list[dict]:
    """The cells of format 4 or 1, or those of the worksheets of formats 2 and 3."""
    sheets = _tables([whole] if "cells" in whole else whole.get("worksheets"))
    return [cell for sheet in sheets for cell in _tables(sheet.get("cells", []))]


def _tables(value: Any) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Unfit("notebook-shape")
    return value


def _cell(raw: dict) -> Cell | None:
    """A cell of any format; None for one that is neither code nor text."""
    kind = raw.get("cell_type")
    if kind == "code":  # "input" in formats 2 and 3, "code" in format 1
        text = _joined(raw.get("source", raw.get("input", raw.get("code"))))
        return Cell("code", text, _output(raw.get("outputs")))
    if kind in ("markdown", "html", "text"):
        return Cell("markdown", _joined(raw.get("source", raw.get("text"))), "")
    if kind == "heading":
        level = raw.get("level")
        marks = "#" * (min(max(level, 1), 6) if isinstance(level, int) else 1)
        return Cell("markdown", f"{marks} {_joined(raw.get('source'))}", "")
    return None


def _joined(value: Any) -> str:
    """The text of a cell: a string or a list of strings."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    if not isinstance(value, str | None):
        raise Unfit("notebook-shape")
    return well_formed(value or "")


def _output(outputs: Any) -> str:
    """The ``text`` of the first output; "" where it has none (an image, a table) or no sense."""
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    try:
        text = _joined(first.get("text")).strip() if isinstance(first, dict) else ""
    except Unfit:
        return ""
    return text if len(text) <= OUTPUT else text[:OUTPUT] + CUT


def _language(metadata: dict, raw: list[dict], code: str) -> str:
    """Our name of the language: as the metadata say, as the cells of format 3 say, or guessed."""
    info, kernel = _table(metadata, "language_info"), _table(metadata, "kernelspec")
    stated = [_table(metadata, table).get(key) for table, key in PATHS]
    extension = info.get("file_extension")
    for name in [*stated, kernel.get("name")]:
        if found := named(name):
            return found
    if isinstance(extension, str) and (by_end := detect(f"x{extension}", code)) != UNKNOWN:
        return by_end
    if any("py" in value.lower() for value in kernel.values() if isinstance(value, str)):
        return "python"
    if any(stated) or extension:  # a language that we do not know
        raise Unfit("notebook-language")
    spoken = next((cell["language"] for cell in raw if "language" in cell), None)
    told = named(spoken) or guess(code)
    if told == UNKNOWN:
        raise Unfit("notebook-language")
    return told


def _table(value: dict, key: str) -> dict:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


# ---- the two forms


def script(notebook: Notebook, style: Style) -> str:
    """The notebook as one file of its language: text as comments, magics commented out.

    By jupytext ("light", the paper's, or "percent"). A language that it does not know, a notebook
    that it fails on and one with a line of over ``LINE`` characters get the same without marks of
    cells. There is no header, which would hold the metadata.
    """
    from jupytext.formats import NOTEBOOK_EXTENSIONS

    known = LANGUAGES[notebook.language]
    extension = f".{known.main}"
    longest = max(len(line) for cell in notebook.cells for line in cell.text.split("\n"))
    text = None
    if extension in NOTEBOOK_EXTENSIONS and extension not in TEXTS and longest <= LINE:
        text = _jupytext(notebook.cells, extension, style)
    return (text or _plain(notebook.cells, known)).rstrip("\n") + "\n"


def _jupytext(cells: list[Cell], extension: str, style: Style) -> str | None:
    """The script; None where jupytext fails, whatever on."""
    import jupytext
    from nbformat import NotebookNode

    plain = [
        NotebookNode(cell_type=cell.kind, source=cell.text, metadata=NotebookNode())
        for cell in cells
    ]
    for cell in plain:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    whole = NotebookNode(nbformat=4, nbformat_minor=4, metadata=NotebookNode(), cells=plain)
    bare = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "-all"}
    try:
        return jupytext.writes(whole, {"extension": extension, "format_name": style, **bare})
    except Exception:  # noqa: BLE001 (one notebook must not end a run over millions)
        return None


def _plain(cells: list[Cell], known: Language) -> str:
    parts = (cell.text if cell.kind == "code" else _comment(cell.text, known) for cell in cells)
    return "\n\n".join(part for part in parts if part)


def _comment(text: str, known: Language) -> str:
    """``text`` as a comment; "" in a language without any."""
    if known.line:
        return "\n".join(f"{known.line[0]} {line}".rstrip() for line in text.split("\n"))
    if known.block and known.block[1] not in text:
        return f"{known.block[0]} {text} {known.block[1]}"
    return ""


def triplets(notebook: Notebook, languages: list[str]) -> list[tuple[str, str]]:
    """(marker, text) of the start and of each text, the code behind it and that code's output.

    Cells of one kind in succession are one; code without a text before it and text without code
    behind it are left out. An output is that of the last cell of the code.
    """
    if notebook.language not in languages:
        raise Unfit("structured-language")
    cells = [c if c.kind == "code" else c._replace(text=prose(c.text)) for c in notebook.cells]
    groups = [list(group) for _, group in groupby((c for c in cells if c.text), lambda c: c.kind)]
    if groups and groups[0][0].kind == "code":
        del groups[0]
    found = [("<jupyter_start>", "")]
    for text, code in zip(groups[::2], groups[1::2]):
        output = code[-1].output
        found.append(("<jupyter_text>", "\n".join(cell.text for cell in text).strip()))
        found.append(("<jupyter_code>", "\n".join(cell.text for cell in code).strip()))
        found.append(("<jupyter_output>", output))
        found += [] if output else [("<empty_output>", "")]
    if len(found) == 1:
        raise Unfit("structured-pairs")
    return found


def prose(markdown: str) -> str:
    """Markdown without HTML tags, the marks of headings and blank lines.

    The paper's code takes out every "#" and every line break, which makes "C#" a "C" and glues
    the last word of a paragraph to the first of the next.
    """
    lines = TAG.sub("", markdown).replace("\r", "").split("\n")
    kept = (HEADING.sub("", line).rstrip() for line in lines)
    return "\n".join(line for line in kept if line)
