"""Keys: by the shapes that providers give them, by structure, and by what they are assigned to.

A value given to a name that says secret, token or key is a key where it looks drawn at random;
digests, identifiers, placeholders and public keys are none (rules §9). Below ``SURE`` stand the
wide candidates: any drawn-looking run in a value's place near a word that speaks of keys.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import takewhile

from starkiln.code.spans import SURE, Span
from starkiln.curate.pii import (
    blocks,
    drawn,
    literals,
    naming,
    positions,
    providers,
    values,
    veiled,
    wording,
)
from starkiln.curate.pii.anchors import DIGIT, LOWER, UPPER

_WORDS = (
    *("key", "secret", "token", "bearer", "jwt", "jws", "jwe", "jwk", "credential", "hmac", "totp"),
    *("authorization", "fernet", "psk", "oauth", "cipher", "encrypt", "basic"),
    *(f"auth{end}" for end in "=:\"'"),
)


def _provided(text: str, place: int) -> Iterator[Span]:
    """A key of a provider's own shape."""
    yield from providers.find(text, place, text[place : place + 3].lower())


def _assigned(text: str, place: int) -> Iterator[Span]:
    """What is given to the name that holds ``place``: a key, a candidate, or nothing."""
    value = values.after(text, place)
    if value is None or value.link in (",", ""):
        placed = list(_placed(text, place)) if _BEYOND.match(text, place) else ()
        if placed or value is None:
            yield from placed
            return
    first = naming.start_of(text, place)
    kind = naming.secrecy(text[first : value.name])
    if not kind:
        return
    if kind == "key" and _SPOKEN_KEY.search(text, max(0, first - 10), first):
        kind = "secret"
    if kind == "secret":
        value = values.whole(text, first, value)
    if value.rest:
        more = takewhile(lambda at: _goes_on(text[slice(*at)]), value.rest)
        value = value._replace(rest=tuple(more))
    sure = _sure(text, kind, value)
    form = "quoted" if value.quoted else "bare"
    if sure:
        yield from (Span(a, b, "KEY", f"{kind}-{form}", sure) for a, b in value.places())


_SPOKEN_KEY = re.compile(r"(?<![A-Za-z])(?:api|secret|access) \Z", re.IGNORECASE)
_BEYOND = re.compile(  # behind a name whose value stands further on
    r"[\w$.-]{0,40}(?:[\"'`]?[\])]{0,2}\s{0,4}(?:\|\||\?\?|\?:|or\b|\{|:[-=])|\s{1,4}value:|</|"
    r"[\"'`][,\s]|[\"`\]]?(?:,[^()]{0,300})?\)\s{0,40}(?i:values))"
)


def _placed(text: str, place: int) -> Iterator[Span]:
    """A secret's key where ``positions`` know of a value: a default, a field, a column."""
    first, end = naming.start_of(text, place), values.name_end(text, place)
    if naming.secrecy(text[first:end]) != "secret":
        return
    found = positions.placed(text, place, end, positions.GIVEN)
    cells = positions.inserted(text, place, end)
    for start, stop in (found[1],) if found else cells:
        quoted = text[start - 1] in "\"'`"
        sure = _sure(text, "secret", values.Value(start, stop, end, ":", quoted))
        if sure:
            yield Span(start, stop, "KEY", "secret-placed", sure)


_MAP = re.compile(r"[\w$.-]{0,40}[\"'`]?\]?[ \t]{0,4}(?:=>|:=|[=:])\s{0,40}\{\s{0,40}")
_PAIR = re.compile(
    r"[\"']([\w.-]{1,40})[\"']\s{0,4}(?:=>|:)\s{0,4}b?[\"']([^\s\"'\\]{1,200})[\"'](?:,\s{0,40})?"
)
_PAIRS = 40  # of a map of secrets


