"""What the name of a variable, field or option says about the value given to it."""

import re
import tomllib
from functools import lru_cache
from pathlib import Path

TABLES: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("wording.toml").read_text("utf-8")
)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_REACH = 48  # characters of a name before the anchor
_BEFORE = re.compile(r"(?:[^\W_]|[_.$-])*")


def start_of(text: str, place: int) -> int:
    """Where the name that holds ``place`` begins, dots and hyphens included."""
    before = _BEFORE.match(text[max(0, place - _REACH) : place][::-1])
    return place - (before.end() if before else 0)


def words(name: str) -> list[str]:
    """Lower-case words of a name in any style; what only says the form of a value is dropped."""
    found = [word.lower() for word in WORD.findall(name)]
    while found and (found[-1].isdigit() or found[-1] in _FORMS):
        found.pop()
    return found


_FORMS = frozenset(TABLES["key"]["forms"].split())
_SECRETS = frozenset(TABLES["key"]["secrets"].split())
_KEYS = frozenset(TABLES["key"]["keys"].split())
_NEVER = frozenset(TABLES["key"]["never"].split())
_TAILS = frozenset(TABLES["key"]["tails"].split())
_SPOKEN = frozenset(("secret", "token", "apikey"))
_KEYED = frozenset(("key", "keys", "psk"))


def is_plain(name: str) -> bool:
    """Whether a name says nothing against a secret: no identifier, digest, path or the like."""
    return not (_TAILS | _NEVER).intersection(words(name))


@lru_cache(maxsize=4096)
def secrecy(name: str) -> str | None:
    """``secret``, ``key`` (maybe any key), ``near``, ``loose`` (both only speak of one) or None."""
    found = words(name)
    if not found:
        return None
    tail = found[-1]
    if tail in _KEYED and len(found) > 1 and found[-2] in _KEYS and "public" not in found:
        return "secret"
    if tail in _TAILS or _NEVER.intersection(found[-3:]):
        return "loose" if tail in _TAILS and not _NEVER.intersection(found) else None
    if tail in _SECRETS:
        return "secret"
    if tail in _KEYED:
        return "key"
    return "near" if _SPOKEN.intersection(found) else "loose"
