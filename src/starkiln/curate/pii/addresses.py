"""IP addresses: by shape, octets and what stands around them (rules §9).

Versions, object identifiers, section numbers, slices, times and hardware addresses are none; nor
are names of hosts and variables that spell one with other signs, as ``ec2-81-2-69-142`` does.
"""

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache

from starkiln.code.spans import Span
from starkiln.curate.pii.anchors import DIGIT, GAP, HEX
from starkiln.curate.pii.values import FONT, Rule

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_NAMED = (  # what ends a file that is named after a host, and no package
    r"\.(?:log|conf|cfg|cnf|ini|txt|json|ya?ml|xml|csv|html?|pem|crt|cert|cer|key|pub|pcap|bak|out|"
    r"err|ovpn|rdp|rrd|zone|service|known_hosts)(?:\.(?:[0-9]{1,3}|gz|bz2|xz|bak|old))?(?![\w.-])"
)
_FILE = re.compile(_NAMED)
_DOTTED = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IPV4 = re.compile(
    rf"{_DOTTED}(?![^\W_])(?!(?!{_NAMED})\.[\w*])(?!-[A-Za-z])"
    r"(?!-[0-9]+\.(?:[A-Za-z]|[0-9]+(?![.0-9])))"  # 2.6.24.4-64.fc8, a package's version
    r"(?![ \t]\(?(?:[Rr]eleased?|RELEASE|[Rr]c|RC|[Bb]eta|[Aa]lpha)\b)",
    re.ASCII,
)
_PRIVATE = re.compile(r"10\.|127\.|169\.254\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.")
_BEHIND_DOT = re.compile(r"\.([1-9][0-9]{1,4}|[a-z][a-z0-9-]{1,14})(?![\w*]|[.-][\w*])", re.ASCII)
_QUAD_ALONE = re.compile(_DOTTED)
_DUMP = re.compile(r"\bIP (?:[\w.-]{3,40} [<>] )?\Z")  # of tcpdump: IP a.b.c.d.port > a.b.c.d.name:
_DIGITAL = re.compile(r"(?:doi|cite)[^\n]{0,20}\Z", re.IGNORECASE)  # an identifier of a paper
_GLUED = re.compile(r"(?:[\w.]|[A-Za-z]-|:::)\Z", re.ASCII)  # what no address stands behind
_ESCAPED = re.compile(  # but for the escapes of strings and of URLs
    r"(?:(?<!\\)\\(?:[nrt]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})|%[0-9A-Fa-f]{2}|"
    rf"{FONT.pattern})([0-9]{{0,3}})\Z"
)
_TOLD = re.compile(r"(?<![A-Za-z])(?:ips?|ipv4|addr|address)[_-]\Z", re.IGNORECASE)  # ip_1.2.3.4
_RELEASE = re.compile(  # what stands before a version, an object identifier or a section number
    r"(?:(?:versions?|release[sd]?|revision|firmware|since|upgrad(?:e|ed|ing) to|(?<![A-Za-z])"
    r"(?:ver|v|rev|build|milestone|oid|section|sec|sect|chapter|appendix|annex|clause|paragraph|"
    r"figure|table|python|java|chrome|chromium|firefox|edge|opera|safari|php|\.net|mysql|openssl|"
    r"nginx|apache))(?:info|_info|id|number|num|string|attribute)?[\"'`)\]]{0,2}"
    r"[ \t]{0,4}(?:=>|[=:(/,.>-]|%3A)?[ \t]{0,4}[\"'`(]{0,2}|§[ \t]?|"
    r"(?:[=<>~!^]=|[~^]>?)[ \t]{0,2})\Z",
    re.IGNORECASE,
)
_PRODUCT = re.compile(  # Edge/18.17.7.1, curl/7.68.0.11
    r"(?<![\w./:@-])(?!(?:tcp|udp|icmp|sctp|https?|ip|ips|ipv4|inet|net|host|hosts|addr|dns|ping|route|"
    r"proxy|server|client|peer|cidr|src|dst|from|to|and|or|on|at|via)/)[A-Za-z][\w.+-]{1,30}/\Z",
    re.IGNORECASE,
)
_OID = re.compile(r"2\.5\.(?:4|5|6|8|13|18|20|21|29|30|35)\.|1\.3\.(?:6|12|14|36|101|111|132)\.")
_HEADING = " \t#*=./;%-"  # what stands between the start of a line and a heading's number
_TITLE = re.compile(r"\.?[ \t]+[A-Z\[]|:?[ \t]*\r?\n[ \t#*]*[-=~^]{3}")
_SMALL, _SECTION = 10, 32  # octets below: of a version, of a section
_PRODUCT_BEFORE = re.compile(r"(?<![\w.-])[A-Z][\w.+-]{1,20} \Z")
_BETWEEN_WORDS = re.compile(r"[A-Za-z][_-]\Z")  # backup-81.2.69.142.conf
_NEAR = 80  # characters each way in which a word speaks for a network
_NETWORK = re.compile(  # in lower case
    r"addr|host|dns|server|inet|subnet|gateway|route|ping|socket|peer|forward|proxy|client|netmask|"
    r"network|bind|listen|remote|cidr|://|\bip|ip\b|_ip|ip_|ipv|\b(?:lan|wan|port)\b|ips\b"
)
_RUN = re.compile(r"[0-9A-Fa-f:]*:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*", re.ASCII)
_SLICED = re.compile(r"[)\]]\Z|[\w)\]]\[\Z")  # x[::1]
_BEHIND = re.compile(r"[0-9A-Fa-f:]*", re.ASCII)
_DOUBTFUL = 0.2
_LONGEST = 45  # characters of an IPv6 address


