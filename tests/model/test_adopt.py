import hashlib
import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer as Peer
from transformers import AutoModelForCausalLM, AutoTokenizer

from starcoders import bigcode, santacoder, starcoder2
from starcoders import tokenizer as trained
from starkiln.code.sentinels import SENTINELS
from starkiln.core.errors import UserError
from starkiln.model.adopt import adopt
from starkiln.model.checkpoint import load, load_model, save
from starkiln.tokenizer.tokenizer import Tokenizer

SANTA = ["<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>"]
SECOND = [*SENTINELS[:5], "<repo_name>", "<file_sep>", *SENTINELS[7:11], "<jupyter_script>"]
TEXT = "def stop(values):\n    return [value * 2023 for value in values]  # naïve café\n"
TEXTS = [
    TEXT,
    "",
    "x = 1234567890\n\n\n\ty",
    "<fim-prefix>a<fim_prefix>b<|endoftext|><file_sep>",
    "naïve café" * 9,
]


def made(kind, folder):
    """A folder of this kind: the model of transformers, and the tokenizer that is its own."""
    if kind == "santacoder":
        words, model = trained(TEXTS, 160, SANTA), bigcode(folder, 299)
    elif kind == "santacoder's first":
        words, model = trained(TEXTS, 160, SANTA), santacoder(folder)
    elif kind == "starcoder2":
        words = trained(TEXTS, 299, SECOND, first=True, alphabet=True)
        model = starcoder2(folder)
    else:
        words = trained(TEXTS, 170, SENTINELS, first=True)
        model = bigcode(folder, words.get_vocab_size())
    words.save(str(folder / "tokenizer.json"))
    return model, words


KINDS = ["santacoder", "santacoder's first", "starcoder2", "starcoderbase without all bytes"]


@pytest.fixture(params=KINDS)
def adopted(request, tmp_path):
    model, words = made(request.param, tmp_path / "theirs")
    facts = adopt(tmp_path / "theirs", tmp_path / "ours")
    return model, words, *load(tmp_path / "ours"), facts


def test_texts_have_the_same_tokens(adopted, tmp_path):
    _, theirs, _, ours, _ = adopted
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again(TEXT)["input_ids"] == ours.encode(TEXT)
    assert again.convert_tokens_to_ids(list(SENTINELS)) == list(range(19))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").config.eos_token_id == 0
    theirs = Peer.from_str(json.dumps({**json.loads(theirs.to_str()), "added_tokens": []}))
    for text in TEXTS:
        names = [theirs.id_to_token(i) for i in theirs.encode(text, add_special_tokens=False).ids]
        vocab = {i: name for name, i in json.loads(ours.definition)["model"]["vocab"].items()}
        assert [vocab[i] for i in ours.encode(text)] == names
        assert ours.decode(ours.encode(text)) == text
    assert list(ours.added.values())[: len(SENTINELS)] == list(SENTINELS)
    assert ours.encode_bytes(b"\xff\xfe\x00") != []


