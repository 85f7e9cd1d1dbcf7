"""Many requests at once: a sample is what it would be alone, and nothing is kept too long."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from starkiln.code.sentinels import ENDS
from starkiln.core.errors import UserError
from starkiln.model import cache, graphs
from starkiln.model.checkpoint import save
from starkiln.model.engine import Engine
from taped import Recorder
from told import CONTEXT, FAMILIES, WARM, Told, alone, is_clean, run, told


@pytest.fixture(scope="module", params=[1, 2, 4])
def exact(request, make):
    """A model in float64, where the batch's shape is not seen in any logit; 1, 2, 4 KV heads."""
    kinds = {
        1: {},
        2: {"multi_query": False, "num_key_value_heads": 2, "rope_theta": 100.0},
        4: {"multi_query": False},
    }
    return make(n_layer=2, n_embd=16, n_positions=CONTEXT, **kinds[request.param]).double()


@pytest.fixture(scope="module")
def model(make):
    return make(n_positions=CONTEXT)


HOW = st.fixed_dictionaries(
    {"max_new_tokens": st.sampled_from([1, 3, 8, 20])},
    optional={
        "temperature": st.sampled_from([0.4, 1.0, 1.7]),
        "top_p": st.sampled_from([0.3, 0.95]),
        "top_k": st.sampled_from([1, 7]),
        "min_p": st.just(0.1),
        "seed": st.integers(0, 3),
        "top": st.integers(0, 3),
        "stop": st.sampled_from([["a"], ["e", "\n"]]),
    },
)
REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 1),  # family
        st.integers(0, CONTEXT - 1),  # prompt's length
        st.integers(0, 12),  # tokens of its own at the prompt's end
        st.sampled_from([1, 1, 1, 2, 4]),  # samples
        HOW,
        st.integers(0, 12),  # steps before it is asked
        st.sampled_from([None, None, None, 0, 4]),  # steps after which it is cancelled
    ),
    min_size=1,
    max_size=5,
)
ENGINE = st.fixed_dictionaries(
    {
        "slots": st.sampled_from([1, 3, 100]),
        "chunk": st.sampled_from([5, 13, 512]),
        "room": st.sampled_from([0, 150, 10_000]),
        "drafted": st.sampled_from([0, 4]),
        "recorded": st.sampled_from([graphs.recorder, Recorder()]),
    }
)


