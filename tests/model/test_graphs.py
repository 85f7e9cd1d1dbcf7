"""Recorded steps give what ordinary ones give, on whatever stands at their places by then."""

import logging

import pytest
import torch

from starkiln.model import graphs
from starkiln.model.engine import Engine
from starkiln.model.graphs import span, width
from starkiln.model.tails import places
from taped import Recorder
from told import CONTEXT, FAMILIES, WARM, Told, alone, is_clean, run, told

KINDS = {
    1: {},
    2: {"multi_query": False, "num_key_value_heads": 2, "rope_theta": 100.0},
    4: {"multi_query": False},
}


@pytest.fixture(scope="module", params=KINDS)
def model(request, make):
    return make(n_layer=2, n_embd=16, n_positions=CONTEXT, **KINDS[request.param])


@pytest.fixture
def recorder():
    return Recorder()


def test_places_and_lengths_are_rounded_up():
    assert [places(n) for n in (1, 2, 3, 9, 64, 65, 200, 256)] == [1, 2, 4, 16, 64, 128, 256, 256]
    assert [width(n) for n in (1, 2, 3, 4, 5, 6, 9, 10, 17)] == [1, 2, 3, 5, 5, 9, 9, 17, 17]
    assert [span(n) for n in (0, 1, 64, 65, 257, 511, 513, 1025)] == [
        0,
        64,
        64,
        128,
        320,
        512,
        640,
        1280,
    ]
    for capacity in (64, 128, 1024, 8192):
        assert all(n <= span(n) <= capacity for n in range(1, capacity + 1))
        assert all(span(n) <= max(64, 5 * n // 4 + 1) or n <= 256 for n in range(1, capacity + 1))


@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.5)]
)
def test_two_hundred_samples_are_those_of_the_ordinary_step(make, tokenizer, recorder, dtype, near):
    model = make(n_positions=CONTEXT).to(dtype)
    how = {**WARM, "max_new_tokens": 70}
    usual = Engine(model, tokenizer, end=(), drafted=0).generate(FAMILIES[0][:100], 200, **how)
    engine = Engine(model, tokenizer, end=(), drafted=0, recorded=recorder)
    found = engine.generate(FAMILIES[0][:100], 200, **how)
    assert is_clean(engine)
    assert recorder.works == 2  # the tails' shelves, of 64 and of 128 tokens
    assert recorder.repeats == 69 - 2 * graphs._WORTH
    same = [a for a, b in zip(found, usual, strict=True) if a.tokens == b.tokens]
    least = {torch.float64: 200, torch.float32: 195, torch.bfloat16: 100}  # rounding flips draws
    assert len(same) >= least[dtype]
    for ours, theirs in zip(found, usual, strict=True):
        if ours.tokens == theirs.tokens:
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=near)


def test_samples_join_and_leave_over_several_prefixes(model, tokenizer, recorder, monkeypatch):
    monkeypatch.setattr(graphs, "_WORTH", 1)
    engine = Engine(model.double(), tokenizer, drafted=0, recorded=recorder, room=0)
    asked = []
    for i in range(12):
        ids = [*FAMILIES[i % 3 % 2][: 70 + 10 * (i % 3)], i % 5]
        how = {**WARM, "seed": i, "max_new_tokens": 5 + 7 * (i % 4), "top_p": 0.8}
        asked.append((Told(engine, ids, 1 + i % 3, **how), ids, how))
        for _ in range(1 + i % 4):
            engine.step()
        if i == 6:
            engine.cancel(asked[i - 1][0].number)
    run(engine)
    assert is_clean(engine)
    assert recorder.repeats > 5
    for i, (found, ids, how) in enumerate(asked):
        if i != 5:
            expected = alone(model, tokenizer, ids, found.n, how)
            assert found.completions() == [told(one) for one in expected]
    model.float()


def test_guesses_are_recorded_too(model, tokenizer, recorder, monkeypatch):
    monkeypatch.setattr(graphs, "_WORTH", 0)
    how = {"max_new_tokens": 120}
    usual = Engine(model, tokenizer, end=(), drafted=0)
    engine = Engine(model, tokenizer, end=(), recorded=recorder)
    asked = [Told(one, FAMILIES[0][:40], **how) for one in (usual, engine)]
    steps = [run(one) for one in (usual, engine)]
    assert asked[0].completions()[0][1] == asked[1].completions()[0][1]
    assert steps[1] < steps[0] == 120
    assert recorder.repeats > 5


