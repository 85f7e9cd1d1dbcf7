import gzip
import json
import random
import shutil
import zlib
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from starkiln.core import recipe, stage, table
from starkiln.core.errors import UserError
from starkiln.ingest import issues as module
from starkiln.ingest import shard
from starkiln.ingest.issues import assemble, fold, issues, read

SETTINGS = {"head": 60, "tail": 20, "bots": [], "max_characters": 262_144}
USE = "starkiln.ingest.issues:issues"


def event(number: int, hour: int, said: str | None, issue: dict | None = None, **rest) -> dict:
    """One event of 2020: a comment, or where nothing is said the closing."""
    time = f"2020-01-01T{hour:02d}:00:00Z"
    ann, bob = {"login": "ann"}, {"login": "bob"}
    whole = {"number": number, "title": "Title", "body": "Body", "user": ann}
    payload = {"action": "created", "issue": {**whole, "created_at": "2019-12-31T00:00:00Z"}}
    payload["issue"] |= issue or {}
    kind = "IssueCommentEvent"
    if said is None:
        kind, payload["action"] = "IssuesEvent", "closed"
    else:
        payload["comment"] = {"id": hour, "user": bob, "body": said, "created_at": time}
    repo = {"id": 1, "name": "acme/thing"}
    return {"type": kind, "actor": bob, "repo": repo, "payload": payload, "created_at": time} | rest