@settings(max_examples=20, deadline=None)
@given(REQUESTS, ENGINE, st.sampled_from([4, 64]))
def test_a_sample_is_the_same_whatever_happens_around_it(exact, tokenizer, requests, keys, shared):
    """The whole engine against one sample at a time: batch, chunks, cache, sharing, drafts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "SHARED", shared)
        patch.setattr(graphs, "_WORTH", 1)
        engine, asked = Engine(exact, tokenizer, **keys), []
        for family, length, own, n, how, pause, patience in requests:
            ids = FAMILIES[family][: max(0, length - own)] + [(7 * i + n) % 299 for i in range(own)]
            ids = ids[: CONTEXT - 1]
            asked.append((Told(engine, ids, n, **how), ids, n, how, patience is not None))
            for _ in range(pause):
                engine.step()
            if patience is not None:
                for _ in range(patience):
                    engine.step()
                engine.cancel(asked[-1][0].number)
        run(engine)
        assert is_clean(engine)
    for found, ids, n, how, cancelled in asked:
        expected = alone(exact, tokenizer, ids, n, how)
        for ours, one in zip(found.completions(), expected, strict=True):
            if cancelled and ours[-1] == "cancelled":
                assert one.text.startswith(ours[0].rstrip("\ufffd"))
                assert one.tokens[: len(ours[1])] == ours[1]
            else:
                assert ours == told(one)


@pytest.mark.parametrize(
    "kind", [{}, {"multi_query": False}, {"rope_theta": 100.0, "num_key_value_heads": 2}]
)
def test_twenty_prompts_at_once_are_continued_as_by_transformers(make, tokenizer, tmp_path, kind):
    model = make(n_positions=CONTEXT, **kind)
    save(tmp_path, model, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = [FAMILIES[i % 2][: 70 + i * i % 50] for i in range(16)]
    prompts += [[(i * j * j) % 280 + 19 for j in range(1, 4 + i)] for i in range(6)]
    engine = Engine(model, tokenizer, slots=13, chunk=100)
    asked = [Told(engine, ids, 1 + i % 3, max_new_tokens=64) for i, ids in enumerate(prompts)]
    run(engine)
    for ids, one in zip(prompts, asked):
        how = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": list(ENDS)}
        expected = theirs.generate(torch.tensor([ids]), **how)
        for _, tokens, *_ in one.completions():
            assert tokens == expected[0, len(ids) :].tolist()


def test_three_hundred_requests_through_sixteen_slots(model, tokenizer):
    prompts = [[*FAMILIES[i % 2][: 3 + i % 90], i % 299] for i in range(300)]
    how = [{**WARM, "seed": i, "max_new_tokens": 1 + i % 17, "top_p": 0.8} for i in range(300)]
    engine = Engine(model, tokenizer, slots=16)
    asked = [Told(engine, ids, **one) for ids, one in zip(prompts, how)]
    assert engine.load.waiting == 300
    most = 0
    while engine.step():
        most = max(most, engine.load.live)
        assert engine.load.live <= 16
    assert most == 16
    assert is_clean(engine)
    for i in range(0, 300, 7):
        [expected] = alone(model, tokenizer, prompts[i], 1, how[i])
        assert asked[i].completions() == [told(expected)]
    load = engine.load
    assert load.prompt_tokens == sum(map(len, prompts))
    assert load.drawn_tokens == sum(len(one.completions()[0][1]) for one in asked)
    assert 0 < load.cached_tokens < load.prompt_tokens


def test_cancelled_samples_are_gone_before_the_next_step(model, tokenizer):
    engine = Engine(model, tokenizer, slots=8, end=())
    first = Told(engine, FAMILIES[0][:30], 6, **WARM)
    second = Told(engine, FAMILIES[1][:30], 5, **WARM)
    engine.step()
    engine.step()
    assert (engine.load.live, engine.load.waiting) == (8, 1)  # three of the second have begun
    engine.cancel(first.number)
    assert (engine.load.live, engine.load.waiting) == (2, 1)
    assert [finish for *_, finish in first.completions()] == ["cancelled"] * 6
    engine.step()
    assert (engine.load.live, engine.load.waiting) == (5, 0)
    engine.cancel(first.number)
    engine.cancel(12345)
    run(engine)
    assert is_clean(engine)
    expected = alone(model, tokenizer, FAMILIES[1][:30], 5, end=())
    assert second.completions() == [told(one) for one in expected]


@pytest.mark.parametrize("slots", [3, 8])
@pytest.mark.parametrize("gone", [[0], [2, 5], [5, 3, 4], [4, 2, 0, 1, 3, 5]])
def test_samples_are_cancelled_one_by_one(model, tokenizer, slots, gone):
    """Live ones and those without a place yet; the others are what they are without it."""
    engine = Engine(model, tokenizer, slots=slots, end=())
    asked = Told(engine, FAMILIES[0][:30], 6, **WARM)
    engine.step()
    engine.step()
    live = min(slots, 6)
    assert engine.load.live == live
    for sample in [*gone, *gone]:
        engine.cancel(asked.number, sample)
    assert engine.load.live == live - sum(sample < live for sample in gone)
    assert engine.load.waiting == (not {*range(live, 6)} <= {*gone})
    run(engine)
    assert is_clean(engine)
    expected = [told(one) for one in alone(model, tokenizer, FAMILIES[0][:30], 6, end=())]
    for sample, (found, one) in enumerate(zip(asked.completions(), expected, strict=True)):
        assert found[-1] == "cancelled" if sample in gone else found == one


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_prompt_may_be_cancelled_while_it_is_read(model, tokenizer, when):
    engine = Engine(model, tokenizer, chunk=50)
    asked = Told(engine, FAMILIES[0][:180], 2, **WARM)
    for _ in range(when):
        engine.step()
    assert engine.load.live == 0
    engine.cancel(asked.number)
    assert [piece.finish for piece in asked.pieces] == ["cancelled"] * 2
    assert not engine.step()
    assert is_clean(engine)


def test_a_long_prompt_stalls_nobody_for_more_than_a_chunk(model, tokenizer, monkeypatch):
    engine = Engine(model, tokenizer, chunk=40, end=())
    live = Told(engine, FAMILIES[0][:10], **{**WARM, "max_new_tokens": 100})
    engine.step()
    read, hidden = [], model.hidden

    def spy(ids, **keys):
        read.append(ids.shape)
        return hidden(ids, **keys)

    monkeypatch.setattr(model, "hidden", spy)
    long = Told(engine, FAMILIES[1][:170], **WARM)
    while not long.pieces:
        drawn = len([t for piece in live.pieces for t in piece.tokens])
        read.clear()
        engine.step()
        assert sum(shape[1] for shape in read if shape[1] > 17) <= 40
        assert len([t for piece in live.pieces for t in piece.tokens]) >= drawn
    assert engine.load.drawn_tokens > 6


def test_less_of_a_prompt_is_read_at_once_while_others_are_live(make, tokenizer, monkeypatch):
    """However large a chunk may be: about what takes twice the time of those that are live."""
    model = make(n_positions=1024)
    engine = Engine(model, tokenizer, end=(), drafted=0)
    weights = dict(model.transformer.h.named_parameters())
    blocks = sum(weight.numel() for weight in weights.values())
    drawing = (blocks + model.transformer.wte.weight.numel()) / blocks
    read, hidden = [], model.hidden

    def spy(ids, **keys):
        read.append(ids.shape)
        return hidden(ids, **keys)

    monkeypatch.setattr(model, "hidden", spy)
    for live, most in ((0, 512), (1, 128), (130, int(2 * 130 * drawing))):
        keys = {**WARM, "max_new_tokens": 400}
        others = engine.submit([20 + live] * 3, None, live, **keys) if live else 0
        engine.step()
        assert engine.load.live == live
        prompt = [(live + 3 * i) % 280 + 19 for i in range(900)]
        newcomer = engine.submit(prompt, None, **{**WARM, "max_new_tokens": 1})
        read.clear()
        engine.step()
        assert read[-1] == (1, most)
        engine.cancel(newcomer)
        engine.cancel(others)
        run(engine)


def test_short_prompts_share_a_chunk(model, tokenizer):
    engine = Engine(model, tokenizer, chunk=64, end=())
    asked = [Told(engine, [30 + i] * 8, **WARM) for i in range(16)]
    engine.step()
    assert engine.load.live == 8
    engine.step()
    assert engine.load.live == 16
    engine.cancel(asked[3].number)
    run(engine)


def test_a_broken_model_fails_its_requests_and_not_the_engine(make, tokenizer):
    model = make(n_positions=CONTEXT)
    engine = Engine(model, tokenizer, end=())
    live = Told(engine, FAMILIES[0][:20], 3, **WARM)
    engine.step()
    engine.step()
    weight = model.transformer.ln_f.bias
    with torch.no_grad():
        good = weight[0].item()
        weight[0] = math.nan
    late = Told(engine, FAMILIES[1][:20], 2, **WARM)
    assert not engine.step()
    for asked in (live, late):
        assert [piece.finish for piece in asked.pieces[-asked.n :]] == ["failed"] * asked.n
        assert all(isinstance(piece.fault, UserError) for piece in asked.pieces[-asked.n :])
    assert is_clean(engine)
    with pytest.raises(UserError, match="no finite probabilities"):
        engine.generate(FAMILIES[0][:20], **WARM)
    with pytest.raises(UserError, match="no finite probabilities"):
        list(engine.stream(FAMILIES[0][:20], **WARM))
    with torch.no_grad():
        weight[0] = good
    expected = alone(model, tokenizer, FAMILIES[0][:20], 3, end=())
    again = engine.generate(FAMILIES[0][:20], n=3, **WARM)
    assert [one.tokens for one in again] == [one.tokens for one in expected]


def test_what_a_failed_step_left_is_cancelled_without_trace(model, tokenizer, monkeypatch):
    """As when memory runs out in the middle of a step."""
    engine, hidden = Engine(model, tokenizer, end=()), model.hidden
    for when in range(1, 9):  # passes of the model
        left = iter(range(when))

        def failing(*given, left=left, **keys):
            out = hidden(*given, **keys)
            if next(left, None) is None:
                raise MemoryError
            return out

        monkeypatch.setattr(model, "hidden", failing)
        asked = [Told(engine, family[:80], n, **WARM) for family, n in zip(FAMILIES, (1, 3))]
        with pytest.raises(MemoryError):
            run(engine)
        monkeypatch.setattr(model, "hidden", hidden)
        for one in asked:
            engine.cancel(one.number)
        assert is_clean(engine)
        found = engine.generate(FAMILIES[0][:80], n=2, **WARM)
        expected = alone(model, tokenizer, FAMILIES[0][:80], 2, end=())
        assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_listeners_may_ask_and_cancel(model, tokenizer):
    engine, more = Engine(model, tokenizer, end=()), []

    def listen(piece):
        if not more:
            more.append(Told(engine, [30, 31], **WARM))
            engine.cancel(number)

    number = engine.submit(FAMILIES[0][:20], listen, 4, **WARM)
    run(engine)
    assert len(more[0].completions()[0][1]) == 20
    assert is_clean(engine)


def test_a_stream_that_is_closed_frees_its_place(model, tokenizer):
    engine = Engine(model, tokenizer, end=())
    stream = engine.stream(FAMILIES[0][:20], **{**WARM, "max_new_tokens": 150})
    next(stream)
    assert engine.load.live == 1
    stream.close()
    assert is_clean(engine)


@pytest.mark.parametrize("n", [0, -3])
def test_at_least_one_sample_is_asked(model, tokenizer, n):
    with pytest.raises(UserError, match="n is"):
        Engine(model, tokenizer).submit([1], None, n, **WARM)
