"""The samples of a page: a first of each kind in colour, and as many more as it can hold.

What a model wrote is hostile: it is cut, its hidden characters are shown, and it is always text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from starkiln.evaluate.highlight import voices

MOST_BYTES, MOST = 2_000_000, 20_000  # of samples that can be browsed
_FIRST = 120  # samples in colour
_PROMPT, _SUFFIX, _COMPLETION, _DETAIL = 5_000, 2_000, 6_000, 1_000  # characters shown
_COLOURED = 2_500  # characters of a prompt and of a completion in colour
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_BY_LANGUAGE = ("multiple-", "infill-")  # tasks whose groups are languages
_ENDS = {
    "end": "ended by the model",
    "stop": "ended by a stop string",
    "length": "ended by the limit of tokens",
    "no room": "the prompt fills the context",
    "refused": "refused by the endpoint",
    "no answer": "no answer of the endpoint had a text",
}
_KEY = ["task", "temperature"]


def visible(text: str | None) -> str:
    """``text`` with the characters that cannot be seen, or move others, as their code points."""
    return _HIDDEN.sub(_picture, text or "")


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def shown(text: str | None, most: int, end: bool = False) -> str:
    """At most ``most`` characters from the beginning of ``text``, or its end; what is left out."""
    text = text or ""
    left = len(text) - most
    if left <= 0:
        return visible(text)
    told = f"… {left:,} characters left out …"
    return f"{told}\n{visible(text[-most:])}" if end else f"{visible(text[:most])}\n{told}"


def told(passes: Sequence[Mapping[str, Any]], frame: pl.DataFrame) -> dict[str, Any]:
    """``first`` (samples in colour), ``browsed`` (JSON for the script), and how many it has."""
    labels = {(p["task"], p["draw"]["temperature"]): p["label"] for p in passes if "draw" in p}
    rows = frame.with_row_index("row")
    few = sorted(_held(rows, labels), key=lambda pair: pair[0])
    prompts: dict[tuple[str, str], int] = {}
    samples = [[*cells, prompts.setdefault(pair, len(prompts))] for _, cells, pair in few]
    return {
        "first": [_coloured(row, labels) for row in firsts(rows).iter_rows(named=True)],
        "browsed": {"prompts": list(prompts), "samples": samples},
        "embedded": len(samples),
        "left_out": frame.height - len(samples),
    }


def firsts(rows: pl.DataFrame) -> pl.DataFrame:
    """The first sample of each task and verdict, in their order: at most 120, of the first tasks
    that have a verdict.
    """
    first = rows.unique(["task", "verdict"], keep="first", maintain_order=True)
    turn = pl.int_range(pl.len()).over("verdict")
    return first.sort(turn, "row").head(_FIRST).sort("row")


def _held(
    rows: pl.DataFrame, labels: Mapping[tuple[str, float], str]
) -> Iterator[tuple[int, list[Any], tuple[str, str]]]:
    """Samples until the page is full: of each verdict and problem one, then two…

    Each with its place in the table, its cells, and its prompt and suffix.
    """
    kinds = [*_KEY, "verdict"]
    again = pl.int_range(pl.len()).over(*kinds, "problem")
    order = rows.with_columns(again.alias("again"))
    order = order.with_columns(pl.int_range(pl.len()).over(*kinds, "again").alias("turn"))
    places = order.sort("again", "turn", "row")["row"].head(MOST)
    size, seen = 0, set()
    for row in rows[places.cast(pl.Int64)].iter_rows(named=True):
        cells, pair = _cells(row, labels), _around(row)
        size += _size(cells) + (_size(pair) if pair not in seen else 0)
        seen.add(pair)
        if size > MOST_BYTES:
            return
        yield row["row"], cells, pair


def _size(value: Any) -> int:
    """Bytes on the page, where ``<`` has six."""
    return len(htmlsafe_json_dumps(value))


def _around(row: Mapping[str, Any]) -> tuple[str, str]:
    return shown(row["prompt"], _PROMPT, end=True), shown(row["suffix"], _SUFFIX)


def _cells(row: Mapping[str, Any], labels: Mapping[tuple[str, float], str]) -> list[Any]:
    """Label, problem, number, verdict, detail, completion, and what else there is to say."""
    return [
        visible(labels.get((row["task"], row["temperature"]), row["task"])),
        visible(row["problem"]),
        row["sample"],
        row["verdict"],
        shown(row["detail"], _DETAIL),
        shown(row["completion"], _COMPLETION),
        note(row),
    ]


def note(row: Mapping[str, Any]) -> str:
    """How a completion ended and was judged, in words."""
    ended = _ENDS.get(row["finish"], visible(row["finish"]))
    return ended if row["strict"] else f"{ended}; judged in one process"


def _coloured(row: Mapping[str, Any], labels: Mapping[tuple[str, float], str]) -> dict[str, Any]:
    label, problem, number, verdict, detail, *_ = _cells(row, labels)
    before = shown(row["prompt"], _COLOURED, end=True)
    made = shown(row["completion"], _COLOURED)
    after = shown(row["suffix"], _COLOURED)
    by_language = row["group"] and row["task"].startswith(_BY_LANGUAGE)
    language = row["group"] if by_language else "python"
    return {
        "label": label,
        "problem": problem,
        "sample": number,
        "verdict": verdict,
        "detail": detail,
        "note": note(row),
        "before": voices([("given", before)], language),
        "made": voices([("made", made)], language) if made else Markup(""),
        "after": voices([("given", after)], language) if after else Markup(""),
    }