def pack(path: Path, lines: list[object]) -> bytes:
    """Write events as JSON lines, packed as the name says."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.compress(data, "zstd", asbytes=True)
    path.write_bytes(data)
    return data


def ingest(*paths: Path, shuffled: int | None = None, **settings) -> tuple[dict, list[dict]]:
    """({(repo, path): segments}, rows set aside)."""
    chosen = SETTINGS | settings
    given = {k: v for k, v in settings.items() if k != "max_line_bytes"}
    units = issues(paths=list(map(str, paths)), **settings)
    records, aside = defaultdict(list), []
    if shuffled is not None:
        random.Random(shuffled).shuffle(units)
    for unit in units:
        for found in read(unit):
            (aside if "reason" in found else records[found["key"]]).append(found)
    documents = {}
    for key, told in records.items():
        for row in fold(key, told, chosen | given):
            if "reason" in row:
                aside.append(row)
            else:
                texts = [(s["marker"], s["text"]) for s in row["segments"]]
                documents[row["repo"], row["path"]] = texts
    return documents, aside


def reasons(aside: list[dict]) -> dict[str, int]:
    return dict(Counter(row["reason"] for row in aside))


THREAD = [
    ("<issue_start>", "Title: Title\nusername_0: Body"),
    ("<issue_comment>", "username_1: one"),
    ("<issue_comment>", "username_1: two"),
    ("<issue_closed>", ""),
]
ONE = {("acme/thing", "issues/7"): THREAD}


@pytest.mark.parametrize(
    "suffix", ["json", "json.gz", "json.zst", "jsonl", "jsonl.gz", "jsonl.zst"]
)
def test_a_thread_out_of_files_of_each_kind(tmp_path, suffix):
    pack(tmp_path / f"a.{suffix}", [event(7, 2, "two"), event(7, 3, None)])
    pack(tmp_path / f"b.{suffix}", [event(7, 1, "one")])
    (tmp_path / "README.md").write_text("nothing")
    assert ingest(tmp_path) == (ONE, [])
    assert ingest(tmp_path / f"b.{suffix}", tmp_path / f"a.{suffix}") == (ONE, [])


def test_files_of_several_members_are_read_to_their_end(tmp_path):
    events = [event(7, 1, "one"), event(7, 2, "two"), event(7, 3, None)]
    for suffix in ("gz", "zst"):
        path = tmp_path / f"a.json.{suffix}"
        path.write_bytes(b"".join(pack(path, [one]) for one in events))
        assert ingest(path) == (ONE, [])


def test_a_thread_is_the_same_whatever_the_order(tmp_path):
    events = [event(7, h, f"said {h}") for h in range(20)] + [event(7, h, None) for h in (3, 9)]
    edited = event(7, 21, "last", {"title": "New title", "body": "New body"})
    events += [edited, event(7, 5, "said 5"), event(7, 9, None)]
    for number, one in enumerate(events):
        pack(tmp_path / f"{number:02d}.json", [one])
    first, aside = ingest(tmp_path)
    assert first["acme/thing", "issues/7"][0][1] == "Title: New title\nusername_0: New body"
    assert reasons(aside) == {"repeated-event": 2}
    for seed in range(5):
        again, aside_again = ingest(tmp_path, shuffled=seed)
        assert again == first
        assert reasons(aside_again) == reasons(aside)


def test_a_renamed_repository_is_one(tmp_path):
    later = event(7, 2, "two", repo={"id": 1, "name": "acme/renamed"})
    pack(tmp_path / "a.json", [later, event(7, 1, "one"), event(8, 1, "x")])
    assert sorted(ingest(tmp_path)[0]) == [("acme/renamed", "issues/7"), ("acme/thing", "issues/8")]


def test_pull_requests_have_their_own_path(tmp_path):
    pack(tmp_path / "a.json", [event(7, 1, "one", {"pull_request": {"url": "u"}})])
    assert list(ingest(tmp_path)[0]) == [("acme/thing", "pull/7")]


# ---- bad input


def test_a_thread_whose_opening_nobody_told(tmp_path):
    bare = event(7, 1, "one", {"title": None})
    pack(tmp_path / "a.json", [bare, event(8, 1, "x")])
    documents, aside = ingest(tmp_path)
    assert list(documents) == [("acme/thing", "issues/8")]
    assert [(a["path"], a["reason"], a["bytes"]) for a in aside] == [("issues/7", "no-opening", 3)]


def test_faulty_lines_are_counted_with_their_place(tmp_path):
    pack(tmp_path / "a.json", [event(7, 1, "one"), "x", event(7, 2, "two"), event(7, 3, None)])
    with (tmp_path / "a.json").open("ab") as file:
        file.write(b'\n\n{"half": \n')
    documents, aside = ingest(tmp_path)
    assert documents == ONE
    assert [(a["path"], a["reason"]) for a in aside] == [
        ("a.json:2", "unknown-record"),
        ("a.json:7", "malformed-json"),
    ]
    assert all(a["repo"] == tmp_path.name for a in aside)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_whole_lines_before_the_end_of_a_truncated_file_are_read(tmp_path, suffix):
    rng = random.Random(0)
    noise = ["".join(rng.choices("abcdefghijklmnop ", k=400)) for _ in range(4000)]
    path = tmp_path / f"a.json.{suffix}"
    data = pack(path, [event(n + 1, 1, text) for n, text in enumerate(noise)])
    for kept in (len(data) // 2, len(data) - 1, 40):  # the last byte is of a checksum, or a block's
        path.write_bytes(data[:kept])
        documents, aside = ingest(path)
        assert len(documents) == whole_lines(data[:kept], suffix)
        assert reasons(aside) == {"damaged-file": 1}
    path.write_bytes(b"no archive at all")
    documents, aside = ingest(path)
    assert (documents, reasons(aside)) == ({}, {"damaged-file": 1})


def whole_lines(data: bytes, suffix: str) -> int:
    """Lines that ``data``, a piece of a packed file, gives when it is unpacked byte by byte."""
    if suffix == "gz":
        return zlib.decompressobj(31).decompress(data).count(b"\n")
    found = 0
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream, suppress(OSError):
        while byte := stream.read(1):
            found += byte == b"\n"
    return found


def test_little_is_lost_before_a_changed_byte(tmp_path):
    rng = random.Random(0)
    noise = ["".join(rng.choices("abcdefghijklmnop ", k=400)) for _ in range(4000)]
    path = tmp_path / "a.json.gz"
    data = bytearray(pack(path, [event(n + 1, 1, text) for n, text in enumerate(noise)]))
    data[-8] ^= 1  # of the checksum, which is told when all is unpacked
    path.write_bytes(data)
    documents, aside = ingest(path)
    assert 3980 < len(documents) <= 4000
    assert reasons(aside) == {"damaged-file": 1}


def test_files_that_cannot_be_read(tmp_path):
    pack(tmp_path / "a.json", [event(7, 1, "one")])
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    (tmp_path / "c.json.gz").write_bytes(b"")
    pack(tmp_path / "d.json.gz", [event(8, 1, "one")])
    units = issues(paths=[str(tmp_path)])
    (tmp_path / "d.json.gz").unlink()
    found = [row for unit in units for row in read(unit)]
    assert [(r["path"], r["reason"]) for r in found if "reason" in r] == [
        ("b.json", "symlink"),
        ("c.json.gz", "empty"),
        ("d.json.gz", "unreadable"),
    ]


def test_long_lines_and_long_messages(tmp_path):
    long = event(7, 2, "x" * 3000)
    pack(tmp_path / "a.json", [event(7, 1, "one"), long, event(7, 3, None)])
    documents, aside = ingest(tmp_path, max_line_bytes=2000)
    assert documents["acme/thing", "issues/7"] == [THREAD[0], THREAD[1], THREAD[3]]
    size = len(json.dumps(long)) + 1
    assert [(a["path"], a["bytes"], a["reason"]) for a in aside] == [
        ("a.json:2", size, "line-too-long")
    ]
    again, aside = ingest(tmp_path, max_characters=2999)
    assert again == documents
    assert [(a["path"], a["bytes"], a["reason"]) for a in aside] == [
        ("issues/7", 3000, "message-too-large")
    ]


def test_what_is_no_file_of_events_is_given_up(tmp_path):
    (tmp_path / "a.json").write_bytes(b"{\n" * 3000)
    (tmp_path / "b.json").write_bytes((b"{\n" * 999 + b"{}\n") * 3)
    _, aside = ingest(tmp_path)
    assert reasons(aside) == {
        "malformed-json": 1000 + 2997,
        "no-event-file": 1,
        "unknown-record": 3,
    }


def test_paths_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        issues(paths=[str(tmp_path / "none")])
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="no file of JSON lines"):
        issues(paths=[str(tmp_path / "a.txt")])
    with pytest.raises(UserError, match="head"):
        recipe.check(stage.settings_model(issues), {"paths": [], "head": -1}, "recipe")


def test_the_stamp_follows_the_file_and_its_folders_name(tmp_path):
    """The settings are part of the source's identity, and the name is in the rows set aside."""
    path = tmp_path / "a.json"
    pack(path, [event(7, 1, "one")])

    def stamp(path: Path, **settings) -> str:
        (unit,) = issues(paths=[str(path)], **settings)
        assert unit["name"] == "00000 a.json"
        return unit["stamp"]

    first = stamp(path)
    assert first == stamp(path) == stamp(tmp_path) == stamp(path, head=5, bots=["x"])
    for where in ("x/same", "y/same", "y/other"):
        (tmp_path / where).mkdir(parents=True)
        shutil.copy2(path, tmp_path / where)
    one, two, other = (stamp(tmp_path / where) for where in ("x/same", "y/same", "y/other"))
    assert one == two
    assert len({first, one, other}) == 3
    pack(path, [event(7, 1, "another")])
    assert stamp(path) != first


