import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.model import decoder as decoder_module
from starkiln.model.attention import attention
from starkiln.model.decoder import Decoder, draw, initialise
from starkiln.model.settings import DecoderSettings, parameter_count, parameter_shapes

IDS = torch.arange(40).view(2, 20) * 7 % 299


class Kept:
    """A plain cache: every key and value so far."""

    def __init__(self):
        self.layers = {}

    def attend(self, layer, q, k, v):
        if layer in self.layers:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self.layers[layer], (k, v)))
        self.layers[layer] = k, v
        return attention(q, k, v)


KINDS = [{}, {"multi_query": False}, {"num_key_value_heads": 2}]
KINDS += [{**kind, "rope_theta": 100.0} for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[1] * 20, [8, 1, 7, 4]])
def test_cached_equals_full(make, kind, cuts):
    model, cache, start = make(**kind), Kept(), 0
    parts = []
    for part in IDS.split(cuts, dim=1):
        positions = torch.arange(start, start + part.size(1))
        parts.append(model.hidden(part, positions=positions, cache=cache))
        start += part.size(1)
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(IDS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_with_their_own_positions_are_as_if_alone(make, kind):
    """Hidden states and all gradients, against a loop over the documents."""
    ours, twin = make(**kind), make(**kind)
    ends = [[0, 1, 9, 20], [0, 7, 8, 20]]
    documents, positions = torch.zeros_like(IDS), torch.zeros_like(IDS)
    alone = torch.empty(2, 20, 48)
    for row, bounds in enumerate(ends):
        for number, (a, b) in enumerate(pairwise(bounds)):
            documents[row, a:b] = number
            positions[row, a:b] = torch.arange(b - a)
            alone[row, a:b] = twin.hidden(IDS[row : row + 1, a:b])[0]
    together = ours.hidden(IDS, positions=positions, documents=documents)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    weight = torch.randn(together.shape, generator=torch.Generator().manual_seed(0))
    (together * weight).sum().backward()
    (alone * weight).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=2e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(make, kind):
    model = make(n_embd=16, n_layer=1, n_inner=16, **kind).double()
    ids = IDS[:, :6]

    def loss():
        return model.nats(model.hidden(ids), ids.roll(-1, 1))[0].sum()

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        slope = (parameter.grad * way).sum().item()
        with torch.no_grad():
            values = []
            for sign in (1, -2):
                parameter.add_(way, alpha=sign * 1e-4)
                values.append(loss().item())
            parameter.add_(way, alpha=1e-4)
        # The logits are float32 whatever the weights are.
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope, rel=0.02, abs=0.1), name


def test_rotary_attention_depends_on_distance_alone(make):
    model = make(rope_theta=100.0)
    far = model.hidden(IDS, positions=torch.arange(20) + 37)
    torch.testing.assert_close(far, model.hidden(IDS), rtol=0, atol=5e-5)


def test_a_token_sees_no_later_one(make):
    model, changed = make(), IDS.clone()
    changed[:, 12:] = 5
    before, after = model(IDS), model(changed)
    assert torch.equal(before[:, :12].argmax(-1), after[:, :12].argmax(-1))
    torch.testing.assert_close(before[:, :12], after[:, :12], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-2)


