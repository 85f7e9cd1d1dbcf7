"""Redaction: each value gives way to a placeholder, in the text's own line structure (rules §9)."""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Annotated

import numpy as np
import polars as pl
from pydantic import Field

from starkiln.core import keyed
from starkiln.core.stage import stage
from starkiln.curate.pii.detect import GATES, ORDER, detect

SPAN = {
    "segment": pl.UInt32,
    "start": pl.UInt32,
    "end": pl.UInt32,
    "label": pl.String,
    "replacement": pl.String,
    "reason": pl.String,
}
SPANS = pl.List(pl.Struct(SPAN))
PUBLIC_DNS = frozenset(
    ipaddress.ip_address(one)
    for one in (
        *("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "149.112.112.112"),
        *("208.67.222.222", "208.67.220.220", "8.26.56.26", "8.20.247.20", "94.140.14.14"),
        *("94.140.15.15", "76.76.19.19", "76.223.122.150", "2001:4860:4860::8888"),
        *("2001:4860:4860::8844", "2606:4700:4700::1111", "2606:4700:4700::1001", "2620:fe::fe"),
    )
)
_KEPT = tuple(  # networks whose addresses identify nobody
    ipaddress.ip_network(one)
    for one in (
        *("0.0.0.0/8", "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/127", "fc00::/7", "fe80::/10", "ff00::/8", "2001:db8::/32"),
    )
)
_RESERVED = re.compile(  # RFC 2606: example addresses are nobody's
    r"@(?:.*\.)?(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost)\Z", re.IGNORECASE
)
_ROUNDS = 16  # one finds all in ordinary text; this bounds hostile text
_BREAK = re.compile(r"\r\n?|\n")


@stage(version=1, reads=("id", "segments"), adds={"spans": SPANS})
def redact(
    frame: pl.DataFrame,
    *,
    emails: Annotated[bool, Field(description="replace e-mail addresses by <EMAIL>")] = True,
    ips: Annotated[bool, Field(description="replace public IP addresses by private ones")] = True,
    keys: Annotated[bool, Field(description="replace keys by <KEY>")] = True,
    seed: Annotated[int, Field(description="of the map from address to address")] = 0,
) -> pl.DataFrame:
    """Find what to replace in each segment; never drops a document (paper §4; rules §9).

    ``spans`` is empty where there is nothing to do. An address has the same replacement in the
    whole table. Example e-mail addresses, private, special and public DNS addresses are kept.
    """
    switches = {"EMAIL": emails, "IP_ADDRESS": ips, "KEY": keys}
    wanted = [label for label, on in switches.items() if on]
    texts = _segments(frame)
    gates = [texts["text"].str.contains(GATES[label]).to_numpy() for label in wanted]
    found: list[dict] = []
    for place in np.flatnonzero(np.any([np.zeros(texts.height, bool), *gates], axis=0)):
        row, number, text = texts.row(int(place))
        open_ = [label for label, gate in zip(wanted, gates) if gate[place]]
        found += [
            {"row": row, "segment": number, **span}
            for span in replacements(text, wanted, seed, open_)
        ]
    return _by_row(found, frame.height)


def _segments(frame: pl.DataFrame) -> pl.DataFrame:
    """``row``, ``segment`` and ``text`` of every segment, in order."""
    flat = frame.select("segments").with_row_index("row").explode("segments", empty_as_null=False)
    numbered = flat.with_columns(segment=pl.int_range(pl.len(), dtype=pl.UInt32).over("row"))
    return numbered.select("row", "segment", pl.col("segments").struct.field("text"))


def _by_row(found: list[dict], height: int) -> pl.DataFrame:
    """``spans`` of each of ``height`` rows; empty for those without."""
    flat = pl.DataFrame(found, schema={"row": pl.UInt32, **SPAN})
    lists = flat.group_by("row", maintain_order=True).agg(pl.struct(*SPAN).alias("spans"))
    rows = pl.DataFrame({"row": pl.int_range(height, dtype=pl.UInt32, eager=True)})
    spans = rows.join(lists, on="row", how="left", maintain_order="left")["spans"].cast(SPANS)
    return pl.DataFrame({"spans": spans.fill_null(pl.Series([[]], dtype=SPANS))})


def replacements(
    text: str, labels: Collection[str], seed: int, look_for: Collection[str] = ORDER
) -> list[dict]:
    """What to replace in ``text``: start, end (code points), label, replacement, reason.

    What is replaced changes what its neighbours look like, so the text is searched again until
    there is nothing to find: redaction is idempotent. ``look_for``: the labels whose gate the text
    has passed.
    """
    done: list[dict] = []
    for _ in range(_ROUNDS):
        now = replaced(text, done)
        fresh = [
            {**span._asdict(), "replacement": new}
            for span in detect(now, ORDER if done else look_for)
            if span.label in labels
            and (new := _replacement(now[span.start : span.end], span.label, seed)) is not None
        ]
        if not fresh:
            break
        done = _joined(done, fresh)
    return done


def replaced(text: str, spans: list[dict]) -> str:
    """``text`` with ``spans``, which are in order and do not overlap, replaced."""
    pieces, end = [], 0
    for span in spans:
        pieces += [text[end : span["start"]], span["replacement"]]
        end = span["end"]
    return "".join([*pieces, text[end:]])


def _joined(done: list[dict], fresh: list[dict]) -> list[dict]:
    """``done`` and the spans found after it was applied, all in places of the first text."""
    for span in fresh if done else ():
        span["start"], span["end"] = _place(done, span["start"], 0), _place(done, span["end"], 1)
    old = [d for d in done if all(d["end"] <= f["start"] or d["start"] >= f["end"] for f in fresh)]
    return sorted([*old, *fresh], key=lambda span: span["start"])


def _place(done: list[dict], position: int, end: int) -> int:
    """Where ``position`` was before ``done`` was applied; within a replacement, its old edge."""
    shift = 0
    for span in done:
        start = span["start"] + shift
        stop = start + len(span["replacement"])
        if position <= start:
            break
        if position < stop:
            return span["end"] if end else span["start"]
        shift = stop - span["end"]
    return position - shift


def _replacement(value: str, label: str, seed: int) -> str | None:
    """What stands in for ``value``; None where it stays."""
    if label == "EMAIL":
        return None if _RESERVED.search(value) else "<EMAIL>"
    if label == "KEY":
        return "<KEY>" + "".join(_BREAK.findall(value))
    return address(value, seed)


@lru_cache(maxsize=1 << 16)
def address(value: str, seed: int) -> str | None:
    """A private address of the same version in place of ``value``; None where it may stay.

    10.0.0.0/8 for IPv4, fd00::/8 for IPv6; IPv6 that carries an IPv4 address keeps its shape.
    However an address is spelt, its replacement is the same.
    """
    one = ipaddress.ip_address(value)
    if one in PUBLIC_DNS or any(one in network for network in _KEPT):
        return None
    if one.version == 6 and "." in value:
        head, _, tail = value.rpartition(":")
        new = address(tail, seed)
        return None if new is None else f"{head}:{new}"
    drawn = keyed.digest("redact-ip", seed, one.compressed)
    if one.version == 4:
        return str(ipaddress.IPv4Address(b"\x0a" + drawn[:3]))
    return str(ipaddress.IPv6Address(b"\xfd" + drawn[:15]))
