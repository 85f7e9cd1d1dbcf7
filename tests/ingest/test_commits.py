import math
import pickle
from collections import Counter
from pathlib import Path

import pytest

from histories import TREE, harm, make, planted, run, save
from licence_texts import BSD0, MIT
from starkiln.code.document import blob_id
from starkiln.core.errors import UserError
from starkiln.core.stage import settings_model, spec
from starkiln.ingest import commits as module
from starkiln.ingest import repository
from starkiln.ingest.commits import commits, read

BODY = "".join(f"line {k}\n" for k in range(400))


def units(*paths: Path, **settings) -> list[dict]:
    return commits(paths=[str(path) for path in paths], **settings)


def rows(*paths: Path, **settings) -> list[dict]:
    return [row for unit in units(*paths, **settings) for row in read(unit)]


def shown(row: dict) -> tuple[str, str, str]:
    before, subject, after = row["segments"]
    assert (before["marker"], subject["marker"]) == ("<commit_before>", "<commit_msg>")
    assert after["marker"] == "<commit_after>"
    return before["text"], subject["text"], after["text"]


def kept(found: list[dict]) -> dict[str, tuple[str, str, str]]:
    return {row["path"]: shown(row) for row in found if "reason" not in row}


def aside(found: list[dict]) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in found if "reason" in row}


def test_a_commit_of_one_file_is_a_document(tmp_path):
    root = make(tmp_path / "r")
    save(root, {"src/a.py": "a = 2\n"}, "Two is more\n\nThan one.")
    save(root, {"src/new.c": "int n;\n"}, "A new file")
    new, changed, first = rows(root, stars={"r": 3})
    assert shown(changed) == ("a = 1\n", "Two is more", "a = 2\n")
    assert shown(new) == ("", "A new file", "int n;\n")
    assert (changed["kind"], changed["language"], changed["path"]) == (
        "commit",
        "python",
        "src/a.py",
    )
    assert changed["id"] == blob_id("a = 1\n\nTwo is more\na = 2\n")
    assert (changed["repo"], changed["stars"], changed["licences"]) == ("r", 3, ["0BSD"])
    assert new["language"] == "c"
    assert first["reason"] == "commit-many-files"
    assert set(first) == {"repo", "path", "bytes", "reason"}


