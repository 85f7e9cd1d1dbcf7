"""Licences: which text is which, what a declared expression means, which file is governed by what.

The rule (rules §1, tightened): a file is governed by every licence file in its own folder or above
it; of a licence file each licence counts that makes up a tenth of its text (the paper takes the
largest alone); a selection keeps a file only if every licence that governs it is permissive.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from email.parser import HeaderParser
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

UNRECOGNISED = "LicenseRef-unknown"  # a licence file whose text no known licence explains
SHARE = 0.1  # of a licence file's text that one licence must explain to count
COVER = 0.4  # of a licence file's text that all known licences together must explain
LONGEST = 1 << 18  # code points of a licence file that are classified

_DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
PERMISSIVE: frozenset[str] = frozenset(_DATA["permissive"])
_LOWER = {one.lower(): one for one in PERMISSIVE}  # the parser does not know them all
_ALIASES: dict[str, str] = _DATA["aliases"]
_CLASSIFIERS: dict[str, str] = _DATA["classifiers"]

_LICENCE_FILE = re.compile(
    r"(?:[a-z0-9.+]+[-_])?(?:un)?licen[cs]es?(?:[-_.].*)?|copying(?:[-_.].*)?", re.IGNORECASE
)
_OTHER_KIND = re.compile(  # code, data and templates about licences are not licences
    r"\.(py|pyi|js|mjs|ts|tsx|jsx|json|toml|ya?ml|xml|csv|go|java|kt|rs|c|h|cc|cpp|cs|rb|php|pl|sh"
    r"|html?|erb|tmpl|template|in|css|vue|svg|png|ico|svelte|ipynb|lock|spdx|scala|swift|ex|el)$",
    re.IGNORECASE,
)


class Declaration(NamedTuple):
    """What a Python distribution's METADATA says: its name, its licences, and how surely."""

    name: str
    licences: list[str]
    exact: bool  # by License-Expression, which states the whole


def permissive(ids: Iterable[str]) -> bool:
    """Whether there is a licence and every one is permissive; exceptions only add rights."""
    ids = list(ids)
    return bool(ids) and all(one.partition(" WITH ")[0] in PERMISSIVE for one in ids)


@lru_cache(maxsize=512)
def _regions(text: str) -> tuple[tuple[str, float], ...]:
    from licenseclassifier import identify_license

    found: dict[str, float] = {}
    for region in identify_license(text, 0.0):
        found[region.id] = found.get(region.id, 0.0) + (region.end - region.start) / len(text)
    return tuple(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def detect(text: str) -> list[tuple[str, float]]:
    """(SPDX id, share of ``text`` that is this licence), largest first; cached by content."""
    return list(_regions(text[:LONGEST]))


def of_text(text: str) -> list[str]:
    """The SPDX ids that a licence file's text puts in force, with ``UNRECOGNISED`` if unclear."""
    found = detect(text)
    large = [one for one, share in found if share >= SHARE] or [one for one, _ in found[:1]]
    clear = sum(share for _, share in found) >= COVER
    return large if clear else [*large, UNRECOGNISED]


@lru_cache(maxsize=1)
def _spdx() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def declared(expression: str) -> list[str]:
    """The SPDX ids that a declared licence expression puts in force; [] if it cannot be read.

    ``AND`` puts both sides in force; of ``OR`` the first permissive side is chosen, else all
    sides stand. Case does not matter; common free-form names ("Apache 2.0") are understood, and so
    is GitHub's ``deprecated_``.
    """
    from license_expression import ExpressionError

    text = " ".join(expression.split()).removeprefix("deprecated_")
    lower = text.lower()
    known = _ALIASES.get(lower) or _LOWER.get(lower)
    if known:
        return [known]
    try:
        tree = _spdx().parse(text.replace("/", " OR "))
        strange = _spdx().unknown_license_keys(tree) if tree is not None else [""]
    except (ExpressionError, ValueError, LookupError, TypeError, AssertionError, RecursionError):
        return []  # the parser fails in all these ways on nonsense
    if any(not key.startswith("LicenseRef-") for key in strange):
        return []
    return list(dict.fromkeys(_in_force(tree)))


def _in_force(tree: Any) -> list[str]:
    branches = [_in_force(branch) for branch in getattr(tree, "args", ())]
    if not branches:
        return [tree.render("{symbol.key}")]
    if tree.operator.strip() == "OR":
        branches = [branch for branch in branches if permissive(branch)][:1] or branches
    return [one for branch in branches for one in branch]


def declaration(metadata: str) -> Declaration:
    """What a distribution's METADATA or PKG-INFO declares (core metadata, PEP 639 or older)."""
    head = HeaderParser().parsestr(metadata)
    name, exact = head.get("Name", ""), declared(head.get("License-Expression", ""))
    if exact:
        return Declaration(name, exact, True)
    kinds = [line.rpartition(" :: ")[2] for line in head.get_all("Classifier", [])
             if line.startswith("License :: ") and line != "License :: OSI Approved"]  # fmt: skip
    stated = head.get("License", "")
    if len(stated) > 200:
        ids = of_text(stated)
    else:
        ids = declared(stated) or [_CLASSIFIERS.get(kind, UNRECOGNISED) for kind in kinds]
    return Declaration(name, list(dict.fromkeys(ids)), False)


def is_licence(path: str) -> bool:
    """Whether ``path`` is a licence file by its name (LICENSE-MIT, COPYING, LICENSES/MIT.txt)."""
    folder, _, name = path.lower().rpartition("/")
    within = folder.rpartition("/")[2]
    page = within in ("doc", "docs") and name.endswith((".md", ".rst"))
    if page or _OTHER_KIND.search(name):
        return False
    return within in ("licenses", "licences") or _LICENCE_FILE.fullmatch(name) is not None


def governed(path: str) -> str:
    """The folder ("" is the root) that the licence file ``path`` governs."""
    folder = path.rpartition("/")[0]
    above, _, name = folder.rpartition("/")
    return above if name.lower() in ("licenses", "licences") else folder


def governing(
    files: Iterable[tuple[str, str]], declared: Iterable[str] = ()
) -> dict[str, list[str]]:
    """For each folder the licences in force there, from (folder, licence file's text) pairs.

    ``declared`` stands for the root. A notice that no known licence explains ("see LICENSE.MIT")
    counts only where no licence beside it is known.
    """
    table: dict[str, list[str]] = {"": list(declared)}
    for folder, text in files:
        table.setdefault(folder, []).extend(of_text(text))
    for folder, ids in table.items():
        known = [one for one in dict.fromkeys(ids) if one != UNRECOGNISED]
        table[folder] = known or list(dict.fromkeys(ids))
    return table


def above(table: Mapping[str, list[str]], path: str) -> list[str]:
    """The licences that govern ``path``: those of its folder first, then of each folder above."""
    found: list[str] = []
    folder = path
    while folder:
        folder = folder.rpartition("/")[0]
        found += table.get(folder, [])
    return list(dict.fromkeys(found or table.get("", [])))