@pytest.mark.parametrize("chunk", [1, 299 * 7, 2**25])
def test_nats_and_normalisers_are_those_of_the_logits_at_any_chunk(make, monkeypatch, chunk):
    monkeypatch.setattr(decoder_module, "LOGITS_AT_ONCE", chunk)
    targets = IDS.roll(-1, 1)
    ours, twin = make(), make()
    nats, normaliser = ours.nats(ours.hidden(IDS), targets)
    logits = twin(IDS).double()
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    plain, plain_normaliser = plain.view(targets.shape), logits.logsumexp(-1)
    torch.testing.assert_close(nats.double(), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(normaliser.double(), plain_normaliser, rtol=0, atol=1e-5)
    (nats.sum() + normaliser.square().sum() * 0.3).backward()
    (plain.sum() + plain_normaliser.square().sum() * 0.3).backward()
    for (name, a), b in zip(ours.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_an_untrained_model_knows_nothing():
    model = Decoder(DecoderSettings(n_layer=2, n_embd=64, n_head=2, n_positions=32), 299).eval()
    nats, _ = model.nats(model.hidden(IDS), IDS.roll(-1, 1))
    assert nats.mean().item() == pytest.approx(math.log(299), abs=0.6)


def test_initial_weights():
    shape = DecoderSettings(n_layer=8, n_embd=256, n_head=4, n_positions=64)
    state = Decoder(shape, 500, seed=3).state_dict()
    std = 256**-0.5
    for name, weight in state.items():
        if weight.ndim == 1:
            expected = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            assert (weight == expected).all(), name
        else:
            scale = 0.25 if "c_proj" in name else 1.0  # 1 / sqrt(2 x 8)
            assert weight.std().item() == pytest.approx(std * scale, rel=0.03), name
            assert abs(weight.mean().item()) < std * scale * 0.03, name


def test_initial_weights_depend_on_seed_and_name_alone():
    torch.manual_seed(1)
    shape = {"n_embd": 32, "n_head": 2, "n_positions": 16}
    small = Decoder(DecoderSettings(n_layer=2, initializer_range=0.1, **shape), 50, seed=4)
    torch.manual_seed(2)
    torch.randn(9)
    large = Decoder(DecoderSettings(n_layer=3, initializer_range=0.1, **shape), 50, seed=4)
    large_state = large.state_dict()
    for name, weight in small.state_dict().items():
        scale = (3 / 2) ** 0.5 if "c_proj.weight" in name else 1.0
        torch.testing.assert_close(weight, large_state[name] * scale, msg=name)
    other = Decoder(small.config, 50, seed=5).state_dict()
    assert not torch.equal(other["transformer.wte.weight"], large_state["transformer.wte.weight"])
    matrices = [w for w in large_state.values() if w.shape == (32, 32)]
    assert all(not torch.equal(matrices[0], w) for w in matrices[1:])


@given(st.integers(0, 2500), st.integers(0, 2500), st.sampled_from(["c_attn", "mlp.c_proj"]))
@settings(max_examples=40, deadline=None)
def test_rows_drawn_alone_are_those_of_the_whole(start, length, module):
    shape, name = (2500, 3), f"transformer.h.0.{module}.weight"
    config = DecoderSettings(n_layer=2, n_embd=4, n_head=1)
    whole = draw(config, 7, name, shape)
    rows = range(min(start, 2500), min(start + length, 2500))
    assert torch.equal(draw(config, 7, name, shape, rows), whole[rows.start : rows.stop])
    assert whole.unique().numel() > 7400  # no block of rows is another's
    assert draw(config, 7, "transformer.h.0.ln_1.weight", (9,), range(2, 5)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_inner", [None, 7])
def test_shapes_are_those_of_the_module_in_its_order(kind, n_inner):
    config = DecoderSettings(n_layer=11, n_embd=16, n_head=4, n_inner=n_inner, **kind)
    model = Decoder(config, 50, device="meta")
    found = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    assert list(parameter_shapes(config, 50).items()) == found
    assert parameter_count(config, 50) == sum(p.numel() for p in model.parameters())


def test_positions_can_begin_as_sines_in_rows_too():
    config = DecoderSettings(n_layer=1, n_embd=8, n_head=2, n_positions=700, sinusoids=0.5)
    positions = Decoder(config, 300).transformer.wpe.weight.detach()
    assert positions[0].tolist() == [0.0, 0.5] * 4
    assert positions[3, :2].tolist() == pytest.approx([0.5 * math.sin(3), 0.5 * math.cos(3)])
    one, two = positions[10] @ positions[12], positions[500] @ positions[502]
    assert float(one) == pytest.approx(float(two), rel=1e-4)  # the distance alone matters
    part = draw(config, 0, "transformer.wpe.weight", (700, 8), range(100, 300))
    assert torch.equal(part, positions[100:300])
    with pytest.raises(ValueError, match="sinusoids"):
        DecoderSettings(rope_theta=1e4, sinusoids=0.5)


def test_making_a_model_leaves_the_process_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Decoder(DecoderSettings(n_layer=1, n_embd=8, n_head=1, n_positions=4), 10)
    assert torch.equal(torch.rand(3), expected)


def test_initialise_is_idempotent_and_keeps_the_dtype():
    shape = DecoderSettings(n_layer=1, n_embd=16, n_head=2, n_positions=8)
    model = Decoder(shape, 20, seed=1, dtype=torch.bfloat16)
    first = {name: weight.clone() for name, weight in model.state_dict().items()}
    initialise(model, 1)
    assert all(torch.equal(first[n], w) for n, w in model.state_dict().items())
    assert {w.dtype for w in first.values()} == {torch.bfloat16}


def test_dropout_acts_in_training_only():
    keys = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32}
    model = Decoder(DecoderSettings(**keys), 299)
    assert not torch.equal(model(IDS), model(IDS))
    assert torch.equal(model.eval()(IDS), model(IDS))
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    plain = Decoder(DecoderSettings(**keys, **off), 299).train()
    assert torch.equal(plain(IDS), plain(IDS))
    torch.testing.assert_close(plain(IDS), model(IDS))