def test_a_reader_passes_an_opening_on_once(tmp_path):
    pack(tmp_path / "a.json", [event(7, h, f"said {h}") for h in range(20)])
    (unit,) = issues(paths=[str(tmp_path)])
    assert Counter(record["kind"] for record in read(unit)) == {"opening": 1, "comment": 20}
    bodies = ["B", None, "", "\ud800"]  # half a character is one unknown
    pack(tmp_path / "a.json", [event(7, h, "on", {"body": b}) for h, b in enumerate(bodies)])
    told = [record["text"] for record in read(unit) if record["kind"] == "opening"]
    assert told == ["\ufffd"]


def test_what_a_reader_remembers_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HELD", 100)
    lines = [event(number, 1, "on", {"body": "b" * 30}) for number in range(1, 21)] * 2
    pack(tmp_path / "a.json", lines)
    (unit,) = issues(paths=[str(tmp_path)])
    told = [record["number"] for record in read(unit) if record["kind"] == "opening"]
    assert told[:20] == list(range(1, 21))
    assert len(told) == 40


@pytest.mark.parametrize("files", [["ABA"], ["AAB"], ["AA", "B"], ["B", "AA"], ["A", "B", "A"]])
def test_a_title_that_was_changed_and_changed_back(tmp_path, files):
    """Each letter is told an hour later than the last of its like: A at 1 and 3, B at 2."""
    hours = {"A": [1, 3], "B": [2]}
    for order in (1, -1):
        for number, letters in enumerate(files):
            left = {letter: hours[letter][:] for letter in "AB"}
            if len(files) == 3 and number == 2:
                left["A"] = [3]
            lines = [event(7, left[c].pop(0), "on", {"title": c, "body": c}) for c in letters]
            pack(tmp_path / f"{number}.json", lines[::order])
        documents, _ = ingest(tmp_path)
        assert documents["acme/thing", "issues/7"][0][1] == "Title: A\nusername_0: A"


