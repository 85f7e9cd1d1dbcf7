import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.code.sentinels import ID, SENTINELS
from starkiln.core.errors import UserError
from starkiln.tokenizer.tokenizer import Tokenizer, fit

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
HOSTILE = st.lists(st.one_of(st.sampled_from(SENTINELS), TEXTS)).map("".join)
ODD = [
    "",
    "\r\n\r\n",
    "\x00",
    "a\tb  \n   c",
    "don't 12345½ x'S",
    "é" * 50,
    "<|endoftext|>",
    "\ufeff",
]


def test_vocabulary(tokenizer):
    assert tokenizer.vocab_size == 700
    assert tokenizer.token_bytes[: len(SENTINELS)] == [b""] * len(SENTINELS)
    assert {bytes([b]) for b in range(256)} <= set(tokenizer.token_bytes)
    assert len(set(tokenizer.token_bytes[len(SENTINELS) :])) == 700 - len(SENTINELS)


@given(text=HOSTILE)
def test_text_round_trips_and_never_becomes_a_sentinel(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(i >= len(SENTINELS) for i in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


@pytest.mark.parametrize("text", ODD)
def test_odd_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(data=st.binary())
def test_any_bytes_round_trip(tokenizer, data):
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode(errors="replace")


def test_digits_are_single(tokenizer):
    pieces = [tokenizer.token_bytes[i] for i in tokenizer.encode("x = 2048")]
    assert pieces[-5:] == [b" ", b"2", b"0", b"4", b"8"]


def test_unseen_bytes_survive_a_vocabulary_of_ascii_alone():
    small = fit(["abc abc"], 300)
    assert small.decode(small.encode("日本語 \x00 é")) == "日本語 \x00 é"
    assert small.vocab_size < 300  # no pair occurs twice any more


def test_a_sentinel_learnt_from_text_is_still_text():
    learnt = fit(["<fim_prefix> <|endoftext|> " * 99], 400)
    for name in SENTINELS:
        assert learnt.decode(learnt.encode(name)) == name
        assert not set(learnt.encode(name)) & set(ID.values())


def test_decode_shows_sentinels_and_decode_bytes_does_not(tokenizer):
    ids = [ID["<fim_prefix>"], *tokenizer.encode("é"), ID["<|endoftext|>"]]
    assert tokenizer.decode(ids) == "<fim_prefix>é<|endoftext|>"
    assert tokenizer.decode_bytes(ids) == "é".encode()


def test_lengths(tokenizer):
    ids = tokenizer.encode("naïve 日本 x")
    assert tokenizer.byte_lengths[ids].sum() == len("naïve 日本 x".encode())
    assert tokenizer.characters[ids].sum() == len("naïve 日本 x")
    assert tokenizer.byte_lengths[0] == 0
    assert tokenizer.characters[0] == 1


@given(
    text=st.text(
        st.sampled_from(" \n\t\r\x0b\x0cab'st12(._é日\u00a0\u2028\u2003\u0085"), max_size=60
    ),
    after=TEXTS,
)
def test_boundaries_are_the_same_whatever_stands_beyond(tokenizer, text, after):
    import numpy as np

    ids = np.array(tokenizer.encode(text + after), np.int64)
    for i in np.flatnonzero(tokenizer.boundaries(ids)).tolist():
        for part in (ids[:i], ids[i:]):
            data = tokenizer.decode_bytes(part)
            assert tokenizer.encode_bytes(data) == part.tolist()


def test_boundaries_are_frequent(tokenizer):
    import numpy as np

    ids = np.array(tokenizer.encode("def f(a, b):\r\n    return a + b\n"), np.int64)
    assert tokenizer.boundaries(ids).sum() >= 9


def test_saved_bytes_are_stable_and_reload(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a")
    Tokenizer.load(tmp_path / "a").save(tmp_path / "b")
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Tokenizer.load(tmp_path / "a" / "tokenizer.json").vocab_size == 700


def test_transformers_gives_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    # A checkpoint's config would otherwise let transformers choose GPT-2's tokenizer.
    config = {"model_type": "gpt_bigcode", "vocab_size": 700, "bos_token_id": 0, "eos_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = [t for t in ODD if "<" not in t] + ["x = [1, 22, 333]\n\tprint( x , end='')\n"]
    for text in texts:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.convert_tokens_to_ids(list(SENTINELS)) == list(range(len(SENTINELS)))
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 0, 0)
    assert set(theirs.all_special_tokens) == set(SENTINELS)
    assert "token_type_ids" not in theirs("a")


FIT = """
import sys, hashlib, inspect, json, textwrap, argparse
from starkiln.tokenizer.tokenizer import fit
texts = [inspect.getsource(m) for m in (json, textwrap, argparse, inspect)]
texts = [line for text in texts for line in text.splitlines(True)]
if sys.argv[1] == "reversed":
    texts.reverse()
print(hashlib.sha256(fit(texts, 800).definition.encode()).hexdigest())
"""


def test_training_depends_on_neither_threads_nor_order():
    found = set()
    for threads, order in (("1", "as-is"), ("4", "as-is"), ("3", "reversed")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        command = [sys.executable, "-c", FIT, order]
        found.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
    assert hashlib.sha256(b"").hexdigest().encode() not in found


def test_half_a_surrogate_is_the_users_fault(tokenizer):
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode("\ud800")


def test_no_tokenizer_here(tmp_path):
    with pytest.raises(UserError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)


def _broken(definition: dict, case: str) -> str:
    if case == "sentinels":
        definition["added_tokens"].pop(3)
    elif case == "bytes":
        definition["model"]["vocab"].pop("A")
    elif case == "split":
        definition["pre_tokenizer"] = definition["pre_tokenizer"]["pretokenizers"][1]
    elif case == "normalizer":
        definition["normalizer"] = {"type": "NFC"}
    return "{" if case == "json" else json.dumps(definition)


@pytest.mark.parametrize("case", ["sentinels", "bytes", "split", "normalizer", "json"])
def test_a_tokenizer_of_another_kind_is_refused(tokenizer, tmp_path, case):
    path = tmp_path / "tokenizer.json"
    path.write_text(_broken(json.loads(tokenizer.definition), case))
    with pytest.raises(UserError, match="not a StarCoder tokenizer"):
        Tokenizer.load(path)
