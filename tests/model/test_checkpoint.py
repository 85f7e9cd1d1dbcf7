import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
)

from starcoders import edit
from starkiln.core.errors import UserError
from starkiln.model import checkpoint as checkpoint_module
from starkiln.model.checkpoint import load, load_model, save, stamps, write
from starkiln.tokenizer.tokenizer import fit

IDS = torch.arange(48).view(2, 24) * 5 % 299


def theirs(folder, *, shards=False, **keys):
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    shape = {"vocab_size": 299, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4}
    model = GPTBigCodeForCausalLM(
        GPTBigCodeConfig(**{**shape, **ids, "initializer_range": 0.2, **keys})
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size="30KB" if shards else "1GB")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make, tokenizer):
    path = tmp_path_factory.mktemp("checkpoint")
    save(path, make(), tokenizer)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("keys", [{}, {"n_inner": 40, "activation_function": "gelu"}])
def test_transformers_loads_ours(make, tokenizer, tmp_path, multi_query, keys):
    ours = make(multi_query=multi_query, **keys)
    save(tmp_path, ours, tokenizer)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert type(loaded) is GPTBigCodeForCausalLM
    assert loaded.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS).logits, ours(IDS), rtol=0, atol=3e-5)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert {*weights.keys(), "lm_head.weight"} == loaded.state_dict().keys()


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("shards", [True, False])
def test_we_load_theirs(tmp_path, multi_query, shards):
    model = theirs(tmp_path, multi_query=multi_query, shards=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    ours = load_model(tmp_path).eval()
    assert ours.config.multi_query is multi_query
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), model(IDS).logits, rtol=0, atol=3e-5)


def test_a_config_of_2023_with_its_extra_keys(tmp_path):
    model = theirs(tmp_path)
    edit(
        tmp_path / "config.json",
        inference_runner=0,
        validate_runner_input=True,
        pre_allocate_kv_cache=True,
        max_sequence_length=None,
        max_batch_size=None,
        pad_key_length=True,
        summary_type="cls_index",
        n_inner=192,
        resid_pdrop=0,
        torch_dtype="float32",
    )
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path).eval()(IDS), model(IDS).logits, rtol=0, atol=3e-5
        )


def test_keys_left_out_take_the_values_of_transformers(tmp_path):
    theirs(tmp_path, n_layer=12, n_head=12, n_positions=1024)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in ("n_layer", "n_head", "n_positions", "multi_query", "layer_norm_epsilon"):
        del config[name]
    path.write_text(json.dumps(config))
    assert load_model(tmp_path).config.n_layer == 12


def test_a_model_without_head_or_prefix(tmp_path):
    model = theirs(tmp_path / "whole")
    model.transformer.save_pretrained(tmp_path / "trunk")
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path / "trunk").eval()(IDS), model(IDS).logits, rtol=0, atol=3e-5
        )


def test_round_trip_keeps_every_bit_and_the_settings(folder, make, tokenizer, tmp_path):
    loaded, original = load_model(folder), make()
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    assert loaded.vocab_size == original.vocab_size
    assert all(p.requires_grad for p in loaded.parameters())
    save(tmp_path, loaded, tokenizer)
    assert digests(tmp_path) == digests(folder)


@pytest.mark.parametrize("keys", [{}, {"multi_query": False}, {"rope_theta": 1e4}])
def test_many_files_with_no_more_than_one_in_memory(make, tokenizer, tmp_path, monkeypatch, keys):
    model = make(**keys)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    save(whole, model, tokenizer)
    monkeypatch.setattr(checkpoint_module, "_SHARD_BYTES", 40_000)
    save(parts, model, tokenizer)
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) > 4
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    found = {name: file.name for file in files for name in load_file(file)}
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    assert all(file.stat().st_size < 62_000 for file in files)
    loaded, report = AutoModelForCausalLM.from_pretrained(parts, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS).logits, model(IDS), rtol=0, atol=3e-5)
    before = digests(parts)
    save(parts, load_model(whole), tokenizer)
    assert digests(parts) == before


def test_weights_come_one_by_one(make, tokenizer, tmp_path, monkeypatch):
    """When a tensor is asked for, all files that can be full are on the disk."""
    monkeypatch.setattr(checkpoint_module, "_SHARD_BYTES", 40_000)
    model, written = make(), []

    def tensors():
        for item in model.state_dict().items():
            written.append(len(list(tmp_path.glob("*.safetensors"))))
            yield item

    write(tmp_path, model.config, model.vocab_size, tokenizer, tensors())
    assert written[0] == 0
    assert len(set(written)) == len(list(tmp_path.glob("*.safetensors")))
    assert torch.equal(load_model(tmp_path).eval()(IDS), model(IDS))


@pytest.mark.parametrize("many", [True, False])
def test_saving_one_file_over_many_and_many_over_one(make, tokenizer, tmp_path, monkeypatch, many):
    sizes = [40_000, 10**9] if many else [10**9, 40_000]
    for seed, size in enumerate(sizes):
        monkeypatch.setattr(checkpoint_module, "_SHARD_BYTES", size)
        save(tmp_path, make(seed=seed), tokenizer)
    assert (tmp_path / "model.safetensors").exists() == many
    assert torch.equal(load_model(tmp_path).eval()(IDS), make(seed=1)(IDS))


