"""The engine: continuous batching over shared prefixes; knows nothing of HTTP or benchmarks.

One thread owns it. A step draws one token for every live sample and reads a chunk of waiting
prompts; samples that end leave before the next step.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from starkiln.code.sentinels import END_OF_TEXT, ENDS
from starkiln.core.errors import UserError
from starkiln.model.batch import Batch
from starkiln.model.cache import Prefix, Prefixes, Reading
from starkiln.model.decoder import Decoder
from starkiln.model.graphs import Graphs, Recorded, recorder
from starkiln.model.sampling import Completion, Piece, Sample, Sampling
from starkiln.model.score import Scores, scoring
from starkiln.model.settings import parameter_shapes
from starkiln.model.tails import Row, Tails
from starkiln.tokenizer.tokenizer import Tokenizer

_LEAST = 128  # tokens of a prompt that a step may read, however few samples are live

Listen = Callable[[Piece], None]


@dataclass(frozen=True)
class Load:
    """What the engine does now, and tokens since it began.

    ``prompt_tokens`` counts all that were asked, ``cached_tokens`` those of them that were known.
    """

    live: int
    waiting: int
    slots: int
    prompt_tokens: int
    cached_tokens: int
    drawn_tokens: int


@dataclass(eq=False)
class _Request:
    """A prompt and its samples; those in ``fresh`` have had no place yet."""

    number: int
    ids: list[int]
    samples: list[Sample]
    listen: Listen | None
    fresh: list[Sample]
    reading: Reading | None = None
    leaf: Prefix | None = None  # what its samples will stand on, while some are fresh
    logits: Tensor | None = None  # [1, V], what follows the prompt

    @property
    def open(self) -> bool:
        return not all(sample.finish for sample in self.samples)


class Engine:
    """Completes prompts with one model; a completion depends on its seed and sample number."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        end: Collection[int] = ENDS,
        slots: int = 256,
        chunk: int = 512,
        room: int | None = None,
        drafted: int = 4,
        recorded: Recorded = recorder,
    ) -> None:
        """``end`` are the tokens that end a text; ``slots`` bounds the samples in a step.

        At most ``chunk`` tokens of prompts are read in a step, and while samples are live about
        as many as take twice their time, so that newcomers do not stall them. ``room`` bounds the
        tokens of finished prompts that are remembered; none are 8 contexts. With at most
        ``drafted`` live samples their own context is searched for what may come next (prompt
        lookup). Steps are ``recorded`` where that gives a way to.
        """
        self.model, self.slots, self.chunk = model.eval(), slots, chunk
        self.pieces = [
            piece or tokenizer.decode([token]).encode()
            for token, piece in enumerate(tokenizer.token_bytes)
        ]
        self.pieces += [b""] * (model.vocab_size - len(self.pieces))  # padding of the embeddings
        config, weight = model.config, model.transformer.ln_f.weight
        blank = weight.detach().new_empty(config.n_layer, 2, config.kv_heads, 0, config.head_dim)
        self._prefixes = Prefixes(blank, 8 * config.n_positions if room is None else room)
        graphs = Graphs(model, blank, recorded) if recorded(blank.device) else None
        self._tails, ends = Tails(blank, still=bool(graphs)), set(end)
        shown = [None if i in ends else one for i, one in enumerate(self.pieces)]
        self._batch = Batch(model, self._tails, shown, drafted, graphs)
        self._numbers = count(1)
        self._requests: dict[int, _Request] = {}
        self._waiting: deque[_Request] = deque()
        self._news: dict[Sample, Listen] = {}
        self._asked = self._known = 0
        shapes = parameter_shapes(config, model.vocab_size).items()
        blocks = sum(math.prod(shape) for name, shape in shapes if ".h." in name)
        self._drawing = 1 + model.vocab_size * config.n_embd / blocks  # its cost; reading's is 1

    def submit(
        self, prompt_ids: Sequence[int], listen: Listen | None = None, n: int = 1, **how: Any
    ) -> int:
        """Ask for ``n`` completions; returns the request's number.

        ``how`` are the fields of ``Sampling``. ``listen`` is called by ``step`` for each sample
        with news, and by ``cancel``. An empty prompt starts a new text. Prompt and completion
        together end at n_positions. Raises UserError if the prompt leaves no room or ``how`` is
        wrong.
        """
        sampling, ids = Sampling(**how), self._checked(prompt_ids)
        if n < 1:
            raise UserError("sampling", f"n is {n!r}", "give at least 1")
        most = min(sampling.max_new_tokens, self.model.config.n_positions - len(ids))
        samples = [Sample(i, sampling, most) for i in range(n)]
        request = _Request(next(self._numbers), ids, samples, listen, list(samples))
        self._requests[request.number] = request
        self._waiting.append(request)
        self._asked += len(ids)
        return request.number

    def cancel(self, number: int, sample: int | None = None) -> None:
        """End a request, or one ``sample`` of it; what has ended is ignored.

        The slots are free before the next step.
        """
        if request := self._requests.get(number):
            samples = request.samples if sample is None else [request.samples[sample]]
            with torch.inference_mode():
                self._end(request, samples, "cancelled")
            self._tell()

    @property
    def load(self) -> Load:
        """How much there is to do."""
        counted = self._asked, self._known, self._batch.drawn
        return Load(len(self._tails.rows), len(self._waiting), self.slots, *counted)

    def step(self) -> bool:
        """Draw a token for each live sample and read a chunk of prompts; whether work is left."""
        with torch.inference_mode():
            self._told(self._batch.draw())
            self._read()
        self._tell()
        return bool(self._requests)

    def generate(self, prompt_ids: Sequence[int], n: int = 1, **how: Any) -> list[Completion]:
        """``n`` completions of ``prompt_ids``; drives ``step`` until they are there.

        Sample i is the same whatever n, in so far as the arithmetic does not depend on the batch.
        Raises UserError as ``submit``, and if the model is broken (NaN).
        """
        number = self.submit(prompt_ids, None, n, **how)
        samples = self._requests[number].samples
        try:
            while number in self._requests:
                self.step()
        finally:
            self.cancel(number)
        for sample in samples:
            if sample.fault:
                raise sample.fault
        return [sample.completion() for sample in samples]

    def stream(self, prompt_ids: Sequence[int], **how: Any) -> Generator[str, None, Completion]:
        """The text of sample 0 piece by piece; returns the Completion.

        A piece never splits a character, and none is shown that might belong to a stop string.
        """
        news: deque[Piece] = deque()
        number = self.submit(prompt_ids, news.append, **how)
        [sample] = self._requests[number].samples
        try:
            while number in self._requests:
                self.step()
                while news:
                    if text := news.popleft().text:
                        yield text
        finally:
            self.cancel(number)
        if sample.fault:
            raise sample.fault
        return sample.completion()

    def score(self, ids: Sequence[int], top: int = 0) -> Scores:
        """How likely the model finds each of ``ids``, and the ``top`` likeliest in its place."""
        pieces = self.scoring(ids, top)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value

    def scoring(self, ids: Sequence[int], top: int = 0) -> Generator[None, None, Scores]:
        """``score`` in pieces of about two steps' time each, between which there may be steps."""
        ids = self._checked(ids, 1) if ids else []

        def chunk() -> int:  # each costs what a token that is drawn costs
            return max(1, int(self._most() / self._drawing)) if self._tails.rows else self.chunk

        blank = self._prefixes.root.store
        return (yield from scoring(self.model, blank, ids, top, chunk))

    def _checked(self, prompt_ids: Sequence[int], more: int = 0) -> list[int]:
        ids, room = list(prompt_ids) or [END_OF_TEXT], self.model.config.n_positions
        if len(ids) >= room + more:
            what = f"{len(ids)} tokens leave no room in a context of {room}"
            raise UserError("prompt", what, "shorten the prompt")
        if not 0 <= min(ids) <= max(ids) < self.model.vocab_size:
            raise UserError("prompt", "holds ids that the model lacks", "use its own tokenizer")
        return ids

    def _most(self) -> int:
        """Tokens of prompts that may be read at once."""
        live = len(self._tails.rows)
        return min(self.chunk, max(_LEAST, int(2 * live * self._drawing)) if live else self.chunk)

    def _read(self) -> None:
        """Read at most a chunk of waiting prompts, first come first served."""
        left = self._most()
        while self._waiting and left > 0 and len(self._tails.rows) < self.slots:
            request = self._waiting[0]
            if request.logits is None:
                left -= self._chunk(request, left)
            if request.logits is not None:
                self._start(request, request.logits)

    def _chunk(self, request: _Request, most: int) -> int:
        """Read on in a prompt; returns by how many tokens."""
        reading = request.reading
        if reading is None:
            reading = self._prefixes.begin(np.array(request.ids, np.int32), self._tails)
            request.reading, request.leaf = reading, reading.parent
            self._known += reading.start + reading.at
        ids = reading.tokens[reading.at : reading.at + most].tolist()
        first = reading.start + reading.at
        hidden = self.model.hidden(
            torch.tensor([ids], device=self._tails.device),
            positions=torch.arange(first, first + len(ids), device=self._tails.device),
            cache=reading,
        )
        reading.at += len(ids)
        if reading.at == len(reading.tokens):
            request.logits = self.model.head(hidden[:, -1])
            if len(request.samples) > 1 and not reading.again:
                request.leaf = Prefix(reading.parent, reading.tokens, reading.store)
                request.leaf.users += 1
                reading.parent.users -= 1
        return len(ids)

    def _start(self, request: _Request, logits: Tensor) -> None:
        """Give places to as many samples as there is room for, and draw their first tokens."""
        reading, leaf = request.reading, request.leaf
        assert reading is not None
        assert leaf is not None
        room = self.slots - len(self._tails.rows)
        rows = [Row(leaf, request.ids, sample, request.number) for sample in request.fresh[:room]]
        own = len(request.samples) == 1 and not reading.again
        if own:
            rows[0].own.extend(reading.tokens.tolist())
        request.fresh = request.fresh[room:]
        if not request.fresh:
            self._waiting.popleft()
            self._unpin(request)
        self._batch.start(rows, reading.store[:, :, None] if own else None, logits)
        self._told(rows)

    def _unpin(self, request: _Request) -> None:
        if request.leaf:
            request.leaf.users -= 1
        request.reading = request.leaf = request.logits = None

    def _told(self, rows: Sequence[Row]) -> None:
        """Note the news of rows; those that have ended leave."""
        ended = [row for row in rows if row.sample.finish]
        for row in rows:
            if listen := self._requests[row.request].listen:
                self._news[row.sample] = listen
        self._leave(ended)
        for row in ended:
            if row.sample.fault and (request := self._requests.get(row.request)):
                self._end(request, request.samples, row.sample.finish, row.sample.fault)

    def _leave(self, gone: Sequence[Row]) -> None:
        """Free the places of rows; what was read and drawn for a single sample is remembered."""
        for row in gone:
            self._prefixes.touch(row.leaf)
            request = self._requests[row.request]
            if len(request.samples) == 1 and row.own and not row.sample.fault:
                tokens, store = np.array(row.own, np.int32), self._tails.tail(row).clone()
                self._prefixes.touch(Prefix(row.leaf, tokens, store))
        self._tails.drop(set(gone))
        if gone:
            self._prefixes.trim()
        for number in {row.request for row in gone}:
            if not self._requests[number].open:
                del self._requests[number]

    def _end(
        self,
        request: _Request,
        samples: Sequence[Sample],
        finish: str,
        fault: UserError | None = None,
    ) -> None:
        """End those samples of a request that have not ended."""
        for sample in samples:
            if not sample.finish:
                sample.finish, sample.fault = finish, fault
                if request.listen:
                    self._news[sample] = request.listen
        request.fresh = [sample for sample in request.fresh if not sample.finish]
        if not request.fresh and request in self._waiting:
            self._waiting.remove(request)
            self._unpin(request)
        rows = self._tails.rows
        self._leave([row for row in rows if row.request == request.number and row.sample.finish])
        if not request.open:
            self._requests.pop(request.number, None)

    def _tell(self) -> None:
        """Call those who listen; they may submit and cancel."""
        news, self._news = self._news, {}
        for sample, listen in news.items():
            if piece := sample.news():
                listen(piece)
