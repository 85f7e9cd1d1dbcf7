"""E-mail addresses, IP addresses and keys by pattern and context (paper §4; rules §9).

Every span is the value alone: no quote, bracket, port, prefix length or zone. Each rule is
anchored on a literal and looks a bounded way around it, so the time is linear in the text.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from starkiln.curate.pii import keys

GATES = {  # for Rust's regex: what a text must hold to be worth a look
    "EMAIL": r"[A-Za-z0-9_+-]@[A-Za-z0-9-]+\.[A-Za-z0-9]",
    "IP_ADDRESS": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:"
    r"|::(?i:ffff:)?[0-9]{1,3}\.[0-9]|[0-9A-Fa-f]{3,4}::|[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}::|::1",
    "KEY": keys.GATE,
}
ORDER = ("KEY", "EMAIL", "IP_ADDRESS")  # who wins where spans overlap


class Span(NamedTuple):
    """``text[start:end]`` (code points) is a ``label``, found by the rule ``reason``."""

    start: int
    end: int
    label: str
    reason: str


def detect(text: str, labels: Collection[str] = ORDER) -> list[Span]:
    """The spans of ``text`` by start; those that overlap become one, KEY before EMAIL before IP."""
    found: list[Span] = []
    if "KEY" in labels:
        found += (Span(start, end, "KEY", rule) for start, end, rule in keys.find(text))
    if "EMAIL" in labels:
        found += _emails(text)
    if "IP_ADDRESS" in labels:
        found += [*_ipv4(text), *_ipv6(text)]
    merged: list[Span] = []
    for span in sorted(found, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            last = merged.pop()
            first = min(last, span, key=lambda s: ORDER.index(s.label))
            span = Span(last.start, max(last.end, span.end), first.label, first.reason)
        merged.append(span)
    return merged


_LOCAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+%-]{0,63}\Z")
_LOCAL_CHARACTER = re.compile(r"[A-Za-z0-9_.+%-]")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}")
_VERSION = re.compile(r"v?\d+\.\d")  # pkg@1.2.3
_FILE = re.compile(  # endings of files and of systemd units, none of them a common top level
    r"(?:png|jpe?g|gif|svg|webp|ico|t?gz|bz2|xz|zst|zip|jar|whl|exe|dll|s?css|less|json|html?|xml|"
    r"ya?ml|toml|lock|[mc]?js|tsx?|jsx|map|txt|cfg|conf|ini|service|socket|timer|target|mount|slice|"
    r"device|git)",
    re.IGNORECASE,
)
_PATH = re.compile(r":[\w.~/-]*[/\w]")  # git@host:path
_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+]*://[^\s/@]*\Z")


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        start = _local(text, at)
        domain = _DOMAIN.match(text, at + 1)
        if start < at and domain and not _no_address(text, start, at, domain):
            yield Span(start, domain.end(), "EMAIL", "email")
        at = text.find("@", at + 1)


def _local(text: str, at: int) -> int:
    """Where the local part before ``at`` begins; ``at`` itself when there is none."""
    local = _LOCAL.search(text, max(0, at - 64), at)
    if local is None or text[at - 1] in ".%":
        return at
    start = local.start()
    if start == at - 64 and start and _LOCAL_CHARACTER.match(text, start - 1):
        return at  # the end of a longer run: not a mailbox
    if text[start - 1 : start] == "\\" and text[start] in "nrt":
        start += 1  # the string escape "\n" before an address
    return start


def _no_address(text: str, start: int, at: int, domain: re.Match[str]) -> bool:
    end = domain.end()
    following = text[end : end + 1]
    if following in {"(", "[", "@"} or re.match(r"[A-Za-z0-9_]|[-.][A-Za-z0-9_]", text[end:]):
        return True
    if _FILE.fullmatch(domain[0].rpartition(".")[2]) or _VERSION.match(domain[0]):
        return True
    if _PATH.match(text, end) and "/" in text[end : end + 80].split("\n", 1)[0]:
        return True
    return _USERINFO.search(text, max(0, start - 80), at) is not None


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(
    rf"(?<![\w.])(?<![A-Za-z]-)(?<!:::){_OCTET}(?:\.{_OCTET}){{3}}(?![\w])(?!\.\w)(?!-[A-Za-z])",
    re.ASCII,
)
_RELEASE = re.compile(  # what stands before a version, an object identifier or a section number
    r"(?:versions?|(?<![A-Za-z])(?:ver|v|rev|revision|release[sd]?|build|oid|section|sec|chapter|"
    r"appendix|clause|python|java|chrome|chromium|firefox|edge|opera|safari)|§)"
    r"(?:info|_info|id|number|string|attribute)?[\"'`)\]]{0,2}"
    r"[ \t]{0,4}(?:=>|[=:(/,-])?[ \t]{0,4}[\"'`(]{0,2}\Z|(?:[=<>~!^]=|[~^]>?)[ \t]{0,2}\Z",
    re.IGNORECASE,
)
_OID = re.compile(r"2\.5\.(?:4|5|6|8|13|18|20|21|29|30|35)\.|1\.3\.(?:6|12|14|36|101|111|132)\.")
_HEADING = re.compile(r"(?m:^)[ \t#*=./;%-]*\Z")
_NETWORK = re.compile(
    r"ip|addr|host|dns|server|inet|subnet|gateway|route|ping|socket|peer|forward|proxy|client|"
    r"net|lan\b|bind|listen|remote|local",
    re.IGNORECASE,
)


def _ipv4(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text) if text.count(".") > 2 else ():
        start, end = match.span()
        before = text[max(0, start - 40) : start]
        if _RELEASE.search(before) or _OID.match(match[0]):
            continue
        small = all(int(octet) < 10 for octet in match[0].split("."))
        if small and not _NETWORK.search(text[max(0, start - 100) : end + 100]):
            continue  # 1.2.3.4 alone is a version or a section
        if small and _HEADING.search(before) and re.match(r"\.?[ \t]+[A-Z]", text[end:]):
            continue
        yield Span(start, end, "IP_ADDRESS", "ipv4")


_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{1,41}(?:\.[0-9]{1,3}){0,3}(?![\w:])(?!\.\w)",
    re.ASCII,
)


def _ipv6(text: str) -> Iterator[Span]:
    for match in _IPV6.finditer(text) if text.count(":") > 1 else ():
        value = match[0]
        if value.endswith(":") and not value.endswith("::"):
            value = value[:-1]  # "fe80::1: unreachable"
        if value.count(":") > 1 and _plausible(value):
            yield Span(match.start(), match.start() + len(value), "IP_ADDRESS", "ipv6")


def _plausible(value: str) -> bool:
    """Whether ``value`` is an IPv6 address, and no slice, scope, time or hardware address."""
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return False
    groups = [group for group in value.split(":") if group]
    if "." in value or value == "::1":
        return True
    if "::" not in value:
        return any(len(group) != 2 for group in groups)  # eight pairs: an EUI-64
    if len(groups) > 3:
        return True
    known = address.is_global or address.is_link_local or address.is_multicast
    known = known or address.packed[0] in (0x20, 0xFC, 0xFD)  # documentation, unique local
    return (
        known
        and len(groups[0]) > 2
        and not value.startswith("::")
        and any(character.isdigit() for character in value)
    )
