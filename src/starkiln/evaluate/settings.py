"""Settings of evaluation: which problems, how completions are drawn, and what a program may use."""

from typing import Literal, Self

from pydantic import model_validator

from starkiln.core.settings import Settings, key


class EvaluateSettings(Settings):
    """How a model is scored; the paper's figures stand beside each key."""

    problems: Literal["humaneval", "mbpp"] = key("humaneval", "the benchmark", "§6.1.1")
    data: str = key("", "folder or file of the benchmark; empty: found, or fetched once")
    limit: int = key(0, "problems from the first on; 0: all of them", ge=0)
    n: int = key(
        20, "completions a problem", "§6.1: 200 for open models, 20 behind an API; rules §15", ge=1
    )
    k: list[int] = key([1], "the k of pass@k; none above n", "§6.1: 1, 10 and 100", min_length=1)
    temperature: float = key(
        0.2, "0 takes the likeliest", "§6.1: 0.2 for pass@1, 0.8 for pass@10 and pass@100", ge=0
    )
    top_p: float = key(0.95, "draw from this share of the probability", "§6.1", gt=0, le=1)
    max_new_tokens: int = key(
        512, "tokens of a completion; the paper's 512 hold the prompt too", "rules §15", gt=0
    )
    prelude: str = key(
        "", "Python put before every program, such as 'import math'", "rules §15: none"
    )
    timeout_s: int = key(
        3, "seconds of CPU time of one program", "rules §15: 3 s by the clock", gt=0
    )
    memory_mb: int = key(1024, "address space of one program's process", ge=64)

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if min(self.k) < 1 or max(self.k) > self.n:
            raise ValueError(f"k = {self.k} needs each k from 1 to n = {self.n}")
        if self.temperature == 0 and self.n > 1:
            raise ValueError("temperature = 0 gives n equal completions: set n = 1")
        return self
