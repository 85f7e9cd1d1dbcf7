"""What a name says of a password, and what sort of value stands in its place."""

import re
from functools import lru_cache

from starkiln.curate.pii import drawn, naming, providers
from starkiln.curate.pii.naming import TABLES

_DRAWN = 10.0  # bits of what no code of an encoding has
WEAK = "weak"  # a trivial value: neutral in scores, kept by default
_TAIL = re.compile(
    r"(?:password|passwd|passwort|passphrase|passcode|pwd|senha|kennwort|psswd|passwrd)\Z|"
    r"\A(?:user|db|root|admin|my|ftp|smtp|mail|sudo|proxy|auth|login|ssh|vnc|imap|mysql|pg|sql|"
    r"bind|require|store|data|key|trust|http|https|default|new|old|test|api|ldap|wifi|svn|git)?"
    r"(?:pass|pw)\Z|\Amotdepasse\Z"
)
FOREIGN = {  # what ends a name, and a part of it that is the same in both cases
    "contraseña": "contrase",
    "contrasena": "contrase",
    "пароль": "ароль",
    "密码": "密码",
    "密碼": "密碼",
}
_FOREIGN = tuple(FOREIGN)
_DROPPED = frozenset(TABLES["password"]["forms"].split())
_NEVER = frozenset(TABLES["password"]["never"].split())
_PASSES = frozenset(["pass", "pw"])


@lru_cache(maxsize=4096)
def password(name: str) -> float | None:
    """How far ``name`` is trusted to be a password's (0 to 1); None where it is not one's."""
    words = [word.lower() for word in naming.WORD.findall(name)]
    if name.lower().rstrip("_0123456789").endswith(_FOREIGN):
        return 1.0
    if "for" in words[1:] and not _NEVER.intersection(words):
        words = words[: words.index("for", 1)]
    while words and (words[-1].isdigit() or words[-1] in _DROPPED):
        words.pop()
    if not words or _NEVER.intersection(words[-4:]):
        return None
    tail = words[-1]
    if tail in ("word", "phrase", "code") and words[-2:-1] == ["pass"]:
        return 1.0
    if words[-3:] == ["mot", "de", "passe"]:
        return 1.0
    if tail in ("clave", "psk"):  # also a key of a map, a sort of authentication
        return 0.75
    if not _TAIL.search(tail):
        return None
    alone = len(words) == 1 or _TAIL.search("".join(words[-2:]))
    return 1.0 if tail not in _PASSES or alone else 0.8


