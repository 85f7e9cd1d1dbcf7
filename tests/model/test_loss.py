import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

from starkiln.model import decoder
from starkiln.model.loss import document_places, next_token, summed

TOKENS = torch.arange(42).view(2, 21) * 7 % 299
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


@pytest.mark.parametrize("penalised", [False, True])
def test_the_loss_keeps_the_logits_of_one_chunk_at_a_time(make, monkeypatch, penalised):
    """Whatever goes back through the loss, no chunk's logits outlive it."""
    monkeypatch.setattr(decoder, "_LOGITS_AT_ONCE", 299 * 4)
    model, alive, most = make(), [], []
    head = type(model).head

    def watched(self, hidden):
        logits = head(self, hidden)
        alive.append(StorageWeakRef(logits.untyped_storage()))
        most.append(sum(not one.expired() for one in alive))
        return logits

    monkeypatch.setattr(type(model), "head", watched)
    ids = torch.arange(33)[None]
    nats, normaliser = model.nats(model.hidden(ids[:, :-1]), ids[:, 1:], penalised=penalised)
    loss = nats.sum() + normaliser.sum() if penalised else nats.sum()
    loss.backward()
    assert len(most) == 16
    assert max(most) <= 2
