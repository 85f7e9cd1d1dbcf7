"""Settings of evaluation: which tasks, how completions are drawn, and what a program may use."""

from typing import Literal

from starkiln.core.settings import Settings, key
from starkiln.evaluate.sources.settings import SourceSettings


class EvaluateSettings(Settings):
    """How a model is scored; what is left empty is as the protocol says (``protocols.toml``)."""

    tasks: list[str] = key(["humaneval"], "benchmarks by name, or the user's own .jsonl")
    protocol: Literal["quick", "paper", "prompted", "leaderboard", "api"] = key(
        "quick", "how often and how completions are drawn", "§6.1; rules §15"
    )
    data: str = key("", "folder of benchmarks; empty: found, or fetched once")
    texts: str = key("", "folder of code for perplexity and return-types")
    limit: int = key(0, "problems of a task from the first on; 0: all of them", ge=0)
    n: int | None = key(
        None, "completions a problem", "§6.1: 200 for open models, 20 behind an API", ge=1
    )
    k: list[int] | None = key(None, "the k of pass@k; none above n", "§6.1: 1, 10 and 100")
    temperature: float | None = key(
        None, "0 takes the likeliest", "§6.1: 0.2 for pass@1, 0.8 for pass@10 and pass@100", ge=0
    )
    top_p: float | None = key(None, "draw from this share of the probability", "§6.1: 0.95", gt=0)
    max_new_tokens: int | None = key(None, "tokens of a completion", gt=0)
    max_total_tokens: int | None = key(
        None, "tokens of prompt and completion together", "rules §15: 512", gt=0
    )
    prefix: str | None = key(None, "text before every prompt", "rules §15")
    path: str | None = key(None, "file name told before every prompt", "rules §15")
    prelude: str | None = key(
        None,
        "Python put before every program, such as 'import math'; empty: none, or what the harness "
        "that stored completions puts there",
        "rules §15: none",
    )
    returns: bool | None = key(
        None,
        "functions of DS-1000 end in the publisher's return, as in its first edition; empty: as "
        "the protocol, or the harness that stored completions, has it",
        "§6.1",
    )
    timeout_s: int | None = key(
        None, "seconds of CPU time of one program; empty: the task's", "rules §15: 3 s", gt=0
    )
    memory_mb: int | None = key(None, "memory of one program; empty: the task's", ge=64)
    source: SourceSettings = SourceSettings()
    against: str = key("", "folder of another evaluation to compare with")
    out: str = key("", "folder of the results; empty: beside the model")
