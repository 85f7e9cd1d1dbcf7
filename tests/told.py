"""Requests to an engine, what they are told, and what they would be told alone."""

import pytest

from starkiln.model.engine import Engine

CONTEXT = 192
WARM = {"max_new_tokens": 20, "temperature": 0.9, "top_p": 0.95, "seed": 5}
FAMILIES = [[(seed * 37 + i * i * 11 + i) % 280 + 19 for i in range(CONTEXT)] for seed in (1, 2)]


def alone(model, tokenizer, ids, n, how=WARM, **keys):
    """The completions that an engine gives that has never seen anything else, one by one."""
    return [
        Engine(model, tokenizer, room=0, drafted=0, **keys).generate(ids, **{**how, "first": i})[0]
        for i in range(n)
    ]


class Told:
    """Collects what a request says."""

    def __init__(self, engine, ids, n=1, **how):
        self.pieces, self.n = [], n
        self.number = engine.submit(ids, self.pieces.append, n, **how)

    def completions(self):
        """(text, tokens, logprobs, top, finish) of each sample."""
        found = []
        for i in range(self.n):
            own = [piece for piece in self.pieces if piece.sample == i]
            assert [bool(piece.finish) for piece in own] == [False] * (len(own) - 1) + [True]
            found.append(
                (
                    "".join(piece.text for piece in own),
                    [token for piece in own for token in piece.tokens],
                    [value for piece in own for value in piece.logprobs],
                    [top for piece in own for top in piece.top],
                    own[-1].finish,
                )
            )
        return found


def told(completion):
    return (
        completion.text,
        completion.tokens,
        pytest.approx(completion.logprobs, abs=1e-4),
        [
            [(token, pytest.approx(value, abs=1e-4)) for token, value in top]
            for top in completion.top
        ],
        completion.finish,
    )


def run(engine, most=5000):
    """Step until nothing is left; returns how many steps it took."""
    for steps in range(1, most):
        if not engine.step():
            return steps
    raise AssertionError("never done")


def is_clean(engine):
    """Nothing but remembered prefixes is left, all of them idle, within their bound."""
    nodes = list(engine._prefixes.all())
    assert engine._tails.rows == []
    assert engine._tails.shelves == {} or engine._batch.graphs  # which keep their places
    assert sum(len(node.tokens) for node in nodes) <= engine._prefixes.room
    assert not any(node.users for node in nodes)
    assert all(node.store.size(3) == len(node.tokens) for node in nodes)
    assert (engine.load.live, engine.load.waiting) == (0, 0)
    assert not engine._requests
    return True
