"""Real source for the benchmarks: installed Python files, and a corpus of whole packages.

    python benchmarks/corpus.py [DIR]

gets the packages that ``corpora/manifests/manifest.csv`` (below ``$STARKILN_DATA``, or beside the
repository in ``shared``) marks as the large set: from PyPI (``unearth``, in an environment that it
makes), npm (``npm pack``) and Debian (``apt-get``; sources through an apt folder of their own).
What the manifest's SHA-256 does not fit is left out. Their files of known languages, at most
``SHARE`` bytes of one package, are laid out with the columns of The Stack v1 as ``SHARDS`` Parquet
files, a file's shard by its name; the first two are the subset on which the slow peers run. DIR is
``$STARKILN_BENCH``, or ``benchmarks/.cache``; what is there already is not got again.
"""

import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import polars as pl

MEGABYTES = 30
LARGEST = 1 << 20  # bytes of a file, as in The Stack
SHARE = 8_000_000  # bytes of one package
SHARDS, SUBSET = 16, 2
LEAST = 400_000_000  # bytes that the whole corpus must have
ROOT = Path(__file__).parents[1]


def python_files(megabytes: int = MEGABYTES) -> pl.DataFrame:
    """Python files that are not empty, as documents with their text, up to so many megabytes."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = chain.from_iterable(sorted(root.rglob("*.py")) for root in roots)
    rows, size = {}, 0
    for path in files:
        try:
            text = path.read_bytes().decode()
        except (UnicodeDecodeError, OSError):
            continue
        if path not in rows and text.strip() and len(text) < 1 << 20:
            rows[path] = text
            size += len(text.encode())
        if size > megabytes * 1_000_000:
            break
    return pl.DataFrame(
        {
            "id": [str(path) for path in rows],
            "kind": "code",
            "language": "python",
            "repo": "installed",
            "path": [str(path) for path in rows],
            "stars": pl.Series([None] * len(rows), dtype=pl.Int64),
            "text": list(rows.values()),
        }
    )


def home() -> Path:
    """Where the benchmarks keep what they get and make; git does not look into it."""
    folder = Path(os.environ.get("STARKILN_BENCH", Path(__file__).parent / ".cache")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder


def shared(name: str) -> Path:
    """A file of the shared data."""
    path = Path(os.environ.get("STARKILN_DATA", ROOT.parent / "shared")) / name
    if not path.exists():
        sys.exit(f"{path} is absent: set STARKILN_DATA to the folder that holds {name}")
    return path


def whole() -> list[Path]:
    """The shards of the corpus, which is made if it is not there."""
    folder = home() / "corpus"
    if not (folder / "packages.csv").exists():
        assemble(home())
    return sorted(folder.glob("*.parquet"))


# ---- packages


def fetch(row: dict[str, str], packages: Path) -> tuple[Path | None, str]:
    """(the archive of one line of the manifest, "") or (None, why it is not to be had)."""
    folder = packages / f"{row['kind']} {row['package'].replace('/', '+')}"
    if not folder.is_dir():
        partial = packages / f".{folder.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        done = subprocess.run(_command(row, packages), cwd=partial, capture_output=True, text=True)
        if done.returncode and _fit(partial, row["sha256"]) is None:  # the archive alone will do
            tail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            return None, tail[0][:100]
        partial.rename(folder)
    archive = _fit(folder, row["sha256"])
    return archive, "" if archive else "no file fits the manifest's SHA-256"


def _fit(folder: Path, digest: str) -> Path | None:
    """The file in ``folder`` with that SHA-256."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return next((f for f in files if hashlib.sha256(f.read_bytes()).hexdigest() == digest), None)


def _command(row: dict[str, str], packages: Path) -> list[str]:
    """The manifest's command, run in the folder that its files are to lie in."""
    words = row["get"].replace("'", "").replace("--download DIR", "--download .").split()
    if words[0] == "python":
        words[0] = str(home() / "venvs" / "tools" / "bin" / "python")
    if row["kind"] == "deb-src":
        words[1:1] = _apt(packages / ".apt")
    return words


def _apt(folder: Path) -> list[str]:
    """Options that let apt see sources, with lists of its own; the system's stay as they are."""
    options = [
        f"Dir::Etc::SourceList={folder}/none",
        f"Dir::Etc::SourceParts={folder}/parts",
        f"Dir::State::Lists={folder}/lists",
        f"Dir::Cache={folder}/cache",
        "APT::Sandbox::User=root",
    ]
    return [word for option in options for word in ("-o", option)]


def _tools() -> None:
    """Make the environment that gets PyPI's source archives."""
    folder = home() / "venvs" / "tools"
    if not folder.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "unearth"], check=True)


