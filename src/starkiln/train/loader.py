"""Batches by number: sample n is a pure function of n, the seed and the token shards.

Sample n -> (source, j) by apportionment -> epoch and a keyed permutation of the source's
windows -> T + 1 ids -> fill-in-the-middle keyed (seed, source, j). There is no state, so world
size, micro-batch, reading workers and the point of resumption regroup samples and change none.
Every piece of a document, rearranged or not, closes with ``<|endoftext|>`` where the document
does, so the boundaries can be told from the ids.
"""

import difflib
import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from starkiln.code.sentinels import FIM_PAD
from starkiln.core import keyed, manifest
from starkiln.core.errors import UserError
from starkiln.tokenizer.fim import transform_window
from starkiln.tokenizer.shards import Tokens, vocabulary
from starkiln.tokenizer.tokenizer import Tokenizer
from starkiln.train.pack import SPLITS, source_name

_SCALE = 10**6
_LARGEST = 10**6  # factor on a source's natural share


class Fork(NamedTuple):
    """Where samples part: ``weight`` of ``total`` go left."""

    weight: int
    total: int
    left: "Node"
    right: "Node"

    def share(self, samples: int) -> int:
        """How many of the first ``samples`` go left; whole numbers, so equal everywhere."""
        return (2 * samples * self.weight + self.total) // (2 * self.total)


Node = Fork | int  # a fork, or the number of a source


class Validation(NamedTuple):
    """A batch of the validation split, one source a row."""

    tokens: np.ndarray  # int64 [B, T + 1]
    mask: np.ndarray  # bool [B, T], over targets
    bytes: np.ndarray  # int64 [B, T], bytes of text in each target that counts
    sources: list[str]


