"""Completions by any Hugging Face causal language model, through ``transformers``.

Tokens are chosen as our engine does, from draws keyed by seed, problem and sample: a sample does
not depend on what shares its batch, in so far as the arithmetic does not. Code that comes with a
model is never run.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starkiln.core import keyed
from starkiln.core.errors import UserError
from starkiln.evaluate.sources.ask import Ask, Sample, answered, unanswered
from starkiln.evaluate.sources.vocabulary import completed, ends, prompt_ids
from starkiln.evaluate.sources.weights import fingerprint

BATCH = 32
_SLACK = 4  # tokens beyond a stop string's bytes: a token may hold parts of characters
_MEND = "give a folder that transformers loads without code of its own"


@dataclass
class _Row:
    """One sample of a batch."""

    ask: Ask
    index: int
    ids: list[int]
    most: int  # tokens it may have
    left: list[int]  # the problem's samples that are still to come, this one included
    made: list[Sample] = field(default_factory=list)  # the problem's


class HuggingFace:
    """A model folder, loaded at the first draw; ``batch`` samples are drawn at a time."""

    def __init__(
        self, folder: Path, *, device: str = "cpu", dtype: Any = None, batch: int = BATCH
    ) -> None:
        self.name = folder.resolve().name
        self.usage: dict[str, int | float] = {"prompt_tokens": 0, "completion_tokens": 0}
        self._folder, self._device, self._dtype, self._batch = folder, device, dtype, batch
        self._loaded: tuple[Any, Any] | None = None

    @property
    def identity(self) -> str:
        """A digest of the weights and the arithmetic's precision."""
        return keyed.digest("transformers", fingerprint(self._folder), self._dtype).hex()

    def draw(self, asks: Iterable[Ask]) -> Iterator[list[Sample]]:
        """All samples of a problem at a time."""
        model, tokenizer = self._load()
        batch: list[_Row] = []
        for ask in asks:
            rows = self._asked(model, tokenizer, ask)
            if ask.wanted and not rows:
                yield unanswered(ask)
            for row in rows:
                if len(batch) == self._batch or not _fit([*batch, row], _context(model)):
                    yield from self._drawn(model, tokenizer, batch)
                    batch = []
                batch.append(row)
        yield from self._drawn(model, tokenizer, batch)

    def _asked(self, model: Any, tokenizer: Any, ask: Ask) -> list[_Row]:
        """A row a sample; none where the prompt fills the context."""
        context, first = _context(model), model.generation_config.bos_token_id or 0
        ids = prompt_ids(tokenizer, ask, context) or [first]
        most, left, made = ask.new_tokens(len(ids), context), ask.wanted, list[Sample]()
        return [_Row(ask, index, ids, most, left, made) for index in ask.wanted if most > 0]

    def _drawn(self, model: Any, tokenizer: Any, rows: list[_Row]) -> Iterator[list[Sample]]:
        """Draw a batch; the problems that are complete with it."""
        for row, new in zip(rows, _generated(model, tokenizer, rows)):
            ended = bool(new) and new[-1] in model.generation_config.eos_token_id
            finish = "end" if ended else "length"
            self.usage["prompt_tokens"] += len(row.ids)
            self.usage["completion_tokens"] += len(new)
            text = completed(tokenizer, row.ids, new[:-1] if ended else new)
            row.made.append(answered(row.ask, row.index, text, finish))
            row.left.remove(row.index)
            if not row.left:
                yield row.made

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = _loaded(self._folder, self._device, self._dtype)
        return self._loaded


