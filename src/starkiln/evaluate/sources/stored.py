"""Completions that another harness has written, fitted to our problems."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from starkiln.core import atomic, keyed
from starkiln.core.errors import UserError
from starkiln.evaluate.sources import formats
from starkiln.evaluate.sources.ask import Ask, Sample
from starkiln.evaluate.sources.formats import Text

_NUMBERED = re.compile(r"(?:(human[-_ ]?eval|mbpp|ds-?1000)[/_ -]?)?(\d+)(?:_\w*)?", re.IGNORECASE)


class Stored:
    """A file or folder of completions: all of them, however many the asks want.

    Nothing is cut: they are graded as they stand. ``usage`` counts ``stored`` completions,
    ``unknown`` ones (of no problem that is asked) and ``missing`` problems, which have none.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name
        self.usage: dict[str, int | float] = {}
        self._path = path

    @cached_property
    def _texts(self) -> list[Text]:
        return formats.read(self._path)

    @property
    def harness(self) -> str:
        """Who wrote the files, where that one judges in a way of its own ("": nobody such)."""
        return self._texts[0].harness

    @property
    def identity(self) -> str:
        """A digest of the files."""
        path = self._path
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return keyed.digest("stored", *(f"{p.name} {atomic.sha256(p)}" for p in files)).hex()

    def covers(self, asks: Iterable[Ask]) -> set[str]:
        """The problems that the files have samples of; give all problems of a task at once."""
        return set(_by_problem(self._texts, list(asks)))

    def draw(self, asks: Iterable[Ask]) -> Iterator[list[Sample]]:
        """The samples of each problem that the files have; give all problems of a task at once."""
        todo, texts = list(asks), self._texts
        found = _by_problem(texts, todo)
        known = sum(map(len, found.values()))
        self.usage = {"stored": len(texts), "unknown": len(texts) - known}
        self.usage["missing"] = sum(ask.problem not in found for ask in todo)
        if todo and not known:
            named = texts[0].key or f"number {texts[0].place}, or their prompts"
            what = f"none of its completions ({named}…) is of a problem like {todo[0].problem}"
            raise UserError(self._path, what, "evaluate it on the task that it was made for")
        for ask in todo:
            made = [_sample(ask, i, text) for i, text in enumerate(found.get(ask.problem, []))]
            if kept := [sample for sample in made if sample.index not in ask.have]:
                yield kept


def _by_problem(texts: Sequence[Text], asks: Sequence[Ask]) -> dict[str, list[Text]]:
    """The texts of each problem, in their order."""
    named = _named(asks)
    places = _places(texts, asks)
    prompts: dict[str, str | None] = {}
    found: dict[str, list[Text]] = defaultdict(list)
    for text in texts:
        if text.place >= 0:
            problem = places.get(text.place)
        elif text.key:
            problem = next((named[key] for key in _keys(text.key) if key in named), None)
        else:
            if text.prompt not in prompts:
                prompts[text.prompt] = _of_prompt(text.prompt, asks)
            problem = prompts[text.prompt]
        if problem is not None:
            found[problem].append(text)
    return found


def _named(asks: Sequence[Ask]) -> dict[Hashable, str]:
    """Problems by all that their names may be spelt like; what several share names none."""
    found: dict[Hashable, str | None] = {}
    for ask in asks:
        last = ask.problem.rpartition("/")[2]
        keys = {*_keys(ask.problem), *(_keys(last) if last != ask.problem else ())}
        numbers = {("", key[1]) for key in keys if isinstance(key, tuple)}
        for key in keys | numbers:
            found[key] = ask.problem if found.get(key, ask.problem) == ask.problem else None
    exact = {ask.problem.lower(): ask.problem for ask in asks}
    return {key: one for key, one in found.items() if one is not None} | exact


def _keys(name: str) -> Iterator[Hashable]:
    """What a name is looked up by: itself, its last part, its benchmark and number."""
    yield name.lower()
    last = name.rpartition("/")[2]
    if not last.isdecimal():
        yield last.lower()
    if numbered := _NUMBERED.fullmatch(name):
        yield re.sub(r"[-_ ]", "", numbered[1] or "").lower(), int(numbered[2][:18])


def _places(texts: Sequence[Text], asks: Sequence[Ask]) -> dict[int, str]:
    """The problem at each place: the one whose prompt its text begins with, else by number."""
    heads = {ask.prompt.strip(): ask.problem for ask in asks if ask.suffix is None}
    first = {text.place: text.text.lstrip() for text in reversed(texts) if text.place >= 0}
    found: dict[int, str] = {}
    for place, start in first.items():
        if fits := [head for head in heads if head and start.startswith(head)]:
            found[place] = heads[max(fits, key=len)]
    sure = set(found.values())
    given = {ask.place: ask.problem for ask in asks if ask.problem not in sure}
    return {place: given[place] for place in first if place in given} | found


def _of_prompt(prompt: str, asks: Sequence[Ask]) -> str | None:
    """The one problem whose prompt has all lines of ``prompt`` in their order (CodeT cuts some)."""
    fits = [ask.problem for ask in asks if ask.prompt.strip() == prompt.strip()]
    if not fits:
        wanted = _lines(prompt)
        fits = [ask.problem for ask in asks if _are_within(wanted, _lines(ask.prompt))]
    return fits[0] if len(fits) == 1 else None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _are_within(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return bool(few) and all(line in rest for line in few)


def _sample(ask: Ask, index: int, text: Text) -> Sample:
    """A stored text as a sample: what comes after our prompt, or the whole answer."""

    def made(completion: str, whole: bool = False) -> Sample:
        clean = completion.encode("utf-8", "replace").decode()
        return Sample(ask.problem, index, clean, text.finish, whole)

    if text.kind == "ours" or ask.suffix is not None:
        return made(text.text)
    if text.kind == "next" and not text.prompt:
        return made(ask.tail + text.text)
    whole = (text.prompt if text.kind == "next" else "") + text.text
    head = ask.prompt.lstrip()
    if head and whole.lstrip().startswith(head):
        return made(whole.lstrip()[len(head) :])
    return made(whole, whole=True)
