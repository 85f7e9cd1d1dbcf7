import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from starcoders import edit
from starkiln.core.errors import UserError
from starkiln.model.bert import load, load_encoder, load_tagger, save
from starkiln.model.encoder import Encoder, Tagger, draw
from starkiln.model.settings import EncoderSettings
from starkiln.tokenizer import encoder_words
from starkiln.tokenizer.encoder_words import words

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 32,
    "layer_norm_eps": 1e-9,
    "initializer_range": 0.2,
}
ROWS = 303
IDS = torch.arange(40).view(2, 20) * 7 % ROWS
MASK = torch.arange(20) < torch.tensor([[20], [13]])
SEGMENTS = (torch.arange(20) > 8).long().expand(2, -1)
# An order that is neither the alphabet's nor pairs of B and I.
LABELS = ["O", "I-KEY", "B-NAME", "B-KEY", "I-NAME", "B-EMAIL", "I-EMAIL", "B-PASSWORD"]
LABELS += ["I-PASSWORD", "B-IP_ADDRESS", "I-IP_ADDRESS", "I-USERNAME", "B-USERNAME"]


def lively(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def encoder(**keys):
    return lively(Encoder(EncoderSettings(**SHAPE), ROWS, **keys))


def tags(**keys):
    return lively(Tagger(EncoderSettings(**SHAPE), ROWS, LABELS, **keys))


def theirs(kind, folder, tokenizer, **keys):
    torch.manual_seed(0)
    model = lively(kind(BertConfig(vocab_size=ROWS, **{**SHAPE, **keys})))
    model.save_pretrained(folder)
    encoder_words.save(folder, tokenizer, 32)
    return model


def named():
    return {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: i for i, label in enumerate(LABELS)},
    }


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def check_encoder(ours, bert):
    mask = MASK.long()
    for given in (None, mask):
        out = bert(IDS, token_type_ids=SEGMENTS, attention_mask=given)
        hidden = ours.hidden(IDS, SEGMENTS, None if given is None else MASK)
        seen = torch.ones_like(MASK) if given is None else MASK
        same(ours.words(hidden)[seen], out.prediction_logits[seen])
        same(ours.follows(hidden), out.seq_relationship_logits)


@torch.no_grad()
def check_tagger(ours, bert):
    same(ours(IDS), bert(IDS).logits)
    same(ours(IDS, MASK)[MASK], bert(IDS, attention_mask=MASK.long()).logits[MASK])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("encoder")
    save(path, encoder(), tokenizer)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def tagging(tmp_path, tokenizer):
    save(tmp_path / "tagger", tags(), tokenizer)
    return tmp_path / "tagger"


def digests(path):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir()}


def test_transformers_loads_our_encoder(folder):
    bert, report = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert type(bert) is BertForPreTraining
    assert not any(report.values())
    check_encoder(encoder(), bert.eval())


def test_transformers_loads_our_tagger(tagging):
    loaded = AutoModelForTokenClassification.from_pretrained(tagging, output_loading_info=True)
    assert type(loaded[0]) is BertForTokenClassification
    assert not any(loaded[1].values())
    assert loaded[0].config.id2label == dict(enumerate(LABELS))
    check_tagger(tags(), loaded[0].eval())


@pytest.mark.parametrize("seed", [0, 1])
def test_we_load_their_encoder(tmp_path, tokenizer, seed):
    bert = theirs(BertForPreTraining, tmp_path, tokenizer)
    loaded, found = load_encoder(tmp_path)
    check_encoder(loaded.eval(), bert)
    assert (loaded.config, loaded.vocab_size) == (EncoderSettings(**SHAPE), ROWS)
    assert found.vocab_size == tokenizer.vocab_size


def test_we_load_their_tagger_with_its_labels_in_order(tmp_path, tokenizer):
    bert = theirs(BertForTokenClassification, tmp_path, tokenizer, **named())
    loaded, _ = load_tagger(tmp_path)
    assert loaded.labels == tuple(LABELS)
    check_tagger(loaded.eval(), bert)
    config = json.loads((tmp_path / "config.json").read_text())
    edit(tmp_path / "config.json", id2label=dict(reversed(config["id2label"].items())))
    assert load_tagger(tmp_path)[0].labels == tuple(LABELS)