def _address(text: str, place: int) -> Iterator[Span]:
    """The address about ``place``."""
    dotted = text[place].isdigit() and text[place + 1] == "."
    span = _ipv4(text, place) if dotted else _ipv6(text, place)
    if span:
        yield span


RULES: dict[Rule, tuple[str, ...]] = {
    _address: (
        *(f"{DIGIT}.{DIGIT * a}.{DIGIT * b}.{DIGIT}" for a in (1, 2, 3) for b in (1, 2, 3)),
        *(f"{GAP}{HEX * digits}::" for digits in (1, 2, 3, 4)),
        *(f"\\f{font}{HEX * 4}::" for font in "bir"),
        *(f"{GAP}::{HEX}", f":{HEX * 3}:", f":{HEX * 4}:", f":{HEX}:{HEX}:{HEX}:"),
    ),
}


def _ipv4(text: str, place: int) -> Span | None:
    start = place
    while start and place - start < 2 and "0" <= text[start - 1] <= "9":
        start -= 1
    behind = text[max(0, start - 12) : start]
    escaped = "\\" in behind or "%" in behind
    if escaped and (code := _ESCAPED.search(text, max(0, place - 9), place + 1)):
        start, behind = code.start(1), ""
    match = _IPV4.match(text, start) or _ported(text, start)
    if match is None:
        return None
    octets = [int(octet) for octet in match[0].split(".")]
    filed = _filed(text, octets, match.end())
    told = behind.endswith(("_", "-")) and (
        _TOLD.search(behind) or (filed and _BETWEEN_WORDS.search(behind))
    )
    if not told and (_GLUED.search(behind) or text[match.end() : match.end() + 1] == "_"):
        return None
    before = text[max(0, start - 40) : start]
    if (not filed and _released(before)) or _OID.match(match[0]):
        return None
    small = all(0 < octet < _SECTION for octet in octets)
    headed = small and before.rstrip(_HEADING)[-1:] in ("", "\n")
    if (headed and _TITLE.match(text, match.end())) or _entitled(text, before, match.end()):
        return None
    if _upgraded(before, octets) or _plotted(before[-24:], text[match.end() : match.end() + 24]):
        return None
    if headed and _numbered(text, before, octets, match.end()):
        return None
    sure = 0.9
    named = max(octets) < _SECTION and _PRODUCT_BEFORE.search(before)  # Git 1.7.12.3
    if named or (max(octets[:3]) < _SMALL and octets[3] < _SECTION):
        around = text[max(0, start - _NEAR) : match.end() + _NEAR].lower()
        network = _NETWORK.search(around)
        network = network or (octets[3] == 0 and _listed(around))
        sure = 0.8 if network else 0.3  # alone, a version or a section
    return Span(start, match.end(), "IP_ADDRESS", "ipv4", sure)