def _apt_lists(packages: Path) -> None:
    """Make the apt folder: the system's own places, asked for sources."""
    folder, system = packages / ".apt", Path("/etc/apt")
    if shutil.which("apt-get") is None or (folder / "lists").exists():
        return
    for name in ("parts", "lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in [system / "sources.list", *sorted((system / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = re.sub(r"^(Types: *)?deb\b(?!-src)", r"\1deb-src", path.read_text(), flags=re.M)
            (folder / "parts" / path.name).write_text(text)
    subprocess.run(["apt-get", *_apt(folder), "update"], capture_output=True)


# ---- files


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the regular files of an archive that are not too large for the corpus."""
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and 0 < info.file_size <= LARGEST:
                    yield info.filename, archive.read(info)
        return
    data = path.read_bytes()
    if path.suffix == ".deb":
        data = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=True
        ).stdout
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as archive:
        for member in archive:
            if member.isreg() and 0 < member.size <= LARGEST:
                yield member.name, archive.extractfile(member).read()


def rows(row: dict[str, str], archive: Path) -> list[dict]:
    """The files of one package as rows of The Stack v1; languages are told as starkiln tells."""
    from starkiln.code.document import blob_id
    from starkiln.code.languages import PAPER, detect, extension
    from starkiln.ingest.rows import decode

    found, total = [], 0
    for path, data in members(archive):
        text, reason = decode(data)
        language = "" if reason else detect(path, text)
        if language not in PAPER:
            continue
        total += len(data)
        if total > SHARE:
            break
        lines = text.split("\n")
        found.append(
            {
                "hexsha": blob_id(text),
                "size": len(text.encode()),
                "ext": extension(path),
                "lang": language,
                "max_stars_repo_path": path,
                "max_stars_repo_name": f"{row['kind']}/{row['package']}",
                "max_stars_repo_head_hexsha": row["version"],
                "max_stars_repo_licenses": [row["licence_declared"]],
                "max_stars_count": None,
                "content": text,
                "avg_line_length": sum(map(len, lines)) / len(lines),
                "max_line_length": max(map(len, lines)),
                "alphanum_fraction": sum(map(str.isalnum, text)) / len(text),
            }
        )
    return found


SCHEMA = {"max_stars_count": pl.Int64, "max_stars_repo_licenses": pl.List(pl.String)}


def assemble(folder: Path) -> Path:
    """Make ``folder/corpus``: the shards, and ``packages.csv``, which says what is in it."""
    packages, corpus = folder / "packages", folder / "corpus"
    packages.mkdir(parents=True, exist_ok=True)
    with shared("corpora/manifests/manifest.csv").open(newline="") as file:
        wanted = [row for row in csv.DictReader(file) if row["full"] == "yes"]
    _apt_lists(packages)
    _tools()
    with ThreadPoolExecutor(4) as pool:
        archives = list(pool.map(lambda row: fetch(row, packages), wanted))
    shards: list[list[pl.DataFrame]] = [[] for _ in range(SHARDS)]
    log = []
    for row, (archive, why) in zip(wanted, archives, strict=True):
        found = rows(row, archive) if archive else []
        size = sum(one["size"] for one in found)
        log.append((row["kind"], row["package"], row["version"], len(found), size, why))
        if found:
            _share_out(pl.DataFrame(found, schema_overrides=SCHEMA), shards)
        else:
            print(f"left out: {row['kind']} {row['package']} {row['version']}: {why or 'no code'}")
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    for number, parts in enumerate(shards):
        pl.concat(parts).write_parquet(corpus / f"{number:05d}.parquet", row_group_size=1024)
    table = ["kind", "package", "version", "files", "bytes", "left_out"]
    pl.DataFrame(log, schema=table, orient="row").write_csv(corpus / "packages.csv")
    total = sum(one[4] for one in log)
    print(f"{corpus}: {sum(one[3] for one in log):,} files, {total / 1e6:.0f} MB")
    if total < LEAST:
        sys.exit(f"that is less than {LEAST / 1e6:.0f} MB: packages are missing")
    return corpus


def _share_out(frame: pl.DataFrame, shards: list[list[pl.DataFrame]]) -> None:
    """Each file to a shard by the hash of its repository and path."""
    names = frame["max_stars_repo_name"] + "/" + frame["max_stars_repo_path"]
    place = [hashlib.sha256(name.encode()).digest()[0] % SHARDS for name in names]
    for (number,), part in frame.with_columns(place=pl.Series(place)).group_by("place"):
        shards[number].append(part.drop("place"))


if __name__ == "__main__":
    assemble(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else home())
