"""BigCode's regular expressions, run unchanged out of a checkout of their repository.

    python pii_bigcode.py TEXTS SECONDS SPANS CHECKOUT emails|keys|regex

``emails``: e-mail and IP addresses; ``keys``: detect-secrets and their filters; ``regex``: keys by
their regular expression. Needs detect-secrets, gibberish-detector and regex.
"""

import os
import sys
from pathlib import Path

from pii_scan import Spans, Texts, scan


def main() -> None:
    folder, what = Path(sys.argv[4]) / "pii", sys.argv[5]
    os.chdir(folder)  # they read their model from where they are
    sys.path.insert(0, str(folder))
    from utils.emails_ip_addresses_detection import detect_email_addresses
    from utils.keys_detection import detect_keys

    asked = {
        "emails": lambda text: detect_email_addresses(text, tag_types={"EMAIL", "IP_ADDRESS"}),
        "keys": detect_keys,
        "regex": lambda text: detect_email_addresses(text, tag_types={"KEY"}),
    }

    def find(texts: Texts) -> list[Spans]:
        return [
            [(one["start"], one["end"], one["tag"], what) for one in asked[what](text)]
            for _, text in texts
        ]

    scan(find)


if __name__ == "__main__":
    for number in (1, 3):  # paths of the command line are not of the folder it changes to
        sys.argv[number] = str(Path(sys.argv[number]).resolve())
    main()
