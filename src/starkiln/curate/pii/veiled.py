"""Keys within base64: a private key's armour, a provider's key, a file of credentials."""

import base64
import re
from collections.abc import Iterator

from starkiln.code.spans import SURE, Span
from starkiln.curate.pii import providers
from starkiln.curate.pii.providers import PROVIDERS, decoded

_LONGEST = 30_000  # characters of an armour in base64
_BACK = 4_000  # before its first marker, of one in a file
_RUN = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_LINE = re.compile(
    r"(?:\s{1,40}|(?:\\r)?\\n|[\"']\s{0,40}[+.\\]?\s{0,40}[\"'])([A-Za-z0-9+/]{4,200}={0,2})(?=[\"'`\s\\<]|\Z)"
)
_LEAST = 40  # characters of a line that another follows


def shifted(word: str, shift: int) -> str:
    """What base64 makes of ``word`` behind so many bytes, without what its neighbours decide."""
    code = base64.b64encode(b"\0" * shift + word.encode()).decode()
    return code[-(-8 * shift // 6) : 8 * (shift + len(word)) // 6]


ARMOURS = tuple(shifted("-----BEGIN ", n).lower() for n in range(3))


def armour(text: str, place: int) -> Iterator[Span]:
    """A private key's armour, alone or in a file, from the start of its base64 to the end."""
    back = _RUN.match(text[max(0, place - _BACK) : place][::-1])
    start = place - (back.end() if back else 0)
    marker = start + (place - start) // 4 * 4
    head = _RUN.match(text, marker, marker + 80)
    if head is None or b"PRIVATE KEY" not in decoded(head[0][: len(head[0]) // 4 * 4]):
        return
    run = _RUN.match(text, start, start + _LONGEST)
    end, size = (run.end(), run.end() - start) if run else (start, 0)
    while size >= _LEAST and text[end - 1] != "=" and end - start < _LONGEST:
        if not (line := _LINE.match(text, end)):
            break
        size, end = len(line[1]), line.end()
    yield Span(start, end, "KEY", "private-key", 0.95)


_HEADS = {  # of a key that is all that was encoded
    shifted(head, 0)
    for one in PROVIDERS
    if not one.loose
    for head in (one.head, *(() if one.back else one.anchors))
    if len(head) > 3
}
_FIRST = min(map(len, _HEADS))
_BY_FIRST: dict[str, list[str]] = {}
for _head in _HEADS:
    _BY_FIRST.setdefault(_head[:_FIRST], []).append(_head)
KEYS = tuple(sorted({head.lower()[:_FIRST] for head in _HEADS}))


def key(text: str, place: int) -> Iterator[Span]:
    """A provider's key, from its first character on."""
    heads = _BY_FIRST.get(text[place : place + _FIRST], ())
    run = _whole(text, place) if any(text.startswith(head, place) for head in heads) else None
    if run and _speaks(run[0][:_BACK]):
        yield Span(*run.span(), "KEY", "veiled", 0.9)


_CREDENTIALS = re.compile(
    r"PRIVATE KEY-----|"
    r"\"(?:auth|password|identitytoken|secret|client_secret)\":\s{0,4}\"[^\"\s]{8}|"
    r"_(?:authToken|password|auth)\s?=\s?[^\s]{8}"
)
_ANCHORS = tuple(one for one in providers.ANCHORS if len(one) > 3)
_SHORTEST = 24  # characters of base64 that hold a key with more beside it
_PLAIN = re.compile(r"[\t\n\r -~]{12,}")


FILES = ("eyj", "ewog")  # {", { and a new line


def file(text: str, place: int) -> Iterator[Span]:
    """A file of credentials in JSON."""
    run = _whole(text, place) if text.startswith(("eyJ", "ewo"), place) else None
    if run and text[run.end() : run.end() + 1] != "." and holds(run[0]):
        yield Span(*run.span(), "KEY", "veiled", 0.9)


def _whole(text: str, place: int) -> re.Match[str] | None:
    """The run of base64 that begins at ``place``."""
    within = place and _RUN.match(text, place - 1, place)
    return None if within else _RUN.match(text, place, place + _LONGEST)


def holds(body: str) -> bool:
    """Whether ``body`` is base64 of a text with a key or a credential in it."""
    if len(body) < _SHORTEST or not _RUN.fullmatch(body):
        return False
    return _speaks(body[:_BACK])


def _speaks(body: str) -> bool:
    plain = decoded(body[: len(body) // 4 * 4]).decode("latin-1")
    if not _PLAIN.match(plain):
        return False
    if _CREDENTIALS.search(plain):
        return True
    lower = plain.lower()
    places = ((lower.find(anchor), anchor[:3]) for anchor in _ANCHORS if anchor in lower)
    found = (one for at, start in places for one in providers.find(plain, at, start))
    return any(one.confidence >= SURE for one in found)
