"""Adopt a StarCoder-family checkpoint: the same function, under our sentinels at ids 0 to 18.

SantaCoder and StarCoder2 spell some sentinels otherwise, lack others and number them elsewhere.
Tokens are renumbered in the tokenizer and, with them, the rows of the embeddings, so that every
text has the same tokens and every token the same logit. Merges stay as they are.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import pre_tokenizers
from torch import Tensor

from starkiln.code.sentinels import ID, SENTINELS
from starkiln.core.errors import UserError
from starkiln.model import checkpoint
from starkiln.model.settings import parameter_shapes
from starkiln.tokenizer.tokenizer import NAME, Tokenizer

# Other families' spellings of a sentinel; what is not here has the same one or none (rules §10).
_ALIASES = {
    "<fim-prefix>": "<fim_prefix>",
    "<fim-middle>": "<fim_middle>",
    "<fim-suffix>": "<fim_suffix>",
    "<fim-pad>": "<fim_pad>",
    "<file_sep>": "<filename>",
    "<repo_name>": "<reponame>",
}
_EMBEDDINGS = "transformer.wte.weight"
_MULTIPLE = 128  # of the rows of embeddings that have to grow, as SantaCoder's are


class Plan(NamedTuple):
    """Which tokens the adopted checkpoint has, and where their rows come from."""

    names: list[str]  # by new id
    rows: list[int | None]  # each new row's old one; None: the mean of all
    new: list[str]  # those that had none


def adopt(folder: Path, out: Path) -> dict[str, Any]:
    """Write the checkpoint in ``folder`` to ``out``, laid out as ours; equal input, equal bytes.

    Returns ``from`` (its model_type), ``vocab`` (rows of the embeddings) and ``new`` (the tokens
    that it lacked: sentinels, and bytes that its training never saw). They get rows of ids that
    no token had, or the mean of all rows: n such rows raise the sum that the softmax divides by,
    by at most its share n / vocab. Files are whole or absent, the weights last.
    UserError where the folder is of another architecture, corrupt, lacks safetensors or a
    byte-level tokenizer.json, or is ``out``.
    """
    if out.resolve() == folder.resolve():
        raise UserError(out, "is the checkpoint to adopt", "name another folder for the result")
    config, size, read = checkpoint.reader(folder)
    plan, tokenizer = _tokenizer(folder / NAME, size)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in parameter_shapes(config, size):
            tensor = read(name, None, None)
            yield name, picked(tensor, plan.rows) if name == _EMBEDDINGS else tensor

    checkpoint.write(out, config, len(plan.rows), tokenizer, tensors())
    kind = json.loads((folder / checkpoint.CONFIG).read_bytes())["model_type"]
    return {"from": kind, "vocab": len(plan.rows), "new": plan.new}


def _tokenizer(path: Path, size: int) -> tuple[Plan, Tokenizer]:
    try:
        given = json.loads(path.read_bytes())
        model, added = given["model"], {token["content"] for token in given["added_tokens"]}
        if model["type"] != "BPE":
            raise ValueError(f"its model is {model['type']}")
        missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - model["vocab"].keys())
        plan = planned(_tokens(given), added, missing, size)
        return plan, _checked(_renumbered(given, plan))
    except OSError as error:
        raise UserError(path, "no tokenizer here", "copy the model's tokenizer.json") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"not a byte-level BPE as StarCoder's: {error}"
        raise UserError(path, what, "give a StarCoder-family checkpoint") from error


def _checked(definition: str) -> Tokenizer:
    try:
        return Tokenizer(definition)
    except Exception as error:  # the library has no narrower kind for merges of nothing
        raise ValueError(str(error)) from error


def planned(tokens: dict[int, str], added: set[str], missing: Sequence[str], size: int) -> Plan:
    """The new order of ``tokens`` (by old id): sentinels, the others as they were, ``missing``.

    ``added`` are the tokens that no text gives. ``size`` is the number of rows; the rows of ids
    that have no token come last, and are taken first where a token is new. ValueError if an id
    has no row, or a sentinel's name is an ordinary token's.
    """
    if tokens and not 0 <= min(tokens) <= max(tokens) < size:
        raise ValueError(f"its ids go up to {max(tokens)}, the model has {size} rows")
    roles: dict[str, int] = {}
    for i, name in sorted(tokens.items()):
        role = _ALIASES.get(name, name)
        if role in ID and name not in added:
            raise ValueError(f"{name} is an ordinary token in it")
        if role in ID and (role not in roles or name == role):
            roles[role] = i
    taken = set(roles.values())
    others = [i for i in sorted(tokens) if i not in taken]
    idle = iter(i for i in range(size) if i not in tokens)
    names = [*SENTINELS, *(tokens[i] for i in others), *missing]
    before = [*(roles.get(role) for role in SENTINELS), *others, *(None for _ in missing)]
    rows = [next(idle, None) if row is None else row for row in before]
    grows = None in rows
    rows += idle
    if grows:
        rows += [None] * (-len(rows) % _MULTIPLE)
    return Plan(names, rows, [name for name, row in zip(names, before) if row is None])


def picked(embeddings: Tensor, rows: Sequence[int | None]) -> Tensor:
    """``rows`` of ``embeddings`` [V, E]; None is their mean."""
    index = torch.tensor([0 if row is None else row for row in rows])
    out = embeddings[index]
    fresh = torch.tensor([row is None for row in rows])
    out[fresh] = embeddings.mean(0, dtype=torch.float64).to(out.dtype)
    return out


def _tokens(given: dict[str, Any]) -> dict[int, str]:
    """Every token of a ``tokenizer.json`` by its id."""
    added = ((token["content"], token["id"]) for token in given["added_tokens"])
    tokens: dict[int, str] = {}
    for name, i in [*given["model"]["vocab"].items(), *added]:
        if not isinstance(i, int) or not isinstance(name, str):
            raise TypeError(f"{name!r} has the id {i!r}")
        if tokens.setdefault(i, name) != name:
            raise ValueError(f"{name} and {tokens[i]} share the id {i}")
    return tokens


def _renumbered(given: dict[str, Any], plan: Plan) -> str:
    """The text of the new ``tokenizer.json``."""
    ids = {name: i for i, name in enumerate(plan.names)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": name, "special": True, **plain} for name, i in ID.items()]
    others = [token for token in given["added_tokens"] if token["content"] in ids.keys() - ID]
    added += [{**token, "id": ids[token["content"]]} for token in others]
    rest = {"truncation": None, "padding": None, "post_processor": None}
    model = {**given["model"], "vocab": ids}
    text = {**given, **rest, "added_tokens": added, "model": model}
    return json.dumps(text, indent=1, ensure_ascii=False)