def test_every_token_has_the_same_logit(adopted):
    """The same function of token names: theirs by transformers, ours by the renumbered rows."""
    model, words, ours, tokenizer, _ = adopted
    here = json.loads(tokenizer.definition)["model"]["vocab"]
    alias = {"<fim_prefix>": "<fim-prefix>", "<fim_middle>": "<fim-middle>"}
    alias |= {"<fim_suffix>": "<fim-suffix>", "<fim_pad>": "<fim-pad>"}
    alias |= {"<filename>": "<file_sep>", "<reponame>": "<repo_name>"}
    pairs = []
    for name, i in here.items():
        there = words.token_to_id(name)
        there = words.token_to_id(alias.get(name, name)) if there is None else there
        if there is not None:
            pairs.append((i, there))
    assert len(pairs) == words.get_vocab_size()
    new, old = torch.tensor(pairs).T
    prompt = torch.randint(len(pairs), (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = ours.eval()(new[prompt])[..., new], model(old[prompt]).logits[..., old]
    torch.testing.assert_close(mine, theirs, rtol=0, atol=3e-5)


def test_no_row_is_lost_and_a_new_one_weighs_little(adopted):
    model, _, ours, tokenizer, facts = adopted
    rows = ours.transformer.wte.weight
    theirs = model.get_input_embeddings().weight
    assert facts["vocab"] == len(rows) == ours.vocab_size >= tokenizer.vocab_size
    found = {tuple(row) for row in rows.tolist()}
    assert all(tuple(row) in found for row in theirs.tolist())
    grown = len(rows) - len(theirs)
    assert grown == 0 or len(rows) % 128 == 0
    if grown:
        hidden = torch.randn(50, 48, generator=torch.Generator().manual_seed(0)) * 3
        before, after = ((hidden @ x.T).logsumexp(-1) for x in (theirs, rows))
        assert (after - before).min() >= -1e-5
        assert (after - before).max() <= grown / len(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_adopting_again_changes_nothing(tmp_path, kind):
    made(kind, tmp_path / "theirs")
    first = adopt(tmp_path / "theirs", tmp_path / "once")
    again = adopt(tmp_path / "once", tmp_path / "twice")
    adopt(tmp_path / "theirs", tmp_path / "once")  # over what is there
    assert digests(tmp_path / "once") == digests(tmp_path / "twice")
    assert again["new"] == []
    assert again["vocab"] == first["vocab"]


def test_ours_is_adopted_as_it_is(make, tokenizer, tmp_path):
    save(tmp_path / "ours", make(), tokenizer)
    facts = adopt(tmp_path / "ours", tmp_path / "out")
    assert facts == {"from": "gpt_bigcode", "vocab": 299, "new": []}
    for name in ("model.safetensors", "config.json"):
        assert digests(tmp_path / "out")[name] == digests(tmp_path / "ours")[name]
    assert Tokenizer.load(tmp_path / "out").encode(TEXT) == tokenizer.encode(TEXT)


def test_santacoder_keeps_its_size(tmp_path):
    """What StarCoder has and SantaCoder has not takes rows of its padding (rules §12)."""
    bigcode(tmp_path / "theirs", 320)
    words = trained(TEXTS, 280, SANTA, alphabet=True)
    words.save(str(tmp_path / "theirs" / "tokenizer.json"))
    facts = adopt(tmp_path / "theirs", tmp_path / "ours")
    assert facts == {"from": "gpt_bigcode", "vocab": 320, "new": list(SENTINELS[5:])}
    before = load_model(tmp_path / "theirs").transformer.wte.weight
    after = load_model(tmp_path / "ours").transformer.wte.weight
    assert torch.equal(after[1], before[words.token_to_id("<fim-prefix>")])
    assert torch.equal(after[5:19], before[words.get_vocab_size() :][:14])
    assert sorted(after.tolist()) == sorted(before.tolist())


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def edited(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def words(change):
    return lambda folder: edited(folder / "tokenizer.json", change)


FAULTS = {
    "llama": (
        lambda f: edited(f / "config.json", lambda c: c.update(model_type="llama")),
        "model_type is 'llama'; known are gpt_bigcode, starcoder2",
    ),
    "plain gpt2": (
        lambda f: edited(f / "config.json", lambda c: c.update(model_type="gpt2")),
        "attention_head_type is None",
    ),
    "only bin": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "only pytorch_model.bin is there; save the model as safetensors",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer here"),
    "no JSON": (lambda f: (f / "tokenizer.json").write_text("["), "not a byte-level BPE"),
    "a list": (lambda f: (f / "tokenizer.json").write_text("[]"), "not a byte-level BPE"),
    "deep": (lambda f: (f / "tokenizer.json").write_text("[" * 99999), "not a byte-level BPE"),
    "another model": (words(lambda w: w["model"].update(type="Unigram")), "its model is Unigram"),
    "another split": (words(lambda w: w.update(pre_tokenizer=None)), "not a byte-level BPE"),
    "normaliser": (words(lambda w: w.update(normalizer={"type": "NFC"})), "does not split text"),
    "id over the rows": (
        words(lambda w: w["model"]["vocab"].update(zzz=299)),
        "ids go up to 299, the model has 299 rows",
    ),
    "id no number": (words(lambda w: w["model"]["vocab"].update(zzz="9")), "zzz' has the id '9'"),
    "id twice": (words(lambda w: w["model"]["vocab"].update(zzz=5)), "share the id 5"),
    "ordinary sentinel": (
        words(lambda w: w["model"]["vocab"].update({"<reponame>": 200})),
        "<reponame> is an ordinary token",
    ),
    "merge of nothing": (words(lambda w: w["model"]["merges"].append(["q", "ZZ"])), "not a byte"),
    "merges no list": (words(lambda w: w["model"].update(merges=7)), "not a byte-level BPE"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence(tmp_path, fault):
    made("santacoder", tmp_path / "theirs")
    break_it, sentence = FAULTS[fault]
    break_it(tmp_path / "theirs")
    with pytest.raises(UserError, match=sentence) as caught:
        adopt(tmp_path / "theirs", tmp_path / "ours")
    assert str(tmp_path / "theirs") in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_the_folder_itself_is_not_overwritten(tmp_path):
    made("santacoder", tmp_path / "theirs")
    before = digests(tmp_path / "theirs")
    with pytest.raises(UserError, match="is the checkpoint to adopt"):
        adopt(tmp_path / "theirs", tmp_path / "x" / ".." / "theirs")
    assert digests(tmp_path / "theirs") == before
    shutil.rmtree(tmp_path / "theirs")


def test_bfloat16_stays(tmp_path):
    bigcode(tmp_path / "theirs", 299).bfloat16().save_pretrained(tmp_path / "theirs")
    trained(TEXTS, 160, SANTA).save(str(tmp_path / "theirs" / "tokenizer.json"))
    adopt(tmp_path / "theirs", tmp_path / "ours")
    assert load_model(tmp_path / "ours").transformer.wte.weight.dtype == torch.bfloat16
