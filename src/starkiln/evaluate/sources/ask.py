"""What is asked of a model, what it answers, and what every source of answers is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from starkiln.core import keyed

NO_ROOM, REFUSED, NO_ANSWER = "no room", "refused", "no answer"
_UNLIMITED = 4096  # tokens, where nothing else says


@dataclass(frozen=True)
class Ask:
    """``n`` completions of one problem's prompt.

    Between ``prompt`` and ``suffix`` stands what is asked for (None: there is none). A completion
    ends before the first of ``stop``. ``max_new_tokens`` counts it alone, ``max_total_tokens`` its
    prompt too, as BigCode's harness does (rules §15); the smaller wins. ``path`` is told as the
    file's name. ``tail`` is what the published prompt has at its end and ``prompt`` lacks: stored
    completions come behind it. ``place`` is the problem's in its benchmark, from 0 (-1: none).
    Samples of the numbers in ``have`` are there already. With ``trim``, lines that are far from the
    gap may be left out where the model has no room for all.
    """

    problem: str
    prompt: str
    suffix: str | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    max_total_tokens: int | None = None
    seed: int = 0
    path: str | None = None
    tail: str = ""
    place: int = -1
    have: frozenset[int] = frozenset()
    trim: bool = False

    @property
    def wanted(self) -> list[int]:
        """The numbers of the samples that are asked for."""
        return [index for index in range(self.n) if index not in self.have]

    @property
    def draws(self) -> int:
        """The seed of this problem's draws: below 2^56, whatever else is asked."""
        return int.from_bytes(keyed.digest("evaluate", self.seed, self.problem)[:7], "little")

    def new_tokens(self, prompt_tokens: int, context: int | None = None) -> int:
        """The most tokens of a completion in a model of ``context``; below 1: there is no room."""
        limits = [self.max_new_tokens]
        limits += [whole and whole - prompt_tokens for whole in (self.max_total_tokens, context)]
        return min((limit for limit in limits if limit is not None), default=_UNLIMITED)


@dataclass(frozen=True)
class Sample:
    """One completion, cut where its stop strings begin.

    ``finish``: ``end`` (of the text), ``stop`` (a stop string), ``length``, ``no room`` (the prompt
    fills the context), ``refused`` (by the endpoint), ``no answer`` (none of the endpoint's had a
    text: that says nothing of the model), ``stored``, or the endpoint's own word.
    ``whole``: the completion is all of the answer, what the prompt has of it included.
    """

    problem: str
    index: int
    completion: str
    finish: str
    whole: bool = False


class Source(Protocol):
    """Where completions come from."""

    @property
    def name(self) -> str:
        """What a report calls the model."""
        ...

    @property
    def identity(self) -> str:
        """A digest of what the answers depend on beside the asks."""
        ...

    @property
    def usage(self) -> dict[str, int | float]:
        """What was used so far, by name: requests, tokens, cost…"""
        ...

    def draw(self, asks: Iterable[Ask]) -> Iterator[list[Sample]]:
        """Samples of one problem at a time, in any order of problems, as soon as they are there.

        The lists of one problem together hold its ``wanted`` samples, each once; an endpoint gives
        a list a request, so that nothing that was paid is lost when a later one fails. Keep each,
        and a killed or failed run asks for the rest alone (``Ask.have``). A ``stored`` source has
        samples of its own number, whatever ``n``; none for a problem that its files lack.
        ``UserError`` where the model cannot be loaded or asked, after what was drawn before.
        """
        ...


def cut(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first of the stop strings."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


def answered(ask: Ask, index: int, text: str, finish: str) -> Sample:
    """A sample of what a model wrote; half characters (surrogates) become question marks."""
    text = text.encode("utf-8", "replace").decode()
    kept = cut(text, ask.stop)
    return Sample(ask.problem, index, kept, finish if kept == text else "stop")


def unanswered(ask: Ask, finish: str = NO_ROOM) -> list[Sample]:
    """Empty samples, of a prompt that fills the context unless told otherwise."""
    return [Sample(ask.problem, index, "", finish) for index in ask.wanted]
