"""A document is a row: one file, notebook, issue thread or commit, as a list of segments.

``segments`` is a list of (marker, text). A code file is one segment with an empty marker;
other kinds carry sentinel names as markers, which the tokenizer turns into ids, so that no
text of a user's can ever become a special token.
"""

import hashlib

import polars as pl

KINDS = ("code", "notebook-script", "notebook", "issue", "commit")
FILES = ("code", "notebook-script")  # what is one file of one language

SEGMENTS = pl.List(pl.Struct({"marker": pl.String, "text": pl.String}))

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "id": pl.String,  # git blob hash of the text (segments joined by a newline) in UTF-8
    "kind": pl.String,  # one of KINDS
    "language": pl.String,  # a name in languages.toml, or "unknown"
    "repo": pl.String,
    "path": pl.String,
    "stars": pl.Int64,  # null when not known
    "licences": pl.List(pl.String),  # SPDX ids, most specific place first; empty when none found
    "segments": SEGMENTS,
}

# What training draws from, and the mixture weighs: a language of code files, or another kind.
_LANGUAGE = pl.col("language").fill_null("unknown")
SOURCE = pl.when(pl.col("kind") == "code").then(_LANGUAGE).otherwise("kind").alias("source")

SET_ASIDE: dict[str, pl.DataType | type[pl.DataType]] = {
    "repo": pl.String,
    "path": pl.String,
    "bytes": pl.Int64,
    "reason": pl.String,
}


def blob_id(text: str) -> str:
    """Git's blob hash (SHA-1, hexadecimal) of ``text`` in UTF-8."""
    data = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def well_formed(text: str) -> str:
    """``text`` with U+FFFD for each lone surrogate, which JSON may hold and UTF-8 may not."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def document(
    kind: str,
    segments: list[tuple[str, str]],
    *,
    repo: str,
    path: str,
    language: str,
    licences: list[str],
    stars: int | None = None,
) -> dict:
    """The row of one document; ``segments`` are (marker, text) pairs, of well-formed text."""
    return {
        "id": blob_id("\n".join(text for _, text in segments)),
        "kind": kind,
        "language": language,
        "repo": repo,
        "path": path,
        "stars": stars,
        "licences": licences,
        "segments": [{"marker": marker, "text": text} for marker, text in segments],
    }


def code_document(
    text: str, *, repo: str, path: str, language: str, licences: list[str], stars: int | None = None
) -> dict:
    """The row of one code file."""
    told = {"repo": repo, "path": path, "language": language, "licences": licences, "stars": stars}
    return document("code", [("", text)], **told)


def set_aside(repo: str, path: str, size: int, reason: str) -> dict:
    """The row of a file that could not become a document; ``size`` in bytes."""
    return {"repo": repo, "path": path, "bytes": size, "reason": reason}
