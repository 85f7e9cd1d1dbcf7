"""Folders of other layouts: StarCoder2's, SantaCoder's first one, and our own."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_bytes
from transformers import AutoConfig, AutoModelForCausalLM, Starcoder2ForCausalLM

from starcoders import edit, santacoder, starcoder2
from starkiln.core.errors import UserError
from starkiln.model.checkpoint import load_model, only_ours, reader, save
from starkiln.model.settings import DecoderSettings

IDS = torch.arange(48).view(2, 24) * 5 % 299


@pytest.mark.parametrize("keys", [{"multi_query": False}, {"num_key_value_heads": 2}, {}])
@pytest.mark.parametrize("theta", [10_000.0, 123.25])
def test_transformers_loads_rotary_positions(make, tokenizer, tmp_path, keys, theta):
    ours = make(rope_theta=theta, n_inner=100, **keys)
    save(tmp_path, ours, tokenizer)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert type(loaded) is Starcoder2ForCausalLM
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS).logits, ours(IDS), rtol=0, atol=3e-5)
    again = load_model(tmp_path)
    assert again.config.kv_heads == ours.config.kv_heads
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    save(tmp_path / "again", again, tokenizer)
    for path in tmp_path.glob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("saved", [{}, {"shards": True}, {"trunk": True}])
def test_we_load_starcoder2(tmp_path, kv_heads, saved):
    model = starcoder2(tmp_path, num_key_value_heads=kv_heads, **saved)
    ours = load_model(tmp_path).eval()
    assert (ours.config.kv_heads, ours.config.rope_theta) == (kv_heads, 999.5)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), model(IDS).logits, rtol=0, atol=3e-5)


def test_a_starcoder2_config_of_2024(tmp_path):
    model = starcoder2(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    del raw["rope_parameters"]
    path.write_text(json.dumps({**raw, "rope_theta": 999.5, "norm_type": "layer_norm"}))
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path).eval()(IDS), model(IDS).logits, rtol=0, atol=3e-5
        )


def test_a_sliding_window_is_the_longest_context(tmp_path):
    model = starcoder2(tmp_path, sliding_window=24)
    config, _, _ = reader(tmp_path)
    assert config.n_positions == 24
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path).eval()(IDS), model(IDS).logits, rtol=0, atol=3e-5
        )


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"use_bias": False}, "use_bias is False; only True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 9.0}}, "rope_type is 'yarn'"),
        ({"rope_parameters": [1]}, "rope_type is"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta"),
        ({"max_position_embeddings": "x"}, "n_positions"),
    ],
)
def test_what_starcoder2_may_not_be(tmp_path, keys, sentence):
    starcoder2(tmp_path)
    edit(tmp_path / "config.json", **keys)
    with pytest.raises(UserError, match=sentence):
        load_model(tmp_path)


def test_grouped_queries_with_learned_positions_are_ours_alone(make, tokenizer, tmp_path):
    ours = make(num_key_value_heads=2)
    save(tmp_path, ours, tokenizer)
    loaded = load_model(tmp_path)
    assert loaded.config == ours.config.model_copy(
        update={"n_inner": ours.config.inner, "initializer_range": ours.config.std}
    )
    assert torch.equal(loaded.eval()(IDS), ours(IDS))
    assert "set rope_theta" in only_ours(ours.config)
    with pytest.raises(ValueError, match="starkiln"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("keys", [{}, {"rope_theta": 1e4, "num_key_value_heads": 3}])
def test_all_others_are_transformers_too(keys):
    assert only_ours(DecoderSettings(**keys)) == ""


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_we_load_santacoders_first_layout(tmp_path, prefix):
    theirs = santacoder(tmp_path, prefix=prefix)
    ours = load_model(tmp_path).eval()
    assert ours.config.kv_heads == 1
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=0, atol=3e-5)


@pytest.mark.parametrize("rows", [range(5), range(7, 31), range(30, 48), range(48), range(0)])
def test_rows_of_transposed_matrices(tmp_path, rows):
    santacoder(tmp_path)
    _, _, read = reader(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "transformer.h.1.attn.q_attn.weight"
    assert torch.equal(read(name, rows), stored[name].T[rows.start : rows.stop])


@pytest.mark.parametrize("model", ["plain gpt2", "llama"])
def test_other_architectures_are_refused(tmp_path, model):
    santacoder(tmp_path)
    keys = {"model_type": "llama"} if model == "llama" else {"attention_head_type": "multihead"}
    edit(tmp_path / "config.json", **keys)
    with pytest.raises(UserError, match=r"is 'llama'; known|is 'multihead'; only"):
        reader(tmp_path)


@pytest.mark.parametrize("keys", [{}, {"multi_query": False}, {"rope_theta": 1e4}])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_a_reader_gives_any_rows_by_our_names(make, tokenizer, tmp_path, keys, kv_heads):
    model = make(num_key_value_heads=kv_heads, **keys).bfloat16()
    save(tmp_path, model, tokenizer)
    config, vocab_size, read = reader(tmp_path)
    assert (config.kv_heads, vocab_size) == (model.config.kv_heads, 299)
    for name, parameter in model.named_parameters():
        assert read(name).dtype == torch.float32
        assert read(name, None, None).dtype == torch.bfloat16
        assert torch.equal(read(name), parameter.float()), name
        for parts in (1, 3, 5):
            step = -(-len(parameter) // parts)
            ranges = [range(i, min(i + step, len(parameter))) for i in range(0, step * parts, step)]
            pieces = [read(name, rows) for rows in ranges]
            assert torch.equal(torch.cat(pieces), parameter.float()), name
        assert read(name, range(3, 3)).shape == (0, *parameter.shape[1:])


def test_what_a_reader_gives_is_the_callers_own(make, tokenizer, tmp_path):
    save(tmp_path, make(), tokenizer)
    _, _, read = reader(tmp_path)
    name = "transformer.h.0.attn.q_attn.weight"
    before = read(name, range(3, 5))
    read(name, range(3, 5), None).zero_()
    assert torch.equal(read(name, range(3, 5)), before)


def test_a_reader_reads_only_what_is_asked_for(make, tokenizer, tmp_path):
    """A table of 19 GB that is a hole in the file: any rows of it come at once."""
    save(tmp_path, make(), tokenizer)
    weights, positions = tmp_path / "model.safetensors", 100_000_000
    tensors = load_file(weights)
    tensors.pop("transformer.wpe.weight")
    raw = save_bytes(tensors)
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    span = [len(data), len(data) + positions * 48 * 4]
    wide = {"dtype": "F32", "shape": [positions, 48], "data_offsets": span}
    text = json.dumps({**header, "transformer.wpe.weight": wide}).encode()
    with weights.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)
        file.truncate(8 + len(text) + span[1])
    edit(tmp_path / "config.json", n_positions=positions)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, _, read = reader(tmp_path)
    rows = read("transformer.wpe.weight", range(positions - 1000, positions))
    assert rows.shape == (1000, 48)
    assert not rows.any()
    assert torch.equal(read("transformer.ln_f.bias"), make().transformer.ln_f.bias)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_rotary_positions_equal_those_of_the_textbook():
    from starkiln.model.attention import rotate, rotation

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 0, 7, 9]])
    turned = rotate(x, rotation(positions, 8, 50.0, torch.float64))
    for b in range(2):
        for t in range(5):
            for i in range(4):
                angle = positions[b, t] * 50.0 ** (-2 * i / 8)
                a = torch.complex(x[b, :, t, i], x[b, :, t, i + 4])
                a = a * torch.polar(torch.ones(()).double(), angle.double())
                torch.testing.assert_close(turned[b, :, t, i], a.real, rtol=0, atol=1e-6)
                torch.testing.assert_close(turned[b, :, t, i + 4], a.imag, rtol=0, atol=1e-6)
