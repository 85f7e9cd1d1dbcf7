import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from starkiln.model.loss import document_places, scores, summed
from twins import next_token

TOKENS = torch.arange(42).view(2, 21) * 7 % 299
IDS = torch.arange(32) * 7 % 299
WEIGHTS = torch.linspace(0, 2, 32)
MASK = TOKENS[:, 1:] % 3 > 0


def batch(tokens=TOKENS, mask=MASK):
    return {"tokens": tokens, "mask": mask}


def test_sums_are_those_of_the_masked_cross_entropy(make):
    model = make()
    sums = next_token(model, batch())
    chosen = model(TOKENS[:, :-1]).log_softmax(-1).gather(-1, TOKENS[:, 1:, None])[..., 0]
    expected = -(chosen * MASK).sum(1)
    torch.testing.assert_close(sums.nats, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sums.loss, expected.sum(), rtol=1e-5, atol=1e-4)
    assert torch.equal(sums.targets, MASK.sum(1))
    assert sums.loss.requires_grad
    assert not sums.nats.requires_grad


def test_the_z_loss_is_the_squared_log_of_the_normaliser(make):
    ours, twin = make(), make()
    sums = next_token(ours, batch(), z_loss=0.25)
    plain = next_token(twin, batch())
    squares = twin(TOKENS[:, :-1]).logsumexp(-1).square()[MASK].sum()
    torch.testing.assert_close(sums.loss, plain.loss + 0.25 * squares, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sums.nats, plain.nats)
    sums.loss.backward()
    (plain.loss + 0.25 * squares).backward()
    for (name, a), b in zip(ours.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=2e-4, msg=name)


def test_masked_targets_do_not_reach_the_loss_even_if_infinite():
    nats = torch.tensor([[1.0, float("inf"), 2.0]], requires_grad=True)
    normaliser = torch.tensor([[1.0, float("nan"), 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True]])
    sums = summed(nats, normaliser, mask, 0.5)
    assert (sums.loss.item(), sums.nats.tolist(), sums.targets.tolist()) == (8.0, [3.0], [2])
    sums.loss.backward()
    assert nats.grad.tolist() == [[1.0, 0.0, 1.0]]
    assert normaliser.grad.tolist() == [[1.0, 0.0, 3.0]]


def test_masked_documents_are_as_if_alone(make):
    model, tokens = make(), TOKENS.clone()
    tokens[tokens == 0] = 5
    tokens[0, 4] = tokens[0, 5] = tokens[1, 20] = 0  # ends of documents
    mask = torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    together = next_token(model, batch(tokens, mask), mask_documents=True)
    pieces = [[tokens[0, :6], tokens[0, 5:7], tokens[0, 6:]], [tokens[1]]]
    # The last of a piece is a target there alone; it is read in the next one.
    alone = [
        sum(next_token(model, batch(p[None], torch.ones(1, len(p) - 1).bool())).nats for p in row)
        for row in pieces
    ]
    torch.testing.assert_close(together.nats, torch.cat(alone), rtol=1e-5, atol=1e-4)
    whole = next_token(model, batch(tokens, mask))
    assert not torch.allclose(whole.nats[0], together.nats[0], atol=1e-2)
    torch.testing.assert_close(whole.nats[1], together.nats[1])


@given(st.lists(st.lists(st.integers(0, 2), min_size=7, max_size=7), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_places_count_from_each_documents_start(rows):
    places = document_places(torch.tensor(rows))
    for row, documents, positions in zip(rows, places["documents"], places["positions"]):
        number = position = 0
        for t, token in enumerate(row):
            assert (documents[t], positions[t]) == (number, position)
            position += 1
            if token == 0:
                number, position = number + 1, 0


class Logits(TorchDispatchMode):
    """Notes how many tensors of ``size`` numbers are alive at once, whoever makes them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.most, self.alive = size, 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.numel() == self.size:
            self.alive.append(StorageWeakRef(out.untyped_storage()))
            self.alive = [one for one in self.alive if not one.expired()]
            self.most = max(self.most, len({one.cdata for one in self.alive}))
        return out


@pytest.mark.parametrize("penalised", [False, True])
def test_the_loss_keeps_the_logits_of_one_chunk_at_a_time(make, penalised):
    """Whatever goes back through the loss, no chunk's logits outlive it."""
    model = make()
    hidden = model.hidden(torch.arange(32)[None]).detach()[0].requires_grad_()
    found = []
    for count in (2, 16):
        with Logits(32 // count * 299) as logits:
            wanted, level = scores(hidden, model.transformer.wte.weight, IDS, 32 // count)
            ((level - wanted).sum() + penalised * level.square().sum()).backward()
        found.append(logits.most)
    assert 2 <= found[0] == found[1] <= 4


def exact(hidden: Tensor, head: Tensor, penalty: float) -> list[Tensor]:
    """The gradients of hidden states and head, in float64, by PyTorch's own cross-entropy."""
    hidden, head = (x.detach().double().requires_grad_() for x in (hidden, head))
    logits = hidden @ head.T
    loss = functional.cross_entropy(logits, IDS, reduction="none") * WEIGHTS
    (loss.sum() + penalty * logits.logsumexp(-1).square().sum()).backward()
    return [hidden.grad, head.grad]


def found(hidden: Tensor, head: Tensor, rows: int, penalty: float = 0.0) -> list[Tensor]:
    hidden, head = (x.detach().clone().requires_grad_() for x in (hidden, head))
    wanted, level = scores(hidden, head, IDS, rows)
    (((level - wanted) * WEIGHTS).sum() + penalty * level.square().sum()).backward()
    return [hidden.grad, head.grad]


def relative(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y).norm() / y.norm())


def drawn(tokens: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    states, head = (torch.randn(n, 48, generator=generator) for n in (tokens, 299))
    return states, head * 0.3


@pytest.mark.parametrize("penalty", [0.0, 1e-2])
@pytest.mark.parametrize("rows", [3, 32])
def test_gradients_in_float32_are_exact(rows, penalty):
    pairs = zip(found(*drawn(), rows, penalty), exact(*drawn(), penalty), strict=True)
    assert all(relative(ours, theirs) < 1e-6 for ours, theirs in pairs)


def test_in_bfloat16_many_chunks_are_as_exact_as_one():
    """The head's gradient is rounded once and not with every chunk."""
    hidden, head = (x.bfloat16() for x in drawn())
    expected = exact(hidden, head, 0.0)[1]
    one, many = (relative(found(hidden, head, rows)[1], expected) for rows in (32, 1))
    assert 1e-4 < one < 0.005
    assert many < 1.2 * one


def test_under_autocast_products_are_in_bfloat16_and_weights_gradients_in_float32():
    hidden, head = (x.requires_grad_() for x in drawn())
    with torch.autocast("cpu", torch.bfloat16):
        wanted, level = scores(hidden, head, IDS, 8)
    logits = functional.linear(hidden.bfloat16(), head.bfloat16()).float()
    assert torch.equal(wanted, logits.gather(-1, IDS[:, None])[:, 0])
    (level - wanted).sum().backward()
    assert hidden.grad.dtype == head.grad.dtype == torch.float32
    assert (head.grad.bfloat16().float() != head.grad).any()  # no sum was rounded


def test_a_frozen_head_gets_no_gradient():
    hidden, head = drawn()
    wanted, level = scores(hidden.requires_grad_(), head, IDS, 8)
    (level - wanted).sum().backward()
    assert head.grad is None
    assert hidden.grad.any()
