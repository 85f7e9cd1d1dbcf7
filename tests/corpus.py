"""Real repositories for tests: packages of the standard library, a licence, and some rubbish."""

import shutil
import sysconfig
from pathlib import Path

from licence_texts import MIT

PACKAGES = ("json", "email", "http", "logging", "concurrent", "xml", "wsgiref", "urllib")


def make(folder: Path) -> Path:
    """A folder of repositories: eight packages, a fork, an unlicensed one, and bad files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in PACKAGES:
        repo = folder / name
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(library / name, repo / name, ignore=ignore)
        (repo / "LICENSE").write_text(MIT)
    shutil.copytree(folder / "json", folder / "json-fork")
    near = folder / "json-fork" / "json" / "decoder.py"
    near.write_text(near.read_text().replace("JSONDecodeError", "DecodeFault", 1))
    rough = folder / "rough"
    rough.mkdir()
    (rough / "LICENSE").write_text(MIT)
    (rough / "binary.py").write_bytes(b"\x00\x01\x02" * 99)
    (rough / "empty.py").write_bytes(b"")
    (rough / "line.py").write_text("x = '" + "a" * 5000 + "'\n")
    (rough / "secret.py").write_text(
        "ADMIN = 'jane.doe@corporation.org'\nHOST = '52.14.88.207'\n" * 3
    )
    (rough / "loop").symlink_to(rough)
    bare = folder / "unlicensed"
    bare.mkdir()
    (bare / "LICENSE").write_text("All rights reserved. You may not copy this.\n")
    (bare / "mine.py").write_text("def mine(number):\n    return number * 2\n" * 4)
    return folder
