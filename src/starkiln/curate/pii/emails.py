"""E-mail addresses: from the sign outwards, with the top-level domain looked up (rules §9).

``domains.txt`` lists the top levels of the root zone, of October 2026.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from starkiln.code.spans import Span
from starkiln.curate.pii.values import FONT, Rule

_SPELT = (" at ", "(at)", "[at]", "<at>", "{at}", "_at_", "[@]", "(@)")
_SIGNS = (
    *("@", "\uff20", "%40", "\\u0040", "\\x40"),
    *("&#64;", "&#064;", "&#x40;", "&commat;", "{@literal @}"),
)
SIGN = (  # also escaped, as Perl, HTML, JSON, Texinfo and Javadoc do it, and of full width
    r"(?:\\{0,2}@|@@|%40|&#0{0,4}64;|&#x0{0,4}40;|&commat;|\\{1,2}(?:u0040|x40)|\uff20|"
    r"\{@literal @\})"
)

_ZERO = "\u200b-\u200f\u2060\ufeff"  # characters that cannot be seen
_WORD = (  # letters, digits and marks of scripts with blanks between words, and of the others
    "A-Za-z0-9\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u037d\u037f-\u060b\u060d-\u061a"
    rf"\u0620-\u06d3\u06d5-\u0963\u0966-\u0dff\u10a0-\u10ff\u1c80-\u1fff{_ZERO}"
)
_OTHER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_BEFORE = re.compile(rf"[{_WORD}_.+%-]+")  # a local part, from its end
_BEFORE_OTHER = re.compile(rf"[{_WORD}{_OTHER}_.+%-]+")
_ENDS = re.compile(rf"[{_WORD}{_OTHER}_}}+ -]")
_SIGN = re.compile(rf"(?i:{SIGN})(?=[{_WORD}{_OTHER}])")
_LABEL = rf"(?!-)(?:[{_WORD}_-]{{1,63}}+|(?=[{_OTHER}])[{_WORD}{_OTHER}_-]{{1,63}}+)(?<!-)"
_TOP = r"(?:[A-Za-z]{2,24}|[Xx][Nn]--[A-Za-z0-9-]{2,56}|[^\W\d_\x00-\u024f]{2,24})"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.){{1,8}}{_TOP}")
_AT = (
    r"(?:[ ]?(?:\((?i:at|@)\)|\[(?i:at|@)\]|<(?i:at)>|\{(?i:at)\})[ ]?|[ ](?:at|AT)[ ]|_(?:at|AT)_)"
)
_DOT = (
    r"[ ]?(?:\((?i:dot|\.)\)|\[(?i:dot|\.)\]|<(?i:dot)>|\{(?i:dot)\})[ ]?|[ ](?:dot|DOT)[ ]|"
    r"_(?:dot|DOT)_"
)
_OBFUSCATED = re.compile(
    rf"({_AT})((?:[A-Za-z0-9-]{{1,63}}(?:\.|{_DOT})){{1,5}}[A-Za-z]{{2,24}})\b"
)
_DOTS = re.compile(_DOT)
_LONGEST = 64  # characters of a local part
_PRIVATE = ("corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost")
_FILES = ("zip", "mov", "map", "cab")  # top levels that end file names more often than addresses
_SUFFIXES = frozenset(("py", "rs", "sh", "pl", "md", "ps", "so", "cc"))  # and those that often do
_REGISTRIES = frozenset(  # below a country
    ("com", "co", "org", "net", "edu", "gov", "mil", "ac", "info", "biz")
)

_PATH = re.compile(r":(?:[0-9]{1,5}/|[\w.~-]{0,80}/|~|[\w-]+\.git\b)")  # git@host:path
_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|\\/\\/)[^\s/\"'<>`]*\Z")
_ACCOUNT = re.compile(r"(?::[^\s/@\"'`]{0,80})?@")  # what ends the user's place of a URL
_SENTENCE = re.compile(  # a full stop without a blank after it
    r"\.(?:[A-Z][a-z]*(?:[\s,;:]|\Z)|[^\W\d_\x00-\u024f])"
)
_VARIABLE = re.compile(r"\$\Z|[$#]\{\Z")
_ELIDED = re.compile(r"(?<![\w'\u2019\"])([ODLMNodlmn]['\u2019])\Z")  # o'brien@…
_COMMANDS = (
    *("ssh", "scp ", "sftp ", "rsync ", "mosh "),
    *("npm ", "npx ", "yarn ", "bun", "pnpx ", "deno ", "go ", "cargo "),
)
_COMMAND = re.compile(  # which take name@host, or package@version
    r"(?<![\w.-])(?:ssh|scp|sftp|rsync|ssh-copy-id|mosh|npx|bunx|pnpx|"
    r"(?:p?npm|yarn|bun|deno)[ \t]+(?:i|add|install|x|exec|dlx|up|update|upgrade|rm|remove|"
    r"uninstall|create|init|view|info|show|why|pack|deprecate|dist-tag[ \t]+\w+)|"
    r"go[ \t]+(?:get|install|run)|cargo[ \t]+(?:add|install))[ \t][^|;\n]{0,120}\Z"
)
_FILE = re.compile(  # the end of a file that is named after a mailbox
    r"\.(?:txt|html?|md|json|csv|log|eml|pdf|png|jpe?g|xml|ya?ml|toml|pub|pem|key|crt|asc|gpg|vcf|"
    r"py|rs|sh|pl|rb|js|ts|go|java|php|cpp|sql|tar|gz|tgz|zip|bak|tmp|ini|cfg|conf|patch|diff|"
    r"mbox|msg|bin|dat|db|docx?|xlsx?|gif|svg)(?:\.(?:gz|bz2|xz|zst|bak|asc|sig))?(?![\w.(\[-])"
)
_MAILED = re.compile(r"(?:mailto:|e-?mail(?:to)?[\"']?\s{0,2}[:=]\s{0,2}[\"']?|<)\Z", re.IGNORECASE)
_NUMBER = re.compile(r"v?\d+(?:\.\d+)*[.-]")  # pkg@1.2.3
_ESCAPES = frozenset("nrtbfv")
_LETTER, _BYTE = re.compile(r"u00[c-fC-F][0-9A-Fa-f]"), re.compile(r"x[0-7][0-9A-Fa-f]")


@cache
def tops() -> frozenset[str]:
    """The top levels of addresses; those of other scripts in both forms."""
    listed = Path(__file__).with_name("domains.txt").read_text().split()
    plain = (one[4:].encode().decode("punycode") for one in listed if one.startswith("xn--"))
    return frozenset([*listed, *plain, *_PRIVATE]).difference(_FILES)


def _signed(text: str, place: int) -> Iterator[Span]:
    """The address whose sign stands at ``place``."""
    at = place
    while at and place - at < 2 and text[at - 1] == "\\":
        at -= 1
    if not at:
        return
    if text[at - 1].isalnum() or _ENDS.match(text, at - 1):
        plain = text[at] == "@" and text[at + 1 : at + 2].isalnum()  # most are
        sign = None if plain else _SIGN.match(text, at)
        after = at + 1 if plain else sign.end() if sign else 0
        span = _plain(text, at, after) if after else _spelt(text, at)
    else:
        span = _pieced(text, at) if text[at - 1] in "\"'`" else None
    if span:
        yield span


RULES: dict[Rule, tuple[str, ...]] = {_signed: (*_SIGNS, *_SPELT)}


def _plain(text: str, at: int, after: int) -> Span | None:
    start = _local(text, at)
    domain = _DOMAIN.match(text, after)
    if start == at or domain is None or _NUMBER.match(text, after):
        return None
    end, listed = _ending(text, after, domain)
    before = text[max(0, start - 130) : start]
    led = ":" in before and _USERINFO.search(text, max(0, start - 100), at)
    account = led and before.endswith("/") and _ACCOUNT.match(text, end)
    if led and not account:
        return None
    line = before[before.rfind("\n") + 1 :]
    if " " in line and any(name in line for name in _COMMANDS) and _COMMAND.search(line):
        return None
    if not account and (_follows(text, end) or _PATH.match(text, end)):
        return None
    if before.endswith("@") and not (before[-2:-1].isalnum() or before[-2:-1] == "@"):
        return None  # @kim@corp.io is a handle
    if not listed or _coded(text, text[start:at], text[after:end], start):
        told = _MAILED.search(text, max(0, start - 12), start)
        return Span(start, end, "EMAIL", "mailbox", 0.7 if told else 0.2)
    return Span(start, end, "EMAIL", "email", 0.95)


def _local(text: str, at: int) -> int:
    """Where the local part before ``at`` begins; ``at`` itself where there is none."""
    first = max(0, at - _LONGEST - 1)
    before = text[first:at][::-1]
    run = _BEFORE.match(before) or _BEFORE_OTHER.match(before)
    if run is None or run.end() > _LONGEST or text[at - 1] in ".%":
        return at
    local = text[at - run.end() : at]
    local = local[local.rfind("..") + 1 :].lstrip(".+-" + "\u200b\u200e\u200f\ufeff")
    start = at - len(local)
    if local.startswith("%") or _VARIABLE.search(text, max(0, start - 2), start):
        return at  # a format, a variable
    if text[start - 1 : start] in {"'", "\u2019"}:
        elided = _ELIDED.search(text, max(0, start - 3), start)
        start = elided.start(1) if elided else start
    before = text[max(0, start - 2) : start]
    if before.endswith("\\") and (font := FONT.match(text, start - 1)):
        start = font.end()
    elif before.endswith("\\") and not before.startswith("\\\\"):
        start = _unescaped(text, start, local)
    return start if any(c.isalnum() for c in text[start:at]) else at


def _unescaped(text: str, start: int, local: str) -> int:
    """Where a local part begins that seems to begin with an escape, ``\\n`` or ``\\u00f6``."""
    if _LETTER.match(local):  # one within it
        run = _BEFORE.match(text[max(0, start - _LONGEST) : start - 1][::-1])
        return start - 1 - (run.end() if run else 0)
    if _BYTE.match(local):
        return start + 3
    return start + 1 if local[:1] in _ESCAPES else start


def _ending(text: str, after: int, domain: re.Match[str]) -> tuple[int, bool]:
    """Where the domain ends, and whether on a known top level.

    What ends the name of a file, or begins a sentence, is given back.
    """
    end = stop = domain.end() - (text[domain.end() - 1 : domain.end() + 1] == "E<")  # of POD
    while stop > after:
        *inner, top = text[after:stop].lower().split(".")
        whole = stop == end or _SENTENCE.match(text, stop) or _FILE.match(text, stop)
        if whole and inner and _is_top(top, inner[-1], len(inner) > 1):
            return stop, True
        if stop == end and not top.isascii() and inner and (size := _listed(top)):
            return stop - len(top) + size, True
        stop = text.rfind(".", after, stop)
    return end, False


def _is_top(top: str, below: str, inner: bool) -> bool:
    """Whether ``top`` ends an address with ``below`` before it; ``inner``: and more before that."""
    if top not in tops():
        return False
    if top == "py" and below not in _REGISTRIES:
        return False  # Paraguay has no names of its own beside those
    return not (top in _SUFFIXES and inner and below in tops() and below not in _REGISTRIES)


def _listed(word: str) -> int:
    """Letters of the longest top level that begins ``word``, of a script without blanks."""
    return next((n for n in range(len(word) - 1, 1, -1) if word[:n] in tops()), 0)


def _follows(text: str, end: int) -> bool:
    """Whether what follows speaks against an address: a call, an index, the rest of a name."""
    after = text[end : end + 2]
    if not after or after == "E<" or _SENTENCE.match(text, end) or _FILE.match(text, end):
        return False
    if after[0] in "([@_" or (after[0].isascii() and after[0].isalnum()):
        return True
    return after[0] in "-." and after[1:].isascii() and after[1:].isalnum()


def _spelt(text: str, place: int) -> Span | None:
    """kim (at) corp (dot) io; without brackets about "at", the dots must be spelt too."""
    at = place - 1 if text[place - 1] == " " and text[place] != " " else place
    found = _OBFUSCATED.match(text, at)
    if found is None:
        return None
    bracketed = found[1].strip(" _").lower() != "at"
    start = _local(text, at)
    if not bracketed and not _DOTS.search(found[2]) and not _enclosed(text, start, found.end()):
        return None
    top = re.split(r"[^A-Za-z]", found[2])[-1].lower()
    if start == at or top not in tops():
        return None
    return Span(start, found.end(), "EMAIL", "spelt-email", 0.8 if bracketed else 0.6)


_PIECE = re.compile(
    r"(?:[\"'`]([\w.+-]{1,64})[\"'`]\s{0,8}(?:\+|\.{1,2}|&|~|,)?\s{0,8}[\"'`]|"
    r"(?<![\w\"])\"\w[\w.+-]{0,31}(?: [\w.+-]{1,31})?\")\Z"
)
_PIECES = re.compile(
    rf"@[\"'`]\s{{0,8}}(?:\+|\.{{1,2}}|&|~|,)?\s{{0,8}}[\"'`]((?:{_LABEL}\.){{1,8}}{_TOP})(?=[\"'`])"
)


def _pieced(text: str, at: int) -> Span | None:
    """``"kim" + "@" + "corp.io"``, and ``"kim lee"@corp.io``."""
    low = max(0, at - 84)
    before = _PIECE.search(text, low, at)
    after = _PIECES.match(text, at) if before and before[1] else None
    if before and after:
        listed = after[1].rpartition(".")[2].lower() in tops()
        return Span(before.start(1), after.end(1), "EMAIL", "pieces", 0.8) if listed else None
    domain = _DOMAIN.match(text, at + 1) if before and not before[1] else None
    if before is None or domain is None or text[at] != "@":
        return None
    end, listed = _ending(text, at + 1, domain)
    if not listed or _follows(text, end):
        return None
    return Span(before.start(), end, "EMAIL", "quoted", 0.6)


_NAMED = re.compile(r"[^\W\d_a-z][\w.'’-]* [^\W\d_a-z][\w'’-]+[\"']? ?\Z")


def _enclosed(text: str, start: int, end: int) -> bool:
    """Whether brackets close about an address behind two words that begin in upper case."""
    pair = text[start - 1 : start] + text[end : end + 1]
    return pair in ("<>", "()", "[]") and bool(_NAMED.search(text, max(0, start - 50), start - 1))


_ATTRIBUTES = frozenset(  # top levels that are names of members in programs
    (
        *("call", "cat", "data", "date", "day", "file", "hour", "host", "id", "int", "is", "link"),
        *("map", "name", "new", "next", "now", "open", "page", "run", "show", "space", "style"),
        *("target", "total", "top", "type", "zero", "zone"),
    )
)
_OBJECTS = frozenset(("self", "this", "cls", "np", "torch", "tf", "jnp", "jax", "cp"))
_LABELLED = frozenset(("this", "super", "return", "break", "continue"))  # this@Label of Kotlin
_OPERATOR = re.compile(
    r"(?:[-+*/%&|^=~!]|[<>]=|\w[(\[]|\b(?:return|yield|in|and|or|not|if|else|assert|print))"
    r"[ \t]{0,4}[(\[]{0,3}\Z"
)
_MAIL_NAME = re.compile(
    r"(?i:mail|contact|author|maintain|owner|from|\bto|user|sender|recipient|cc|reply)[\w.]*\s*=\s*\Z"
)
_NEAR = 1000  # characters each way in which an operand is known


def _coded(text: str, local: str, domain: str, start: int) -> bool:
    """Whether ``local@domain`` is a product of matrices, a pattern, or a label, of a program."""
    first, _, rest = domain.partition(".")
    top = rest.rpartition(".")[2]
    if local in _LABELLED and (local == "this" or not first.islower()):
        return True
    if top.islower() and top not in _ATTRIBUTES and first not in _OBJECTS:
        return False  # most are
    if not (local + domain.replace(".", "")).replace("_", "a").isalnum():
        return False
    if top.isascii() and not (top.islower() or top.isupper()):  # q@k.mT, e@A.Fun
        return not top.istitle() or (local.islower() and not first.islower())
    before = text[max(0, start - 40) : start]
    if not _OPERATOR.search(before) or _MAIL_NAME.search(before):
        return False
    return min(len(local), len(first)) < 3 or first in _OBJECTS or _known(text, start, local, first)


def _known(text: str, start: int, *words: str) -> bool:
    """Whether one of ``words`` stands elsewhere, as the name of a variable does."""
    end = start + sum(map(len, words))
    parts = text[max(0, start - _NEAR) : start], text[end : end + _NEAR]
    return any(word in words for part in parts for word in _VARIABLES.findall(part))


_VARIABLES = re.compile(r"(?<![\w@.])[A-Za-z_]\w*(?![\w@])")