_WEAK_WORD = f"(?:{'|'.join(map(re.escape, TABLES['password']['weak'].split()))})"
_WEAK = re.compile(
    rf"(?:{_WEAK_WORD}[\W_]{{0,2}}){{1,4}}"
    r"(?:\d{0,2}|123|321|007|(?P<same>\d)(?P=same){2})[!.]?|\d{1,4}|(?P<one>.)(?P=one)*",
    re.I,
)
_SEQUENCE = re.compile(r"(?:0?1234?5?6?7?8?9?0?|abc(?:def?)?|qwerty|asdf)+[a-z!]?", re.I)
_NOT = frozenset(TABLES["password"]["values"].split())
_HASH = re.compile(
    r"SCRAM-|SHA256:|[!*]?\$[0-9a-z]{1,10}\$|\{[A-Za-z0-9-]{3,10}\}|pbkdf2|sha\d+\$|bcrypt|scrypt|"
    r"argon2|(?:0x)?[0-9a-fA-F]{32,}\Z|md5[0-9a-f]{8}|\*[0-9A-F]{40}"
)
_REFERENCE = re.compile(  # variables, templates, dotted names, paths, selectors, patterns, markup
    r"[$%@:?#.&*!<>{\[(+~=|\\/-]?[A-Za-z_$][\w$]*(?:(?:\.|->|::)[\w$\"']*|\[[\w$\"'.]*\])+"
    r"(?::\w+)?\Z|[$@:#.&]{1,2}[A-Za-z_][\w.>\[\]'-]*\Z|[A-Z0-9]+_[A-Z0-9_]+\Z|0x[0-9A-Fa-f]+\Z|"
    r"[.~]{0,2}/|[a-z]{3,}(?:/[a-z]{3,})+\Z|[\d.]*\.\d+\Z|.*:\Z|"
    r"[A-Z]:\\|--?[a-z]|[%^?*]|#.*#\Z|\{.*\}|\[.*\]|\(.*\)|<.*>|\W+\Z|"
    r".*(?:\$\{|\$\(|\{\{|\{[a-z_0-9]*\}|%[sdr(]|%[A-Z_]+%|</|/>|\\(?:[wdsSWDpnu]|x1[bB]|033|e\[)|\[\^?[a-zA-Z0-9]-|"
    r"\{\d,?\d*\}|\.\*|\.\+|<[A-Za-z_ .-]+>|\*\*\*|\.\.\.|\u2022|://)|"
    r"[\w.-]+\.(?:txt|json|ya?ml|py|js|html?|php|xml|svg|png)\Z"
)
_IDENTIFIER = re.compile(
    r"[a-z]+_\d{1,2}\Z|[A-Za-z]+(?:[_.-][A-Za-z]+)+\d?\Z|[a-z]+(?:[A-Z][a-z]+)+\d?\Z"
)
_PART = rf"(?:{'|'.join(TABLES['password']['schema'].split())})\d{{0,3}}"
_RULE = rf"(?:{'|'.join(TABLES['password']['rules'].split())}):[\w,./-]{{1,30}}"
_SCHEMA = re.compile(  # "string?", "required|min:8", "@string/password", "col-md-6"
    rf"[@?!*]?(?:{_RULE}|{_PART}|\d{{1,3}}(?=[_-][a-z]))[?!*]?"
    rf"(?:\[\])?(?:[|:,/ =&_.-]{{1,3}}(?:{_RULE}|{_PART}|\d{{1,4}}|x)[?!*]?){{0,8}}",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[a-z]{3,}(?:[ -][a-z]{3,}){3,7}")  # drawn by dice
_SPOKEN = re.compile(
    r"\b(?:the|your|you|for|must|not|and|please|enter|user|is|are|with|pass\w*|this)\b"
)
_CLASS = re.compile(  # of a form, a library
    r"(?:[A-Z][a-z0-9]*){1,5}(?:Field|Input|Box|Widget|String|Text|Type|Hasher|Encoder|Validator|"
    r"Generator|Provider|Handler|Manager|Service|Strategy|Backend|Property|Column|Schema|Form|Prompt|"
    r"Element|Control|Component|Factory|Callback|Exception|Error)\d?"
)
_MEANT = re.compile(r"\$[({\[]|[{%]\w*\}|://|\\|[aA0]-[zZ9]|^[/.~]+[a-z]+/|\s")
_SIGNS = re.compile(r"[^A-Za-z0-9]")
_INDEED = 35.0  # bits of what no reference has
_LEET = re.compile(r"[A-Za-z]\d+[A-Za-z]")
_FORMATTED = re.compile(r"%[sdr]")
_PLAINLY = re.compile(r"(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?=\D*\d)[^\s\[\](){}|\\/<>$%*+^]*")
_TITLES = re.compile(r"[A-Z][a-z]{2,}(?:[_.-][A-Z][a-z]{2,}){2,}")
_HUMPS = re.compile(r"(?:[A-Z][a-z]{2,}){3,}")
_ABOUT = re.compile(r"pass|secret|token|key|test|user|pw")
_CODE = re.compile(  # encodings, algorithms, protocols, regions
    r"(?:utf|ucs|iso|latin|sha|aes|des|hmac|tls|ssl|rsa|ecdsa|http|base|oauth|windows|rfc|ipv)"
    r"[-_]?\d{1,5}(?:[-_]?[a-z\d]{1,10}){0,3}|(?:us|eu|ap|sa|ca|cn)-[a-z]+-\d|"
    r"(?:us|cp|md|hs|rs|es|ps|x|v|py)[-_]?\d{1,4}(?:[-_]?(?:alpha|beta|rc|[a-z])\d?)?"
    r"(?:[-_.]\d{1,4}){0,3}|[a-z]+-(?:256|512|cbc|gcm)",
    re.IGNORECASE,
)


_FIELD = re.compile(r"[$#]?\{{1,2}[^{}\n]{0,80}\}{1,2}")


def unfielded(value: str) -> str:
    """What stands about the fields of a template."""
    return _FIELD.sub("", value)


def _drawn(word: str, least: float = 5.0) -> bool:
    """Whether a word, maybe among others, is no word: ``Tr0ub4dor:``."""
    return len(word) > 5 and bool(_LEET.search(word)) and drawn.bits(word) >= least


@lru_cache(maxsize=4096)
def kind(value: str) -> str | None:
    """``strong``, ``word``, ``weak``, ``phrase``, ``hash``; None where no password is."""
    if not 1 < len(value) <= 200 or value.lower() in _NOT:
        return WEAK if value in ("a", "x", "p", "1", "pw") else None
    if _REFERENCE.match(value):
        if not _MEANT.search(value) and _drawn(_SIGNS.sub("", value), _INDEED):
            return "strong"
        plain = _FORMATTED.sub("", value[value[0] in "%^?*" :])
        drawn_ = plain != value and len(plain) > 7 and _PLAINLY.fullmatch(plain)
        return "strong" if drawn_ and kind(plain) == "strong" else None
    if _CLASS.fullmatch(value) or (
        _CODE.fullmatch(value) and (len(value) < 9 or drawn.bits(value) < _DRAWN)
    ):
        return None
    if _HASH.match(value):
        return "hash"
    if _WEAK.fullmatch(value) or _SEQUENCE.fullmatch(value):
        return WEAK
    if providers.placeholder(value) or _SCHEMA.fullmatch(value):
        return None
    if any(c.isspace() for c in value):
        if len(value) < 64 and any(map(_drawn, value.split())) and not _SPOKEN.search(value):
            return "strong"
        if _WORDS.fullmatch(value) and not _SPOKEN.search(value):
            return "word"
        return "phrase" if value.isascii() and len(value) < 64 else None
    letters = sum(c.isalpha() for c in value)
    if letters == len(value):
        if not value.isascii() or len(value) < 3:
            return None
        if value.islower():
            return "word" if len(value) > 3 else WEAK
        if _HUMPS.fullmatch(value) and not _ABOUT.search(value.lower()):
            return "word"
        return "strong" if drawn.bits(value) > 8 else "phrase"
    if _TITLES.fullmatch(value) and not _ABOUT.search(value.lower()):
        return "word"
    if _IDENTIFIER.match(value):
        return "word" if value.islower() and len(value) > 10 and not _ABOUT.search(value) else None
    if not letters:
        if value.isascii() and not any(map(str.isdigit, value)):
            return None
        return "strong" if len(value) > 5 else WEAK
    if not value.isascii() and not any(c.isdigit() for c in value):
        return None
    return "strong" if len(value) > 4 else WEAK
