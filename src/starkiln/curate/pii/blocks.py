"""Keys with a structure: PEM and PuTTY blocks, JSON web keys, JSON web tokens, HTTP credentials.

Each function judges the anchor at ``place`` and yields spans; all of them look a bounded way.
"""

import re
from collections.abc import Iterator

from starkiln.code.spans import Span
from starkiln.curate.pii import drawn, values, wording
from starkiln.curate.pii.providers import decoded, header, placeholder

_LONGEST = 20_000  # characters of a PEM block
_SHORTEST = 40  # of its body
_MARK = re.compile(
    r"-----(BEGIN|END) (?:[A-Z0-9]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----", re.IGNORECASE
)
_BODY = re.compile(  # a line of base64, also after an escape
    r"(?:(?<![A-Za-z0-9+/=\\])|(?<=\\n)|(?<=\\r)|(?<=\\t))[A-Za-z0-9+/]{16,}={0,2}"
)
_HEADER = re.compile(r"[A-Z][A-Za-z-]{2,20}: [^\n\\]{0,200}")
_BREAK = re.compile(r"(?:\s|\\[nrt]|\\)*\Z")
_GAP = 200  # characters between two lines of one block


def pem(text: str, place: int) -> Iterator[Span]:
    """The private key whose marker holds ``place``: from one marker to the other, with both.

    Where one of them lacks, its lines and the marker that is there.
    """
    mark = _MARK.search(text, max(0, place - 40), place + 32)
    if mark is None:
        return
    if mark[1].upper() == "BEGIN":
        stop = text.find("-----", mark.end(), mark.end() + _LONGEST)
        stop = stop if stop >= 0 else min(len(text), mark.end() + _LONGEST)
        end = _MARK.match(text, stop)
        joined = _body(text, mark.end(), stop, end is None)
        chain = _chain([(0, mark.end()), *joined])[1:]
        whole = (mark.start(), end.end()) if end else None
    else:
        first = max(0, mark.start() - _LONGEST)
        joined = [] if "-----" in text[first : mark.start()] else _body(text, first, place, True)
        back = [(-b, -a) for a, b in reversed(joined)]
        chain = [(-b, -a) for a, b in reversed(_chain([(0, -mark.start()), *back])[1:])]
        whole = None
    if sum(b - a for a, b in chain) >= _SHORTEST:
        spans = [whole] if whole else chain
        yield from (Span(a, b, "KEY", "private-key", 0.95) for a, b in spans)


def _body(text: str, start: int, stop: int, cut: bool) -> list[tuple[int, int]]:
    """Places of the lines of base64, as one where only white space and escapes part them."""
    headers = [m.span() for m in _HEADER.finditer(text, start, min(stop, start + 600))]
    joined: list[tuple[int, int]] = []
    for match in _BODY.finditer(text, start, stop):
        a, b = match.span()
        if any(c <= a < d for c, d in headers) or (cut and drawn.bits(match[0]) < _SHORTEST):
            continue
        end = joined[-1][1] if joined else a
        if joined and a - end < _GAP and _BREAK.match(text, end, a):
            joined[-1] = joined[-1][0], b
        else:
            joined.append((a, b))
    return joined


