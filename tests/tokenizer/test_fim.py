import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.code.sentinels import (
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PAD,
    FIM_PREFIX,
    FIM_SUFFIX,
    ID,
    SENTINELS,
)
from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.tokenizer.fim import (
    Piece,
    prompt,
    psm,
    restore,
    spm,
    transform,
    transform_window,
)
from starkiln.tokenizer.layout import metadata_ids
from starkiln.tokenizer.tokenizer import fit

CODE = (
    "def f(a, b):\r\n\treturn  a+b  # naïve 日本語 🙂\n\n\nclass X:\n    y = 'don''t' * 1234\n" * 3
)
RUNS = st.tuples(st.sampled_from(" \n\r\t\u00a0\u2003"), st.integers(1, 9)).map(
    lambda p: p[0] * p[1]
)
TEXTS = st.lists(st.sampled_from("ab'sé日🙂1(.<") | RUNS, max_size=60).map("".join)


class Draws:
    """A generator whose next numbers are known: chosen, two cuts, order."""

    def __init__(self, *numbers):
        self.numbers = np.array(numbers)

    def random(self, count):
        assert count == len(self.numbers)
        return self.numbers


def always(piece, tokenizer, first, second, order=0.9, **rest):
    draws = Draws(0.0, first, second, order)
    return transform(np.array(piece), tokenizer, draws, rate=1.0, spm_rate=0.5, **rest)


def test_golden_layouts():
    assert psm([20], [21], [22]) == [FIM_PREFIX, 20, FIM_SUFFIX, 22, FIM_MIDDLE, 21]
    assert spm([20], [21], [22]) == [FIM_PREFIX, FIM_SUFFIX, 22, FIM_MIDDLE, 20, 21]


@pytest.mark.parametrize(
    ("order", "golden"),
    [
        (0.9, "<fim_prefix>def <fim_suffix>(a)\n<fim_middle>f"),
        (0.1, "<fim_prefix><fim_suffix>(a)\n<fim_middle>def f"),
    ],
)
def test_golden_transformations(tokenizer, order, golden):
    ids = tokenizer.encode("def f(a)\n")
    assert tokenizer.decode(always(ids, tokenizer, 0.59, 0.45, order)) == golden


@given(
    text=TEXTS, first=st.floats(0, 1, exclude_max=True), second=st.floats(0, 1, exclude_max=True)
)
def test_parts_are_what_encoding_them_apart_gives(tokenizer, text, first, second):
    """The slow, plain twin: decode, cut characters, encode all three."""
    ids = tokenizer.encode(text)
    if not ids:
        return
    a, b = sorted(int(place * (len(text) + 1)) for place in (first, second))
    parts = [tokenizer.encode(part) for part in (text[:a], text[a:b], text[b:])]
    assert always(ids, tokenizer, first, second, 0.9) == psm(*parts)
    assert always(ids, tokenizer, first, second, 0.1) == spm(*parts)


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0"])
def test_a_run_of_white_space_cut_short_merges_anew(space):
    """Two alike merge before one and a line feed do: cut between the two, and the others merge."""
    small = fit([f"a{space}{space}\nb" * 9 + f"a{space}\n\nb" * 5], 283)
    text = f"a{space}{space}\n\nb"
    pieces = [small.token_bytes[i].decode() for i in small.encode(text)]
    assert pieces == ["a", space * 2, "\n", "\n", "b"]
    assert small.token_bytes[small.encode(text[2:])[0]] == f"{space}\n".encode()
    found = always(small.encode(text), small, 2 / 6, 2 / 6)
    assert found == psm(small.encode(text[:2]), [], small.encode(text[2:]))


