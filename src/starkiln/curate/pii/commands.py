"""Passwords by the form of a command, a statement or a call that is known to take one."""

import re
from collections.abc import Iterator

from starkiln.code.spans import Span
from starkiln.curate.pii import bare, values, wording
from starkiln.curate.pii.anchors import GAP
from starkiln.curate.pii.positions import STRING
from starkiln.curate.pii.wording import WEAK

_VALUE = bare.shell_word("-$<%{~", 4)
_ON = r"[^\n|;]{0,80}?"  # other arguments
_ENDS = r"[\"']?[ \t]*(?=\r?\n|\Z|[|;&>`)\\\"'])"
_ENABLED = (  # of a router; 5 to 9 head what is hashed
    r"(?:enable (?:secret|password) (?:level \d{1,2} )?(?:0 )?|secret 0 |"
    r"\n ?username [\w.-]{1,40} (?:privilege \d{1,2} )?password (?:0 )?)"
    r"(?!\d )([^\s\"'=:,;()]{3,64})[ \t]*(?=\r?\n|\Z|\\[rn])"
)
# reason, pattern (from where an anchor begins; the value is its last group), anchors
AHEAD: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "sql",
        r"identified\s+(?:by|(?:with|via)\s+[\"'`]?\w+[\"'`]?\s+(?:by|as))\s+(?:password\s+)?"
        r"(?:'([^'\n]{1,100})'|(?-i:(?<=[A-Z] )\"([^\"\n]{1,100})\")|"
        r"(?=[a-z_#$]{0,40}\d)([a-z][\w#$]{5,40})(?=\s?;))",
        ("identified by", "identified with", "identified via"),
    ),
    ("option", r" -pass(?:in|out)?[ =][\"']?pass:([^\s\"']{3,80})", (" -pass",)),  # of OpenSSL
    (
        "command",
        _ENABLED,
        ("enable secret ", "enable password ", "secret 0 ", "\nusername ", "\n username "),
    ),
    (
        "pgpass",
        r":(?:5432|5433|6432|\*):[^:\s]{1,64}:[a-z*][^:\s]{0,63}:((?:[^\s:\\]|\\.){3,100})",
        (":5432:", ":5433:", ":6432:", ":*:"),
    ),
    (
        "option",
        rf"ldap(?:search|add|modify|delete|passwd|whoami|compare|modrdn)\b{_ON} -w ?{_VALUE}",
        ("ldapsearch ", "ldapadd ", "ldapmodify ", "ldapdelete ", "ldappasswd ", "ldapwhoami "),
    ),
    ("option", rf"redis-cli\b{_ON} -a {_VALUE}", ("redis-cli ",)),
    ("option", rf"zip{_ON} -P ?{_VALUE}", ("zip -",)),
    ("option", rf"7z[ar]?\b{_ON} -p{_VALUE}", ("7z ", "7za ")),
    (
        "command",
        rf"htpasswd(?: -\w+){{0,3}} -\w*b\w*(?: -\w+){{0,3}}(?: \S{{1,80}}){{1,2}} {_VALUE}{_ENDS}",
        ("htpasswd -",),
    ),
    (
        "option",
        rf"(?:smbclient|rpcclient|winexe|net (?:ads|rpc)){_ON} (?:-U|--user(?:name)?)[ =]?[\"']?"
        rf"[\w.\\/@-]{{1,40}}%{_VALUE}",
        ("smbclient ", "rpcclient ", "winexe ", "net ads ", "net rpc "),
    ),
    (
        "command",
        rf"net use(?:r [\"']?[\w.-]{{1,40}}[\"']? {_VALUE}[\"']? /|"
        rf" \S[^\n]{{0,60}}? {_VALUE} /user:)",
        ("net user ", "net use "),
    ),
    ("option", rf"lftp\b{_ON} -u [\"']?[\w.@-]{{1,40}},{_VALUE}", ("lftp ",)),
    (
        "command",
        r"(?:sqlplus(?: -\w+)? [\"']?|jdbc:oracle:\w+:)\w{1,30}/([^\s@\"'/]{3,40})@",
        ("sqlplus ", "jdbc:oracle:"),
    ),
    (
        "command",
        rf"openssl passwd(?: --?\w[\w-]*(?:[= ](?:sha-?\d+|md5|\d))?){{0,4}} {_VALUE}{_ENDS}",
        ("openssl passwd ",),
    ),
    (
        "command",
        rf"(?:add_user|change_password|doveadm auth (?:test|login)) [\w.@-]{{1,40}} "
        rf"{_VALUE}{_ENDS}",
        ("add_user ", "change_password ", "doveadm auth "),
    ),
    ("command", rf"mysqladmin\b{_ON} password {_VALUE}{_ENDS}", ("mysqladmin ",)),
    ("command", rf"rootpw(?: --(?:plaintext|lock)){{1,2}} {_VALUE}{_ENDS}", ("rootpw --",)),
    ("command", rf" passwd/\S{{1,30}} password {_VALUE}{_ENDS}", (" passwd/",)),
    ("option", rf" /pass:{_VALUE}", (" /pass:",)),
    ("command", r"setuser \S{1,40}[^\n]{0,60}? >([^\s\"'\\]{3,64})", ("setuser ",)),
    (
        "scheme",
        r"(?<![a-z])\{(?:plain|cleartext|noop)\}([a-z0-9][^\s:\"'\\<>`]{2,64})",
        ("{plain}", "{cleartext}", "{noop}"),
    ),
    (
        "url",
        r"basic-auth/[\w%.-]{1,40}/([\w%.~!-]{3,60})(?![\w/{])",
        ("basic-auth/",),
    ),
    (
        "call",
        rf"convertto-securestring(?: -(?:string|asplaintext|force))* {STRING}",
        ("convertto-securestring ",),
    ),
    (
        "typed",
        r"assword:[ \\nr]{0,4}[\"'][^\n]{0,40}\n?[^\n]{0,60}?"
        r"\b(?:send(?:line)?|write|print)[\s(]{1,3}-{0,2}\s?b?[\"']([^\"'\\\n]{3,80})(?:\\[rn])*[\"']",
        ("assword:",),
    ),
    (
        "hashed",
        r"(?:(?<!\w)|(?<=pkcs5_))\W?(?:hashpw|checkpw|pbkdf2\w*|scrypt\w*|bcrypt(?:::password)?(?:\.\w{1,20})?|"
        r"argon2\w*(?:\.\w{1,20})?|crypt)\(\s{0,8}"
        rf"(?:[\"'](?:sha|md)[\w-]{{1,8}}[\"'],\s{{0,4}})?{STRING}\s{{0,4}}[,)]",
        ("hashpw(", "checkpw(", "pbkdf2", "scrypt(", "bcrypt", "argon2", f"{GAP}crypt("),
    ),
)
BEFORE: tuple[tuple[str, str, tuple[str, ...]], ...] = (  # the value stands before the anchor
    (
        "command",
        r"(?:echo|printf)(?: -\w)? (?:[\"'](?:[\w.-]{1,40}:)?(?![-$<%{])([^\s\"'`\\$]{4,80}?)"
        r"(?:\\n)?[\"']|(?:[\w.-]{1,40}:)?(?![-$<%{])([^\s\"'`;|&<>()\\$]{4,80}))"
        r" ?\| ?(?:sudo )?(?:\S{0,20}/)?\Z",
        ("chpasswd", "sudo -s", "passwd --stdin"),
    ),
    (
        "dsn",
        r"(?:\A|[\s\"'`=])[\w.-]{1,40}:([^\s\"'`]{3,64})\Z",
        ("@tcp(", "@unix("),
    ),
    (
        "call",
        r"(?:pass|key_?store|\bks\.|\bpw|entry|pbe)[^\n;]{0,100}[(= ]\"([^\"\\\n]{3,60})\"\Z",
        (".tochararray(",),
    ),
)
_BACK = 160
_WORTH = {"strong": 0.75, "word": 0.5, WEAK: 0.4}


def _ahead(reason: str, pattern: str) -> values.Rule:
    """The rule that takes the last group of ``pattern`` for a password."""
    compiled = re.compile(pattern, re.IGNORECASE)

    def rule(text: str, place: int) -> Iterator[Span]:
        match = compiled.match(text, place)
        return _judged(match, reason)

    return rule


def _before(reason: str, pattern: str) -> values.Rule:
    compiled = re.compile(pattern, re.IGNORECASE)

    def rule(text: str, place: int) -> Iterator[Span]:
        return _judged(compiled.search(text, max(0, place - _BACK), place), reason)

    return rule


def _judged(match: re.Match[str] | None, reason: str) -> Iterator[Span]:
    if match is None:
        return
    kind = wording.kind(match[match.lastindex or 0])
    if sure := _WORTH.get(kind or "", 0.0):
        span = match.span(match.lastindex or 0)
        yield Span(*span, "PASSWORD", WEAK if kind == WEAK else reason, sure)


RULES: dict[values.Rule, tuple[str, ...]] = {
    **{_ahead(reason, pattern): anchors for reason, pattern, anchors in AHEAD},
    **{_before(reason, pattern): anchors for reason, pattern, anchors in BEFORE},
}
