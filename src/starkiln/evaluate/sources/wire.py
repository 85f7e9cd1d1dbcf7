"""Requests to an OpenAI-compatible endpoint and their answers, as pure data."""

import json
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from starkiln.core import keyed
from starkiln.evaluate.sources import chat
from starkiln.evaluate.sources.ask import REFUSED, Ask, Sample, answered
from starkiln.evaluate.sources.settings import SourceSettings

_FINISHES = {"content_filter": REFUSED, None: "end", "": "end"}
_SILENT = (REFUSED, "length")  # ends of an answer that may well have no text
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
_LIMITS = (
    "context_length",
    "context length",
    "context is",
    "context window",
    "context size",
    "`inputs`",
)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    finish_reason: str | None = None
    text: str | None = None
    message: _Message = _Message()


class Usage(BaseModel):
    """Tokens of one request; a number that is none counts as 0."""

    prompt_tokens: int = Field(0, ge=0, lt=1 << 53)
    completion_tokens: int = Field(0, ge=0, lt=1 << 53)

    @field_validator("*", mode="wrap")
    @classmethod
    def _none(cls, given: Any, check: ValidatorFunctionWrapHandler) -> int:
        try:
            return check(given)
        except ValidationError:
            return 0


class Answer(BaseModel):
    """What a request is answered with; ValidationError where it is another thing."""

    model_config = ConfigDict(extra="ignore")

    choices: list[_Choice]
    usage: Usage = Usage()

    @field_validator("choices", mode="before")
    @classmethod
    def _no_choices(cls, given: Any) -> Any:
        return [] if given is None else given

    @field_validator("usage", mode="before")
    @classmethod
    def _no_usage(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {}


def answer(content: bytes) -> Answer | None:
    """The answer that a body holds, which may have no choices; None where it holds none."""
    try:
        found = Answer.model_validate(json.loads(content, object_hook=_clean))
    except (ValidationError, ValueError, RecursionError):
        return None
    return found if found.choices or not is_error(content) else None


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """The object with half characters (surrogates) in its texts replaced."""
    texts = {name: one for name, one in row.items() if isinstance(one, str)}
    return row | {name: one.encode("utf-8", "replace").decode() for name, one in texts.items()}


def is_error(content: bytes) -> bool:
    """Whether a body is a JSON object that holds an error."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found.get("error"))


def body(ask: Ask, model: str, first: int, n: int, most: int, how: SourceSettings) -> dict:
    """The body of a request for ``n`` samples from number ``first`` on, of ``most`` tokens."""
    made: dict[str, Any] = {"model": model}
    if how.backend == "chat":
        told = chat.message(ask, how.chat_prompt, how.chat_infill)
        made["messages"] = [{"role": "user", "content": told}]
    else:
        made |= {"prompt": text(ask), **({} if ask.suffix is None else {"suffix": ask.suffix})}
        made |= {"stop": list(ask.stop[: how.max_stops])} if ask.stop and how.max_stops else {}
    seed = int.from_bytes(keyed.digest("request", ask.draws, first)[:6], "little")
    made |= {"max_tokens": most, "n": n, "temperature": ask.temperature, "top_p": ask.top_p}
    made |= {"seed": seed if first else ask.draws, **how.body}
    return {name: value for name, value in made.items() if name not in how.omit}


def text(ask: Ask) -> str:
    """The prompt as a text: a file's name stands behind StarCoder's sentinel, spelt out."""
    return ask.prompt if ask.path is None else f"<filename>{ask.path}\n{ask.prompt}"


def samples(ask: Ask, indices: list[int], found: Answer, how: SourceSettings) -> list[Sample]:
    """A sample for each choice, numbered by ``indices`` as far as these go.

    A choice without a text is none, unless it says why: refused, or at the limit of tokens.
    """
    fit = chat.completion if how.backend == "chat" else answered
    made = []
    for index, choice in zip(indices, found.choices):
        said = choice.message.content if choice.text is None else choice.text
        finish = REFUSED if choice.message.refusal else choice.finish_reason
        finish = _FINISHES.get(finish, finish or "end")
        if said is not None or finish in _SILENT:
            made.append(fit(ask, index, said or "", finish))
    return made


def is_too_long(status: int, told: str) -> bool:
    """Whether an error says that prompt and completion together exceed the context."""
    return status in (400, 413, 422) and any(word in told.lower() for word in _LIMITS)


def is_filtered(code: object) -> bool:
    """Whether an error says that a prompt is not to be answered."""
    return code in _FILTERED
