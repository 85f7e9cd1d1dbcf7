import sys
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.sentinels import SENTINELS
from starkiln.tokenizer import bulk
from starkiln.tokenizer.tokenizer import Tokenizer, fit

pytest.importorskip("gigatoken")

CHARACTERS = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
NUMERIC = [c for c in CHARACTERS if unicodedata.category(c) in ("Nd", "Nl", "No")]
STDLIB = Path(sysconfig.get_path("stdlib"))


def strings(texts):
    return pl.Series(texts, dtype=pl.String)


def same(tokenizer, fast, texts):
    found = fast(strings(texts))
    assert found.tokens.dtype == np.uint32
    assert found.offsets.tolist()[:1] == [0]
    assert len(found.offsets) == len(texts) + 1
    documents = np.split(found.tokens, found.offsets[1:-1]) if texts else []
    assert [ids.tolist() for ids in documents] == [tokenizer.encode(text) for text in texts]


def library(limit):
    """The standard library's sources, up to so many bytes."""
    texts, size = [], 0
    for path in sorted(STDLIB.rglob("*.py")):
        try:
            texts.append(path.read_bytes().decode())
        except UnicodeDecodeError:
            continue
        size += len(texts[-1])
        if size > limit:
            break
    return texts


@pytest.fixture(scope="session")
def fast(tokenizer):
    return bulk.Fast(tokenizer)


PHRASES = [
    *(*SENTINELS, *"0123456789_-", "def f(x):", "0x1F", "12,345", "'s", "'ll"),
    *("  ", "\t ", "\r\n", "\n\n", "\x1c", "\x85", "\u00a0\u2003"),
    *("²", "٣", "Ⅷ", "½", "𝟘", "㉐", "𑵐", "\U000e0001", "\U0010ffff", "\ufeff", "\0"),
    *("é", "e\u0301", "日本", "🙂", "👩\u200d💻"),
]
WORDS = st.lists(st.sampled_from(PHRASES) | st.text(max_size=3), max_size=25).map("".join)


@settings(deadline=None)
@given(texts=st.lists(WORDS, max_size=5))
def test_ids_are_those_of_tokenizers(tokenizer, fast, texts):
    same(tokenizer, fast, texts)


@settings(deadline=None)
@given(text=st.text(st.sampled_from("a .'s0123456789 \t\n\r\u00a0²½é"), max_size=60))
def test_digits_and_space_in_every_order(tokenizer, fast, text):
    same(tokenizer, fast, [text])


@pytest.mark.parametrize("vocab_size", [275, 700, 5000])
def test_the_standard_library_at_several_vocabularies(vocab_size):
    texts = library(1_500_000)
    tokenizer = fit(texts[::3], vocab_size)
    same(tokenizer, bulk.Fast(tokenizer), texts)


def test_no_text_no_tokens(tokenizer, fast):
    for texts in ([], [""], ["", "a1", "", ""]):
        same(tokenizer, fast, texts)


def test_batches_and_new_encoders_change_nothing(tokenizer, monkeypatch):
    texts = library(60_000)
    monkeypatch.setattr(bulk, "_BATCH", 5_000)
    monkeypatch.setattr(bulk, "_LIFE", 9_000)
    fast = bulk.Fast(tokenizer)
    first = fast._bpe
    same(tokenizer, fast, ["", *texts, "", *texts[:3]])
    assert fast._bpe is not first


def test_long_numbers_leave_few_words():
    text = "".join(f"{i:012d}" for i in range(1000))
    data = np.frombuffer(text.encode(), np.uint8)
    cuts, _ = bulk.pieces(data, np.array([0, len(data)]), bulk.Kinds())
    assert np.diff(cuts).max() <= bulk._RUN


@pytest.fixture(scope="module")
def telling():
    """A tokenizer with merges across characters, so that where words end shows in its ids."""
    return fit([f"a{c}b .{c}; {c} {c}{c}" for c in CHARACTERS[:0x32000:50]], 3000)


def every_context(tokenizer, characters):
    """Beside letters, space, digits, signs and itself, the kind of a character shows."""
    texts = strings([f"a{c}b {c}  {c}1{c}.{c};\n {c}{c}a" for c in characters])
    found, expected = bulk.Fast(tokenizer)(texts), bulk.encode(tokenizer, texts)
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.array_equal(found.tokens, expected.tokens)


def test_characters_on_which_versions_of_unicode_differ(telling):
    new = "\u088f\ua7cf\U00010940\U00016ea0\U000323b0"  # of Unicode 17
    every_context(telling, [*CHARACTERS[::499], *CHARACTERS[0xA780:0xA800], *NUMERIC, *new])


def test_a_character_seen_in_another_way_goes_to_tokenizers(telling):
    points = np.array([*range(0xD800), *range(0x10000, 0x11000)])
    unlike = points[bulk.Kinds()(points) == bulk.UNLIKE]
    if not len(unlike):
        pytest.skip("this gigatoken and these tokenizers have the same Unicode")
    texts = ["x = 1\n", *(f"a{chr(i)}b .{chr(i)};" for i in unlike), "", "é  2"]
    same(telling, bulk.Fast(telling), texts)
    same(telling, bulk.Fast(telling), texts[1:2])


@pytest.mark.slow
def test_every_character(telling):
    every_context(telling, CHARACTERS[:0x32000] + CHARACTERS[0x32000::16])


def test_numbers_are_what_tokenizers_says():
    points = np.array([ord(c) for c in [*NUMERIC, "a", "é", "㉐", "日", "🙂"]])
    kinds = bulk.Kinds()
    for _ in range(2):  # asked, then remembered
        assert (kinds(points) == bulk.NUMBER).tolist() == [True] * len(NUMERIC) + [False] * 5


def test_the_encoder_says_what_it_is(tokenizer):
    encode, name = bulk.encoder(tokenizer, strings(["x = 12\n"]))
    assert isinstance(encode, bulk.Fast)
    assert name.startswith("gigatoken 0.")


def test_a_difference_falls_back(tokenizer, monkeypatch):
    """A broken cut (no cuts at all) is found by the sample and replaced by tokenizers."""
    monkeypatch.setattr(bulk, "pieces", lambda data, ends, kinds: (ends, ends[:0]))
    sample = strings(["x =   1²\n"])
    encode, name = bulk.encoder(tokenizer, sample)
    assert name == "tokenizers (gigatoken gave other ids)"
    assert encode(sample).tokens.tolist() == tokenizer.encode(sample[0])


def test_merges_of_digits_fall_back(tokenizer):
    changed = Tokenizer(tokenizer.definition)
    changed.token_bytes[-1] = b"12"
    encode, name = bulk.encoder(changed, strings(["x"]))
    assert name == "tokenizers (gigatoken: its merges join digits)"
    assert encode(strings(["12"])).tokens.tolist() == tokenizer.encode("12")
