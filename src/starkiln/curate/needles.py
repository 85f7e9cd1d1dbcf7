"""What decontamination looks for, made ready for ``search``: once a worker process."""

import ast
import contextlib
import tokenize
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import polars as pl

from starkiln.curate import search
from starkiln.curate.forms import fold, hashes, vocabulary
from starkiln.curate.kernels import buffers
from starkiln.curate.python_names import BUILTINS
from starkiln.problems import benchmarks, own
from starkiln.problems.problem import Needle

SHORTEST = 8  # letters and digits; with fewer, a needle is not looked for
WINDOW = 20  # ... from which on a copy in another layout counts
SHAPE = 24  # tokens of a solution from which on its shape is looked for
FEWEST = 8  # n-grams of a needle that a text must have at least ...
SPREAD = 2  # ... in so many times the words of the needle
COMMON = 10  # an n-gram of more problems than this says nothing
_NAMELESS, _FREE = np.empty(0, np.uint64), np.empty(0, np.bool_)
_CHUNK = 1 << 22  # bytes of text whose forms are in memory at once
_ANCHORS = 256  # windows of a needle that its anchor is chosen from
Pairs: TypeAlias = list[tuple[str, Needle]]  # benchmark, needle


class Index(NamedTuple):
    """The needles by their forms; needles of the same letters and digits are one."""

    spellings: list[Pairs]  # by index
    long: search.Sequences
    short: search.Sequences
    shapes: search.Sequences
    grams: search.Grams

    @property
    def bytes(self) -> int:
        """What the arrays take."""
        return sum(_size(part) for part in (self.long, self.short, self.shapes, self.grams))


def index(
    names: tuple[str, ...],
    data: str | None,
    own_file: str | None,
    methods: frozenset[str],
    ngram: int,
    share: float,
) -> Index:
    """The index of the benchmarks ``names`` and the user's own, which goes last.

    It is kept until one of their files is another.
    """
    folder = None if data is None else Path(data)
    files = [] if own_file is None else [Path(own_file)]
    files += [file for name in names for file in benchmarks.locate(name, folder)]
    return _index(names, folder, own_file, methods, ngram, share, tuple(map(_edition, files)))


def _edition(file: Path) -> tuple[str, int, int, int] | None:
    """Changes when the file is written to or replaced, which its content need not be read for."""
    try:
        found = file.stat()
    except OSError:  # told where it is read
        return None
    return str(file), found.st_ino, found.st_size, found.st_ctime_ns


@lru_cache(maxsize=2)
def _index(
    names: tuple[str, ...],
    folder: Path | None,
    own_file: str | None,
    methods: frozenset[str],
    ngram: int,
    share: float,
    editions: tuple,
) -> Index:
    found = [(name, needle) for name in names for needle in benchmarks.contaminants(name, folder)]
    if own_file is not None:
        found += [(n.problem.split("/", 1)[0], n) for n in own.needles(Path(own_file))]
    return build(found, methods, ngram, share)


def find(texts: pl.Series, index: Index, settled: bool) -> list[tuple[int, int, str]]:
    """(text, needle, copy | structure | ngram) of all that texts hold; no nulls among them.

    ``copy``: letters and digits alone were compared. Where ``settled``, a problem of which a long
    copy is found is not looked for by n-grams.
    """
    data, offsets = buffers(texts)
    cuts = _cuts(offsets)
    flat = search.room(max(offsets[end] - offsets[begin] + end - begin for begin, end in cuts))
    symbols, words, tokens, names = flat
    found: list[tuple[int, int, str]] = []
    for begin, end in cuts:
        starts = search.flatten(data, offsets[begin : end + 1], fold(), vocabulary(), *flat)
        copies = search.sequences(symbols, names, starts[0], index.long)
        known = copies if settled else copies[:0]
        for kind, hits in (
            ("copy", copies),
            ("copy", search.sequences(symbols, names, starts[0], index.short)),
            ("structure", search.sequences(tokens, names, starts[2], index.shapes)),
            ("ngram", search.grams(words, starts[1], index.grams, known)),
        ):
            found += [(begin + text, needle, kind) for text, needle in hits.tolist()]
    return found


