"""Clusters against brute force, and a bit-exact twin of the sketch."""

import re
from collections import defaultdict
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.core import stage, units
from starkiln.core.errors import UserError
from starkiln.core.pool import Pool
from starkiln.curate import bands, dedup, election, forest, join, kernels, minhash

SURE = {"permutations": 256, "bands": 256, "rows": 1}  # misses a pair at 0.7 once in 1e133
ALMOST_SURE = {"permutations": 16, "bands": 16, "rows": 1}  # once in 2e8
STARCODER = {"bands": 25, "rows": 10, "verify": False, "keep_empty": True}
M64 = 2**64 - 1
WORDS = "".join(f"word{i} " for i in range(60))


def _rule(**changed):
    usual = {"threshold": 0.7, "ngram": 5, "permutations": 256, "bands": 42, "rows": 6}
    return minhash.Rule(
        **usual | {"keep_empty": False, "min_tokens": 5, "by_extension": True} | changed
    )


def _mix(h):
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & M64
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & M64
    return h ^ (h >> 31)


def _tokens(text, keep_empty):
    pieces = re.split("[^A-Za-z_0-9]", text)
    return pieces if keep_empty else [p for p in pieces if p]


def _shingles(text, ngram, keep_empty):
    hashes = []
    for token in _tokens(text, keep_empty):
        h = 0xCBF29CE484222325
        for byte in token.encode():
            h = (h ^ byte) * 0x100000001B3 & M64
        hashes.append(_mix(h))
    out = []
    for at in range(len(hashes) - ngram + 1):
        h = 0
        for token in hashes[at : at + ngram]:
            h = (h * 0x9E3779B97F4A7C15 + token) & M64
        out.append(_mix(h))
    return out


def _sketch(text, group, rule):
    slopes, shifts = (c.tolist() for c in rule.coefficients())
    lowest = [2**32 - 1] * len(slopes)
    for shingle in _shingles(text, rule.ngram, rule.keep_empty):
        x = shingle >> 32
        lowest = [min(v, (a * x + b) & 0xFFFFFFFF) for v, a, b in zip(lowest, slopes, shifts)]
    keys = []
    for band in range(rule.bands):
        h = (group + band) & M64
        for value in lowest[band * rule.rows : (band + 1) * rule.rows]:
            h = _mix((h * 0x9E3779B97F4A7C15 + value) & M64)
        keys.append(h)
    return len(_tokens(text, rule.keep_empty)), keys


@given(
    st.lists(st.text(max_size=40) | st.text("ab_9 .\r\né日", max_size=80), max_size=5),
    st.integers(1, 6),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_kernels_agree_with_python(texts, ngram, keep_empty):
    rule = _rule(ngram=ngram, keep_empty=keep_empty, bands=4, rows=3, permutations=16)
    ngrams = np.full(len(texts), ngram)
    data, offsets = kernels.buffers(pl.Series(texts, dtype=pl.String))
    groups = np.arange(len(texts)).astype(np.uint64) * np.uint64(0xDEADBEEFCAFE)
    counts, keys = kernels.sketch(
        data, offsets, groups, ngrams, keep_empty, *rule.coefficients(), rule.bands
    )
    twins = [_sketch(text, int(group), rule) for text, group in zip(texts, groups)]
    assert counts.tolist() == [count for count, _ in twins]
    assert keys.tolist() == [key for _, key in twins]
    hashes, starts = kernels.shingles(data, offsets, ngrams, keep_empty)
    made = [hashes[a:b].tolist() for a, b in pairwise(starts)]
    assert made == [_shingles(text, ngram, keep_empty) for text in texts]


def _run(function, view, **given_settings):
    return pl.concat(list(function(view, **given_settings)))


def _brute(frame, threshold=0.7, ngram=5):
    """Clusters of row numbers, by the definition."""
    sets, root = [], list(range(frame.height))
    for text in frame["segments"].list.first().struct.field("text"):
        tokens = re.findall("[A-Za-z_0-9]+", text)
        sets.append({tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)})
    for a, b in combinations(range(frame.height), 2):
        both = sets[a] | sets[b]
        similar = bool(both) and len(sets[a] & sets[b]) / len(both) >= threshold
        if (similar or frame["id"][a] == frame["id"][b]) and (
            frame["language"][a] == frame["language"][b]
        ):
            old, new = root[b], root[a]
            root = [new if r == old else r for r in root]
    clusters = defaultdict(set)
    for row, r in enumerate(root):
        clusters[r].add(row)
    return {frozenset(c) for c in clusters.values()}