def _mapped(text: str, place: int) -> Iterator[Span]:
    """The values of a map that is given to the name of secrets: ``{"1": "…"}``."""
    opened = _MAP.match(text, place)
    pair = _PAIR.match(text, opened.end()) if opened else None
    name = text[naming.start_of(text, place) : values.name_end(text, place)] if pair else ""
    if naming.secrecy(name) != "secret":
        return
    for _ in range(_PAIRS):
        if not pair:
            return
        value = values.Value(*pair.span(2), pair.end(1), ":", True)
        sure = _sure(text, "secret", value) if naming.is_plain(pair[1]) else 0.0
        if sure >= SURE:
            yield Span(*pair.span(2), "KEY", "secret-mapped", sure)
        pair = _PAIR.match(text, pair.end())


def _goes_on(piece: str) -> bool:
    """Whether a further piece looks as if it were of a key."""
    bits = drawn.bits(piece) if _ALPHABET.fullmatch(piece) else 0.0
    return bits >= _PIECE or (bits > 0 and len(piece) <= _PIECE)


_ALPHABET = re.compile(r"[A-Za-z0-9+/=_.~:-]+")
_PIECE = 8  # bits of a further piece, or fewer characters


def _userinfo(text: str, place: int) -> Iterator[Span]:
    """A token in the user's place of a URL."""
    scheme = text.rfind("://", max(0, place - _LONGEST), place)
    match = _USERINFO.match(text, scheme) if scheme >= 0 else None
    if match and match.end() > place and drawn.bits(match[1]) >= _LASTING:
        yield Span(*match.span(1), "KEY", "userinfo", 0.8)


_LONGEST = 280  # characters of what stands before an @
_USERINFO = re.compile(
    r"://(?=[A-Za-z_-]{0,40}[0-9])([A-Za-z0-9_-]{20,255})(?::[\w-]{0,20})?@(?=[A-Za-z0-9])(?![\w.-]{0,60}sentry)"
)
RULES: dict[values.Rule, tuple[str, ...]] = {
    _provided: providers.ANCHORS,
    blocks.pem: ("private key",),
    blocks.ppk: ("private-lines",),
    blocks.token: ("eyj",),
    blocks.basic: ("basic",),
    blocks.bearer: ("bearer",),
    blocks.jwk: blocks.JWK,
    veiled.armour: veiled.ARMOURS,
    veiled.key: veiled.KEYS,
    veiled.file: veiled.FILES,
    _userinfo: tuple(f"{one}@{LOWER}" for one in (DIGIT, UPPER, LOWER, ":")),
    blocks.raw: ("_pk", "pkey", "private_key", "privatekey", "privkey", "priv_key"),
    _mapped: ("secret", "keys", "tokens"),
    _assigned: _WORDS,
}


def further(text: str, at: dict[values.Rule, list[int]], found: list[Span]) -> Iterator[Span]:
    """What belongs to keys that were found, and drawn-looking runs about words that speak of them.

    Runs are looked for where nothing else was found.
    """
    sure = sorted(span for span in found if span.confidence >= SURE)
    more = [*_echoes(text, sure), *_split(text, sure), *_halves(text, at, sure)]
    starts = {span.start for span in sure}
    yield from (span for span in more if span.start not in starts)
    yield from _candidates(text, at.get(_assigned, ()), {span.start for span in [*found, *more]})


_ECHO = 20_000  # characters each way in which a key is looked for again
_ECHOES = 64  # different keys that are
_LASTING = 25.0  # bits of a key that is known elsewhere
_FEWEST = 16  # characters of a key that further literals follow
_BESIDE = 400  # characters between the two halves of a pair of keys


def _echoes(text: str, sure: Sequence[Span]) -> Iterator[Span]:
    """The same values where a comment tells the default."""
    seen: set[str] = set()
    for span in sure:
        value = text[span.start : span.end]
        if value in seen or len(seen) == _ECHOES or not 16 <= len(value) < 200:
            continue
        seen.add(value)
        if drawn.bits(value) < _LASTING:
            continue
        stop = min(len(text), span.end + _ECHO)
        place = text.find(value, max(0, span.start - _ECHO), stop)
        while place >= 0:
            end = place + len(value)
            if (
                _DEFAULT.search(text, max(0, place - 24), place)
                and not text[end : end + 1].isalnum()
            ):
                yield Span(place, end, "KEY", "echo", 0.6)
            place = text.find(value, end, stop)