class Loader:
    """One split of a folder of token shards (see ``train.pack``); picklable.

    ``names`` are the sources that samples are drawn from; ``validation`` goes over all.
    """

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
        only: Collection[str] = (),
    ) -> None:
        """Samples are drawn from the sources ``only`` (none named: from all).

        ``weights`` multiply the natural share, which is by tokens; a source at 0 is left out.

        UserError if nothing is left, if a name is no source or a weight no factor, and if shards
        are missing, damaged or of another tokenizer, as far as their heads and sizes tell.
        """
        self.tokenizer, self.length, self.seed = tokenizer, sequence_length, seed
        self.fim_rate, self.spm_rate = fim_rate, spm_rate
        self.tokens = _opened(Path(folder), split, tokenizer)
        shares = {name: tokens.size for name, tokens in self.tokens.items()}
        weighted = _weighted(shares, weights or {}, only, f"{folder}/{split}")
        self.names = [name for name, weight in weighted.items() if weight]
        self._mixture = mixture([weighted[name] for name in self.names])

    def batch(self, first_sample: int, count: int) -> dict[str, np.ndarray]:
        """Samples ``first_sample``...: ``tokens`` int64 [count, T + 1], ``mask``, ``source``.

        ``mask`` (bool [count, T]) is over targets and leaves out ``<fim_pad>``; ``source``
        (int64 [count]) is the number of each sample's source in ``names``.
        UserError, with the shard's name, where ids turn out to be damaged.
        """
        tokens = np.empty((count, self.length + 1), np.int64)
        sources = np.empty(count, np.int64)
        for i, row in enumerate(tokens):
            sources[i], draw = apportion(self._mixture, first_sample + i)
            name = self.names[sources[i]]
            start = self._start(name, draw)
            key = ("fim", self.seed, name, draw)
            row[:] = self._window(name, start, self.length + 1, self.fim_rate, key)
        return {"tokens": tokens, "mask": tokens[:, 1:] != FIM_PAD, "source": sources}

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source has been gone through after that many samples."""
        draws = drawn(self._mixture, samples)
        return {name: draws[i] / self.windows(name) for i, name in enumerate(self.names)}

    def windows(self, name: str) -> int:
        """Windows in one epoch of a source: as many as it takes to predict each token once."""
        return -(-self.tokens[name].size // self.length)

    def validation(
        self, batch_size: int, *, fim: bool = False, limit: int | None = None
    ) -> Iterator[Validation]:
        """All sources in fixed windows, in order: each token but the first is a target once.

        Also those that no sample is drawn from. The last window of a source is filled up with
        ``<fim_pad>``. ``limit`` takes that many windows at most, evenly spread, and one of each
        source as far as it goes. With ``fim`` each is transformed as in training, by its number.
        """
        sizes = {name: tokens.size - 1 for name, tokens in self.tokens.items()}
        places = _spread({name: -(-size // self.length) for name, size in sizes.items()}, limit)
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


def mixture(weights: Sequence[int]) -> Node:
    """The tree that ``apportion`` walks, of the weights (above 0) of sources by number.

    It is Huffman's. So an inner node, unlike a source, never has more than two thirds of the one
    above it, and the roundings on the way down add up to less than 1.5 samples.
    """
    heap: list[tuple[int, int, Node]] = [(w, source, source) for source, w in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (light, _, left), (heavy, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        node = Fork(light, light + heavy, left, right)
        heapq.heappush(heap, (light + heavy, 2 * len(weights) - len(heap), node))
    return heap[0][2]


def apportion(node: Node, sample: int) -> tuple[int, int]:
    """The source of a sample, and which draw from that source it is, both from 0 on.

    At each fork the samples that come by are dealt out evenly, so that at every moment each
    source has its quota but for less than 1.5 samples (0.98 in StarCoder's mixture).
    """
    while isinstance(node, Fork):
        before, behind = node.share(sample), node.share(sample + 1)
        node, sample = (node.left, before) if behind > before else (node.right, sample - before)
    return node, sample


def drawn(node: Node, samples: int) -> dict[int, int]:
    """Draws from each source among the first ``samples``."""
    if not isinstance(node, Fork):
        return {node: samples}
    left = node.share(samples)
    return drawn(node.left, left) | drawn(node.right, samples - left)


def _spread(counts: dict[str, int], limit: int | None) -> list[tuple[str, int]]:
    """Source and number of windows, of so many in each: all, or at most ``limit`` of them."""
    counts, total = {name: n for name, n in counts.items() if n}, sum(counts.values())
    if limit is not None and limit < total:
        more = drawn(mixture(list(counts.values())), max(0, limit - len(counts)))
        chosen = {name: min(n, 1 + more[i]) for i, (name, n) in enumerate(counts.items())}
    else:
        chosen, limit = counts, total
    found = [(name, i * counts[name] // n) for name, n in chosen.items() for i in range(n)]
    taken = min(limit, len(found))
    return [found[i * len(found) // taken] for i in range(taken)]


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


def _opened(folder: Path, split: str, tokenizer: Tokenizer) -> dict[str, Tokens]:
    """The tokens of each source, once it is sure that no shard is missing and all are ours."""
    places = {place: sorted(place.glob("*.bin")) for place in sorted((folder / split).glob("*/"))}
    made, found = manifest.read(folder), {path for paths in places.values() for path in paths}
    for name in (shard["name"] for shard in made.shards) if made else ():
        if name.startswith(f"{split}/") and name.endswith(".bin") and folder / name not in found:
            mend = "copy it anew, or remove the tokens folder and run again"
            raise UserError(folder / name, "missing, though the manifest lists it", mend)
    opened = {source_name(place.name): Tokens(paths) for place, paths in places.items() if paths}
    own = vocabulary(tokenizer)
    for tokens in opened.values():
        if tokens.vocabulary != own:
            what = f"of another tokenizer ({tokens.vocabulary}; this one: {own})"
            mend = "name the tokenizer it was packed with, or pack the documents again"
            raise UserError(tokens.heads[0].path, what, mend)
    return opened


def _weighted(
    sizes: dict[str, int], weights: Mapping[str, float], only: Collection[str], where: str
) -> dict[str, int]:
    """Tokens times weight of each source in millionths, 0 for those not in ``only``."""
    asked = [("train.weights", name) for name in weights] + [("train.sources", n) for n in only]
    for setting, name in asked:
        if name not in sizes:
            near = difflib.get_close_matches(name, sizes, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"sources: {', '.join(sizes)}"
            raise UserError(setting, f"'{name}' is no source in {where}", hint)
    for name, weight in weights.items():
        if not 0 <= weight <= _LARGEST:
            mend = f"write a factor of {_LARGEST:,} at most, or 0 to leave it out"
            raise UserError("train.weights", f"'{name}' is weighted {weight}", mend)
    factors = {name: weights.get(name, 1.0) if name in (only or sizes) else 0.0 for name in sizes}
    weighted = {n: max(int(f > 0), round(sizes[n] * f * _SCALE)) for n, f in factors.items()}
    if not any(weighted.values()):
        change = "lower" if where.endswith(SPLITS[0]) else "raise"
        mend = "lift a weight of 0" if sizes else f"{change} pack.validation"
        raise UserError(where, "no tokens to draw from", f"add documents, or {mend}")
    return weighted
