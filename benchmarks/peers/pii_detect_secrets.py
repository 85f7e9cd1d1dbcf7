"""detect-secrets with its default plugins and filters, each text as a file.

    python pii_detect_secrets.py TEXTS SECONDS SPANS

A keyword's value is a password or a key by the words before it. Needs detect-secrets.
"""

import tempfile
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings
from pii_scan import Spans, Texts, before, place, scan, told

PASSWORDS = ("Basic Auth Credentials",)


def secrets(folder: Path, name: str, text: str) -> Spans:
    path = folder / f"text{Path(name).suffix}"
    path.write_text(text, encoding="utf-8", newline="")
    found: Spans = []
    collection = SecretsCollection()
    with default_settings():
        collection.scan_file(str(path))
    for _, one in collection:
        where = place(text, one.line_number, one.secret_value or "")
        if where:
            words = before(text, where[0]) if one.type == "Secret Keyword" else ""
            label = "PASSWORD" if one.type in PASSWORDS else told(words)
            found.append((*where, label, one.type))
    path.unlink()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as place_:
        folder = Path(place_)

        def find(texts: Texts) -> list[Spans]:
            return [secrets(folder, name, text) for name, text in texts]

        scan(find)


if __name__ == "__main__":
    main()