@st.composite
def _tables(draw):
    """Rows that are edits of few originals, so that similarities of all sizes occur."""
    rows = []
    for number in range(draw(st.integers(0, 12))):
        words = [f"{draw(st.sampled_from('pq'))}{i}" for i in range(draw(st.integers(3, 30)))]
        if draw(st.booleans()):
            words = [f"p{i}" for i in range(24)]
            for _ in range(draw(st.integers(0, 3))):
                words[draw(st.integers(0, 23))] = draw(st.sampled_from(["x", "y"]))
        rows.append(
            {
                "text": " ".join(words),
                "repo": draw(st.sampled_from(["a", "b"])),
                "path": f"{number}.py",
                "stars": draw(st.none() | st.integers(0, 3)),
                "language": draw(st.sampled_from(["python", "rust"])),
            }
        )
    return rows


@given(_tables(), st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_near_dedup_equals_brute_force_in_any_order_and_sharding(
    shards, documents, rows, random, parts
):
    frame = documents(*rows)
    found = _run(dedup.near_dedup, shards([frame]), **SURE)
    names = frame.select(pl.concat_str("repo", "path", separator="/")).to_series()
    best = (
        frame.with_row_index("row")
        .sort(pl.col("stars").fill_null(-1), "repo", "path", descending=[True, False, False])["row"]
        .to_list()
    )
    for cluster in _brute(frame):
        keeper = min(cluster, key=best.index)
        for row in cluster:
            lone = len(cluster) == 1
            assert found["cluster"][row] == (None if lone else frame["id"][keeper])
            assert found["reason"][row] == (None if row == keeper else "near-duplicate")
            assert found["duplicate_of"][row] == (None if row == keeper else names[keeper])
    order = list(range(frame.height))
    random.shuffle(order)
    cuts = sorted(random.randint(0, frame.height) for _ in range(parts - 1))
    mixed = frame[order] if order else frame
    pieces = [mixed[a:b] for a, b in zip([0, *cuts], [*cuts, frame.height])]
    again = _run(dedup.near_dedup, shards(pieces), **SURE)
    assert again.equals(found[order] if order else found)


def test_workers_change_nothing(shards, documents):
    texts = [f"{WORDS} number{i % 7} {'tail ' * (i % 3)}" for i in range(40)]
    texts += [f"def f{i}(): return {i} * {i} + a_{i} - b_{i} // c_{i}" for i in range(40)]
    frame = documents(*texts)
    pieces = [frame[:30], frame[30:30], frame[30:]]
    expected = _run(dedup.near_dedup, shards(pieces))
    assert expected["reason"].is_not_null().sum() > 30
    with Pool(2) as pool:
        assert _run(dedup.near_dedup, shards(pieces, pool)).equals(expected)


def test_tiny_documents_are_compared_exactly(shards, documents):
    frame = documents("a b c d", "a b c e", "a b c d", "", "...", "日本語")
    found = _run(dedup.near_dedup, shards([frame]))
    assert found["reason"].to_list() == [None, None, "near-duplicate", None, None, None]


def test_line_ends_and_spaces_do_not_hide_a_copy(shards, documents):
    text = "\n".join(f"line {i} of the file" for i in range(20))
    frame = documents(text, text.replace("\n", "\r\n"), text.replace(" ", "   "))
    near = _run(dedup.near_dedup, shards([frame]))["reason"].to_list()
    assert near == [None, "near-duplicate", "near-duplicate"]
    assert _run(dedup.exact_dedup, shards([frame]))["reason"].to_list() == [None] * 3


def test_kinds_and_languages_stay_apart(shards, documents):
    frame = documents(
        WORDS,
        {"text": WORDS + " x", "language": "rust"},
        {"text": WORDS + " y", "kind": "notebook"},
        {"text": WORDS, "kind": "notebook-script"},
    )
    assert _run(dedup.near_dedup, shards([frame]))["reason"].null_count() == 4
    commits = documents(*({"text": WORDS + end, "kind": "commit"} for end in ("", " z")), WORDS)
    usual = stage.spec(dedup.near_dedup).kinds
    assert _run(dedup.near_dedup, shards([commits], kinds=usual)).height == 1
    assert set(stage.spec(dedup.exact_dedup).kinds) == {*usual, "issue"}  # one from two archives
    named = shards([commits], kinds=["commit"])
    assert _run(dedup.near_dedup, named)["reason"].to_list() == [None, "near-duplicate"]


def test_exact_dedup_keeps_the_best_provenance(shards, documents):
    frame = documents(
        {"text": "same", "repo": "b", "stars": 5},
        {"text": "same", "repo": "a", "stars": None},
        {"text": "other", "repo": "a"},
        {"text": "same", "repo": "c", "stars": 9},
        {"text": "same", "repo": "c", "stars": 9, "path": "a.py"},
    )
    found = _run(dedup.exact_dedup, shards([frame[:2], frame[2:]]))
    gone = "exact-duplicate"
    assert found["reason"].to_list() == [gone, gone, None, gone, None]
    assert found["duplicate_of"].to_list() == ["c/a.py", "c/a.py", None, "c/a.py", None]


@pytest.mark.parametrize("function", [dedup.exact_dedup, dedup.near_dedup])
def test_empty_tables(function, shards, documents):
    assert list(function(shards([]))) == []
    assert [f.height for f in function(shards([documents(), documents()]))] == [0, 0]


def test_too_few_permutations_are_refused(shards):
    with pytest.raises(UserError, match="42 bands of 7 rows need 294 of 256"):
        list(dedup.near_dedup(shards([]), rows=7))


def test_the_estimate_is_unbiased():
    rule = _rule(ngram=1, bands=512, rows=1, permutations=512)
    sets = [range(300), range(100, 400)]  # Jaccard 0.5
    data, offsets = kernels.buffers(pl.Series([" ".join(map(str, s)) for s in sets]))
    groups, ngrams = np.zeros(2, np.uint64), np.ones(2, np.int64)
    _, keys = kernels.sketch(data, offsets, groups, ngrams, False, *rule.coefficients(), 512)
    assert abs((keys[0] == keys[1]).mean() - 0.5) < 0.08  # 3.6 standard deviations


def _mixture(documents):
    """A mass of near-copies, chains of them, and many files that share half of their text."""
    common = " ".join(f"licence{i}" for i in range(40))
    texts = [f"{WORDS} number{i}" for i in range(30)]
    texts += [f"{common} " + " ".join(f"own{k}_{i}" for i in range(15)) for k in range(30)]
    steps = [" ".join(f"step{i}" for i in range(k, k + 60)) for k in range(0, 60, 6)]
    return documents(*texts, *steps)


@pytest.mark.parametrize(
    "sizes",
    [
        {"BLOCK": 4, "TILES": 2},
        {"HASHES": 100},
        {"BLOCK": 7, "HASHES": 200, "TILES": 1, "SLICE": 50},
        {"PART": 8, "RUNS": 1, "BALLOTS": 5},
    ],
)
@pytest.mark.parametrize("given_settings", [ALMOST_SURE, STARCODER])
def test_units_of_any_size_give_the_same(shards, documents, monkeypatch, sizes, given_settings):
    frame = _mixture(documents)
    pieces = [frame[:20], frame[20:45], frame[45:]]
    expected = _run(dedup.near_dedup, shards(pieces), **given_settings)
    if given_settings is ALMOST_SURE:
        clusters = {c for c in _brute(frame) if len(c) > 1}
        assert len(clusters) == 2
        members = pl.Series(sorted(row for c in clusters for row in c))
        assert expected["cluster"].is_not_null().arg_true().to_list() == members.to_list()
    for module in (bands, election, forest, join):
        for name, value in sizes.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    assert _run(dedup.near_dedup, shards(pieces), **given_settings).equals(expected)


def test_a_killed_stage_goes_on_from_what_it_has(shards, documents, monkeypatch):
    """Cut after each number of units; the second run does the rest, and ends the same."""
    frame = _mixture(documents)
    pieces = [frame[:30], frame[30:]]
    whole, started = shards(pieces), []
    unit = units._unit

    def counted(*arguments):
        if len(started) == limit:
            raise KeyboardInterrupt
        started.append(arguments[2][1])
        return unit(*arguments)

    limit = 10**6
    monkeypatch.setattr(units, "_unit", counted)
    expected, total = _run(dedup.near_dedup, whole), len(started)
    assert total > 10
    for limit in range(total):
        view = shards(pieces)
        started.clear()
        with pytest.raises(KeyboardInterrupt):
            _run(dedup.near_dedup, view)
        started, first, limit = [], limit, 10**6
        assert _run(dedup.near_dedup, view).equals(expected)
        assert len(started) == total - first


def test_extensions_with_rules_of_their_own(shards, documents):
    """Rules §3: 3-grams for .nb and .frm, 0.6 for SAS, none for .dfm."""
    words = [f"word{i}" for i in range(40)]
    every = [w if i % 8 else f"x{i}" for i, w in enumerate(words)]  # 3-grams: 0.47
    some = [w if i not in (20, 30) else f"x{i}" for i, w in enumerate(words)]  # 0.57, 3-grams 0.73
    less = [w if i not in (1, 20) else f"x{i}" for i, w in enumerate(words)]  # 0.67

    def dropped(language, name, other, **settings):
        rows = [
            {"text": " ".join(text), "language": language, "path": f"{n}{name}"}
            for n, text in enumerate((words, other))
        ]
        found = _run(dedup.near_dedup, shards([documents(*rows)]), **SURE, **settings)
        return found["reason"].is_not_null().sum()

    assert dropped("mathematica", ".nb", some) == 1
    assert dropped("mathematica", ".m", some) == 0
    assert dropped("mathematica", ".nb", every) == 0
    assert dropped("visual-basic", ".frm", some) == 1
    assert dropped("visual-basic", ".frm", some, by_extension=False) == 0
    assert dropped("sas", ".sas", less) == 1
    assert dropped("python", ".py", less) == 0
    assert dropped("pascal", ".pas", [*words, "x"]) == 1
    assert dropped("pascal", ".dfm", [*words, "x"]) == 0
    assert dropped("pascal", ".dfm", words) == 1  # an exact copy is one everywhere
    assert dropped("pascal", ".dfm", [*words, "x"], by_extension=False) == 1


def test_one_commit_of_each_file_is_kept_by_lot(shards, documents):
    rows = [
        {"text": f"commit {n} of {repo}/{path}", "repo": repo, "path": path, "kind": "commit"}
        for n in range(6)
        for repo in ("a", "b")
        for path in ("x.py", "y.py")
    ]
    rows.append({"text": "alone", "repo": "c", "path": "x.py", "kind": "commit"})
    frame = documents(*rows)

    def kept(order, seed):
        mixed = frame[order]
        view = shards([mixed[:7], mixed[7:]])
        found = _run(dedup.one_commit_per_file, view, seed=seed)
        assert set(found["reason"]) == {None, "same-file"}
        stays = mixed.filter(found["reason"].is_null())
        assert stays.group_by("repo", "path").len()["len"].to_list() == [1] * 5
        named = found["cluster"].fill_null(mixed["id"])
        assert set(named) == set(stays["id"])
        return set(stays["id"])

    order = list(range(frame.height))
    assert kept(order, 0) == kept(order[::-1], 0)
    assert len({frozenset(kept(order, seed)) for seed in range(8)}) > 4


def test_equal_hashes_of_different_ids_do_not_fool_exact_dedup(shards, documents, monkeypatch):
    monkeypatch.setattr(dedup, "id_keys", lambda frame: np.zeros(frame.height, np.uint64))
    frame = documents("one", {"text": "two", "repo": "b"}, {"text": "two", "repo": "a"}, "three")
    found = _run(dedup.exact_dedup, shards([frame]))
    assert found["duplicate_of"].to_list() == [None, "a/src/f2.py", None, None]


@pytest.mark.timeout(60)  # 2 s; the merge of all pairs takes minutes
def test_many_unlike_files_that_share_a_header_stay_apart_in_bounded_time(shards, documents):
    """Half of each text is common to all: 4,000 x 4,000 pairs at Jaccard 0.5 in every bucket."""
    header = " ".join(f"licence{i}" for i in range(44))
    texts = [f"{header} " + " ".join(f"own{k}_{i}" for i in range(20)) for k in range(4000)]
    frame = documents(*texts)
    _run(dedup.near_dedup, shards([frame[:20]]))  # compiles
    found = _run(dedup.near_dedup, shards([frame]))
    assert found["reason"].null_count() == 4000