def test_a_later_event_without_a_title_hides_no_earlier_one(tmp_path):
    bare = event(7, 5, "on", {"title": None, "body": None}, repo={"id": 1, "name": "acme/new"})
    pack(tmp_path / "a.json", [event(7, 1, "one"), bare])
    (found,) = ingest(tmp_path)[0].items()
    assert found[0] == ("acme/new", "issues/7")
    assert found[1][0] == THREAD[0]


# ---- real events


@pytest.fixture(scope="module")
def expected(shared) -> dict[tuple[str, int], dict]:
    with pa.CompressedInputStream(
        pa.OSFile(str(shared("corpora/issues/threads.jsonl.zst"))), "zstd"
    ) as stream:
        threads = [json.loads(line) for line in stream.read().splitlines()]
    return {(thread["repo"], thread["number"]): thread for thread in threads}


@pytest.fixture(scope="module")
def records(shared) -> dict[str, list[dict]]:
    found = defaultdict(list)
    for unit in issues(paths=[str(shared("corpora/issues/gharchive"))]):
        for record in read(unit):
            found[record["key"]].append(record)  # a row that is set aside has no key
    return found


def test_real_events_give_the_threads_that_were_put_together_otherwise(records, expected):
    untold, repeated = [], 0
    for told in records.values():
        thread, aside = assemble(told, 1 << 20)
        reason = Counter(row["reason"] for row in aside)
        repeated += reason["repeated-event"]
        truth = expected[told[0]["repo"], told[0]["number"]]
        if thread is None:
            untold.append(truth["created_at"] >= "2025-10-07" and truth["is_pull_request"])
            continue
        assert (thread.title, thread.pull) == (truth["title"], truth["is_pull_request"])
        wanted = [e for e in truth["events"][1:] if e["text"].strip()]
        said = [(m.author, m.text) for m in thread.messages if not m.closes]
        opening = truth["events"][0]
        assert said[0] == (opening["author"], opening["text"])
        assert sorted(said[1:]) == sorted((e["author"], e["text"]) for e in wanted)
        by_time = defaultdict(list)
        for e in wanted:
            by_time[e["datetime"]].append((e["author"], e["text"]))
        rest = iter(said[1:])
        for _, here in sorted(by_time.items()):
            assert sorted(next(rest) for _ in here) == sorted(here)
        closings = {e["datetime"] for e in truth["events"] if e["action"] == "closed"}
        assert sum(m.closes for m in thread.messages) == len(closings)
    assert len(records) == len(expected) == 3961
    assert (len(untold), all(untold)) == (73, True)
    assert repeated == 143


def test_both_forms_give_the_same_documents(shared, records):
    """Down to the id, by which exact deduplication finds them."""
    (unit,) = issues(paths=[str(shared("corpora/issues/threads.jsonl.zst"))])
    whole = defaultdict(list)
    for record in read(unit):
        if "reason" not in record:
            whole[record["repo"], record["number"]].append(record)
    same = 0
    for key, told in records.items():
        (row,) = [row for row in fold(key, told, SETTINGS) if row["path"] and "id" in row] or [None]
        if row:
            place = row["repo"], told[0]["number"]
            assert row in fold(key, whole[place], SETTINGS)
            same += 1
    assert same == 3887


def test_the_shuffle_gives_the_same_threads_however_units_are_grouped(shared, tmp_path):
    units = issues(paths=[str(shared("corpora/issues/gharchive"))])[:40]
    found = []
    for name, groups, parts in (("a", [units], 1), ("b", shard.group(units[::-1], 1 << 20), 3)):
        folder = tmp_path / name
        folder.mkdir()
        for number, group in enumerate(groups):
            shard.scatter(folder, f"s{number}", USE, group, parts)
        scattered = [folder / f"s{number}.bin" for number in range(len(groups))]
        for part in range(parts):
            shard.fold_shard(folder, f"{part:05d}", USE, SETTINGS, scattered, part, parts, ["MIT"])
        rows = [table.read(folder / f"{part:05d}.parquet") for part in range(parts)]
        rows = sorted(row for frame in rows for row in frame.select("repo", "path", "id").rows())
        found.append(rows)
    assert found[0] == found[1]
    assert len(found[0]) > 300
