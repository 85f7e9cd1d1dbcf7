import math

import pytest
import torch
import torch.nn.functional as F

from starkiln.model import decoder as decoder_module
from starkiln.model.attention import attention
from starkiln.model.decoder import Decoder, initialise
from starkiln.model.settings import DecoderSettings

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


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("cuts", [[1] * 20, [8, 1, 7, 4]])
def test_cached_equals_full(make, multi_query, cuts):
    model, cache, start = make(multi_query=multi_query), Kept(), 0
    parts = []
    for part in IDS.split(cuts, dim=1):
        parts.append(model.hidden(part, start=start, cache=cache))
        start += part.size(1)
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(IDS), rtol=0, atol=2e-5)


def test_a_token_sees_no_later_one(make):
    model, changed = make(), IDS.clone()
    changed[:, 12:] = 5
    before, after = model(IDS), model(changed)
    assert torch.equal(before[:, :12].argmax(-1), after[:, :12].argmax(-1))
    torch.testing.assert_close(before[:, :12], after[:, :12], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-2)


@pytest.mark.parametrize("chunk", [1, 299 * 7, 2**25])
def test_loss_is_cross_entropy_at_any_chunk(make, monkeypatch, chunk):
    monkeypatch.setattr(decoder_module, "_LOGITS_AT_ONCE", chunk)
    targets, mask = IDS.roll(-1, 1), IDS % 3 > 0
    ours, twin = make(), make()
    total, count = ours.loss(IDS, targets, mask)
    plain = F.cross_entropy(twin(IDS).flatten(0, 1), targets.flatten(), reduction="none")
    plain = plain[mask.flatten()].sum()
    assert count == mask.sum()
    torch.testing.assert_close(total, plain)
    total.backward()
    plain.backward()
    for (name, a), b in zip(ours.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_loss_without_mask_counts_all(make):
    model = make()
    total, count = model.loss(IDS, IDS)
    assert count == IDS.numel()
    torch.testing.assert_close(total, model.nats(IDS, IDS).sum())


def test_masked_targets_do_not_reach_the_loss_even_if_infinite(make):
    model = make()
    with torch.no_grad():
        model.transformer.wte.weight[7] = float("inf")
    ids, mask = torch.tensor([[1, 2, 3]]), torch.zeros(1, 3, dtype=torch.bool)
    assert model.loss(ids, ids, mask)[0] == 0


def test_an_untrained_model_knows_nothing():
    model = Decoder(DecoderSettings(n_layer=2, n_embd=64, n_head=2, n_positions=32), 299).eval()
    total, count = model.loss(IDS, IDS.roll(-1, 1))
    assert (total / count).item() == pytest.approx(math.log(299), abs=0.6)


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
