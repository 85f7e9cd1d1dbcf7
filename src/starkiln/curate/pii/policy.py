"""What stands in for a value, and which values may stay (paper §4; rules §9)."""

import hashlib
import ipaddress
import re
from functools import lru_cache

from starkiln.code.spans import Span
from starkiln.core import keyed
from starkiln.curate.pii.emails import SIGN

TOKENS = {
    label: f"<{label}>" for label in ("NAME", "EMAIL", "KEY", "PASSWORD", "USERNAME")
}  # as text, never special tokens
# Addresses that identify nobody, by the reason for which they stay.
_NETWORKS = {
    "private-address": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7",
    "local-address": "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 192.0.0.0/24 ::/127 fe80::/10",
    "documentation-address": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 198.18.0.0/15 "
    "2001:db8::/32",
    "multicast-or-reserved-address": "224.0.0.0/4 240.0.0.0/4 ff00::/8",
    "public-dns": "8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 "
    "208.67.220.220 8.26.56.26 8.20.247.20 94.140.14.14 94.140.15.15 76.76.19.19 76.223.122.150 "
    "2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001 "
    "2620:fe::fe",
}
_KEPT: dict[int, list[tuple[int, int, str]]] = {4: [], 6: []}  # version -> first, last, reason
for _reason, _all in _NETWORKS.items():
    for _one in map(ipaddress.ip_network, _all.split()):
        _KEPT[_one.version].append((int(_one[0]), int(_one[-1]), _reason))
_MAPPED = 0xFFFF  # the upper 96 bits of IPv6 that carries IPv4
_RESERVED = re.compile(  # RFC 2606: example addresses are nobody's
    rf"(?:{SIGN}|(?:at|@)[\s)\]>}}_]{{1,2}}|@[\"'`][^\w]{{0,20}})"
    r"(?:.*\.)?(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost)\Z",
    re.IGNORECASE,
)
_BREAK = re.compile(r"\r\n?|\n")
_WORDS = re.compile(r"[^\W\d_](?:.*[^\W_])?[+/=]*|[0-9](?:.*[^\W_])?[+/=]*")  # of one line
_WORD = re.compile(r"[^\W\d_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts without blanks
_SHORTEST = 4  # characters of a value that is replaced


def decide(value: str, label: str, seed: int) -> tuple[str | None, str]:
    """(what stands in for ``value``, "") or (None, the reason for which it stays)."""
    if label == "IP_ADDRESS":
        return address(value, seed)
    if label == "EMAIL" and _RESERVED.search(value):
        return None, "example-address"
    if not _UNSPACED.search(value):
        if len(value) < _SHORTEST:
            return None, "short"
        if label == "NAME" and len(_WORD.findall(value)) < 2:
            return None, "one-word"
    return lines(value, TOKENS[label]), ""


def lines(value: str, token: str) -> str:
    """``token`` in the place of ``value``, with its line breaks and what frames each line.

    So quotes, comment signs and indentation of a value over several lines stay where they were.
    """
    if not (ends := breaks(value)):
        return token
    first, *others = _BREAK.split(value)
    made = [_WORDS.sub(token, first, count=1) if _WORDS.search(first) else token]
    for line_break, line in zip(ends, others):
        rest = _WORDS.sub("", line, count=1)
        made += [line_break, " " if line_break == "\r" and not rest else rest]  # or "\n" joins it
    return "".join(made)


def breaks(text: str) -> list[str]:
    """The line breaks of ``text``."""
    return _BREAK.findall(text) if "\n" in text or "\r" in text else []


@lru_cache(maxsize=1 << 16)
def address(value: str, seed: int) -> tuple[str | None, str]:
    """A private address of the same version in place of ``value``, or why it may stay.

    10.0.0.0/8 for IPv4, fd00::/8 for IPv6; ``::ffff:`` and an IPv4 address becomes the same and
    that one's replacement.
    However an address is spelt, its replacement is the same. What is no address, though a tagger
    took it for one, is replaced too.
    """
    try:
        version, number, plain = _parsed(value)
    except ValueError:
        return lines(value, _drawn(4, seed, value)), ""
    reason = next((why for low, high, why in _KEPT[version] if low <= number <= high), None)
    if reason:
        return None, reason
    if version == 6 and number >> 32 == _MAPPED:
        new, reason = address(str(ipaddress.IPv4Address(number & 0xFFFFFFFF)), seed)
        return (None, reason) if new is None else (f"::ffff:{new}", "")
    return _drawn(version, seed, plain), ""


def _parsed(value: str) -> tuple[int, int, str]:
    """Version, number and shortest form of an address; ValueError where it is none."""
    if _PLAIN.fullmatch(value):  # much quicker, where there are many
        a, b, c, d = map(int, value.split("."))
        if max(a, b, c, d) < 256:
            return 4, (a << 24) + (b << 16) + (c << 8) + d, value
    one = ipaddress.ip_address(value)
    return one.version, int(one), one.compressed


_PLAIN = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")


def _drawn(version: int, seed: int, value: str) -> str:
    drawn = keyed.digest("redact-ip", seed, value)
    if version == 4:
        return "10.{}.{}.{}".format(*drawn)
    return str(ipaddress.IPv6Address(b"\xfd" + drawn[:15]))


def digest(value: str, seed: int) -> str:
    """A keyed hash of ``value`` (32 hexadecimal digits): equal for equal values of one seed."""
    return hashlib.blake2b(value.encode(), digest_size=16, key=_key(seed)).hexdigest()


@lru_cache(maxsize=16)
def _key(seed: int) -> bytes:
    return keyed.digest("redact-value", seed)


_TOKEN = re.compile("|".join(map(re.escape, TOKENS.values())))
_REACH = max(map(len, TOKENS.values()))


def is_own(text: str, span: Span) -> bool:
    """Whether ``span`` lies in a token that redaction left, cuts one, or holds nothing beside."""
    start, end = max(0, span.start - _REACH), span.end + _REACH
    if "<" not in (around := text[start:end]):
        return False
    rest = list(text[span.start : span.end])
    for match in _TOKEN.finditer(around):
        first, last = start + match.start(), start + match.end()
        if first < span.end and span.start < last:
            if first < span.start or span.end < last:
                return True
            rest[first - span.start : last - span.start] = " " * (last - first)
    return not any(character.isalnum() for character in rest)
