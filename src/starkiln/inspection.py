"""``starkiln inspect``: how a folder came to be, a few of its rows, and a page to read more of."""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from starkiln.core import manifest, recipe, table
from starkiln.core.errors import UserError
from starkiln.curate.inspect.settings import InspectSettings

SHOWN = 5  # rows printed
LINES = 20  # lines of each
CONTEXT = 6  # lines around a sample
WIDTH = 100  # columns of a line across


def show(folder: Path, reason: str, console: Console, overrides: Sequence[str] = ()) -> None:
    """Print the manifest of ``folder`` and rows of it, or what it dropped for ``reason``.

    Then serve the inspection page of documents and curated tables until interrupted.
    """
    raw, origins = recipe.overridden({}, overrides)
    settings = recipe.check(InspectSettings, raw, "--set", origins)
    made = manifest.read(folder)
    if made is None:
        raise UserError(folder, "no artefact here (no manifest.json)", "name one, as demo/curated")
    names = ", ".join(f"{s['name']}@{s['version']}" for s in made.identity.stages)
    console.print(
        f"{made.identity.kind}: {names}\n{made.rows:,} rows, {made.bytes:,} bytes of text"
    )
    if made.drops:
        counts = Table("dropped", "rows", box=None, pad_edge=False)
        for name, n in sorted(made.drops.items(), key=lambda item: -item[1]):
            counts.add_row(name, f"{n:,}")
        console.print(counts)
    if reason:
        _dropped(folder, reason, console)
    elif made.identity.kind in ("documents", "table"):
        _rows(folder, console)
        _serve(folder, settings, console)


def _serve(folder: Path, settings: InspectSettings, console: Console) -> None:
    try:
        from starkiln.curate.inspect import app
    except ImportError as error:
        raise UserError("inspect", str(error), "pip install 'starkiln[serve]'") from error
    from starkiln.curate.inspect import sample, store

    def say(address: str) -> None:
        console.print(f"\nto read it by eye: {address}", soft_wrap=True)
        console.print("verdicts are saved at once; Ctrl-C ends this", style="dim")

    folder = folder.resolve()
    with sample.draw(folder, settings) as drawn:
        app.serve(drawn, folder.parent / store.NAME, settings.port, say)


def show_samples(report: Path, console: Console) -> None:
    """Print the first completions of a finished run: what was given dim, what was written plain."""
    drawn = report / "samples.json"  # absent where the chain ended before
    for sample in json.loads(drawn.read_text())["samples"][:SHOWN] if drawn.is_file() else ():
        _rule(f"{sample['title']}, {sample['language']}", console)
        text = Text("".join(sample["prompt"].splitlines(keepends=True)[-CONTEXT:]), style="dim")
        text.append(sample["completion"], style="bold green")
        text.append("".join(sample.get("suffix", "").splitlines(keepends=True)[:CONTEXT]))
        console.print(text)
    _rule("", console)
    console.print(f"report: {report / 'report.html'}", soft_wrap=True)


def _rule(title: str, console: Console) -> None:
    """A line across, of a page's width where the output is no terminal."""
    console.print(Rule(title, align="left"), width=min(console.width, WIDTH))


def _rows(folder: Path, console: Console) -> None:
    for name in table.shard_names(folder)[:1]:
        frame = table.read(folder / name, ["repo", "path", "language", "licences", "text"])
        for row in frame.head(SHOWN).iter_rows(named=True):
            title = f"{row['repo']}  {row['path']}  {row['language']}  {','.join(row['licences'])}"
            _rule(title, console)
            text = "\n".join(row["text"].splitlines()[:LINES])
            lexer = Syntax.guess_lexer(row["path"], text)
            console.print(Syntax(text, lexer) if console.is_terminal else Text(text))


def _dropped(folder: Path, reason: str, console: Console) -> None:
    paths = sorted(folder.glob("*.dropped.parquet"))
    frames = [pl.read_parquet(path) for path in paths]
    if not frames:
        raise UserError(folder, "keeps no dropped rows", "inspect documents or curated instead")
    found = pl.concat(frames)
    known_as = [pl.col("reason")]  # and with its stage, as the counts above have it
    if "stage" in found.columns:
        known_as.append(pl.concat_str("stage", "reason", separator=":"))
    named = found.filter(pl.any_horizontal(one == reason for one in known_as))
    if named.is_empty():
        known = ", ".join(sorted(set(found["reason"].to_list())))
        raise UserError(folder, f"nothing was dropped for '{reason}'", f"reasons: {known}")
    for row in named.head(SHOWN * 4).iter_rows(named=True):
        console.print("  ".join(str(v) for v in row.values()), markup=False, highlight=False)