_DEFAULT = re.compile(r"default(?:s(?: to)?| is| value)?[:=]?[ \t]*[\"'`(]?\Z", re.IGNORECASE)


def _split(text: str, sure: Sequence[Span]) -> Iterator[Span]:
    """The rest of a key in the string literals that follow its first part."""
    for span in sure:
        if span.reason.startswith("jwt") or span.end - span.start < _FEWEST:
            continue
        for piece in literals.pieces(text, span.end):
            if not _goes_on(text[piece.start : piece.end]):
                break
            yield Span(piece.start, piece.end, "KEY", "part", 0.6)


_HALF = re.compile(
    r"[\w.-]*(?:access_?key(?:_?id)?|secret_?id|app_?key|api_?key_?(?:id|sid)|consumer_?key|"
    r"client_?key)",
    re.IGNORECASE,
)


def _halves(text: str, at: dict[values.Rule, list[int]], sure: Sequence[Span]) -> Iterator[Span]:
    """The identifiers of access keys, beside their secrets."""
    starts = [span.start for span in sure]
    for place in at.get(_assigned, ()) if starts else ():
        near = bisect_left(starts, place - _BESIDE)
        if near == len(starts) or starts[near] > place + _BESIDE:
            continue
        value = values.after(text, place)
        if value and _HALF.fullmatch(text, naming.start_of(text, place), value.name):
            body = text[value.start : value.end]
            mixed = any(c.isdigit() for c in body) and any(c.isalpha() for c in body)
            if mixed and len(body) >= 10 and drawn.bits(body) > 8 and not _NOT.match(body):
                yield Span(value.start, value.end, "KEY", "access-key", 0.65)


_AROUND = 250  # characters each way that say what a mere "key" is for
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_NOT = re.compile(  # public keys, prints, certificates, hashes, pictures, paths, addresses, prose
    r"iVBORw0KGg|R0lGOD|/9j/4|PHN2Z|PD94b|UklGR|AAABAA|JVBERi0|d09G[RM]|"
    r"ssh-|ecdsa-|sk-(?:ssh|ecdsa)|AAAA[BCE]3?|SHA256:|MD5:|MII[A-D][A-Za-z0-9]{2}AN|"
    r"\$[0-9a-z]{1,10}\$|\{[A-Z0-9]{3,8}\}|[a-z+]{2,10}://|"
    r"\{\s{0,8}\\{0,3}[\"']|"  # of JSON: its own members are looked at
    r"\.{0,2}/[a-z](?!(?=[^A-Z]{0,30}[A-Z])(?=\D{0,60}\d)[A-Za-z0-9+/]{30,200}={0,2}\Z)|data:|sha\d{1,3}[-:]|urn:|"
    r"arn:|(?i:basic|bearer|token|oauth|digest|negotiate|mac) |"
    r".{0,600}?(?:\s\S+\s|[<>]|@[\w-]{2,40}\.\w)"
)
_PLAIN = re.compile(r"(?=(?:[A-Za-z]*[0-9]){4})(?=[0-9]*[A-Za-z])[A-Za-z0-9]{10,}")
_CRYPTO = re.compile(
    r"hmac|\baes|cipher|crypt|signing|signer|signature|secret|jwt|jwk|totp|\botp|api|auth|hs256|"
    r"tsig",
    re.IGNORECASE,
)