def test_a_folder_of_2023(tmp_path, tokenizer):
    """Position ids and a tied head in the file, TensorFlow's names of norms, strange keys."""
    bert = theirs(BertForPreTraining, tmp_path, tokenizer)
    path = tmp_path / "model.safetensors"
    held = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): w
        for n, w in load_file(path).items()
    }
    held["bert.embeddings.position_ids"] = torch.arange(32)[None]
    held["cls.predictions.decoder.weight"] = held["bert.embeddings.word_embeddings.weight"].clone()
    held["cls.predictions.decoder.bias"] = held["cls.predictions.bias"].clone()
    save_file(held, path, {"format": "pt"})
    edit(
        tmp_path / "config.json",
        gradient_checkpointing=True,
        output_hidden_states=True,
        position_embedding_type="absolute",
        torch_dtype="float32",
        hidden_dropout_prob=0,
    )
    check_encoder(load_encoder(tmp_path)[0].eval(), bert)


def test_a_tagger_that_kept_the_pooler(tagging):
    path = tagging / "model.safetensors"
    held = load_file(path)
    held["bert.pooler.dense.weight"] = torch.zeros(48, 48)
    held["bert.pooler.dense.bias"] = torch.zeros(48)
    save_file(held, path, {"format": "pt"})
    with torch.no_grad():
        assert torch.equal(load_tagger(tagging)[0].eval()(IDS), tags()(IDS))


@pytest.mark.parametrize(
    ("kind", "missing"),
    [(BertForMaskedLM, "cls.seq_relationship.bias"), (BertModel, "cls.predictions.bias")],
)
def test_missing_heads_are_drawn_if_asked(tmp_path, tokenizer, kind, missing):
    bert = theirs(kind, tmp_path, tokenizer)
    with pytest.raises(
        UserError, match=r"lack .*; give a BertForPreTraining, or ask for fresh"
    ) as e:
        load(tmp_path)
    assert missing in str(e.value)
    loaded, _ = load_encoder(tmp_path, fresh=7)
    config = EncoderSettings(**SHAPE)
    assert torch.equal(
        loaded.heads.follows.weight, draw(config, 7, "heads.follows.weight", (2, 48))
    )
    trunk = bert if kind is BertModel else bert.bert
    with torch.no_grad():
        hidden = loaded.eval().hidden(IDS)
        same(hidden, trunk(IDS).last_hidden_state)
        if kind is BertForMaskedLM:
            same(loaded.words(hidden), bert(IDS).logits)
        else:
            same(loaded.heads.pooler(hidden[:, 0]).tanh(), bert(IDS).pooler_output)


@pytest.mark.parametrize("make", [encoder, tags])
def test_equal_weights_equal_bytes(tmp_path, tokenizer, make):
    save(tmp_path / "a", make(), tokenizer)
    model, found = load(tmp_path / "a")
    for name, weight in make().state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    save(tmp_path / "b", model, found)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    save(tmp_path / "b", make(seed=1), found)
    save(tmp_path / "b", make(), found)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_halves(tmp_path, tokenizer):
    model = encoder().to(torch.bfloat16)
    save(tmp_path, model, tokenizer)
    kept = load_encoder(tmp_path)[0]
    assert torch.equal(kept.trunk.words.weight, model.trunk.words.weight)
    assert kept.trunk.words.weight.dtype == torch.bfloat16
    wide = load_encoder(tmp_path, dtype=torch.float32)[0]
    assert torch.equal(wide.heads.bias, model.heads.bias.float())
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_many_files(tmp_path, tokenizer):
    model = theirs(BertForPreTraining, tmp_path, tokenizer)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert not (tmp_path / "model.safetensors").exists()
    check_encoder(load_encoder(tmp_path)[0].eval(), model)


def test_the_tokenizer_knows_the_words(folder, tokenizer):
    text, other = "def stop(x):\n    return 2023", "# naïve <mask>🙂"
    loaded = AutoTokenizer.from_pretrained(folder)
    pad, sep, cls, mask = words(tokenizer)
    ids = (loaded.pad_token_id, loaded.sep_token_id, loaded.cls_token_id, loaded.mask_token_id)
    assert ids == (pad, sep, cls, mask) == (299, 300, 301, 302)
    assert (len(loaded), loaded.model_max_length) == (ROWS, 32)
    assert AutoConfig.from_pretrained(folder).pad_token_id == pad
    first = tokenizer.encode(text)
    assert loaded(text)["input_ids"] == [cls, *first, sep]
    pair = loaded(text, "a b")
    second = tokenizer.encode("a b")
    assert pair["input_ids"] == [cls, *first, sep, *second, sep]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    ours = load(folder)[1]
    assert ours.encode(other) == tokenizer.encode(other)
    assert mask not in ours.encode(other)