def test_a_missing_parameter_is_no_checkpoint(make, tokenizer, tmp_path):
    tensors = list(make().named_parameters())
    with pytest.raises(ValueError, match=r"c_attn\.bias"):
        write(tmp_path, make().config, 299, tokenizer, [*tensors[:5], *tensors[6:]])
    with pytest.raises(ValueError, match="no tensors"):
        write(tmp_path, make().config, 299, tokenizer, [])
    assert not list(tmp_path.glob("*.safetensors"))


def test_stamps_tell_weights_and_settings_apart(copy, make, tokenizer):
    first = stamps(copy)
    (copy / "notes.txt").write_text("x")
    save(copy, make(), tokenizer)
    assert stamps(copy) == first
    save(copy, make(resid_pdrop=0.0), tokenizer)
    second = stamps(copy)
    save(copy, make(seed=1), tokenizer)
    third = stamps(copy)
    assert first != second != third != first


def test_the_tokenizer_travels_along(folder, tokenizer):
    text = "def stop(x):\n    return 2023  # naïve 🙂"
    loaded = load(folder)[1]
    assert loaded.encode(text) == tokenizer.encode(text)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token_id == AutoModelForCausalLM.from_pretrained(folder).config.eos_token_id


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_saving_over_leaves_whole_files_only(copy, make, tokenizer):
    save(copy, make(seed=1), tokenizer)
    assert sorted(p.name for p in copy.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert torch.equal(load_model(copy).transformer.ln_f.bias, make(seed=1).transformer.ln_f.bias)


@pytest.mark.parametrize("mask", [0o022, 0o007, 0o077])
def test_all_files_have_the_mode_of_new_files(make, tokenizer, tmp_path, mask):
    before = os.umask(mask)
    try:
        for _ in range(2):  # anew, and over what is there
            save(tmp_path, make(), tokenizer)
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()}
    assert modes == dict.fromkeys(modes, oct(0o666 & ~mask))


def test_bfloat16_is_kept_and_another_type_can_be_asked_for(make, tokenizer, tmp_path):
    save(tmp_path, make().to(torch.bfloat16), tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(tmp_path).transformer.wte.weight.dtype == torch.bfloat16
    assert load_model(tmp_path, dtype=torch.float32).transformer.wte.weight.dtype == torch.float32


def test_a_loaded_model_can_be_trained_without_touching_the_file(copy):
    before = digests(copy)
    model = load_model(copy)
    model.nats(model.hidden(IDS), IDS)[0].sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= parameter.grad
    assert digests(copy) == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_larger_tokenizer_than_the_model_is_refused(copy):
    fit(["one two three four five six seven eight nine ten\n"] * 9, 320).save(copy)
    with pytest.raises(UserError, match=r"tokenizer has 3\d\d entries, the model 299"):
        load(copy)


def test_a_folder_without_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(copy)


FAULTS = {
    "no folder": (lambda f: shutil.rmtree(f), "config.json: is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: is missing"),
    "cut weights": (lambda f: truncate(f / "model.safetensors"), "model.safetensors: is corrupt"),
    "empty weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        "model.safetensors: is corrupt",
    ),
    "cut config": (lambda f: truncate(f / "config.json"), "config.json: cannot be read"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: is no JSON"),
    "other model": (lambda f: edit(f / "config.json", model_type="llama"), "model_type is 'llama'"),
    "untied": (lambda f: edit(f / "config.json", tie_word_embeddings=False), "tie_word_embeddings"),
    "odd width": (lambda f: edit(f / "config.json", n_embd=49), "does not divide n_embd 49"),
    "text for number": (lambda f: edit(f / "config.json", n_layer="3"), "n_layer"),
    "no activation": (
        lambda f: edit(f / "config.json", activation_function="relu"),
        "activation_function",
    ),
    "endless layers": (lambda f: edit(f / "config.json", n_layer=10**12), "too few for n_layer"),
    "endless width": (lambda f: edit(f / "config.json", n_embd=10**18), r"is \[72\], not \[15"),
    "deep config": (
        lambda f: (f / "config.json").write_text("[" * 200_000),
        "config.json: cannot be read",
    ),
    "only bin": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"only pytorch_model.bin is there; save the model as safetensors",
    ),
    "too few layers": (lambda f: edit(f / "config.json", n_layer=2), r"weights hold .*\.h\.2\."),
    "too many layers": (lambda f: edit(f / "config.json", n_layer=4), r"weights lack .*\.h\.3\."),
    "other shape": (lambda f: edit(f / "config.json", vocab_size=7), r"wte.weight is \[299, 48\]"),
    "vocab a text": (lambda f: edit(f / "config.json", vocab_size="x"), "vocab_size"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_that_names_the_file(copy, fault):
    break_it, sentence = FAULTS[fault]
    break_it(copy)
    with pytest.raises(UserError, match=sentence) as caught:
        load_model(copy)
    assert str(copy) in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", 3])
def test_an_index_cannot_name_files_elsewhere(tmp_path, shard):
    theirs(tmp_path, shards=True)
    edit(tmp_path / "model.safetensors.index.json", weight_map={"transformer.wte.weight": shard})
    with pytest.raises(UserError, match="plain file names"):
        load_model(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    theirs(tmp_path, shards=True)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: is missing"):
        load_model(tmp_path)
