"""Completions by our own engine from a checkpoint folder; several problems share its steps."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.evaluate.sources.ask import Ask, Sample, answered, unanswered
from starkiln.evaluate.sources.fitting import fitted
from starkiln.evaluate.sources.weights import fingerprint

BATCH = 256


@dataclass
class _Open:
    """A request in the engine: what its samples have so far."""

    ask: Ask
    texts: list[list[str]] = field(init=False)
    ends: dict[int, str] = field(default_factory=dict)
    fault: UserError | None = None

    def __post_init__(self) -> None:
        self.texts = [[] for _ in range(self.ask.n)]

    def listen(self, piece: Any) -> None:
        """Take a piece of the engine's."""
        self.texts[piece.sample].append(piece.text)
        self.fault = self.fault or piece.fault
        if piece.finish:
            self.ends[piece.sample] = piece.finish

    @property
    def done(self) -> bool:
        return len(self.ends) == self.ask.n

    def samples(self) -> list[Sample]:
        return [
            answered(self.ask, index, "".join(self.texts[index]), self.ends[index])
            for index in self.ask.wanted
        ]


class Checkpoint:
    """Our engine on a checkpoint folder, loaded at the first draw.

    Sample i of a problem depends on (seed, problem, i) only, in so far as the arithmetic does not
    depend on the batch. ``dtype`` is torch's; None is as stored. At most ``batch`` samples are
    drawn at a time.
    """

    def __init__(
        self, folder: Path, *, device: str = "cpu", dtype: Any = None, batch: int = BATCH
    ) -> None:
        self.name = folder.resolve().name
        self._folder, self._device, self._dtype, self._batch = folder, device, dtype, batch
        self._loaded: tuple[Any, Any] | None = None

    @property
    def identity(self) -> str:
        """A digest of the weights and the arithmetic's precision."""
        return keyed.digest("engine", fingerprint(self._folder), self._dtype).hex()

    @property
    def usage(self) -> dict[str, int | float]:
        """Tokens read and drawn."""
        if self._loaded is None:
            return {}
        load = self._loaded[0].load
        return {"prompt_tokens": load.prompt_tokens, "completion_tokens": load.drawn_tokens}

    def draw(self, asks: Iterable[Ask]) -> Iterator[list[Sample]]:
        """All samples of a problem at a time; ``UserError`` also where the model gives NaN."""
        engine, tokenizer = self.load()
        coming, live = iter(asks), dict[int, _Open]()
        try:
            while True:
                ask = next(coming, None) if self._has_room(live) else None
                if ask is not None:
                    yield from _submit(engine, tokenizer, ask, live)
                elif live:
                    engine.step()
                    yield from _ended(live)
                else:
                    return
        finally:
            for number in live:
                engine.cancel(number)

    def _has_room(self, live: dict[int, _Open]) -> bool:
        return sum(one.ask.n - len(one.ends) for one in live.values()) < self._batch

    def load(self) -> tuple[Any, Any]:
        """The engine and its tokenizer."""
        if self._loaded is None:
            from starkiln.model import checkpoint
            from starkiln.model.engine import Engine

            model, tokenizer = checkpoint.load(self._folder, self._device, self._dtype)
            engine = Engine(model, tokenizer, room=0, slots=self._batch)  # memory rounds otherwise
            self._loaded = engine, tokenizer
        return self._loaded


def prompt_ids(tokenizer: Any, ask: Ask) -> list[int]:
    """The prompt's ids, PSM where it has a suffix; nothing is left out of it."""
    from starkiln.tokenizer import context

    return context.prompt(ask.prompt, ask.suffix, tokenizer, limit=sys.maxsize, path=ask.path)


def _submit(
    engine: Any, tokenizer: Any, ask: Ask, live: dict[int, _Open]
) -> Iterator[list[Sample]]:
    """Put a problem among those that are drawn; one without room is answered at once."""
    if not ask.wanted:
        return
    context = engine.model.config.n_positions
    ids = prompt_ids(tokenizer, fitted(ask, lambda one: len(prompt_ids(tokenizer, one)), context))
    most = ask.new_tokens(len(ids), context)
    if most < 1:
        yield unanswered(ask)
        return
    one = _Open(ask)
    number = engine.submit(
        ids,
        one.listen,
        ask.n,
        max_new_tokens=most,
        temperature=ask.temperature,
        top_p=ask.top_p,
        stop=ask.stop,
        seed=ask.draws,
    )
    live[number] = one


def _ended(live: dict[int, _Open]) -> Iterator[list[Sample]]:
    for number, one in list(live.items()):
        if one.fault:
            raise one.fault
        if one.done:
            del live[number]
            yield one.samples()