def _sure(text: str, kind: str, value: values.Value) -> float:
    """How sure it is that ``value``, given to a name of this kind, is a key; 0 where it is none."""
    body = value.body(text)
    if value.quoted and text[value.start - 2] in "fF" and "{" in body:
        body = wording.unfielded(body)
    asked = text[naming.start_of(text, value.name - 1) - 1] in "?&"
    if len(body) < (6 if asked else 8):
        return 0.0
    if not value.quoted and not _UUID.fullmatch(body) and drawn.bits(body) <= 0:
        return 0.0
    if _NOT.match(body) or providers.placeholder(body) or blocks.sealed(text, value.start, body):
        return 0.0
    if values.is_number(text, value.name, value.start, value.end):
        return 0.0
    if veiled.holds(body):
        return 0.85
    if _UUID.fullmatch(body):
        return 0.7 if kind == "secret" else 0.1
    bits = drawn.bits(body)
    mixed = any(c.isdigit() for c in body) and any(c.isalpha() for c in body)
    if asked and kind == "secret" and mixed and bits > 8 and wording.kind(body) == "strong":
        return 0.55
    spaced = text[value.start - 1] == " " and body.isidentifier()
    if kind == "secret" and (sure := _secret(body, value, bits, mixed, spaced)):
        return sure
    assigned = value.quoted and value.link not in ("", ",", "(")
    if kind == "near" and assigned and bits >= 45 and mixed:
        return 0.55
    if kind == "key" and value.quoted and mixed and bits >= 25 and len(body) >= 12:
        around = text[max(0, value.start - _AROUND) : value.end + _AROUND]
        return 0.6 if _CRYPTO.search(around) else 0.35
    if bits > 0 and mixed and len(body) >= 12:
        return 0.3
    return 0.2 if kind == "secret" and value.quoted and mixed else 0.0


def _secret(body: str, value: values.Value, bits: float, mixed: bool, spaced: bool) -> float:
    if not value.quoted:
        if value.link == "=" and len(body) < _FEWEST and spaced and body.islower():
            return 0.0  # of a variable
        drawn_ = bits >= 20 and (mixed or bits >= 50)
        return (0.75 if len(body) >= 16 else 0.55) if drawn_ else 0.0
    if bits >= 8 and (mixed or bits >= 25):
        return 0.8 if bits >= 20 and value.link != "(" else 0.65
    return 0.55 if value.link not in (",", "(") and _PLAIN.fullmatch(body) else 0.0


_WINDOW = 1500  # characters about a word in which a run is a candidate
_LEAST = 10.0  # bits of one
_RUN = re.compile(
    r"[\"'`=:>?&/ ]([A-Za-z0-9+/_~-](?=[A-Za-z_+/~-]{0,40}[0-9])[A-Za-z0-9+/_.~-]{11,1000}={0,2})"
)
_TAME = re.compile(  # times, addresses, algorithms, examples
    r"\d{4}-?\d\d-?\d\dT|[\d./:-]+\Z|.{0,1000}?EXAMPLE|"
    r"(?=.{0,40}(?:AES|SHA|RSA|HS\d|CBC|GCM))[A-Z0-9]{1,12}(?:[-_+][A-Z0-9]{1,12}){1,6}\Z"
)
_DIGEST = re.compile(  # what the name before a candidate says against it
    r"(?:sha|md5|hash|digest|checksum|integrity|commit|etag|revision|finger|crc|uuid|guid|rev|"
    r"(?<![A-Za-z])id)[A-Za-z0-9_-]{0,12}[\"'`\])]{0,2}[ \t]{0,4}[=:,(-]?[ \t]{0,4}[\"'`]?\Z",
    re.IGNORECASE,
)


def _candidates(text: str, near: Sequence[int], known: set[int]) -> Iterator[Span]:
    """Drawn-looking runs about the places ``near`` that begin at none of ``known``."""
    done = 0
    for place in near:
        first, stop = max(done, place - _WINDOW), min(len(text), place + _WINDOW)
        for found in _RUN.finditer(text, first, stop):
            match = _RUN.match(text, found.start()) or found  # it may go on past the window
            start, end = match.span(1)
            body = match[1]
            if start in known or drawn.bits(body) < _LEAST or _NOT.match(body) or _TAME.match(body):
                continue
            if not _DIGEST.search(text, max(0, start - 40), start):
                yield Span(start, end, "KEY", "drawn", 0.25)
        done = max(done, stop)
