"""Batches by number: sample n is a pure function of n, the seed and the token shards.

Sample n -> (source, j) by Webster's apportionment -> epoch and a keyed permutation of the source's
windows -> T + 1 ids -> fill-in-the-middle keyed (seed, source, j). There is no state, so world
size, micro-batch and the point of resumption regroup samples and change none of them.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from starkiln.code.sentinels import FIM_PAD
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.fim import transform_window
from starkiln.tokenizer.shards import Tokens
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.pack import source_name


class Validation(NamedTuple):
    """A batch of the validation split, one source a row."""

    tokens: np.ndarray  # int64 [B, T + 1]
    mask: np.ndarray  # bool [B, T], over targets
    bytes: np.ndarray  # int64 [B, T], bytes of text in each target that counts
    sources: list[str]


class Loader:
    """One split of a folder of token shards (see ``train.pack``)."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        split: str,
        sequence_length: int,
        seed: int,
        fim_rate: float,
        spm_rate: float,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """``weights`` multiply the natural share, which is by tokens; a source at 0 is left out.

        UserError if the split has no tokens, or if a weight is negative or names no source.
        """
        self.tokenizer, self.length, self.seed = tokenizer, sequence_length, seed
        self.fim_rate, self.spm_rate = fim_rate, spm_rate
        self.tokens = {
            source_name(place.name): Tokens(paths)
            for place in sorted((Path(folder) / split).glob("*/"))
            if (paths := sorted(place.glob("*.bin")))
        }
        shares = {name: tokens.size for name, tokens in self.tokens.items()}
        self.weights = _weighted(shares, weights or {}, f"{folder}/{split}")
        self.names = [name for name, weight in self.weights.items() if weight]
        total = sum(self.weights.values())
        self._shares = np.array([self.weights[name] / total for name in self.names])

    def batch(self, first_sample: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples ``first_sample``...: ids int64 [count, T + 1], mask bool [count, T].

        The mask is over targets and leaves out ``<fim_pad>``.
        """
        tokens = np.empty((count, self.length + 1), np.int64)
        sources, draws = apportion(self._shares, first_sample, count)
        for row, source, draw in zip(tokens, sources.tolist(), draws.tolist()):
            name = self.names[source]
            start = self._start(name, draw)
            key = ("fim", self.seed, name, draw)
            row[:] = self._window(name, start, self.length + 1, self.fim_rate, key)
        return tokens, tokens[:, 1:] != FIM_PAD

    def sources(self, first_sample: int, count: int) -> list[str]:
        """The source of each of those samples."""
        return [self.names[i] for i in apportion(self._shares, first_sample, count)[0].tolist()]

    def windows(self, name: str) -> int:
        """Windows in one epoch of a source: as many as it takes to predict each token once."""
        return -(-self.tokens[name].size // self.length)

    def validation(
        self, batch_size: int, *, fim: bool = False, limit: int | None = None
    ) -> Iterator[Validation]:
        """All sources in fixed windows, in order: each token but the first is a target once.

        The last window of a source is filled up with ``<fim_pad>``. ``limit`` takes that many
        windows, evenly spread. With ``fim`` each is transformed as in training, by its number.
        """
        counts = {name: -(-(self.tokens[name].size - 1) // self.length) for name in self.names}
        places = [(name, i) for name, count in counts.items() for i in range(count)]
        if limit is not None and limit < len(places):
            places = [places[i * len(places) // limit] for i in range(limit)]
        for first in range(0, len(places), batch_size):
            chosen = places[first : first + batch_size]
            tokens = np.stack([self._fixed(name, i, fim) for name, i in chosen])
            targets = tokens[:, 1:]
            lengths = self.tokenizer.byte_lengths[targets]
            yield Validation(tokens, targets != FIM_PAD, lengths, [name for name, _ in chosen])

    def _start(self, name: str, draw: int) -> int:
        """Where window number ``draw`` of a source begins; windows shift from epoch to epoch."""
        epoch, i = divmod(draw, self.windows(name))
        phase = int(keyed.uniform(self.seed, "phase", name, epoch) * self.tokens[name].size)
        i = permuted(i, self.windows(name), keyed.digest(self.seed, "order", name, epoch))
        return phase + i * self.length

    def _fixed(self, name: str, i: int, fim: bool) -> np.ndarray:
        start = i * self.length
        size = min(self.length + 1, self.tokens[name].size - start)
        key = ("fim", self.seed, "validation", name, i)
        window = self._window(name, start, size, self.fim_rate if fim else 0.0, key)
        return np.pad(window, (0, self.length + 1 - size), constant_values=FIM_PAD)

    def _window(self, name: str, start: int, size: int, rate: float, key: tuple) -> np.ndarray:
        ids, pieces = self.tokens[name].window(start, size)
        if not rate:
            return ids
        rng = keyed.generator(*key)
        return transform_window(ids, pieces, self.tokenizer, rng, rate=rate, spm_rate=self.spm_rate)


def apportion(shares: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Source and draw number of samples ``first``... (int64 [count] each), for shares of sum 1.

    Draw k of a source is due at (k + 1/2) / share and samples are draws by due time: Webster's
    apportionment, so at every moment each source has its quota but for about half a sample.
    """
    margin = len(shares) + 2  # by less than this, draws due before a time differ from that time
    low = np.maximum(0, np.floor((first - margin) * shares - 0.5)).astype(np.int64)
    high = np.ceil((first + count + margin) * shares + 0.5).astype(np.int64)
    sources = np.repeat(np.arange(len(shares)), high - low)
    draws = np.concatenate([np.arange(a, b) for a, b in zip(low.tolist(), high.tolist())])
    due = (draws + 0.5) / shares[sources]
    order = np.lexsort((sources, due))[first - int(low.sum()) :][:count]
    return sources[order], draws[order]


def permuted(i: int, size: int, key: bytes) -> int:
    """Where ``i`` goes in a permutation of range(size) drawn by the 16 bytes of ``key``.

    A Feistel network over the next power of four, walked until it falls within ``size``.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    rounds = [int.from_bytes(key[r : r + 4], "little") for r in range(0, 16, 4)]
    while True:
        left, right = i >> half, i & mask
        for round_key in rounds:
            left, right = right, left ^ (_mixed(right ^ round_key << half) & mask)
        i = left << half | right
        if i < size:
            return i


def _mixed(x: int) -> int:
    """A number of 64 bits, all of which depend on all of ``x``."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 33


def _weighted(sizes: dict[str, int], weights: Mapping[str, float], where: str) -> dict[str, float]:
    """Tokens times weight of each source."""
    for name, weight in weights.items():
        if name not in sizes:
            near = difflib.get_close_matches(name, sizes, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"sources: {', '.join(sizes)}"
            raise UserError(where, f"weight of '{name}': no such source", hint)
        if weight < 0:
            raise UserError(where, f"weight of '{name}' is below 0", "write 0 to leave it out")
    weighted = {name: size * weights.get(name, 1.0) for name, size in sizes.items()}
    if not sum(weighted.values()):
        raise UserError(where, "no tokens", "add documents, or raise pack.validation")
    return weighted