def test_each_other_commit_is_counted_with_its_reason(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n", "old.py": "x\n", "b.py": "b = 1\n"})
    named = {"commit-many-files": run(root, "rev-parse", "HEAD")}
    named["commit-deletion"] = save(root, {"old.py": None}, "gone")
    named["commit-empty"] = save(root, {}, "nothing")
    named["binary"] = save(root, {"a.bin": b"\0\1"}, "a picture")
    named["too-large"] = save(root, {"big.py": "x" * 501}, "large")
    named["commit-long"] = save(root, {"long.py": "y" * 250}, "not yet long")
    long = save(root, {"long.py": "y" * 250 + "z"}, "long")
    named["encoding"] = save(root, {"e.py": b"# \xff\xfe\xfd \x81\x8d\n"}, "odd")
    named["commit-unchanged"] = save(root, {"b.py": "b = 1\r\n"}, "line ends")
    (root / "a.py").chmod(0o755)
    named["commit-mode"] = save(root, {}, "it runs")
    (root / "link").symlink_to("/etc/passwd")
    named["symlink"] = save(root, {}, "a link")
    run(root, "update-index", "--add", "--cacheinfo", f"160000,{long},module")
    run(root, "commit", "-q", "-m", "module")
    named["submodule"] = run(root, "rev-parse", "HEAD")
    run(root, "mv", "b.py", "c.py")
    run(root, "commit", "-q", "-m", "renamed")
    run(root, "checkout", "-q", "-b", "side", "HEAD~2")
    save(root, {"s.py": "s = 1\n"}, "on the side")
    run(root, "merge", "-q", "-m", "merge", "main")
    named["commit-merge"] = run(root, "rev-parse", "HEAD")
    found = rows(root, max_bytes=500, max_before=250)
    reasons = {path.partition(":")[0]: reason for path, reason in aside(found).items()}
    assert {reasons[name]: name for name in named.values() if name in reasons} | {
        "commit-long": named["commit-long"]
    } == named
    assert reasons[long] == "commit-long"
    assert Counter(reasons.values())["commit-many-files"] == 2  # a rename is two files
    assert set(kept(found)) == {"long.py", "s.py"}
    assert len(found) == int(run(root, "rev-list", "--all", "--count"))
    where = aside(found)
    assert f"{named['binary']}:a.bin" in where
    assert named["commit-merge"] in where


def test_a_file_that_is_emptied_is_set_aside_and_lines_that_go_are_not(tmp_path):
    root = make(tmp_path / "r", {"a.py": "".join(f"a = {k}\n" for k in range(9))})
    save(root, {"a.py": "a = 8\n"}, "fewer lines")
    emptied = [save(root, {"a.py": text}, f"emptied {text!r}") for text in ("", "x\n", " \n\n")]
    save(root, {"b.py": ""}, "empty from the start")
    found = rows(root, whole=0.0, context=0)
    assert list(aside(found).values()) == [
        "commit-unchanged", "commit-emptied", "commit-emptied"
    ]  # fmt: skip
    assert f"{emptied[2]}:a.py" in aside(found)
    before, _, after = shown(found[-2])
    assert (before.count("\n"), after) == (8, "")


@pytest.mark.parametrize("name", [":b.py", ":", "::", ":100644 a"])
def test_a_path_may_begin_with_a_colon(tmp_path, name):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    save(root, {name: "b = 1\n"}, "colon")
    save(root, {name: "b = 2\n", "a.py": "a = 2\n"}, "both")
    found = rows(root)
    assert kept(found)[name] == ("", "colon", "b = 1\n")
    assert list(aside(found).values()) == ["commit-many-files"]


def test_branches_and_head(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    run(root, "checkout", "-q", "-b", "side")
    save(root, {"s.py": "s = 1\n"}, "on the side")
    run(root, "checkout", "-q", "main")
    save(root, {"m.py": "m = 1\n"}, "on main")
    assert set(kept(rows(root))) == {"a.py", "s.py", "m.py"}
    assert set(kept(rows(root, heads="HEAD"))) == {"a.py", "m.py"}
    run(tmp_path, "clone", "-q", "r", "copy")
    assert rows(tmp_path / "copy", names={"copy": "r"}) == rows(root)


def test_a_head_without_a_commit_leaves_the_branches(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    run(root, "symbolic-ref", "HEAD", "refs/heads/nonsuch")
    assert set(kept(rows(root))) == {"a.py"}
    assert aside(rows(root, heads="HEAD")) == {"": "git-no-commit"}


def test_licences_are_those_at_head_that_govern_the_path(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    save(root, {"sub/b.py": "b = 1\n"}, "in a folder")
    save(root, {"LICENSE": BSD0}, "licence")
    save(root, {"sub/LICENSE": MIT}, "its own")
    found = {row["path"]: row["licences"] for row in rows(root)}
    assert found["a.py"] == ["0BSD"]
    assert found["sub/b.py"] == ["MIT", "0BSD"]


# ---- the window


def edits(root: Path, count: int) -> Path:
    """``count`` commits that change line 200 of 400, then another below it."""
    make(root, {"a.py": BODY})
    stream = ["blob\nmark :1\n" + _data(BODY)]
    for k in range(count):
        new = BODY.replace("line 200\n", f"new {k}\n")
        stream.append(f"blob\nmark :{k + 2}\n" + _data(new))
    stream.append("commit refs/heads/main\ncommitter a <a@b> 1 +0000\n" + _data("first"))
    stream.append("M 100644 :1 a.py\n")
    for k in range(count):
        stream.append(f"commit refs/heads/main\ncommitter a <a@b> {k + 2} +0000\n")
        stream.append(_data(f"edit {k}") + f"M 100644 :{k + 2} a.py\n")
    run(root, "fast-import", "--quiet", "--force", feed="".join(stream))
    return root


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}\n"


def test_windows_follow_the_rule(tmp_path):
    root = edits(tmp_path / "r", 1500)
    windows = [shown(row) for row in rows(root, names={"r": "r"})[:-1]]
    assert len(windows) == 1500
    whole = sum(before.count("\n") == 400 for before, _, _ in windows)
    assert abs(whole - 300) < 4 * math.sqrt(1500 * 0.2 * 0.8)
    above, below, pairs = Counter(), Counter(), set()
    for before, _, after in windows:
        old, new = before.splitlines(), after.splitlines()
        if len(old) == 400:
            continue
        (place,) = [k for k, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        above[place] += 1
        below[len(old) - place - 1] += 1
        pairs.add((place, len(old) - place - 1))
    for counts in (above, below):
        assert set(counts) == set(range(32))  # 0 to 31, both ends, evenly
        expected = (1500 - whole) / 32
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < 62  # p = 0.001
    assert len(pairs) > 600  # of 1,024: the one is not drawn with the other


def test_a_window_is_drawn_by_seed_and_commit_alone(tmp_path):
    root = edits(tmp_path / "r", 40)
    first = rows(root)
    assert rows(root, unit_commits=7) == first
    assert rows(root, seed=1) != first
    run(tmp_path, "clone", "-q", "--bare", "r", "other.git")
    other = [{**row, "repo": "r"} for row in rows(tmp_path / "other.git")]
    assert other == first
    assert [shown(row)[0].count("\n") for row in rows(root, whole=1.0)[:-1]] == [400] * 40
    assert {shown(row)[0].count("\n") for row in rows(root, whole=0.0, context=0)[:-1]} == {1}


# ---- subjects and text


@pytest.mark.parametrize(
    ("message", "header", "subject"),
    [
        (b"plain\n\nbody", b"", "plain"),
        (b"two\nlines\n\nbody", b"", "two lines"),
        (
            "na\u00efve caf\u00e9 d\u00e9j\u00e0".encode(),
            b"",
            "na\u00efve caf\u00e9 d\u00e9j\u00e0",
        ),
        ("caf\u00e9 noir".encode("latin-1"), b"", "caf\u00e9 noir"),
        ("caf\u00e9 noir".encode("latin-1"), b"encoding ISO-8859-1\n", "caf\u00e9 noir"),
        (b"crlf\r\n\r\nbody", b"", "crlf"),
        (b"   spaces  \n", b"", "spaces"),
        (b"<|endoftext|><commit_msg> stays text", b"", "<|endoftext|><commit_msg> stays text"),
        (b"", b"", ""),
        (b"\n\n", b"", ""),
        (b"\x81\x8d odd \x90\xff", b"", None),
        ("правка".encode("koi8-r"), b"encoding KOI8-R\n", "правка"),
        (b"a+AAAAAA-b", b"encoding UTF-7\n", "a+AAAAAA-b"),
    ],
)
def test_subjects(tmp_path, message, header, subject):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    tree, parent = (run(root, "rev-parse", one) for one in ("HEAD^{tree}", "HEAD"))
    blob = run(root, "hash-object", "-w", "--stdin", feed="a = 2\n")
    tree = run(root, "mktree", feed=f"100644 blob {blob}\ta.py\n")
    who = "a <a@b> 1 +0000"
    head = f"tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n".encode()
    words = ("hash-object", "-t", "commit", "-w", "--stdin", "--literally")
    name = run(root, *words, feed=head + header + b"\n" + message)
    run(root, "update-ref", "HEAD", name)
    found = rows(root)
    assert len(found) == 2
    if subject is None:
        assert found[0]["path"].startswith(name)
        assert found[0]["reason"] in ("encoding", "git-broken")
    else:
        assert shown(found[0])[1] == subject
    assert shown(found[1])[1] == "one"


def test_line_ends_are_kept_and_change_nothing(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a\r\nb\r\nc"})
    save(root, {"a.py": "a\nB\nc\n"}, "edit")
    found = rows(root, whole=0.0, context=0)
    assert shown(found[0]) == ("b\r\n", "edit", "B\n")
    assert shown(rows(root, whole=1.0)[0]) == ("a\r\nb\r\nc", "edit", "a\nB\nc\n")


def test_hostile_paths_are_set_aside(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    blob = run(root, "hash-object", "-w", "--stdin", feed="x = 1\n")
    inner = run(root, "mktree", feed=f"100644 blob {blob}\tx.py\n")
    kept_ = run(root, "rev-parse", "HEAD:a.py")
    for name, reason in (("..", "path-traversal"), ("a\nb", "path-name")):
        entry = f"040000 tree {inner}\t{name}\x00100644 blob {kept_}\ta.py\x00"
        tree = run(root, "mktree", "-z", feed=entry)
        commit = run(root, "commit-tree", tree, "-p", "main", "-m", "evil")
        run(root, "update-ref", "refs/heads/evil", commit)
        assert list(aside(rows(root)).values()) == [reason]
        assert set(kept(rows(root))) == {"a.py"}


# ---- what cannot be read


def test_repositories_without_a_history_are_set_aside(tmp_path):
    run(tmp_path, "init", "-q", "none")
    for name, text in (("odd", "garbage\n"), ("far", "ref: ../../etc/passwd\n")):
        root = make(tmp_path / name)
        (root / ".git" / "HEAD").write_text(text)
    assert aside(rows(tmp_path / "none")) == {"": "git-no-commit"}
    found = rows(tmp_path, heads="HEAD")
    assert {row["repo"] for row in found} == {"none", "odd", "far"}
    assert {row["reason"] for row in found} <= {"git-no-commit", "git-broken"}
    assert len(found) == 3


@pytest.mark.parametrize("how", ["gone", "damaged", "empty"])
@pytest.mark.parametrize("what", ["HEAD~1:a.py", "HEAD~1^{tree}"])
def test_a_missing_or_damaged_object_costs_its_commits_alone(tmp_path, what, how):
    root = make(tmp_path / "r", {"a.py": "a = 0\n"})
    for k in range(1, 6):
        save(root, {"a.py": f"a = {k}\n"}, f"edit {k}")
    save(root, {"b.py": "b\n"}, "another file")
    harm(root, run(root, "rev-parse", what.replace("HEAD~1", "HEAD~3")), how)
    found = rows(root)
    assert [row.get("reason", "") for row in found] == [
        "",
        "",
        lost := found[2]["reason"],
        lost,
        "",
        "",
        "",
    ]
    assert lost in ("git-missing", "git-broken")
    assert {shown(row)[1] for row in found if "reason" not in row} == {
        "another file", "edit 5", "edit 2", "edit 1", "one",
    }  # fmt: skip


def test_a_missing_commit_sets_the_repository_aside(tmp_path):
    root = make(tmp_path / "r")
    save(root, {"b.c": "int c;\n"}, "two")
    harm(root, run(root, "rev-parse", "HEAD~1"), "gone")
    assert aside(rows(root)) == {"": "git-broken"}
    assert len(rows(root)) == 1


def test_a_repository_that_vanishes_after_it_was_listed(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    found = units(root)
    root.rename(tmp_path / "elsewhere")
    assert [row["reason"] for unit in found for row in read(unit)] == ["git-broken"]


def test_a_missing_licence_sets_the_commits_aside(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    save(root, {"LICENSE": BSD0}, "licence")
    found = units(root)
    harm(root, run(root, "rev-parse", "HEAD:LICENSE"), "gone")
    assert [row["reason"] for unit in found for row in read(unit)] == ["git-broken"] * 2


def test_the_cut_of_a_shallow_clone_is_not_taken_for_an_addition(tmp_path):
    root = make(tmp_path / "far", {"a.py": "a = 1\n"})
    for k in range(3):
        save(root, {"a.py": f"a = {k + 2}\n"}, f"edit {k}")
    run(tmp_path, "clone", "-q", "--depth=2", f"file://{root}", "near")
    found = rows(tmp_path / "near")
    assert [shown(row) for row in found if "reason" not in row] == [
        ("a = 3\n", "edit 2", "a = 4\n")
    ]
    cut = run(root, "rev-parse", "HEAD~1")
    assert [row["reason"] for row in found if "reason" in row] == ["commit-shallow"]
    assert found[1]["path"].startswith(cut)


def test_a_promised_object_is_not_fetched(tmp_path):
    far = make(tmp_path / "far", {"a.py": "a = 1\n"})
    run(far, "config", "uploadpack.allowFilter", "true")
    run(far, "config", "uploadpack.allowAnySHA1InWant", "true")
    run(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{far}", "near")
    count = len(list((tmp_path / "near/.git/objects").rglob("*")))
    assert [row["reason"] for row in rows(tmp_path / "near")] == ["git-broken"]
    assert len(list((tmp_path / "near/.git/objects").rglob("*"))) == count


def test_a_tree_that_names_itself_without_end_costs_its_commit_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "MEMORY", 32 << 20)
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    save(root, {"a.py": "a = 2\n"}, "two")
    tree = run(root, "rev-parse", "HEAD^{tree}")
    for _ in range(8):  # 10^8 files
        tree = run(root, "mktree", feed="".join(f"040000 tree {tree}\t{k}\n" for k in range(10)))
    bomb = run(root, "commit-tree", tree, "-p", "HEAD", "-m", "bomb")
    run(root, "update-ref", "refs/heads/bomb", bomb)
    found = rows(root)
    assert aside(found) == {bomb: "git-broken"}
    assert [shown(row)[1] for row in found if "reason" not in row] == ["two", "one"]


@pytest.mark.parametrize(
    "answer", [b"", b"\0\0", b"\0\0deadbeef\0Sx\0", b"\0\0" + b"1" * 40 + b" \0\0\0:x\0a\0"]
)
def test_an_answer_that_makes_no_sense_is_no_crash(tmp_path, monkeypatch, answer):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    found = units(root)
    monkeypatch.setattr(module, "ask", lambda *words, **rest: answer)
    assert [row["reason"] for unit in found for row in read(unit)] == ["git-broken"]


# ---- whose will it is


def test_nothing_that_a_repository_plants_is_run(tmp_path):
    root = make(tmp_path / "r", TREE | {".gitattributes": "* filter=evil diff=evil merge=evil\n"})
    save(root, {"src/a.py": "a = 2\n"}, "two")
    marks = planted(tmp_path, root)
    for key, value in {
        "log.showSignature": "true",
        "diff.renames": "copies",
        "diff.ignoreSubmodules": "all",
        "diff.orderFile": "/dev/null",
        "i18n.logOutputEncoding": "UTF-16",
        "format.pretty": "fuller",
        "core.quotePath": "true",
        "color.ui": "always",
        "log.diffMerges": "on",
    }.items():
        run(root, "config", key, value)
    found = rows(root)
    assert kept(found) == {"src/a.py": ("a = 1\n", "two", "a = 2\n")}
    assert list(aside(found).values()) == ["commit-many-files"]
    assert list(marks.iterdir()) == []


def test_replaced_and_grafted_commits_show_as_they_were_made(tmp_path):
    root = make(tmp_path / "r", {"a.py": "a = 1\n"})
    save(root, {"a.py": "a = 2\n"}, "two")
    save(root, {"a.py": "a = 3\n"}, "three")
    plain = rows(root)
    head, other = run(root, "rev-parse", "HEAD"), run(root, "rev-parse", "HEAD~2")
    run(root, "replace", run(root, "rev-parse", "HEAD~1:a.py"), run(root, "rev-parse", "HEAD:a.py"))
    (root / ".git/info/grafts").write_text(f"{head} {other}\n")
    assert rows(root) == plain
    assert len(plain) == 3


def test_objects_outside_the_folder_are_not_read(tmp_path):
    secret = make(tmp_path / "secret", {"key.py": "k = 1\n"})
    run(tmp_path, "clone", "-q", "--shared", "secret", "shared")
    (tmp_path / "file").mkdir()
    (tmp_path / "file/.git").write_text(f"gitdir: {secret}/.git\n")
    assert aside(rows(tmp_path / "shared")) == {"": "git-alternates"}
    assert aside(rows(tmp_path / "file")) == {"": "git-outside"}


def test_a_bundle_is_named_with_the_way_to_read_it(tmp_path):
    root = make(tmp_path / "r")
    run(root, "bundle", "create", "-q", str(tmp_path / "r.bundle"), "--all")
    with pytest.raises(UserError, match="git clone --mirror"):
        units(tmp_path / "r.bundle")


# ---- units


def test_units_are_cut_by_commits_and_travel(tmp_path):
    root = edits(tmp_path / "r", 60)
    found = units(root, unit_commits=25)
    assert len(found) == 3
    assert len({unit["name"] for unit in found}) == 3
    again = [row for unit in pickle.loads(pickle.dumps(found)) for row in read(unit)]
    assert again == rows(root)
    assert len(again) == 61


def test_blobs_are_held_a_piece_at_a_time(tmp_path, monkeypatch):
    root = edits(tmp_path / "r", 30)
    whole = rows(root)
    held = []
    fetch = module.blobs

    def watched(root, names, room):
        found = fetch(root, names, room)
        held.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(module, "blobs", watched)
    monkeypatch.setattr(module, "PIECE", 5 * len(BODY))
    assert rows(root) == whole
    assert len(held) > 10
    assert max(held) <= 5 * len(BODY)


def test_a_stamp_follows_the_heads_and_the_licences(tmp_path):
    root = make(tmp_path / "r")
    (first,) = units(root)
    assert units(root) == [first]
    assert units(root, stars={"r": 1})[0]["stamp"] != first["stamp"]
    run(root, "branch", "same")
    assert units(root)[0]["stamp"] == first["stamp"]
    run(root, "checkout", "-q", "same")
    save(root, {"b.c": "int c;\n"}, "two")
    second = units(root)[0]["stamp"]
    assert second != first["stamp"]
    run(root, "checkout", "-q", "main")
    assert units(root)[0]["stamp"] == second
    assert units(root, heads="HEAD")[0]["stamp"] == first["stamp"]


def test_real_histories(tmp_path, shared):
    for name in ("spinnaker", "storable", "ts3", "go-git-early", "click-releases"):
        run(tmp_path, "clone", "-q", str(shared(f"corpora/git/{name}.bundle")), name)
    found = rows(tmp_path)
    counts = Counter(row.get("reason") for row in found)
    assert len(found) == 906 + 120 + 30 + 74 + 60
    assert counts["commit-merge"] == 376 + 19 + 12 + 3
    assert counts[None] > 380
    assert counts.keys() <= {
        None, "commit-merge", "commit-many-files", "commit-deletion", "commit-unchanged",
        "binary", "commit-long", "commit-empty", "too-large",
    }  # fmt: skip
    documents = [row for row in found if "reason" not in row]
    assert {row["language"] for row in documents} >= {"python", "go", "groovy", "dockerfile"}
    for row in documents:
        before, subject, after = shown(row)
        assert before != after
        assert subject == " ".join(subject.splitlines()).strip()
    assert {row["licences"][0] for row in documents if row["repo"] == "spinnaker"} == {"Apache-2.0"}


def test_a_fifth_of_real_commits_is_shown_whole(tmp_path, shared):
    run(tmp_path, "clone", "-q", str(shared("corpora/git/spinnaker.bundle")), "spinnaker")
    whole, cut, mixed = (
        [shown(row) for row in rows(tmp_path, whole=share) if "reason" not in row]
        for share in (1.0, 0.0, 0.2)
    )
    told = [(one, mix) for one, part, mix in zip(whole, cut, mixed, strict=True) if one != part]
    assert all(mix in pair for mix, *pair in zip(mixed, whole, cut, strict=True))
    count = sum(mix == one for one, mix in told)
    assert len(told) > 150
    assert abs(count - 0.2 * len(told)) < 4 * math.sqrt(len(told) * 0.2 * 0.8)


def test_the_source_can_be_called_from_a_recipe():
    assert spec(commits).read is read
    assert settings_model(commits)(paths=["a"]).whole == 0.2
    with pytest.raises(ValueError, match="heads"):
        settings_model(commits)(paths=["a"], heads="tags")
