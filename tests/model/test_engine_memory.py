"""What the engine keeps of prompts and completions, and what it saves by it."""

import pytest
import torch

from starkiln.core.errors import UserError
from starkiln.model.engine import Engine
from told import CONTEXT, FAMILIES, WARM, Told, alone, is_clean, run


@pytest.fixture(scope="module")
def model(make):
    return make(n_positions=CONTEXT)


def stored(engine):
    """Bytes of all keys and values, each storage counted once."""
    tensors = [node.store for node in engine._prefixes.all()]
    tensors += [shelf.store for shelf in engine._tails.shelves.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_the_prompt_is_stored_once_for_two_hundred_samples(model, tokenizer):
    engine = Engine(model, tokenizer, end=())
    config = model.config
    token = config.n_layer * 2 * config.kv_heads * config.head_dim * 4
    engine.submit(FAMILIES[0][:150], None, 200, **{**WARM, "max_new_tokens": 40})
    engine.step()
    for _ in range(30):
        assert engine.load.live == 200
        assert stored(engine) == token * (150 + 200 * 64)  # the prompt, and 200 tails of 64
        engine.step()
    run(engine)
    assert stored(engine) == token * 150  # the prompt is remembered
    engine.submit(FAMILIES[0][:150], None, 200, **WARM)
    engine.step()
    assert engine.load.cached_tokens == 149  # its last token is read for its logits


def test_requests_that_begin_alike_share_their_beginning(model, tokenizer):
    engine = Engine(model, tokenizer, end=())
    how = {**WARM, "max_new_tokens": 30}
    prompts = [[*FAMILIES[0][:150], i, i + 1, 40 + i] for i in range(20)]
    asked = [Told(engine, ids, **how) for ids in prompts]
    while engine.load.waiting:
        engine.step()
    [shared] = engine._prefixes.all()
    assert (len(shared.tokens), shared.users, engine.load.live) == (150, 20, 20)
    assert engine.load.cached_tokens == 19 * 150
    run(engine)
    for ids, one in zip(prompts, asked):
        [expected] = alone(model, tokenizer, ids, 1, how, end=())
        assert one.completions()[0][1] == expected.tokens
    assert is_clean(engine)


def test_the_next_keystroke_reads_only_what_is_new(model, tokenizer):
    engine = Engine(model, tokenizer, end=(), drafted=0)
    text, [first] = FAMILIES[0][:120], engine.generate(FAMILIES[0][:120], **WARM)
    for typed in range(1, 15):
        before = engine.load
        engine.generate(text[:120] + FAMILIES[1][:typed], **WARM)
        read = engine.load.prompt_tokens - engine.load.cached_tokens
        assert read - (before.prompt_tokens - before.cached_tokens) == 1
        assert len(list(engine._prefixes.all())) == 1  # taken over, not kept a second time
    accepted = text + first.tokens
    engine.generate(text, **WARM)
    before = engine.load
    engine.generate(accepted, **WARM)
    assert engine.load.cached_tokens - before.cached_tokens == len(accepted) - 1


def test_what_is_remembered_keeps_its_bound(model, tokenizer):
    engine = Engine(model, tokenizer, end=(), room=200)
    for i in range(30):
        engine.generate([(i * 13 + j * j) % 299 for j in range(40)], n=1 + i % 2, **WARM)
        assert is_clean(engine)
        assert stored(engine) <= 200 * model.config.n_layer * 2 * model.config.head_dim * 4
    held = sum(len(node.tokens) for node in engine._prefixes.all())
    assert held > 100
    last = [(29 * 13 + j * j) % 299 for j in range(40)]
    before = engine.load.cached_tokens
    engine.generate(last, **WARM)
    assert engine.load.cached_tokens - before == 39


def test_drafts_save_steps_where_text_repeats_itself(model, tokenizer):
    how = {"max_new_tokens": 120}  # greedy: a small random model soon goes round and round
    slow = Engine(model, tokenizer, end=(), drafted=0)
    fast = Engine(model, tokenizer, end=())
    asked = [Told(engine, FAMILIES[0][:40], **how) for engine in (slow, fast)]
    steps = [run(engine) for engine in (slow, fast)]
    assert asked[0].completions()[0][1] == asked[1].completions()[0][1]
    assert steps[0] == 120
    assert steps[1] < 60


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_scores_are_those_of_the_full_forward_pass(model, tokenizer, chunk):
    engine, ids = Engine(model, tokenizer, chunk=chunk), FAMILIES[0]
    with torch.no_grad():
        full = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)
    scores = engine.score(ids, top=2)
    assert scores.tokens == ids
    assert scores.logprobs[0] == 0.0
    expected = full.gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert scores.logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert scores.top[0] == []
    best = full.topk(2).indices.tolist()
    assert [[token for token, _ in top] for top in scores.top[1:]] == best
    assert engine.score(ids[:9]).top == [[]] * 9
    assert engine.score([]).tokens == []
    assert engine.score([5]).logprobs == [0.0]
    with pytest.raises(UserError, match="leave no room"):
        engine.score([*ids, 1])
    assert is_clean(engine)


def test_a_long_text_is_scored_between_the_steps_of_others(model, tokenizer, monkeypatch):
    engine = Engine(model, tokenizer, end=(), drafted=0)
    expected = engine.score(FAMILIES[1], top=1)
    asked = Told(engine, FAMILIES[0][:20], **{**WARM, "max_new_tokens": 60})
    engine.step()
    read, hidden = [], model.hidden

    def spy(ids, **keys):
        read.append(ids.size(1))
        return hidden(ids, **keys)

    monkeypatch.setattr(model, "hidden", spy)
    pieces, found = engine.scoring(FAMILIES[1], 1), None
    while found is None:
        engine.step()
        try:
            next(pieces)
        except StopIteration as end:
            found = end.value
    most = max(1, int(128 / engine._drawing))  # what a newcomer may read, with the head's cost
    assert [size for size in read if size > 1] == [most] * ((CONTEXT - 1) // most) + [
        (CONTEXT - 1) % most
    ]
    assert found.tokens == expected.tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    run(engine)
    [other] = alone(model, tokenizer, FAMILIES[0][:20], 1, {**WARM, "max_new_tokens": 60}, end=())
    assert asked.completions()[0][1] == other.tokens
    assert is_clean(engine)