def _ported(text: str, start: int) -> re.Match[str] | None:
    """The address before a full stop and a port; no release nor object identifier."""
    match = _QUAD_ALONE.match(text, start)
    port = _BEHIND_DOT.match(text, match.end()) if match else None
    if match is None or port is None:
        return None
    if _DUMP.search(text, max(0, start - 48), start):
        return match if text[port.end() : port.end() + 1] in (" ", ":") else None
    if not _PRIVATE.match(match[0]) or _DIGITAL.search(text, max(0, start - 24), start):
        return None
    least = 1000 if _small(text, match.end()) else 20
    return match if port[1].isdigit() and least <= int(port[1]) < 1 << 16 else None


_ALONE = re.compile(r"[ \t]{0,40}(?:\r?\n|\Z)")
_ADDRESSED = re.compile(
    r"addr|dns|subnet|gateway|netmask|cidr|\bping|inet|\d\d\.\d|\.\d\d|\bip|ip\b|nameserver", re.I
)


def _numbered(text: str, before: str, octets: list[int], end: int) -> bool:
    """Whether digits alone on a line of a comment, with no word on addresses, are a section's."""
    if max(octets) >= _SMALL or len(set(octets)) == 1 or not _ALONE.match(text, end):
        return False
    commented = before.rstrip(" \t")[-1:] in ("#", "*", ";", "/", "%", "-")
    return commented and not _ADDRESSED.search(before + text[end : end + _NEAR])


def _filed(text: str, octets: list[int], end: int) -> bool:
    """Whether the name of a file ends behind an address, which looks like no version's number."""
    return sum(octet >= _SECTION for octet in octets) > 1 and bool(_FILE.match(text, end))


_UPGRADED = re.compile(
    r"\b(?:up|down)grad\w{1,3}[ \t]|\b(?:bump|updat|switch|migrat)\w{0,4}[ \t]", re.IGNORECASE
)
_UNTIL = re.compile(r"[ \t](?:to|from|->|=>|→)[ \t]{1,2}[\"'`(]?\Z")
_VERSION = 100  # the octets of most are below


def _upgraded(before: str, octets: list[int]) -> bool:
    """Whether a number is what something was changed to: "upgrade the parser to 3.40.1.2"."""
    if max(octets) >= _VERSION or not _UNTIL.search(before) or not _UPGRADED.search(before):
        return False
    return not _NETWORK.search(before.lower())


_PLOT = r"[\s\d.,MmLlHhVvCcSsQqTtAaZz-]"
_PLOT_BEFORE = re.compile(rf"(?:{_PLOT}{{10}}|[\"']{_PLOT}{{1,9}})\Z")
_PLOT_AFTER = re.compile(rf"{_PLOT}{{10}}|{_PLOT}{{0,10}}[\"'zZ]")
_FRACTION = re.compile(r"(?<![\d.])(?:\d*\.\d+){1,2}(?![\d.]*\d)")


def _plotted(before: str, after: str) -> bool:
    """Whether fractions of a drawn path stand about a number, as in ``c1.5-.83 3.51.98.32 2.5``."""
    if not _PLOT_BEFORE.search(before) or not _PLOT_AFTER.match(after):
        return False
    return len(_FRACTION.findall(before)) + len(_FRACTION.findall(after)) > 1


_MARKED = re.compile(r"(?:^|\n)[ \t]{0,3}(#{1,6})[ \t]+\[?v?\Z")
_DATED = re.compile(
    r"\]?(?:\([^)\n]{0,200}\))?[ \t]*[-–—/:|]{0,2}[ \t]*(?:[(\[_*]{0,2}"
    r"(?:(?:19|20)\d\d|\d{1,2}[-./ ]|unreleased|released?|[A-Z][a-z]{2,8} \d)|()\r?(?:\n|\Z))",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:\[|<a [^>\n]{0,200}>)(?:RFC ?\d{1,5}[ ,§:-]{0,3})?(?:section |sec\.? |§ ?)?\Z", re.I
)
_LINKED = re.compile(r"[^\]<\n]{0,80}(?:\]\((?:#|\S{0,80}(?:rfc|sec))|\]\[|</a>)", re.IGNORECASE)
_QUAD = re.compile(rf"(?<![\w.]){_OCTET}(?:\.{_OCTET}){{2}}\.0(?![\w.])")