def test_one_kind_in_place_of_the_other(folder, tagging):
    with pytest.raises(UserError, match="holds an encoder without labels; name the folder of a"):
        load_tagger(folder)
    with pytest.raises(UserError, match="holds a tagger; name the folder of an encoder"):
        load_encoder(tagging)


def test_rows_for_the_words(tmp_path, tokenizer):
    model = Encoder(EncoderSettings(**SHAPE), tokenizer.vocab_size + 3)
    with pytest.raises(ValueError, match="302 rows are too few for 303 entries"):
        save(tmp_path, model, tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"architectures": ["BertLMHeadModel"]}, "'BertLMHeadModel'; known are bert and BertFor"),
        ({"architectures": None}, "architecture None"),
        ({"architectures": {"a": 1}}, "architecture None"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide"),
        ({"hidden_size": "48"}, "hidden_size: "),
        ({"num_hidden_layers": 10**12}, "too few for 1000000000000 layers"),
        ({"hidden_size": 10**20}, "is [48], not [100000000000000000000]"),
        ({"vocab_size": 10**12}, "is [303, 48], not [1000000000000, 48]"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"num_hidden_layers": 1}, "hold bert.encoder.layer.1"),
        ({"num_hidden_layers": 3}, "lack bert.encoder.layer.2"),
        ({"intermediate_size": 79}, "is [80], not [79]"),
        ({"max_position_embeddings": 64}, "is [32, 48], not [64, 48]"),
        ({"architectures": ["BertForTokenClassification"]}, "id2label, which names the labels"),
    ],
)
def test_faults_of_the_config(copy, changes, message):
    edit(copy / "config.json", **changes)
    with pytest.raises(UserError) as error:
        load(copy)
    assert message in str(error.value)
    assert error.value.mend
    assert str(copy) in error.value.where


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({str(i): label for i, label in enumerate(LABELS[:-1])}, r"classifier.bias is \[13\], not"),
        ({}, "id2label, which names the labels, is missing"),
        (["O"], "id2label, which names the labels, is missing"),
        ({"0": "O", "2": "B"}, "does not name 2 different labels from 0 on"),
        ({"0": "O", "1": "O"}, "does not name 2 different labels from 0 on"),
        ({"0": "O", "1": 7}, "does not name 2 different labels from 0 on"),
    ],
)
def test_faults_of_the_labels(tagging, labels, message):
    edit(tagging / "config.json", id2label=labels)
    with pytest.raises(UserError, match=message):
        load(tagging)


def without(name):
    return lambda held: held.pop(name)


def with_one(name, tensor):
    return lambda held: held.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("bert.embeddings.word_embeddings.weight"), "lack bert.embeddings.word_emb"),
        (without("bert.encoder.layer.1.attention.self.key.bias"), "lack .*1.attention.self.key.b"),
        (without("cls.predictions.transform.dense.weight"), "lack cls.predictions.transform"),
        (with_one("bert.extra.weight", torch.ones(2)), "hold bert.extra.weight, which config"),
        (with_one("classifier.weight", torch.ones(2)), "hold classifier.weight, which config"),
        (with_one("bert.pooler.dense.weight", torch.ones(48)), r"is \[48\], not \[48, 48\]"),
        (with_one("bert.pooler.dense.bias", torch.ones(())), r"is \[\], not \[48\]"),
    ],
)
def test_faults_of_the_weights(copy, change, message):
    held = load_file(copy / "model.safetensors")
    change(held)
    save_file(held, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=message):
        load(copy)


def test_weights_of_integers(copy):
    held = load_file(copy / "model.safetensors")
    save_file({n: w.to(torch.int8) for n, w in held.items()}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"the weights are torch\.int8; give them as floats"):
        load(copy)


def test_files_that_are_missing_or_cut(copy):
    whole = (copy / "model.safetensors").read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (copy / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"model\.safetensors: is corrupt"):
            load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: is missing; save"):
        load(copy)
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(
        UserError, match=r"only pytorch_model\.bin is there; save the model as safe"
    ):
        load(copy)
    (copy / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: is missing; give"):
        load(copy)


def test_a_head_of_another_kind(tmp_path, tokenizer):
    theirs(BertForSequenceClassification, tmp_path, tokenizer)
    with pytest.raises(UserError, match="'BertForSequenceClassification'; known"):
        load(tmp_path)


def test_without_a_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json: no tokenizer here; copy"):
        load(copy)
