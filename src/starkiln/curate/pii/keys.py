"""Keys: by the prefixes that providers give them, and by what they are assigned to.

``find`` is pure and linear: literals gate each rule, and every pattern has bounded repeats.
Digests, identifiers, placeholders and vendors' example keys are no keys (rules §9).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple


class Rule(NamedTuple):
    """A provider's key: a literal that any match holds, and the pattern (group 1 the value)."""

    name: str
    literals: tuple[str, ...]
    pattern: re.Pattern[str]


def _rule(name: str, literals: str, pattern: str) -> Rule:
    bounded = rf"(?<![A-Za-z0-9_])({pattern})(?![A-Za-z0-9_])"
    return Rule(name, tuple(literals.split()), re.compile(bounded))


RULES = (
    _rule("aws", "AKIA ASIA ABIA ACCA", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}"),
    _rule("github", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _rule("github", "github_pat_", r"github_pat_[A-Za-z0-9_]{60,100}"),
    _rule("gitlab", "glpat-", r"glpat-[A-Za-z0-9_-]{20,64}"),
    _rule("slack", "xox", r"xox[abeoprs]-(?:[A-Za-z0-9]{1,64}-){0,6}[A-Za-z0-9]{10,64}"),
    _rule("slack", "hooks.slack.com", r"T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{20,30}"),
    _rule("stripe", "k_live_ k_test_", r"[prs]k_(?:live|test)_[A-Za-z0-9]{10,120}"),
    _rule("google", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    _rule("google", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    _rule("google", "ya29.", r"ya29\.[A-Za-z0-9_-]{20,400}"),
    _rule("openai", "sk-", r"sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9][A-Za-z0-9_-]{30,200}"),
    _rule("huggingface", "hf_", r"hf_[A-Za-z0-9]{30,50}"),
    _rule("npm", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _rule("pypi", "pypi-AgE", r"pypi-AgE[A-Za-z0-9_-]{50,400}"),
    _rule("sendgrid", "SG.", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"),
    _rule("digitalocean", "dop_v1_ doo_v1_ dor_v1_ dot_v1_", r"do[oprt]_v1_[a-f0-9]{64}"),
    _rule("shopify", "shp", r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}"),
    _rule("telegram", ":AA", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
    _rule(
        "jwt",
        "eyJ",
        r"eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{0,8000}(?:\.[A-Za-z0-9_-]{0,8000}){1,3}",
    ),
)

# A private key in PEM, as it is or in a string: the value is what lies between the markers.
_PEM = re.compile(r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----")
_BODY = re.compile(r"[A-Za-z0-9+/=]{16,}")
_LONGEST = 20_000  # characters of a PEM block

_WORDS = (
    r"api[_-]?key|(?:api|client|app|consumer|hmac|shared)[_-]?secret|access[_-]?key|auth[_-]?key|"
    r"(?:access|auth|oauth|refresh|bearer|client|session|id)[_-]?token|secret|token|"
    r"(?:private|consumer|encryption|signing|master|account|storage|hmac|shared|app)[_-]?key|"
    r"bearer|jwt|credential|passkey|\bkey"
)
_STEMS = ("key", "secret", "token", "bearer", "jwt", "credential")  # each word holds one
# What is assigned: a name that holds one of the words, ending just before the value.
_NAMED = re.compile(
    rf"({_WORDS})[A-Za-z0-9_.-]{{0,20}}[\"'`\])]{{0,3}}[ \t]{{0,8}}"
    r"(?:=>|:=|==|[=:,(]|[ \t])[ \t]{0,4}[bBruRU]{0,2}\Z",
    re.IGNORECASE,
)
_BEFORE = 80  # characters before a value that may hold its name
_QUOTED = re.compile(r"([\"'`])([A-Za-z0-9+/_.~$-][A-Za-z0-9+/=_.~-]{9,511})\1")
_BARE = re.compile(r"[=:][ ]?([A-Za-z0-9+/_-]{16,512}={0,2})(?=[\s&;\"'`]|\Z)")
_MIXED = r"(?:[A-Za-z][0-9]+[A-Za-z]|[0-9][A-Za-z]+[0-9])"  # digits among letters
_DRAWN = re.compile(_MIXED)
_JWK = re.compile(
    r"[\"'](?:d|p|q|dp|dq|qi|k)[\"'][ \t]{0,4}:\s{0,4}[\"']([A-Za-z0-9_-]{40,1024})[\"']"
)
_OTHER = re.compile(  # names whose values are no secrets
    r"public|hash|sha\d|md5|digest|checksum|integrity|commit|etag|finger|signature|csrf|xsrf|nonce|"
    r"accessor|change|next|page|pagination|continuation|foreign|primary|sort|cache|"
    r"(?:_?ids?|name|type|url|uri|path|file|field|count|class|header|arn)[\"'`\])]*\s*[=:,(]?[=>]?\s*\Z",
    re.IGNORECASE,
)
_TAME = re.compile(  # what placeholders, tests and identifiers are made of
    r"example|test|dummy|fake|sample|mock|your|my|change|foo|bar|baz|placeholder|removed|redacted|"
    r"token|secret|key|password|passwd|user|client|access|refresh|auth|valid|invalid|default|none|"
    r"null|true|false|string|value|some|random|abcdef|qwerty|x{3,}|0{4,}|1234567890?|9876543210",
    re.IGNORECASE,
)
_ALL = tuple(one for rule in RULES for one in rule.literals)
_NUMBERS = ('"kty"', "'kty'", '"dq"', "'dq'")  # a JSON web key
# For Rust's regex: every text that holds a key matches it.
GATE = "|".join(
    [
        rf"(?i:{'|'.join(_STEMS)})[^\n]*"
        r"[\"'`=: ][A-Za-z0-9+/_.~$-]*" + _MIXED,
        *(re.escape(literal) for literal in ("PRIVATE KEY", *_NUMBERS, *_ALL)),
    ]
)


def find(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, rule) of each key in ``text``, in code points; spans may overlap."""
    yield from _blocks(text)
    for rule in RULES:
        if any(literal in text for literal in rule.literals):
            for match in rule.pattern.finditer(text):
                if not _placeholder(match[1]):
                    yield *match.span(1), rule.name
    if any(name in text for name in _NUMBERS):
        yield from ((*match.span(1), "jwk") for match in _JWK.finditer(text))
    for match in _QUOTED.finditer(text):
        word = _DRAWN.search(match[2]) and _name(text, match.start())
        if word and _secretive(match[2], strict=word == "key"):
            yield *match.span(2), "assigned"
    for match in _BARE.finditer(text):
        if _DRAWN.search(match[1]) and _name(text, match.start(1)) and _random(match[1]):
            yield *match.span(1), "assigned"


def _name(text: str, at: int) -> str | None:
    """The word that makes what is assigned at ``at`` a key; None where the name speaks against."""
    line = text[max(0, at - _BEFORE) : at].rpartition("\n")[2]
    lower = line.lower()
    if not any(word in lower for word in _STEMS):
        return None
    match = _NAMED.search(line)
    if match is None:
        return None
    start = match.start()
    while start and (line[start - 1].isalnum() or line[start - 1] in "_.-"):
        start -= 1
    return None if _OTHER.search(line[start:]) else match[1].lower()


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    begin = _PEM.search(text)
    while begin:
        stop = text.find("-----", begin.end(), begin.end() + _LONGEST)
        stop = stop if stop >= 0 else min(len(text), begin.end() + _LONGEST)
        lines = [match.span() for match in _BODY.finditer(text, begin.end(), stop)]
        if sum(b - a for a, b in lines) >= 40:
            yield lines[0][0], lines[-1][1], "private-key"
        begin = _PEM.search(text, stop)


def _placeholder(value: str) -> bool:
    return (
        "EXAMPLE" in value or re.search(r"([A-Za-z0-9])\1{5}|x{4,}|1234567890", value) is not None
    )


def _secretive(value: str, *, strict: bool) -> bool:
    """Whether a quoted value looks drawn at random and not written by a person."""
    if _placeholder(value):
        return False
    if re.search(r"[./]\w*[./]|\.\w+\Z|//", value) and not value.startswith("eyJ"):
        return False  # a path, a host or a dotted name
    tame = sum(len(m[0]) for m in _TAME.finditer(value))
    if tame * 2 >= len(re.sub(r"[^A-Za-z0-9]", "", value)):
        return False
    if strict:
        return len(value) >= 16 and _turns(value) >= 4 and not re.search(r"[./-]", value)
    return entropy(value) >= 2.8 and _turns(value) >= 2


def _random(value: str) -> bool:
    """The same for a value without quotes, which may as well be a name: all must speak for it."""
    mixed = re.search(r"[0-9]", value) and re.search(r"[A-Z]", value) and re.search(r"[a-z]", value)
    hexadecimal = re.fullmatch(r"[0-9a-f]{32,128}", value)
    return (
        bool(mixed or hexadecimal)
        and entropy(value) >= 3.3
        and _turns(value) >= 6
        and (_secretive(value, strict=False))
    )


def entropy(value: str) -> float:
    """Shannon's entropy of the characters of ``value``, in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _turns(value: str) -> int:
    """How often the kind of character (digit, upper, lower, other) changes along ``value``."""
    kinds = [
        "d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "o" for c in value
    ]
    return sum(a != b for a, b in pairwise(kinds))