def _entitled(text: str, before: str, end: int) -> bool:
    """Whether a number heads a release in Markdown, or is a section's in the label of a link."""
    if "#" in before and (head := _MARKED.search(before)):
        dated = _DATED.match(text, end)
        return dated is not None and (dated[1] is None or len(head[1]) > 1)
    labelled = ("[" in before or "<" in before) and _LABEL.search(before)
    return bool(labelled and _LINKED.match(text, end)) and _small(text, end)


def _small(text: str, end: int) -> bool:
    octets = re.findall(r"\d+", text[max(0, end - 15) : end])[-4:]
    return all(int(octet) < _SECTION for octet in octets)


def _listed(around: str) -> bool:
    """Whether a network's address stands near another, which no version looks like."""
    return any(max(map(int, quad.split("."))) > 99 for quad in _QUAD.findall(around))


def _released(before: str) -> bool:
    """Whether what stands before a number makes it a version, or the number of a section."""
    if before.rstrip(" ").endswith("-"):
        before = _RANGE.sub("", before)
    word = before.rstrip(_AFTER_WORD)[-1:]
    if not word.isalpha() and before.rstrip(" \t")[-1:] not in _SIGNS:
        return False
    return bool(_RELEASE.search(before) or _PRODUCT.search(before))


_RANGE = re.compile(r"\d{1,9}(?:\.\d{1,9}){3} ?- ?\Z")  # a range's first version
_AFTER_WORD = " \t\"'`()[]=>:/,.+-0123456789_"
_SIGNS = frozenset("=~^>§/")


def _ipv6(text: str, place: int) -> Span | None:
    if text[place] not in ":0123456789abcdefABCDEF":
        font = FONT.match(text, place)
        place = font.end() if font else place + 1  # the gap
    behind = _BEHIND.match(text[max(0, place - _LONGEST) : place][::-1])
    start = place - (behind.end() if behind else 0)
    start += 2 if start and FONT.match(text, start - 1) else 0
    glued = start and (text[start - 1].isalnum() or text[start - 1] in "_.")
    if glued and not _ESCAPED.search(text, max(0, start - 5), start):
        return None
    match = _RUN.match(text, start, start + 2 * _LONGEST)
    end = match.end() if match else start
    if end - start > _LONGEST or _joined(text, end) or text[end - 2 : end + 1] == "::-":
        return None
    value = text[start:end]
    if value.endswith(":") and not value.endswith("::"):
        value = value[:-1]  # "fe80::1: unreachable"
    if value.startswith("::") and _SLICED.search(text[max(0, start - 2) : start]):
        return None
    if value.count(":") == 8 and "::" not in value and _PORT.search(value):
        value = value[: value.rindex(":")]
    sure = _likely(value) if value.count(":") > 1 else 0.0
    if sure == _DOUBTFUL and text[start - 1 : start] == text[end : end + 1] in {"'", '"'}:
        sure = 0.6  # a string of nothing else
    return Span(start, start + len(value), "IP_ADDRESS", "ipv6", sure) if sure else None


_PORT = re.compile(r":[1-9][0-9]{1,4}\Z")
_MAPPED = re.compile(r"::ffff:[0-9a-f]{1,4}:[0-9a-f]{1,4}", re.IGNORECASE)


def _joined(text: str, end: int) -> bool:
    after = text[end : end + 2]
    if not after:
        return False
    word = after[0] == "_" or (after[0].isascii() and after[0].isalnum())
    return word or (after[0] == "." and after[1:].isalnum() and not _BEHIND_DOT.match(text, end))


@lru_cache(maxsize=1 << 14)
def _likely(value: str) -> float:
    """How sure ``value`` is an IPv6 address, and no slice, scope, time or hardware address."""
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return 0.0
    groups = [group for group in value.split(":") if group]
    if "." in value or value == "::1" or _MAPPED.fullmatch(value):
        return 0.9
    if "::" not in value:
        return 0.9 if any(len(group) != 2 for group in groups) else 0.0  # eight pairs: an EUI-64
    if len(groups) > 3:
        return 0.9
    if not any(character.isdigit() for character in value):
        return 0.0
    known = address.is_global or address.is_link_local or address.is_multicast
    first = address.packed[0]
    known = known or first in (0x20, 0xFC, 0xFD)  # documentation, unique local
    if len(groups) == 1:  # c10::Half
        known = first >> 5 == 1 or first >= 0xFC  # global, unique local, of a link, multicast
    return 0.9 if known and len(groups[0]) > 2 and not value.startswith("::") else _DOUBTFUL
