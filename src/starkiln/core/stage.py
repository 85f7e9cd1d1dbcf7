"""Stages are plain functions with a version and declared columns.

A stage's keyword-only arguments, with their types and defaults, are its settings. A decorator
attaches a ``Spec`` and returns the function itself, so that spawned workers can import it.

Four doors:

``source``           settings -> units; ``read(unit)`` yields documents and set-aside rows
``stage``            frame -> frame of the same height with ``reason`` and attributes
``document_filter``  one document's columns -> a reason to drop it, or None
``global_stage``     a view of the whole table -> one decision frame a shard
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from starkiln.core.errors import UserError
from starkiln.core.settings import Settings

_USER = "starkiln_user_"  # modules made of users' own files
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Spec:
    """What a decorator records of a function."""

    kind: str  # source, local, document or global
    version: int
    reads: tuple[str, ...] = ()
    adds: Mapping[str, Any] = field(default_factory=dict)  # column -> Polars dtype
    kinds: tuple[str, ...] | None = None  # of document that it is meant for; None: all
    stamp: Callable[[dict], str] | None = None  # of what its settings name, for its identity
    ready: Callable[[dict], object] | None = None  # UserError where something that it needs is not
    read: Callable[[dict], Iterator[dict]] | None = None  # sources only
    fold: Callable[[str, list[dict], dict], Iterator[dict]] | None = None  # sources only


def _attach(spec: Spec) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        function.__starkiln__ = spec  # pyrefly: ignore
        return function

    return decorate


def source(
    *,
    version: int,
    read: Callable[[dict], Iterator[dict]],
    fold: Callable[[str, list[dict], dict], Iterator[dict]] | None = None,
) -> Callable[[F], F]:
    """Mark ``f(*, settings) -> list[unit]``, with ``read(unit)`` yielding rows.

    A unit is a picklable dict with at least ``name`` (str), ``bytes`` (int, an estimate) and
    ``stamp`` (str, changes when the input changes). ``read`` must be a module-level function;
    it yields documents (see ``code.document``) or set-aside rows, which carry ``reason``.

    Where documents are made of records that lie scattered over units, ``read`` yields records
    instead: dicts of JSON values with a ``key`` (str). They are brought together on the disk, and
    ``fold(key, records, settings)`` yields the rows of one key; records come in the order of units.
    """
    return _attach(Spec("source", version, read=read, fold=fold))


def stage(
    *,
    version: int,
    reads: tuple[str, ...],
    adds: Mapping[str, Any] | None = None,
    kinds: tuple[str, ...] | None = None,
    stamp: Callable[[dict], str] | None = None,
    ready: Callable[[dict], object] | None = None,
) -> Callable[[F], F]:
    """Mark a row-local stage ``f(frame, *, settings) -> frame`` of the same height.

    ``reads`` names Document columns, or ``text`` (the document's segments joined by a newline).
    The result holds ``reason`` (String, null keeps the row) and/or the columns in ``adds``.
    Only documents of ``kinds`` come to it, unless the recipe's table says ``kinds = [...]``.
    ``stamp(settings)`` changes when files that the stage finds by its settings do;
    ``ready(settings)``, called before the first step of a run, raises UserError if one is missing
    or the settings do not go together.
    """
    return _attach(Spec("local", version, tuple(reads), dict(adds or {}), kinds, stamp, ready))


def document_filter(
    *,
    version: int,
    kinds: tuple[str, ...] | None = None,
    ready: Callable[[dict], object] | None = None,
) -> Callable[[F], F]:
    """Mark ``f(text, ..., *, settings) -> reason | None``; arguments are named after columns.

    ``kinds`` and ``ready`` as for ``stage``.
    """

    def decorate(function: F) -> F:
        names = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        spec = Spec("document", version, tuple(names), {}, kinds, ready=ready)
        return _attach(spec)(function)

    return decorate


def global_stage(
    *,
    version: int,
    reads: tuple[str, ...],
    adds: Mapping[str, Any] | None = None,
    kinds: tuple[str, ...] | None = None,
    ready: Callable[[dict], object] | None = None,
) -> Callable[[F], F]:
    """Mark ``f(view, *, settings) -> Iterator[frame]``: a decision frame a shard, in order.

    Each frame has the height of ``view.read(i, ...)`` for shard ``i`` and holds ``reason``
    and/or the columns in ``adds``. ``kinds`` and ``ready`` as for ``stage``: the view holds no
    other kinds.
    """
    spec = Spec("global", version, tuple(reads), dict(adds or {}), kinds, ready=ready)
    return _attach(spec)


def spec(function: Callable) -> Spec:
    """The ``Spec`` of a decorated function."""
    return function.__starkiln__  # pyrefly: ignore


def load(use: str, where: str) -> Callable:
    """The function that ``use`` names: ``package.module:name`` or ``folder/file.py:name``."""
    place, _, name = use.rpartition(":")
    if not place:
        raise UserError(where, f"'{use}' names no function", "write 'file.py:name'")
    try:
        module = (
            _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except Exception as error:  # whatever a user's file does when it is imported
        raise UserError(where, f"cannot import '{place}': {error!r}", "mend it") from error
    function = getattr(module, name, None)
    if not hasattr(function, "__starkiln__"):
        raise UserError(
            where, f"'{place}' has no stage '{name}'", "decorate it with one of starkiln.core.stage"
        )
    return function  # pyrefly: ignore


def place_of(function: Callable) -> tuple[str, str]:
    """(module or ``.py`` file, name): enough to find ``function`` again in another process."""
    module = function.__module__
    is_file = module.startswith(_USER)
    return (str(sys.modules[module].__file__) if is_file else module), function.__qualname__


def found_at(place: str, name: str) -> Callable:
    """The function that ``place_of`` described."""
    module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    return getattr(module, name)


def _from_file(path: Path) -> Any:
    path = path.resolve()
    name = f"{_USER}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None or not path.is_file():
        raise ImportError(f"no such file: {path}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def settings_model(function: Callable) -> type[Settings]:
    """A strict settings model made from a stage's keyword-only arguments."""
    hints = typing.get_type_hints(function, include_extras=True)  # also where they are strings
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is inspect.Parameter.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return pydantic.create_model(function.__name__, __base__=Settings, **fields)
