"""Examples for the tagger: windows of curated code with injected, replaced and weak entities."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import polars as pl

from starkiln.code.spans import LABELS, Span
from starkiln.core import keyed
from starkiln.curate.pii.synthesis import formats, people, templates, weak, windows
from starkiln.curate.pii.synthesis.draws import Draws
from starkiln.curate.pii.synthesis.formats import UNSURE, Formats
from starkiln.curate.pii.synthesis.makers import Scene
from starkiln.curate.pii.synthesis.settings import SynthesisSettings
from starkiln.curate.pii.synthesis.templates import Group, Margin, Piece

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "id": pl.String,  # the document's, and the window's number in it
    "repo": pl.String,
    "split": pl.String,  # train, validation or test, by repository
    "language": pl.String,
    "text": pl.String,
    "spans": pl.List(pl.Struct({"start": pl.UInt32, "end": pl.UInt32, "label": pl.String})),
    "unsure": pl.List(pl.Struct({"start": pl.UInt32, "end": pl.UInt32})),  # they carry no loss
}
Candidates = Callable[[pl.Series], list[list[Span]]]  # texts -> findings of any confidence

_AROUND = 1000  # code points on either side of a window that the patterns see
_PLAIN = 0.5  # of lines without entities, how many hold no place for one at all
_OWN = 0.75  # how often a line is one of its document's language
_NEAR = 40  # code points from a name to the mailbox or the handle that is its owner's
_COMMENTED = 0.6  # how often lines of another kind of file stand in a comment
_EDGE = 0.04  # how often a window begins, and ends, with an entity
_PROSE = re.compile(r"\b[A-Za-z][a-z]{2,15}(?: [a-z]{2,15}){3,7}\b")
_IDENT = re.compile(r"\b[a-z]{2,12}(?:(?:_[a-z]{2,12}){1,3}|(?:[A-Z][a-z]{2,12}){1,3})\b")


class Cut(NamedTuple):
    """A window, with what stands around it."""

    id: str
    repo: str
    language: str
    start: int  # of the window in the text
    size: int
    text: str


class Making(NamedTuple):
    """What a window is made with."""

    scene: Scene
    formats: Formats
    settings: SynthesisSettings


Edit = tuple[int, int, Piece]  # text[start:end] becomes the piece


def examples(
    documents: pl.DataFrame, settings: SynthesisSettings, seed: int, candidates: Candidates
) -> pl.DataFrame:
    """Examples (``SCHEMA``) of documents (``id``, ``repo``, ``language``, ``text``).

    Every draw is keyed by the seed and the document's id: sharding and order make no difference.
    Documents of less than 80 code points give none. UserError for a faulty file of formats.
    """
    known = formats.read(settings.formats)
    cuts = list(_cuts(documents, settings, seed))
    found = candidates(pl.Series("text", [cut.text for cut in cuts], dtype=pl.String))
    rows = [
        _example(cut, spans, known, settings, seed) for cut, spans in zip(cuts, found, strict=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def split(repo: str, settings: SynthesisSettings, seed: int) -> str:
    """Which of train, validation and test all examples of a repository belong to."""
    draw = keyed.uniform("examples' split", seed, repo)
    if draw < settings.test:
        return "test"
    return "validation" if draw < settings.test + settings.validation else "train"


def _cuts(documents: pl.DataFrame, settings: SynthesisSettings, seed: int) -> Iterator[Cut]:
    for name, repo, language, text in documents.select(
        "id", "repo", "language", "text"
    ).iter_rows():
        draws = Draws("windows", seed, name)
        limits = settings.windows, settings.shortest, settings.longest
        for number, (start, end) in enumerate(windows.cut(text or "", draws, *limits)):
            before = min(start, _AROUND)
            around = text[start - before : end + _AROUND]
            yield Cut(f"{name}:{number}", repo, language or "", before, end - start, around)


def _example(
    cut: Cut, spans: Sequence[Span], known: Formats, settings: SynthesisSettings, seed: int
) -> tuple:
    draws = Draws("example", seed, cut.id)
    scene = Scene(draws, people.person(draws), camel=draws.chance(0.4))
    scene.prose, scene.idents = _PROSE.findall(cut.text), _IDENT.findall(cut.text)
    making, language = Making(scene, known, settings), cut.language
    if draws.chance(settings.files):
        piece, language = _file(making)
    else:
        text = cut.text[cut.start : cut.start + cut.size]
        piece = _window(text, language, _clipped(spans, cut.start, cut.size), making)
    piece = _edged(piece, draws)
    return cut.id, cut.repo, split(cut.repo, settings, seed), language, *_columns(piece)


def _clipped(spans: Sequence[Span], start: int, size: int) -> list[Span]:
    """Spans as they lie in the window; what crosses its edge is cut there."""
    moved = (s._replace(start=max(0, s.start - start), end=min(size, s.end - start)) for s in spans)
    return [span for span in moved if span.start < span.end]


def _window(text: str, language: str, found: list[Span], making: Making) -> Piece:
    """One window: weak labels, most of their values replaced, lines put in."""
    settings = making.settings
    believed = weak.votes(text, found, sure=settings.sure, doubt=settings.doubt)
    edits = [*_swaps(text, believed, making), *_injections(text, language, believed, making)]
    edits.sort(key=lambda edit: edit[:2])
    out, spans, last = "", [], 0
    for start, end, piece in edits:
        out += text[last:start]
        spans += piece.moved(len(out))
        out, last = out + piece.text, end
    return Piece(out + text[last:], spans)


def _swaps(text: str, believed: list[Span], making: Making) -> Iterator[Edit]:
    """An edit for each believed span; equal values become equal ones."""
    scene, made = making.scene, {}
    name = -_NEAR
    for start, end, label, *_ in believed:
        value = text[start:end]
        if label == "NAME" or start - name > _NEAR:
            scene.person = people.person(scene.draws)
        name = end if label == "NAME" else name
        if label != UNSURE and (value, label) not in made:
            swapped = scene.draws.chance(making.settings.swap)
            new = weak.fresh(value, label, scene, making.formats) if swapped else value
            made[value, label] = new
        value = made.get((value, label), value)
        yield start, end, Piece(value, [(0, len(value), label)])


def _injections(text: str, language: str, believed: list[Span], making: Making) -> Iterator[Edit]:
    """Lines to put in, in several places: those of a place are of one group."""
    draws = making.scene.draws
    left = draws.below(making.settings.most + 1)
    free = windows.places(text, [span[:2] for span in believed])
    newline = "\r\n" if "\r\n" in text[:2000] else "\n"
    taken: set[int] = set()
    while left > 0:
        count = draws.between(1, min(left, 3))
        left -= count
        group, place = _group(language, draws), draws.pick(free)
        if group.tail:
            at, piece = _tail(place, language, group, making)
        else:
            foreign = language not in group.languages and draws.chance(_COMMENTED)
            comment = group.comment or (foreign and not windows.is_prose(language))
            margin = windows.margin(place, language, newline, comment=comment)
            at, piece = place.at, _lines(group, count, margin, making)
            piece = piece._replace(text=piece.text + newline)
        if at not in taken and not any(span.start < at < span.end for span in believed):
            taken.add(at)
            yield at, at, piece


def _tail(place: windows.Place, language: str, group: Group, making: Making) -> tuple[int, Piece]:
    """A comment at the end of a line."""
    opening, closing = windows.mark(language)
    margin = Margin(opening, f" {closing}" if closing else "")
    return place.at + len(place.line), _lines(group, 1, margin, making)


def _lines(group: Group, count: int, margin: Margin, making: Making) -> Piece:
    """``count`` filled templates of a group, one below the other."""
    scene, text, spans = making.scene, "", []
    for number in range(count):
        real = not scene.draws.chance(making.settings.negatives)
        plain = not real and scene.draws.chance(_PLAIN)
        choice = (group.plain if plain else group.asking) or group.plain or group.asking
        template = scene.draws.pick(choice)
        piece = templates.render(template, group, scene, making.formats, margin, real=real)
        text += margin.newline if number else ""
        spans += piece.moved(len(text))
        text += piece.text
    return Piece(text, spans)


def _group(language: str, draws: Draws) -> Group:
    """A group of the document's language or of none, or, at times, of any."""
    every = templates.groups()
    own = any(language in group.languages for group in every)
    if draws.chance(_OWN) or not own:
        every = [g for g in every if not g.languages or language in g.languages]
    return draws.weighted(every, list(accumulate(group.weight for group in every)))


def _file(making: Making) -> tuple[Piece, str]:
    """A whole window of lines of one group, and its language."""
    draws = making.scene.draws
    group = draws.pick([group for group in templates.groups() if group.file])
    language = draws.pick(sorted(group.languages) or ["text"])
    return _lines(group, draws.between(6, 24), Margin(), making), language


def _edged(piece: Piece, draws: Draws) -> Piece:
    """At times the window begins with its first entity, at times it ends with its last."""
    first, last = 0, len(piece.text)
    if piece.spans and draws.chance(_EDGE):
        first = piece.spans[0][0]
    if piece.spans and draws.chance(_EDGE):
        last = piece.spans[-1][1]
    return Piece(piece.text[first:last], piece.moved(-first))


def _columns(piece: Piece) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    sure = [
        {"start": a, "end": b, "label": label} for a, b, label in piece.spans if label in LABELS
    ]
    unsure = [{"start": a, "end": b} for a, b, label in piece.spans if label == UNSURE]
    return piece.text, sure, unsure