def _loaded(folder: Path, device: str, dtype: Any) -> tuple[Any, Any]:
    """The model, with the settings of plain generation, and its tokenizer."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging
    except ImportError as error:
        mend = "pip install 'starkiln[transformers]'"
        raise UserError(folder, "transformers is not installed", mend) from error
    logging.disable_progress_bar()  # the evaluation has its own
    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **how)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", **how)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(folder, f"transformers cannot load it: {first}", _MEND) from error
    stated = model.generation_config.eos_token_id
    own = stated if isinstance(stated, list) else [stated]
    last = sorted({i for i in own if i is not None} | ends(tokenizer))
    pad = next((i for i in (tokenizer.pad_token_id, *last) if i is not None), 0)
    bos = tokenizer.bos_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=last or [-1], pad_token_id=pad, bos_token_id=bos
    )
    return model.to(device).eval(), tokenizer


def _context(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _fit(rows: list[_Row], context: int | None) -> bool:
    """Whether all have positions to the end of a batch, for those that ended go on with it."""
    longest, most = max(len(row.ids) for row in rows), max(row.most for row in rows)
    return context is None or longest + most <= context


def _generated(model: Any, tokenizer: Any, rows: list[_Row]) -> list[list[int]]:
    """The new ids of each row, up to the one that ends the text, a stop string or its limit."""
    if not rows:
        return []
    import torch

    width, most = max(len(row.ids) for row in rows), max(row.most for row in rows)
    pad, last = model.generation_config.pad_token_id, set(model.generation_config.eos_token_id)
    ids = torch.tensor([[pad] * (width - len(row.ids)) + row.ids for row in rows])
    mask = torch.tensor([[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in rows])
    stop = _Stop(tokenizer, rows, width)
    with torch.inference_mode():
        found = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=False,  # the processor below leaves one token to choose
            max_new_tokens=most,
            logits_processor=[_Chooser(rows, width, most)],
            stopping_criteria=[stop],
        )
    drawn = zip(found[:, width:].tolist(), stop.lengths)
    return [_ended(new[:length], last) for new, length in drawn]


def _ended(ids: list[int], last: set[int]) -> list[int]:
    at = next((at for at, i in enumerate(ids) if i in last), len(ids))
    return ids[: at + 1]


class _Chooser:
    """A logits processor: all but the token that the row's next draw picks is impossible."""

    def __init__(self, rows: list[_Row], width: int, most: int) -> None:
        from starkiln.model.sampling import Sample as Drawn
        from starkiln.model.sampling import Sampling

        self._width, self._draws, self._sampling = width, list[array](), list[Any]()
        for row in rows:
            how = {"temperature": row.ask.temperature, "top_p": row.ask.top_p}
            how = Sampling(max_new_tokens=row.most, seed=row.ask.draws, **how)
            drawn = Drawn(row.index, how, row.most)
            self._sampling.append(drawn.sampling)
            self._draws.append(drawn.draws + array("f", bytes(4 * most)))

    def __call__(self, ids: Any, scores: Any) -> Any:
        import torch

        from starkiln.model.sampling import choose, rules

        step = ids.shape[1] - self._width
        draws = torch.tensor([row[step] for row in self._draws], device=scores.device)
        tokens, likely = choose(scores.float(), draws, rules(self._sampling, scores.device))
        if not likely.isfinite().all():
            raise UserError("model", "gives numbers that are not finite", "try dtype float32")
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class _Stop:
    """A stopping criterion: a row ends with its limit, or a stop string in what is new."""

    def __init__(self, tokenizer: Any, rows: list[_Row], width: int) -> None:
        self._tokenizer, self._rows, self._width = tokenizer, rows, width
        self.lengths = [row.most for row in rows]  # tokens of each row, so far as is known
        longest = (max((len(s.encode()) for s in row.ask.stop), default=0) for row in rows)
        self._window = [n + _SLACK if n else 0 for n in longest]

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        new = ids.shape[1] - self._width
        for at, line in enumerate(ids.tolist()):
            if new < self.lengths[at] and self._stopped(at, line[-min(new, self._window[at]) :]):
                self.lengths[at] = new
        done = [new >= length for length in self.lengths]
        return torch.tensor(done, device=ids.device)

    def _stopped(self, at: int, ids: list[int]) -> bool:
        if not self._window[at]:
            return False
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self._rows[at].ask.stop)
