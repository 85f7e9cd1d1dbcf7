"""Completions by vLLM, where it is installed: one engine, prompts shared by its prefix cache."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.evaluate.sources.ask import Ask, Sample, answered, unanswered
from starkiln.evaluate.sources.vocabulary import ends, prompt_ids
from starkiln.evaluate.sources.weights import fingerprint

_AT_ONCE = 4096  # samples handed over together: what a kill may lose


def engine_arguments(folder: Path, device: str, dtype: Any, batch: int) -> dict[str, Any]:
    """What ``vllm.LLM`` is made with; code that comes with a model is never run."""
    if device == "cpu":
        raise UserError("evaluate.backend = vllm", "no accelerator here", "use transformers")
    return {
        "model": str(folder),
        "dtype": str(dtype).removeprefix("torch.") if dtype else "auto",
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # the folder's own would add to ours
        "max_num_seqs": batch,
        "seed": 0,
        "trust_remote_code": False,
    }


def sampling_arguments(ask: Ask, most: int, last: Iterable[int]) -> dict[str, Any]:
    """What ``vllm.SamplingParams`` is made with: ``ask.n`` samples of at most ``most`` tokens.

    Each of ``last`` ends a text.
    """
    return {
        "n": ask.n,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "max_tokens": most,
        "stop": list(ask.stop),
        "stop_token_ids": sorted(last),
        "seed": ask.draws,
        "skip_special_tokens": False,
    }


class Vllm:
    """A model folder, loaded at the first draw; samples depend on vLLM's version too."""

    def __init__(
        self, folder: Path, *, device: str = "cpu", dtype: Any = None, batch: int = 256
    ) -> None:
        try:
            import vllm  # pyrefly: ignore
        except ImportError as error:
            raise UserError(folder, "vLLM is not installed", "pip install vllm") from error
        self.name = folder.resolve().name
        self.usage: dict[str, int | float] = {"prompt_tokens": 0, "completion_tokens": 0}
        self._arguments = engine_arguments(folder, device, dtype, batch)
        self._vllm, self._folder = vllm, folder
        self._loaded: Any = None

    @property
    def identity(self) -> str:
        """A digest of the weights, the arithmetic's precision and vLLM's version."""
        how = self._arguments["dtype"], self._vllm.__version__
        return keyed.digest("vllm", fingerprint(self._folder), *how).hex()

    def draw(self, asks: Iterable[Ask]) -> Iterator[list[Sample]]:
        """All samples of a problem at a time, some problems together."""
        self._loaded = self._loaded or self._vllm.LLM(**self._arguments)
        context = self._loaded.llm_engine.model_config.max_model_len
        batch: list[tuple[Ask, list[int], int]] = []
        for ask in asks:
            ids = prompt_ids(self._loaded.get_tokenizer(), ask, context)
            most = ask.new_tokens(len(ids), context)
            if most < 1:
                yield unanswered(ask)
            elif ask.wanted:
                batch.append((ask, ids, most))
            if sum(one.n for one, _, _ in batch) >= _AT_ONCE:
                yield from self._drawn(batch)
                batch = []
        yield from self._drawn(batch)

    def _drawn(self, batch: list[tuple[Ask, list[int], int]]) -> Iterator[list[Sample]]:
        if not batch:
            return
        last = ends(self._loaded.get_tokenizer())
        found = self._loaded.generate(
            [{"prompt_token_ids": ids} for _, ids, _ in batch],
            [
                self._vllm.SamplingParams(**sampling_arguments(ask, most, last))
                for ask, _, most in batch
            ],
        )
        for (ask, ids, _), request in zip(batch, found):
            self.usage["prompt_tokens"] += len(ids)
            outputs = {output.index: output for output in request.outputs}
            self.usage["completion_tokens"] += sum(len(o.token_ids) for o in outputs.values())
            yield [
                answered(ask, i, outputs[i].text, outputs[i].finish_reason or "end")
                for i in ask.wanted
            ]
