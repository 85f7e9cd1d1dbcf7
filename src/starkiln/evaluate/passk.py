"""pass@k without bias, and how sure of it one may be."""

import math
from collections.abc import Sequence

import numpy as np

from starkiln.evaluate import bootstrap

_SAME = 1e-9  # what rounding may make of equal values


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that one of ``k`` of ``n`` samples is right, when ``correct`` of them are.

    1 - C(n-c, k) / C(n, k) as a running product (rules §15); ``ValueError`` unless 1 <= k <= n
    and 0 <= c <= n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} of {correct} in {n}")
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))


def interval(values: Sequence[float], *key: object) -> tuple[float, float]:
    """The 95% bootstrap interval of the mean of ``values``, one a problem, for the draw ``key``.

    Where all problems failed, or all were solved, draws say nothing: then it is that of a binomial
    (Clopper and Pearson).
    """
    table = np.asarray(values, dtype=np.float64)
    if not table.any() or (table == 1.0).all():
        return binomial(len(table), int(table.sum()))
    return bootstrap.interval(table[:, None], lambda sums: sums[:, 0] / len(table), *key)


def binomial(n: int, correct: int) -> tuple[float, float]:
    """The 95 % interval of a chance of which ``correct`` of ``n`` trials are known.

    Clopper and Pearson, "The use of confidence or fiducial limits" (1934): at its ends, as many
    successes, or as few, happen in 2.5 % of cases.
    """
    return _least(n, correct), 1.0 - _least(n, n - correct)


def _least(n: int, correct: int) -> float:
    """The chance at which ``correct`` or more of ``n`` happen in 2.5 % of cases, by bisection."""
    more = np.arange(correct, n + 1)
    logs = np.cumsum(np.log(np.arange(1, n + 1)))
    factorials = np.concatenate([[0.0], logs])  # logarithms
    ways = factorials[n] - factorials[more] - factorials[n - more]
    low, high = 0.0, float(correct > 0)
    for _ in range(50):
        p = (low + high) / 2
        if correct and np.exp(ways + more * np.log(p) + (n - more) * np.log1p(-p)).sum() < 0.025:
            low = p
        else:
            high = p
    return low


def score(counts: Sequence[tuple[int, int]], k: int, *key: object) -> dict[str, float | int]:
    """pass@k over problems given as (samples, right ones): ``k``, ``score``, ``low``, ``high``.

    The interval is over problems. Where that says nothing it is over samples, the binomial's: of
    one problem, that of a sample's chance; of problems that all have one value between 0 and 1,
    that of n // k trials of k each.
    """
    values = [pass_at_k(n, correct, k) for n, correct in counts]
    mean = float(np.mean(values))
    if len(values) == 1:
        low, high = (1.0 - (1.0 - p) ** k for p in binomial(*counts[0]))
        high = max(high, mean)  # which has no bias, and so may lie above
    elif np.ptp(values) < _SAME and 0.0 < mean < 1.0:
        trials = sum(n // k for n, _ in counts)
        low, _ = binomial(trials, math.floor(mean * trials + _SAME))
        _, high = binomial(trials, math.ceil(mean * trials - _SAME))
    else:
        low, high = interval(values, k, *key)
    return {"k": k, "score": mean, "low": low, "high": high}
