"""The live samples of a model: one forward pass gives each of them its next token, or more."""

import math
from array import array
from typing import Any

import torch
from torch import Tensor

from starkiln.core.errors import UserError
from starkiln.model.decoder import Decoder
from starkiln.model.graphs import Graphs, width
from starkiln.model.lookup import Lookup
from starkiln.model.sampling import Rules, choose, likeliest, rules
from starkiln.model.settings import LOGITS_AT_ONCE
from starkiln.model.tails import Row, Tails

_NEAR = 1 << 20  # logits of which some copies fit into a processor's cache

BROKEN = UserError("model", "gives no finite probabilities", "use another checkpoint")

Drafts = dict[Row, list[int]]


class Batch:
    """Draws tokens for ``tails.rows``; who ends is told, but stays until ``tails.drop``."""

    def __init__(
        self,
        model: Decoder,
        tails: Tails,
        pieces: list[bytes | None],
        drafted: int,
        graphs: Graphs | None,
    ) -> None:
        """``pieces`` are the bytes of each id, None of those that end a text.

        Lookups guess for at most ``drafted`` live samples. With ``graphs`` steps are recorded.
        """
        self.model, self.tails, self.pieces, self.graphs = model, tails, pieces, graphs
        self.drafted, self.drawn = drafted, 0  # samples; tokens so far
        self._ruled: tuple[list[Row], list[Rules]] = [], []  # rows of the last step, their rules

    def start(self, rows: list[Row], stores: Tensor | None, logits: Tensor) -> None:
        """Put in samples of one prompt, ``stores`` as in ``Tails.add``, and draw first tokens.

        ``logits`` [1, V] follow the prompt.
        """
        self.tails.add(rows, stores)
        self._advance(rows, {}, 1, logits.expand(len(rows), -1))

    def draw(self) -> list[Row]:
        """Feed each sample its last token, and guesses after it, and draw what follows."""
        if not self.tails.rows:
            return []
        drafts = self._drafts(self.tails.rows)
        new = 1 + max(map(len, drafts.values()), default=0)
        wide = width(new) if self.graphs else new
        self.tails.grow(wide)
        rows, last = self.tails.rows, self.model.config.n_positions - 1
        ids, positions = [], []
        for row in rows:
            draft, tokens = drafts.get(row, []), row.sample.tokens
            ids.append([tokens[-1], *draft, *[0] * (wide - 1 - len(draft))])
            at = len(row.prompt) + len(tokens) - 1
            positions.append([min(at + i, last) for i in range(wide)])  # beyond it nothing is kept
        logits = self._logits(ids, positions)[:, :new].flatten(0, 1)
        for row in rows:
            row.own.append(row.sample.tokens[-1])
        self._advance(rows, drafts, new, logits)
        return rows

    def _logits(self, ids: list[list[int]], positions: list[list[int]]) -> Tensor:
        """[B, T, V] of the next tokens of all rows, int [B][T]."""
        device = self.tails.device
        if self.graphs and (logits := self.graphs.logits(self.tails, ids, positions)) is not None:
            return logits
        hidden = self.model.hidden(
            torch.tensor(ids, device=device),
            positions=torch.tensor(positions, device=device),
            cache=self.tails.step(len(ids[0]), self.model.config.n_head),
        )
        return self.model.output(hidden)

    def _drafts(self, rows: list[Row]) -> Drafts:
        """Guesses for each row, where they are worth their while."""
        if len(rows) > self.drafted:
            return {}
        room = min(row.sample.most - len(row.sample.tokens) for row in rows) - 1
        drafts = {}
        for row in rows:
            row.lookup = row.lookup or Lookup(row.prompt)
            drafts[row] = row.lookup.guess(row.sample.tokens, room)
        return drafts

    def _choose(
        self, rows: list[Row], new: int, logits: Tensor
    ) -> tuple[list[int], list[float], list[Any]]:
        """Tokens, log-probabilities and likeliest tokens, ``new`` after one another a row.

        A few at once: what is made of their logits then stays in the processor's cache.
        """
        each = rows if new == 1 else [row for row in rows for _ in range(new)]
        near = _NEAR if self.tails.device.type == "cpu" else LOGITS_AT_ONCE
        size = max(1, near // self.model.vocab_size)
        parts = [slice(first, first + size) for first in range(0, len(each), size)]
        if self._ruled[0] != each:
            samplings = [row.sample.sampling for row in each]
            self._ruled = each, [rules(samplings[part], self.tails.device) for part in parts]
        numbers = array("f")
        for row in rows:
            drawn = len(row.sample.tokens)
            numbers += row.sample.draws[drawn : drawn + new]
        draws = torch.frombuffer(numbers, dtype=torch.float32).to(self.tails.device)
        most = max(row.sample.sampling.top for row in rows)
        found, tops = [], []
        for part, ruled in zip(parts, self._ruled[1], strict=True):
            own = logits[part].float()
            found.append(choose(own, draws[part], ruled))
            tops += likeliest(own, most) if most else []
        tokens, logprobs = map(torch.cat, zip(*found, strict=True))
        return tokens.tolist(), logprobs.tolist(), tops

    def _advance(self, rows: list[Row], drafts: Drafts, new: int, logits: Tensor) -> None:
        """Give each row its tokens as far as its draft was right."""
        tokens, logprobs, tops = self._choose(rows, new, logits)
        for i, row in enumerate(rows):
            sample, draft = row.sample, drafts.get(row, ())
            for at, guess in enumerate((*draft, None), i * new):
                token = tokens[at]
                if not math.isfinite(logprobs[at]):
                    sample.finish, sample.fault = "failed", BROKEN
                    break
                piece = self.pieces[token]
                sample.advance(token, logprobs[at], piece)
                self.drawn += 1
                if sample.sampling.top:
                    sample.top.append(tops[at][: sample.sampling.top])
                if sample.finish or token != guess:
                    break
                row.own.append(token)
            if row.lookup and draft:
                row.lookup.learn(len(draft), at - i * new)