def _chain(lines: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first of ``lines`` and those that follow without a gap."""
    for n in range(1, len(lines)):
        if lines[n][0] - lines[n - 1][1] > _GAP + (n == 1) * 2 * _GAP:
            return lines[:n]
    return lines


_PPK = re.compile(r"private-lines: ([0-9]{1,3})\s{1,4}", re.IGNORECASE)


def ppk(text: str, place: int) -> Iterator[Span]:
    """The private lines of a PuTTY key."""
    if begin := _PPK.match(text, place):
        lines = re.compile(rf"(?:[A-Za-z0-9+/=]{{1,80}}\s{{1,4}}){{1,{int(begin[1]) or 1}}}")
        if match := lines.match(text, begin.end()):
            yield Span(match.start(), match.start() + len(match[0].rstrip()), "KEY", "ppk", 0.95)


JWK = tuple(f"{q}{name}{q}" for name in ("d", "p", "q", "dp", "dq", "qi", "k") for q in "\"'")
_MEMBER = re.compile(
    r"[\"'](?:d|p|q|dp|dq|qi|k)[\"']\s{0,4}(?::|=>)\s{0,12}b?[\"']([A-Za-z0-9_-]{16,3000}={0,2})"
)
_KEY_SET = ("kty", '"crv"', '"dq"', '"qi"', '"kid"', "'dq'", "'qi'", "-----", "jwk", "JWK")
_AROUND = 600  # characters each way in which the other members of a JSON web key stand


def jwk(text: str, place: int) -> Iterator[Span]:
    """A private member of a JSON web key."""
    match = _MEMBER.match(text, place)
    if match is None or placeholder(match[1]) or drawn.bits(match[1]) < 30:
        return
    around = text[max(0, place - _AROUND) : place] + text[match.end() : match.end() + _AROUND]
    known = any(word in around for word in _KEY_SET)
    if known or len(match[1]) >= 40:
        yield Span(*match.span(1), "KEY", "jwk", 0.9 if known else 0.3)


_TOKEN = re.compile(r"[A-Za-z0-9_-]{4,4000}(?:\.[A-Za-z0-9_-]{0,4000}){0,4}")
_JOIN = re.compile(r"=?=?\.?[\"']\s{0,60}[+.\\]?\s{0,60}[bu]?[\"']\.?")
_PART = re.compile(r"[A-Za-z0-9_-]{4,4000}(?:\.[A-Za-z0-9_-]{4,4000}){0,3}")
_BACK = 120  # characters of a header
_PARTS = 40  # adjacent string literals of one token


def token(text: str, place: int) -> Iterator[Span]:
    """The JSON web token with a part at ``place``, and what adjacent string literals add to it."""
    first = place
    if text[place - 1 : place] == ".":  # the second part: the header is broken
        first -= 1
        while first > max(0, place - _BACK) and (
            text[first - 1].isalnum() or text[first - 1] in "_-"
        ):
            first -= 1
    elif place and (text[place - 1].isalnum() or text[place - 1] in "+/_-"):
        return  # within other base64
    first += text[first] == "."
    match = _TOKEN.match(text, first)
    if match is None or place >= match.end() or len(value := match[0].rstrip(".")) < 16:
        return
    if placeholder(value) or text[max(0, first - 7) : first] == "base64,":
        return
    parts = [part for part in value.split(".") if part]
    good = any(header(part) for part in parts[:2])
    long = len(parts) > 2 or drawn.bits(parts[-1]) > 60
    sure = 0.97 if good and len(parts) > 2 else 0.7 if good or (len(parts) > 1 and long) else 0.3
    yield Span(first, first + len(value), "KEY", "jwt", sure)
    broken = text[first - 1 : first] == "." and text[first - 2 : first - 1] in ('"', "'")
    if good or broken:  # a second part has a literal of its own, so the third has
        yield from _parts(text, match.end())


def _parts(text: str, end: int) -> Iterator[Span]:
    """The parts of a token in the string literals that follow."""
    for _ in range(_PARTS):
        join = _JOIN.match(text, end)
        part = join and _PART.match(text, join.end())
        if not part:
            return
        if part[0].startswith("eyJ") or drawn.bits(part[0]) > 20:
            yield Span(*part.span(), "KEY", "jwt-part", 0.7)
        end = part.end()


_RAW = re.compile(
    r"[\"']?\]?\s{0,4}(?:=>|:=|[=:,(])\s{0,4}b?[\"'`]?((?:0x)?(?:[0-9a-f]{64}|[0-9A-F]{64}))"
    r"(?![0-9A-Za-z])"
)
_NAMED = re.compile(r"\w{0,24}")
_RAW_NAME = re.compile(r"(?:_PK(?:EY)?|(?i:pkey|priv(?:ate)?_?key|secret_?key)\d?)\Z")


def raw(text: str, place: int) -> Iterator[Span]:
    """64 hexadecimal digits given to ``NAME_PK``, ``pkey`` and ``private_key``."""
    name = _NAMED.match(text, place)
    end = name.end() if name else place
    match = _RAW.match(text, end)
    if match is None or values.is_number(text, end, *match.span(1)):
        return
    named = _RAW_NAME.search(text, max(0, end - 40), end)
    if named and not placeholder(match[1]) and drawn.bits(match[1].removeprefix("0x")) > 30:
        yield Span(*match.span(1), "KEY", "raw-key", 0.8)


_BASIC = re.compile(r"basic[\"']?(?:\s|%20|\+){1,3}[\"']?([A-Za-z0-9+/]{8,400}={0,2})", re.I)
_CREDENTIALS = re.compile(rb"[ -~]{0,100}:[ -~]{0,300}")
_BEARER = re.compile(r"bearer(?:\s|%20|\+){1,3}([A-Za-z0-9._~+/-]{10,2000}={0,2})", re.IGNORECASE)
_LEAST_TOKEN = 12  # characters; shorter tokens are of letters in both cases and digits
_MIXED = re.compile(r"(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?=\D*\d)[A-Za-z0-9]+\Z")


def basic(text: str, place: int) -> Iterator[Span]:
    """Base64 of ``user:password`` in an HTTP header."""
    match = _BASIC.match(text, place)
    if match and _CREDENTIALS.fullmatch(plain := decoded(match[1])):
        kind = wording.kind(plain.partition(b":")[2].decode())
        weak = kind in (wording.WEAK, None)
        yield Span(*match.span(1), "KEY", wording.WEAK if weak else "basic", 0.4 if weak else 0.85)


def bearer(text: str, place: int) -> Iterator[Span]:
    """A bearer token in an HTTP header."""
    match = _BEARER.match(text, place)
    short = match and len(match[1]) < _LEAST_TOKEN and not _MIXED.match(match[1])
    if match and not short and not placeholder(match[1]) and (bits := drawn.bits(match[1])) > 0:
        yield Span(*match.span(1), "KEY", "bearer", 0.8 if bits > 15 else 0.3)


_SEALED = re.compile(r"Ag[A-Za-z0-9+/]{98,}={0,2}")
_FIELDS = 20_000  # characters of the fields of one sealed secret


def sealed(text: str, start: int, body: str) -> bool:
    """Whether ``body``, at ``start``, is a field of a SealedSecret: its cipher text, not itself."""
    low = max(0, start - _FIELDS)
    return bool(_SEALED.fullmatch(body)) and text.rfind("encryptedData", low, start) >= 0
