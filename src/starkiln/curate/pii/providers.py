"""Keys that providers give a shape of their own: the table ``keys.toml`` and its checks."""

import base64
import binascii
import re
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from starkiln.code.spans import Span
from starkiln.curate.pii import drawn, literals

_LONGEST = 2200  # characters of a key
_DRAWN = 12.0  # bits that a key without a check must have
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Provider(NamedTuple):
    """A row of ``keys.toml``."""

    name: str
    anchors: tuple[str, ...]
    head: str  # what a sample begins with
    pattern: re.Pattern[str]
    back: int
    check: str | None
    loose: bool


def crc62(value: str) -> bool:
    """Whether the last six characters are the CRC-32 of what follows the prefix (GitHub, npm)."""
    body, tail = value.rpartition("_")[2][:-6], value[-6:]
    return base62(zlib.crc32(body.encode())).rjust(6, "0") == tail


def base62(number: int) -> str:
    """``number`` in digits, upper and lower case letters; empty for 0."""
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text


def macaroon(value: str) -> bool:
    """Whether a PyPI token holds a version-2 macaroon whose location is a PyPI."""
    return decoded(value.removeprefix("pypi-")).startswith(
        (b"\x02\x01\x08pypi.org", b"\x02\x01\x0dtest.pypi.org")
    )


def decoded(value: str) -> bytes:
    """Bytes of base64 in either alphabet, with or without padding; none where it is broken."""
    plain = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4))
    except (binascii.Error, ValueError):
        return b""


def header(value: str) -> bool:
    """Whether ``value``, maybe cut short, heads a JSON web token: it names an algorithm."""
    plain = decoded(value[: len(value) // 4 * 4])
    return plain.startswith(b"{") and (b'"alg"' in plain or b'"enc"' in plain)


CHECKS = {"crc62": crc62, "macaroon": macaroon}


# No letter or digit stands before, but for an escape's: \n, %3D, and a colour's of a terminal.
_APART = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbfv])|(?<=%[0-9A-Fa-f]{2})|(?<=[\[;0-9][0-9]m))"


def _provider(name: str, row: dict) -> Provider:
    pattern = re.compile(rf"{_APART}(?:{row['pattern']})(?![A-Za-z0-9])")
    if row.get("loose"):
        pattern = re.compile(row["pattern"] + r"(?![A-Za-z0-9])", re.IGNORECASE)
    loose = row.get("loose", False)
    head, back = row["sample"].partition("{")[0], row.get("back", 0)
    return Provider(name, tuple(row["anchors"]), head, pattern, back, row.get("check"), loose)


_ROWS = tomllib.loads(Path(__file__).with_name("keys.toml").read_text("utf-8"))
PROVIDERS = tuple(_provider(name, row) for name, row in _ROWS.items())
ANCHORS = tuple(sorted({one.lower() for provider in PROVIDERS for one in provider.anchors}))
_BY_START: dict[str, list[tuple[str, Provider]]] = {}
for _one in PROVIDERS:
    for _anchor in map(str.lower, _one.anchors):
        _BY_START.setdefault(_anchor[:3], []).append((_anchor, _one))


def find(text: str, place: int, start: str) -> Iterator[Span]:
    """The keys whose anchor stands at ``place``; ``start``: three characters there, lower case."""
    own = [
        provider
        for anchor, provider in _BY_START.get(start, ())
        if len(anchor) <= 3 or text[place : place + len(anchor)].lower() == anchor
    ]
    for provider in own:
        first = max(0, place - provider.back)
        look = provider.pattern.search if provider.back else provider.pattern.match
        stop = place + 1 if provider.back else first
        match = look(text, first, place + _LONGEST)
        if match and match.start() <= max(stop, place):
            yield from _judged(match, provider)
    whole, pieces = literals.spliced(text, place) if own else ("", [])
    if whole and not text[place - 1 : place].isalnum():
        yield from (one for provider in own for one in _spliced(whole, pieces, provider))


def _spliced(whole: str, pieces: list[tuple[int, int]], provider: Provider) -> Iterator[Span]:
    """A key that several literals make, piece by piece."""
    match = provider.pattern.match(whole)
    for one in _judged(match, provider) if match else ():
        seen = 0
        for start, end in pieces:
            first, last = max(one.start - seen, 0), min(one.end - seen, end - start)
            if first < last:
                yield one._replace(start=start + first, end=start + last)
            seen += end - start


def _judged(match: re.Match[str], provider: Provider) -> Iterator[Span]:
    group = match.re.groups
    value = match[group]
    right = bool(provider.check) and CHECKS[provider.check](value)
    if right or (drawn.bits(value) >= _DRAWN and not placeholder(value)):
        sure = 0.98 if right else 0.6 if provider.check or provider.loose else 0.9
        yield Span(*match.span(group), "KEY", provider.name, sure)


_PLACEHOLDER = re.compile(
    r"example|([a-z0-9*#.])\1{5}|x{4}|(?:^|[^a-z])your[^a-z]|\.\.\.|\*\*\*|"
    r"placeholder|redacted|removed|changeme|change[_-]me|replace[_-]|insert[_-]|dummy|<[a-z_ -]+>|"
    r"[$%#]\{|\{\{|\$\(|%\(|\{[a-z_.]*\}",
    re.IGNORECASE,
)


def placeholder(value: str) -> bool:
    """Whether ``value`` says itself that it stands for another."""
    return _PLACEHOLDER.search(value[:600]) is not None
