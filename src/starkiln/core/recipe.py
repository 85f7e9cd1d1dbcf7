"""Recipes: TOML in, a checked model out, with the origin of every value.

One level of ``extends`` (a shipped preset's name or a ``.toml`` path), ``--set a.b=c`` on top.
Tables merge, everything else is replaced. Unknown keys are refused with a suggestion.
"""

import copy
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from starkiln.core.errors import UserError

M = TypeVar("M", bound=BaseModel)
PRESETS = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Resolved(Generic[M]):
    """A checked recipe, the raw tables it came from, and where each leaf was set."""

    value: M
    raw: dict[str, Any]
    origins: dict[str, str]  # dotted key -> "recipe.toml", "preset laptop" or "--set"


def load(path: Path, model: type[M], overrides: Sequence[str] = ()) -> Resolved[M]:
    """Read, merge and check a recipe; every fault is one ``UserError``."""
    raw: dict[str, Any] = {}
    origins: dict[str, str] = {}
    table = _read(path)
    parent = table.pop("extends", None)
    if parent is not None:
        place, origin = _parent(str(parent), path)
        inherited = _read(place)
        if "extends" in inherited:
            raise UserError(place, "extends another recipe", "only one level of 'extends' is read")
        _merge(raw, inherited, origin, origins)
    _merge(raw, table, path.name, origins)
    raw, changed = overridden(raw, overrides)
    origins |= changed
    return Resolved(check(model, raw, path, origins), raw, origins)


def overridden(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[dict, dict[str, str]]:
    """``raw`` with each ``key=value`` put in, and the origins of those keys."""
    raw = copy.deepcopy(raw)
    origins: dict[str, str] = {}
    for text in overrides:
        _override(raw, text, origins)
    return raw, origins


def presets() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(p.stem for p in PRESETS.glob("*.toml"))


def check(model: type[M], raw: dict, where: object, origins: Mapping[str, str] = {}) -> M:
    """Validate ``raw`` strictly; all faults in one sentence a line."""
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        faults = [_sentence(model, e, where, origins) for e in error.errors()]
        first = faults[0]
        if len(faults) > 1:
            more = "".join(f"\n{f}" for f in faults[1:])
            raise UserError(first.where, first.what, first.mend + more) from error
        raise first from error
    except (TypeError, ValueError) as error:  # a TOML date, say
        raise UserError(
            where, f"{error}", "use strings, numbers, booleans, lists, tables"
        ) from error


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all leaves; lists are leaves, lists of tables are not."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{prefix}.{i}")
    else:
        yield prefix, value


def meanings(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, str]]:
    """(meaning, paper section) of every key of a recipe model, nested tables included."""
    found: dict[str, tuple[str, str]] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= meanings(kind, f"{prefix}{name}.")
            continue
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        found[f"{prefix}{name}"] = (info.description or "", str(extra.get("paper", "")))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(presets())
        raise UserError(
            path, "no such recipe", f"write one with 'starkiln init', or use a preset: {known}"
        ) from None
    except IsADirectoryError:
        raise UserError(path, "is a folder", "name the recipe file in it") from None
    except OSError as error:
        raise UserError(path, error.strerror or "unreadable", "mend the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(path, f"not TOML: {error}", "mend that line") from error


def _parent(name: str, child: Path) -> tuple[Path, str]:
    if name.endswith(".toml"):
        return child.parent / name, name
    if name not in presets():
        near = difflib.get_close_matches(name, presets(), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"presets: {', '.join(presets())}"
        raise UserError(child, f"extends '{name}', which is no preset", hint)
    return PRESETS / f"{name}.toml", f"preset {name}"


def _merge(into: dict, table: dict, origin: str, origins: dict[str, str], prefix: str = "") -> None:
    for name, value in table.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict) and isinstance(into.get(name, {}), dict):
            _merge(into.setdefault(name, {}), value, origin, origins, f"{dotted}.")
        else:
            into[name] = value
            origins[dotted] = origin
            origins.update((key, origin) for key, _ in leaves(value, dotted))


def _override(raw: dict, text: str, origins: dict[str, str]) -> None:
    dotted, equals, literal = text.partition("=")
    if not equals or not dotted.strip():
        raise UserError("--set", f"'{text}' is not key=value", "write --set train.steps=100")
    try:
        value = tomllib.loads(f"v = {literal}")["v"]
    except tomllib.TOMLDecodeError:
        value = literal
    place: Any = raw
    *path, last = dotted.strip().split(".")
    try:
        for name in path:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        if isinstance(value, dict) and isinstance(place, dict):
            _merge(place, {last: value}, "--set", origins, "".join(f"{name}." for name in path))
        else:
            place[int(last) if isinstance(place, list) else last] = value
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError("--set", f"'{dotted}' is no key", "see 'starkiln explain'") from error
    origins[dotted.strip()] = "--set"


def _sentence(
    model: type[BaseModel], error: Any, where: object, origins: Mapping[str, str]
) -> UserError:
    dotted = ".".join(map(str, error["loc"]))
    where = origins.get(dotted, where)
    if error["type"] == "extra_forbidden":
        names = _siblings(model, error["loc"])
        near = difflib.get_close_matches(str(error["loc"][-1]), names, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"keys here: {', '.join(sorted(names))}"
        return UserError(where, f"{dotted}: no such key", hint)
    if error["type"] == "missing":
        return UserError(where, f"{dotted}: missing", "set it")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":  # of a whole table: its values say nothing
        return UserError(where, f"{dotted or 'recipe'}: {message}", "mend the values")
    message = message[0].lower() + message[1:]
    return UserError(where, f"{dotted} = {json.dumps(error['input'])}: {message}", "mend the value")


def _siblings(model: type[BaseModel], loc: tuple) -> list[str]:
    for name in loc[:-1]:
        kind = model.model_fields[name].annotation if name in model.model_fields else None
        kinds = [k for k in (kind, *get_args(kind)) if isinstance(k, type)]
        inner = [k for k in kinds if issubclass(k, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)