def test_guesses_end_with_the_context(model, tokenizer, recorder, monkeypatch):
    """Places beyond the last position are fed, and kept from the embeddings."""
    monkeypatch.setattr(graphs, "_WORTH", 0)
    for room in range(1, 20):
        prompt = ([20, 30, 40, 50, 60, 70] * CONTEXT)[: CONTEXT - room]
        found = Engine(model, tokenizer, end=(), recorded=recorder).generate(
            prompt, max_new_tokens=30
        )
        [expected] = alone(model, tokenizer, prompt, 1, {"max_new_tokens": 30}, end=())
        assert found[0].tokens == expected.tokens


def test_what_is_made_anew_is_recorded_anew(model, tokenizer, recorder, monkeypatch):
    monkeypatch.setattr(graphs, "_WORTH", 0)
    engine = Engine(model.double(), tokenizer, end=(), drafted=0, recorded=recorder)
    held = engine._batch.graphs
    asked = [(2, 20), (2, 20), (2, 90), (2, 20), (5, 150), (9, 150), (5, 150)]
    for i, (n, length) in enumerate(asked):
        before = recorder.works
        found = engine.generate(FAMILIES[0][:length], n, **{**WARM, "max_new_tokens": 9})
        expected = alone(
            model, tokenizer, FAMILIES[0][:length], n, {**WARM, "max_new_tokens": 9}, end=()
        )
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        stores = {id(shelf.store) for shelf in engine._tails.shelves.values()}
        assert {id(part[0]) for frame in held._frames.values() for part in frame._spans} <= stores
        assert all(frame._table is held._table for frame in held._frames.values())
        assert recorder.works == before + (i != 1)  # the second alone can use the first's
    assert recorder.made > 2  # memory of graphs that have all gone is not used again
    model.float()


def test_the_steps_kept_are_few(model, tokenizer, recorder, monkeypatch):
    monkeypatch.setattr(graphs, "_WORTH", 0)
    monkeypatch.setattr(graphs, "_MOST", 3)
    engine = Engine(model, tokenizer, end=(), drafted=0, recorded=recorder)
    for n in (1, 2, 4, 8, 1, 16, 2):
        engine.submit(FAMILIES[0][:20], None, n, **{**WARM, "max_new_tokens": 4})
        while engine.step():
            assert len(engine._batch.graphs._frames) <= 3


def test_many_prefixes_go_the_ordinary_way(model, tokenizer, recorder, monkeypatch):
    monkeypatch.setattr(graphs, "_WORTH", 0)
    engine = Engine(model, tokenizer, end=(), drafted=0, recorded=recorder)
    prompts = [[i + 20, *FAMILIES[0][:30]] for i in range(graphs._GROUPS + 1)]
    asked = [Told(engine, ids, 2, **WARM) for ids in prompts]
    engine.step()
    run(engine)
    assert recorder.works == 0
    for found, ids in zip(asked, prompts):
        expected = alone(model, tokenizer, ids, 2, end=())
        assert found.completions() == [told(one) for one in expected]


def test_a_recording_that_fails_costs_speed_alone(model, tokenizer, caplog):
    def failing(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = Engine(model, tokenizer, end=(), drafted=0, recorded=lambda device: failing)
    with caplog.at_level(logging.ERROR):
        found = engine.generate(FAMILIES[0][:20], 3, **WARM)
    assert [record.name for record in caplog.records] == ["starkiln.model.graphs"]
    assert [one.tokens for one in found] == [
        one.tokens for one in alone(model, tokenizer, FAMILIES[0][:20], 3, end=())
    ]


def test_nothing_is_recorded_on_a_processor(model, tokenizer):
    assert graphs.recorder(torch.device("cpu")) is None
    assert Engine(model, tokenizer)._batch.graphs is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_give_what_the_ordinary_step_gives(make, tokenizer, dtype):
    model = make(n_positions=CONTEXT).to("cuda", dtype)
    how = {"max_new_tokens": 70}
    off = Engine(model, tokenizer, end=(), drafted=0, recorded=lambda device: None)
    on = Engine(model, tokenizer, end=(), drafted=0)
    for n in (200, 1, 7):
        usual, found = (one.generate(FAMILIES[0][:100], n, **how) for one in (off, on))
        assert any(frame._again for frame in on._batch.graphs._frames.values())
        assert on._batch.graphs._record is not None
        alike = sum(a.tokens == b.tokens for a, b in zip(found, usual, strict=True))
        assert alike == n or dtype == torch.bfloat16
        for ours, theirs in zip(found, usual, strict=True):
            assert ours.logprobs[:3] == pytest.approx(theirs.logprobs[:3], abs=0.1)