def _cuts(offsets: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of texts that lie together and take ``_CHUNK`` bytes, or are one."""
    cuts = [0]
    while cuts[-1] < len(offsets) - 1:
        end = int(np.searchsorted(offsets, offsets[cuts[-1]] + _CHUNK, "right")) - 1
        cuts.append(max(end, cuts[-1] + 1))
    return list(pairwise(cuts)) or [(0, 0)]


def build(found: Pairs, methods: frozenset[str], ngram: int, share: float) -> Index:
    """The index of (benchmark, needle) pairs for some of the methods."""
    found = [*found, *_uncommented(found)]
    texts = pl.Series([needle.text for _, needle in found], dtype=pl.String)
    data, offsets = buffers(texts)
    flat = search.room(len(data) + len(texts))
    symbols, words, tokens, names = flat
    starts = search.flatten(data, offsets, fold(), vocabulary(), *flat)
    sizes = np.diff(starts)
    spellings: list[Pairs] = []
    copies = _grouped(found, np.flatnonzero(sizes[0] >= SHORTEST), [symbols], starts[0], spellings)
    solutions = np.array([needle.part == "solution" for _, needle in found], np.bool_)
    shapes = np.flatnonzero(solutions & (sizes[2] >= SHAPE) & ("structure" in methods))
    shapes = _grouped(found, shapes, [tokens, names], starts[2], spellings)
    fixed = [_fixed(found[i][1].text, names[starts[2, i] : starts[2, i + 1]]) for _, i in shapes]
    whole = methods & {"exact", "normalised"}
    long = [(g, i) for g, i in copies if whole and sizes[0, i] >= WINDOW]
    short = [(g, i) for g, i in copies if "exact" in methods and sizes[0, i] < WINDOW]
    return Index(
        spellings,
        _sequences(long, WINDOW, symbols, starts[0]),
        _sequences(short, SHORTEST, symbols, starts[0]),
        _sequences(shapes, SHAPE, tokens, starts[2])._replace(
            names=_cut(shapes, names, starts[2])[1],
            fixed=np.concatenate([*fixed, np.empty(0, np.bool_)]),
        ),
        _grams(copies if "ngram" in methods else [], ngram, share, words, starts[1], spellings),
    )


def _grouped(
    found: Pairs,
    which: np.ndarray,
    forms: list[np.ndarray],
    starts: np.ndarray,
    spellings: list[Pairs],
) -> list[tuple[int, int]]:
    """Needles of the same form are one: (its index in ``spellings``, one of them) of each."""
    groups: dict[tuple[bytes, ...], int] = {}
    kept = []
    for i in which.tolist():
        form = tuple(flat[starts[i] : starts[i + 1]].tobytes() for flat in forms)
        if form not in groups:
            groups[form] = len(spellings)
            kept.append((len(spellings), i))
            spellings.append([])
        spellings[groups[form]].append(found[i])
    return kept


def _uncommented(found: Pairs) -> Iterator[tuple[str, Needle]]:
    """Python solutions that have comments, without them: a formatter may have taken them."""
    for benchmark, needle in found:
        if needle.part == "solution" and "#" in needle.text:
            # a body alone is told from a whole program by its first line, which was stripped
            bare = _bare(needle.text) or _bare(f"if 1:\n    {needle.text}").removeprefix("if 1:")
            if bare:
                yield benchmark, replace(needle, text=bare.strip())


def _bare(code: str) -> str:
    """Python code without its comments, or nothing where it is no Python."""
    lines = code.splitlines(keepends=True)
    try:
        tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    except (tokenize.TokenError, SyntaxError):
        return ""
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    return "".join(lines)


def _fixed(code: str, names: np.ndarray) -> np.ndarray:
    """Which of a solution's names are built-in ones that it does not make its own (bool)."""
    bound: set[str] = set()
    for text in (code, f"if 1:\n    {code}"):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    bound.add(node.id)
                elif isinstance(node, ast.arg):
                    bound.add(node.arg)
                elif isinstance(node, ast.FunctionDef):
                    bound.add(node.name)
    bound = {name.lower() for name in bound}
    return np.isin(names, hashes(name for name in BUILTINS if name.lower() not in bound))


def _cut(which: list[tuple[int, int]], flat: np.ndarray, starts: np.ndarray) -> tuple:
    """Ids, symbols and offsets of some needles alone."""
    parts = [flat[starts[i] : starts[i + 1]] for _, i in which]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    ids = np.array([group for group, _ in which], np.int32)
    return ids, np.concatenate([*parts, flat[:0]]), offsets


def _sequences(
    which: list[tuple[int, int]], window: int, flat: np.ndarray, starts: np.ndarray
) -> search.Sequences:
    ids, symbols, offsets = _cut(which, flat, starts)
    hashes, owners = _windows(symbols, offsets, window, _ANCHORS)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    first = np.searchsorted(owners, np.arange(len(ids)))
    order = np.lexsort((np.arange(len(owners)), counts[inverse], owners))
    chosen = order[first] if len(ids) else order  # of each needle, its rarest window
    keys, rows = np.unique(hashes[chosen], return_inverse=True)
    members, begins = _lists(rows, np.arange(len(ids)), len(keys))
    anchors = (chosen - first).astype(np.int32)
    return search.Sequences(
        window, _table(keys), begins, members, anchors, symbols, _NAMELESS, _FREE, offsets, ids
    )


def _windows(
    symbols: np.ndarray, offsets: np.ndarray, window: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    size = int(np.clip(np.diff(offsets) - window + 1, 0, most).sum())
    hashes, owners = np.empty(size, np.uint64), np.empty(size, np.int64)
    search.windows(symbols, offsets, window, most, hashes, owners)
    return hashes, owners


def _grams(
    which: list[tuple[int, int]],
    n: int,
    share: float,
    flat: np.ndarray,
    starts: np.ndarray,
    spellings: list[Pairs],
) -> search.Grams:
    ids, words, offsets = _cut(which, flat, starts)
    hashes, owners = _windows(words, offsets, n, len(words) + 1)
    keys, rows = np.unique(hashes, return_inverse=True)
    pairs = np.unique(np.stack([rows, owners], 1), axis=0)  # a needle has an n-gram once
    numbers: dict[str, int] = {}
    of = [numbers.setdefault(spelled[0][1].problem, len(numbers)) for spelled in spellings]
    problems = np.array(of, np.int32)
    spread = np.unique(np.stack([pairs[:, 0], problems[ids[pairs[:, 1]]]], 1), axis=0)[:, 0]
    rare = np.bincount(spread, minlength=len(keys)) <= COMMON
    pairs = pairs[rare[pairs[:, 0]]]
    totals = np.bincount(pairs[:, 1], minlength=len(ids))
    needed = np.maximum(np.ceil(share * totals), FEWEST).astype(np.int32)
    pairs = pairs[totals[pairs[:, 1]] >= needed[pairs[:, 1]]]
    within = (SPREAD * np.diff(offsets)).astype(np.int32)
    used, rows = np.unique(pairs[:, 0], return_inverse=True)
    members, begins = _lists(rows, pairs[:, 1], len(used))
    return search.Grams(n, _table(keys[used]), begins, members, needed, within, problems, ids)


def _lists(rows: np.ndarray, values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``values`` by ``rows``, and where each row's begin (n + 1)."""
    begins = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=n), out=begins[1:])
    return values[np.argsort(rows, kind="stable")].astype(np.int32), begins


def _table(keys: np.ndarray) -> search.Table:
    slots = 1 << max(4, int(2 * len(keys)).bit_length())
    table = search.Table(
        np.zeros(max(16, slots * 2), np.uint8),  # 16 bits a slot: one in 32 to 64 is set
        np.zeros(slots, np.uint64),
        np.full(slots, -1, np.int32),
    )
    search.place(table, keys)
    return table


def _size(part: object) -> int:
    if isinstance(part, np.ndarray):
        return part.nbytes
    return sum(map(_size, part)) if isinstance(part, tuple) else 0