@given(
    data=st.lists(
        st.one_of(st.binary(max_size=9), st.sampled_from([CODE.encode(), "日本".encode()]))
    ),
    markers=st.lists(st.integers(5, len(SENTINELS) - 1), max_size=6),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    seed=st.integers(0, 2**32),
)
def test_any_piece_is_restored(tokenizer, data, markers, cut, seed):
    """Stray bytes, sentinels and a piece cut anywhere: nothing is lost, nothing moves."""
    ids = [i for part in data for i in tokenizer.encode_bytes(part)]
    for n, marker in enumerate(markers):
        ids.insert(len(ids) * n // len(markers), marker)
    ids = ids[cut[0] : len(ids) - cut[1]]
    rng = keyed.generator(seed)
    found = restore(transform(np.array(ids, int), tokenizer, rng, rate=1.0, spm_rate=0.5))
    assert tokenizer.decode_bytes(found) == tokenizer.decode_bytes(ids)
    assert _skeleton(tokenizer, found) == _skeleton(tokenizer, ids)


def _skeleton(tokenizer, ids):
    """The bytes between sentinels, and the sentinels."""
    runs = [[b""]]
    for i in ids:
        if i < len(SENTINELS):
            runs += [[i], [b""]]
        else:
            runs[-1].append(tokenizer.token_bytes[i])
    return [run if isinstance(run[0], int) else b"".join(run) for run in runs]


@given(seed=st.integers(0, 2**32))
def test_cuts_fall_outside_characters_metadata_and_markers(tokenizer, seed):
    metadata = metadata_ids(tokenizer, repo="日/é", path="a.py", stars=3)
    body = [*tokenizer.encode("日本 🙂"), ID["<issue_comment>"], *tokenizer.encode("é")]
    rng = keyed.generator(seed)
    piece = np.array(metadata + body)
    found = transform(piece, tokenizer, rng, rate=1.0, spm_rate=0.5, content=len(metadata))
    suffix, middle = found.index(FIM_SUFFIX), found.index(FIM_MIDDLE)
    parts = found[1:suffix], found[suffix + 1 : middle], found[middle + 1 :]
    for part in parts:
        tokenizer.decode_bytes(part).decode()  # every part is whole characters
    assert (parts[2] if suffix == 1 else parts[0])[: len(metadata)] == metadata
    assert found.count(ID["<issue_comment>"]) == 1


def test_metadata_alone_are_left_as_they_are(tokenizer):
    metadata = metadata_ids(tokenizer, repo="o/r")
    for ids, content in ((metadata, len(metadata)), ([], 0)):
        assert always(np.array(ids, int), tokenizer, 0.2, 0.7, content=content) == ids


def test_the_end_of_the_suffix_gives_way(tokenizer):
    ids = tokenizer.encode(CODE)
    whole = always(ids, tokenizer, 0.3, 0.6)
    cut = always(ids, tokenizer, 0.3, 0.6, room=len(ids))
    excess = len(whole) - len(ids)
    assert excess >= 3
    assert len(cut) == len(ids)
    middle, shorter = whole.index(FIM_MIDDLE), cut.index(FIM_MIDDLE)
    assert cut == whole[: middle - excess] + whole[middle:]
    assert middle - shorter == excess


def test_what_does_not_fit_is_left_as_it_is(tokenizer):
    ids = tokenizer.encode(CODE)
    assert always(ids, tokenizer, 0.3, 0.9999, room=len(ids)) == ids


def test_rates(tokenizer):
    """Over many pieces, rate and SPM share are the settings', cuts are uniform over characters."""
    ids, text = np.array(tokenizer.encode(CODE)), CODE
    done = [
        transform(ids, tokenizer, keyed.generator("t", i), rate=0.5, spm_rate=0.3)
        for i in range(3000)
    ]
    changed = [d for d in done if d[0] == FIM_PREFIX]
    assert abs(len(changed) / 3000 - 0.5) < 3 * 0.0092
    assert abs(np.mean([d[1] == FIM_SUFFIX for d in changed]) - 0.3) < 0.04
    assert all(d == ids.tolist() for d in done if d[0] != FIM_PREFIX)
    suffixes = [
        len(tokenizer.decode(d[d.index(FIM_SUFFIX) + 1 : d.index(FIM_MIDDLE)])) for d in changed
    ]
    assert abs(np.mean(suffixes) / len(text) - 1 / 3) < 0.02  # the smaller of two uniform cuts
    assert abs(np.std(suffixes) / len(text) - (1 / 18) ** 0.5) < 0.02


def test_a_window_keeps_its_length_and_its_ends(tokenizer):
    texts = ["x = 1\n", CODE, "", "y"]
    ids, pieces = [], []
    for text in texts:
        start = len(ids)
        ids += [*tokenizer.encode(text), END_OF_TEXT]
        pieces.append(Piece(start, len(ids), 0))
    window = np.array(ids)
    for i in range(50):
        rng = keyed.generator(i)
        found = transform_window(window, pieces, tokenizer, rng, rate=1.0, spm_rate=0.5)
        assert found.shape == window.shape
        assert FIM_PAD not in found
        first = restore(found[: found.tolist().index(END_OF_TEXT)].tolist())
        assert tokenizer.decode(first) == texts[0]
    same = transform_window(window, pieces, tokenizer, rng, rate=0.0, spm_rate=0.5)
    assert same.tolist() == ids


@given(seed=st.integers(0, 2**32))
def test_metadata_in_a_window_stay_at_the_start_of_their_prefix(tokenizer, seed):
    metadata = metadata_ids(tokenizer, repo="owner/name", path="long/path/of/a/file.py")
    first, second = tokenizer.encode("tail\n"), tokenizer.encode("x = 1\n" * 9)
    window = np.array([*first, END_OF_TEXT, *metadata, *second])
    pieces = [Piece(0, len(first) + 1, 0), Piece(len(first) + 1, len(window), len(metadata))]
    rng = keyed.generator(seed)
    found = transform_window(window, pieces, tokenizer, rng, rate=1.0, spm_rate=0.5).tolist()
    piece = found[found.index(END_OF_TEXT) + 1 :]
    assert restore(piece)[: len(metadata)] == metadata[: len(piece)]
    if piece[0] == FIM_PREFIX:
        start = piece.index(FIM_MIDDLE) + 1 if piece[1] == FIM_SUFFIX else 1
        assert piece[start : start + len(metadata)] == metadata


def test_a_window_within_one_document_is_transformed(tokenizer):
    window = np.array(tokenizer.encode(CODE * 3)[5:133])
    done = [
        transform_window(
            window, [Piece(0, 128, 0)], tokenizer, keyed.generator(i), rate=0.5, spm_rate=0.5
        )
        for i in range(1000)
    ]
    assert 0.44 < np.mean([d[0] == FIM_PREFIX for d in done]) < 0.54  # a few do not fit
    assert all(len(d) == 128 and FIM_PAD not in d for d in done)


def test_a_shorter_window_is_filled_with_pads(tokenizer):
    stray = [tokenizer.encode_bytes(bytes([b]))[0] for b in b"return"]  # encodes to fewer tokens
    window = np.array(stray * 20)
    draws = Draws(0.0, 0.5, 0.5, 0.9)
    pieces = [Piece(0, len(window), 0)]
    found = transform_window(window, pieces, tokenizer, draws, rate=1.0, spm_rate=0.0)
    pads = np.flatnonzero(found == FIM_PAD)
    assert len(found) == len(window)
    assert len(pads) > 0
    assert pads.tolist() == list(range(len(window) - len(pads), len(window)))


def test_prompts_stand_where_training_put_them(tokenizer):
    metadata = metadata_ids(tokenizer, path="a.py")
    ids = {
        mode: prompt("def ", "(a)\n", tokenizer, mode=mode, metadata=metadata)
        for mode in ("psm", "spm")
    }
    golden_psm = "<fim_prefix><filename>a.py\ndef <fim_suffix>(a)\n<fim_middle>"
    golden_spm = "<fim_prefix><fim_suffix>(a)\n<fim_middle><filename>a.py\ndef "
    assert tokenizer.decode(ids["psm"]) == golden_psm
    assert tokenizer.decode(ids["spm"]) == golden_spm
    text = [*metadata, *tokenizer.encode("def f(a)\n")]
    for order, mode in ((0.9, "psm"), (0.1, "spm")):
        trained = always(text, tokenizer, 0.45, 0.59, order, content=len(metadata))
        assert trained[: len(ids[mode])] == ids[mode]


@given(limit=st.integers(30, 400), mode=st.sampled_from(["psm", "spm"]))
def test_prompts_keep_the_lines_around_the_cursor(tokenizer, limit, mode):
    lines = [f"line number {i}\n" for i in range(60)]
    metadata = metadata_ids(tokenizer, path="a.py")
    before, after = "".join(lines[:30]) + "lin", "e 30\n" + "".join(lines[31:])
    ids = prompt(before, after, tokenizer, mode=mode, metadata=metadata, limit=limit)
    assert len(ids) <= limit
    suffix, middle = ids.index(FIM_SUFFIX), ids.index(FIM_MIDDLE)
    kept = tokenizer.decode(ids[suffix + 1 : middle])
    assert after.startswith(kept)
    prefix = ids[1:suffix] if mode == "psm" else ids[middle + 1 :]
    assert prefix[: len(metadata)] == metadata
    kept = tokenizer.decode(prefix[len(metadata) :])
    assert before.endswith(kept)
    assert kept.startswith("lin")


def test_a_short_side_leaves_its_room_to_the_other(tokenizer):
    long = "some line\n" * 200
    taken = len(prompt(long, "x\n", tokenizer, limit=100))
    assert 90 <= taken <= 100
    taken = len(prompt("x = ", long, tokenizer, limit=100))
    assert 90 <= taken <= 100
    with pytest.raises(UserError, match="no room"):
        prompt("a", "b", tokenizer, limit=3)
