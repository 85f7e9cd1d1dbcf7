import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from starkiln.code.sentinels import SENTINELS
from starkiln.core.errors import UserError
from starkiln.tokenizer.bulk import Fast
from starkiln.tokenizer.encoder_words import ROLES, load, save, size, words
from starkiln.tokenizer.tokenizer import Tokenizer

NAMES = tuple(ROLES.values())
TEXTS = ["def stop(value):\n    return value  # naïve café 🙂\n"] * 4
TEXT = "def stop(x):\n    return 2023  # naïve 🙂"


def bigcode(folder, *, specials=SENTINELS, added=NAMES, texts=TEXTS):
    """As BigCode's scripts make an encoder's: no initial alphabet, the words added at the end."""
    made = Reference(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=list(specials), show_progress=False
    )
    made.train_from_iterator([*texts, "".join(map(chr, range(32, 127)))] * 4, trainer)
    before = made.get_vocab_size()
    made.add_special_tokens(list(added))
    made.save(str(folder / "tokenizer.json"))
    return made, before


@pytest.mark.parametrize("specials", [SENTINELS, SENTINELS[:1], ("<|endoftext|>", "<fim_pad>"), ()])
@pytest.mark.parametrize("added", [NAMES, ("<pad>",), ()])
def test_a_tokenizer_of_bigcode(tmp_path, specials, added):
    made, before = bigcode(tmp_path, specials=specials, added=added)
    found = load(tmp_path, before + 4)
    assert found.vocab_size == before
    assert size(found) == before + 4
    assert found.encode(TEXT) == made.encode(TEXT).ids
    for word, i in zip(NAMES, words(found)):
        assert made.token_to_id(word) == (i if word in added else None)
        assert i not in found.encode(f"a {word} b")
        assert found.decode(found.encode(f"a {word} b")) == f"a {word} b"


def test_saved_and_loaded_again(tmp_path, tokenizer):
    save(tmp_path / "a", tokenizer, 512)
    found = load(tmp_path / "a", size(tokenizer))
    assert found.vocab_size == tokenizer.vocab_size
    assert found.added == tokenizer.added
    assert found.encode(TEXT) == tokenizer.encode(TEXT)
    save(tmp_path / "b", found, 512)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert set(SENTINELS) <= set(theirs.all_special_tokens)
    assert theirs.eos_token == "<|endoftext|>"


def test_a_tokenizer_of_no_sentinels_is_saved_too(tmp_path):
    made, before = bigcode(tmp_path, specials=())
    save(tmp_path / "b", load(tmp_path, before + 4), 64)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "b")
    ids = [before + 2, *made.encode(TEXT).ids, before + 1]
    assert theirs(TEXT)["input_ids"] == ids
    assert len(theirs) == before + 4


@given(st.text(max_size=60))
def test_bytes_that_lack_are_read_as_others_of_their_kind(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("bytes")
    _, before = bigcode(folder)
    found = load(folder, before + 4)
    assert 0xC0 in found.stand_ins
    ids = np.array(found.encode(text), int)
    assert found.byte_lengths[ids].sum() == len(text.encode())
    assert found.characters[ids].sum() == len(text)
    changed = bytes(found.stand_ins.get(b, b) for b in text.encode())
    assert found.decode_bytes(ids) == changed
    stray = text.encode() + b"\xff\xc0"
    assert found.byte_lengths[found.encode_bytes(stray)].sum() == len(stray)


def test_a_whole_alphabet_has_no_stand_ins(tokenizer):
    assert tokenizer.stand_ins == {}
    assert Tokenizer(tokenizer.definition, reads_alone=True).encode(TEXT) == tokenizer.encode(TEXT)


def test_a_decoder_has_no_use_for_them(tmp_path):
    for specials, message in ((SENTINELS, "256 bytes"), (SENTINELS[:1], "sentinels")):
        bigcode(tmp_path, specials=specials, added=())
        with pytest.raises(UserError, match=message):
            Tokenizer.load(tmp_path)


def test_bulk_encoding_is_left_to_tokenizers_then(tmp_path):
    pytest.importorskip("gigatoken")
    _, before = bigcode(tmp_path)
    with pytest.raises(ValueError, match="lacks some of the 256 bytes"):
        Fast(load(tmp_path, before + 4))


def edited(folder, change):
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def moved(value):
    for token in value["added_tokens"]:
        if token["content"] == "<cls>":
            token["id"] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved, "<cls> has the id"),
        (lambda v: v.update(normalizer={"type": "NFC"}), "does not split text as"),
        (lambda v: v["pre_tokenizer"].update(pretokenizers=[]), "does not split text as"),
        (lambda v: v["model"]["vocab"].update(zzz=10**15), "are not"),
        (lambda v: v["model"]["vocab"].update(zzz=-5), "are not"),
        (lambda v: v["model"]["vocab"].update(zzz="5"), "tokenizer"),
        (lambda v: v["model"].update(vocab={}), "tokenizer"),
        (lambda v: v["model"].update(vocab=[]), "tokenizer"),
        (lambda v: v["model"].update(type="WordPiece"), "tokenizer"),
        (lambda v: v["model"].update(merges=[["q", "nothing"]]), "tokenizer"),
        (lambda v: v.update(added_tokens=[{"content": []}]), "tokenizer"),
        (lambda v: v.pop("model"), "tokenizer"),
        (lambda v: [v["model"]["vocab"].pop(c, 0) for c in "ĠÃ¯©ŁĻĤð"], "tokenizer"),
    ],
)
def test_other_tokenizers(tmp_path, change, message):
    _, before = bigcode(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, before + 4)
    assert error.value.where.endswith("tokenizer.json")
    assert "copy the model's own" in error.value.mend


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "\udcff", "[]", "7"])
def test_no_tokenizer_at_all(tmp_path, text):
    (tmp_path / "tokenizer.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="not a StarCoder encoder's tokenizer"):
        load(tmp_path, 10)


def test_too_few_rows(tmp_path):
    _, before = bigcode(tmp_path)
    with pytest.raises(UserError, match=f"are not {before + 3} rows'"):
        load(tmp_path, before + 3)
    assert load(tmp_path, before + 100).vocab_size == before
