"""Keys: by the prefixes that providers give them, and by what they are assigned to.

``find`` is pure and linear: literals gate each rule, and every pattern has bounded repeats.
Digests, identifiers, placeholders and vendors' example keys are no keys (FACTS §9).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
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
    _rule("digitalocean", "do", r"do[oprt]_v1_[a-f0-9]{64}"),
    _rule("shopify", "shp", r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}"),
    _rule("telegram", ":AA", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
    _rule(
        "jwt", "eyJ", r"eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{0,8000}(?:\.[A-Za-z0-9_-]{0,8000}){1,3}"
    ),
)

# A private key's body: its lines between the markers, without headers such as Proc-Type.
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----((?:[^-]|-(?!----)){40,20000})"
    r"-----END "
)
_BODY = re.compile(r"[A-Za-z0-9+/=]{16,}")

WORDS = (
    "api_?key|api_?secret|access_?key|access_?token|auth_?key|auth_?token|secret_?key|secret|token|"
    "client_?secret|private_?key|consumer_?key|encryption_?key|signing_?key|master_?key|"
    "account_?key|session_?key|hmac_?key|shared_?key|app_?key|bearer|jwt|credential"
)
_VALUE = r"[A-Za-z0-9+/_.~-][A-Za-z0-9+/=_.~-]{10,511}"
_ASSIGNED = re.compile(
    rf"({WORDS})([A-Za-z0-9_.-]{{0,20}})[\"'`\])]{{0,3}}[ \t]{{0,8}}(?::=|=>|==|[=:,(]|[ ])"
    rf"[ \t]{{0,4}}(?:[bBruU]{{0,2}}([\"'`])|(?<==))({_VALUE})",
    re.IGNORECASE,
)
