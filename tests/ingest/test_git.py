import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from histories import TREE, harm, make, objects, planted, run
from starkiln.core.errors import UserError
from starkiln.core.stage import settings_model, spec
from starkiln.ingest.git import git, read


def rows(*paths: Path, **settings) -> list[dict]:
    return [
        row for unit in git(paths=[str(path) for path in paths], **settings) for row in read(unit)
    ]


def kept(found: list[dict]) -> dict[str, list[str]]:
    return {row["path"]: row["licences"] for row in found if "reason" not in row}


def aside(found: list[dict]) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in found if "reason" in row}


def test_head_is_read_not_the_work_tree(tmp_path):
    root = make(tmp_path / "acme")
    (root / "b.c").write_text("int changed;\n")
    (root / "new.py").write_text("n = 1\n")
    found = rows(root)
    assert kept(found) == {name: ["0BSD"] for name in sorted(TREE)}
    assert {row["path"]: row["segments"][0]["text"] for row in found} == TREE
    assert found[0]["id"] == run(root, "rev-parse", "HEAD:LICENSE")
    assert {row["repo"] for row in found} == {"acme"}
    assert {row["language"] for row in found} >= {"python", "c"}


def test_bare_repositories_and_folders_of_repositories(tmp_path):
    make(tmp_path / "all" / "one")
    run(tmp_path, "clone", "-q", "--bare", "all/one", "all/two.git")
    (tmp_path / "all" / "other").mkdir()
    assert {row["repo"] for row in rows(tmp_path / "all")} == {"one", "two.git"}
    assert kept(rows(tmp_path / "all" / "two.git")) == {name: ["0BSD"] for name in TREE}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/acme/tool.git", "acme/tool"),
        ("git@host.org:acme/tool", "acme/tool"),
        ("ssh://git@host:22/group/acme/tool.git/", "acme/tool"),
        ("/srv/acme/tool.git", "r"),
        ("file:///srv/acme/tool.git", "r"),
        ("https://host/../..", "r"),
        ("$(touch x)", "r"),
    ],
)
def test_the_name_comes_from_the_origin(tmp_path, url, name):
    root = make(tmp_path / "r")
    run(root, "config", "remote.origin.url", url)
    assert {row["repo"] for row in rows(root)} == {name}


def test_names_and_stars_can_be_given(tmp_path):
    root = make(tmp_path / "r")
    found = rows(root, names={"r": "acme/r"}, stars={"acme/r": 42})
    assert {(row["repo"], row["stars"]) for row in found} == {("acme/r", 42)}
    assert {row["stars"] for row in rows(root)} == {None}


def test_what_is_set_aside(tmp_path):
    root = make(
        tmp_path / "r", {"ok.py": "a = 1\n", "bin": b"\0", "empty": b"", "big.py": "x" * 101}
    )
    (root / "link").symlink_to("/etc/passwd")
    run(root, "add", "-A")
    head = run(root, "rev-parse", "HEAD")
    run(root, "update-index", "--add", "--cacheinfo", f"160000,{head},module")
    run(root, "commit", "-q", "-m", "two")
    found = rows(root, max_bytes=100)
    assert list(kept(found)) == ["ok.py"]
    assert aside(found) == {
        "bin": "binary",
        "empty": "empty",
        "big.py": "too-large",
        "link": "symlink",
        "module": "submodule",
    }


def test_a_tree_with_hostile_names(tmp_path):
    root = make(tmp_path / "r")
    blob = run(root, "hash-object", "-w", "--stdin", feed="x = 1\n")
    inner = run(root, "mktree", feed=f"100644 blob {blob}\tx.py\n")
    tree = run(root, "mktree", feed=f"040000 tree {inner}\t..\n100644 blob {blob}\tok.py\n")
    run(root, "update-ref", "HEAD", run(root, "commit-tree", tree, "-m", "evil"))
    assert aside(rows(root)) == {"../x.py": "path-traversal"}
    assert list(kept(rows(root))) == ["ok.py"]


@pytest.mark.parametrize(
    "text", ["garbage\n", "ref: refs/heads/nonsuch\n", "ref: ../../etc/passwd\n"]
)
def test_a_head_without_a_commit_sets_the_repository_aside(tmp_path, text):
    root = make(tmp_path / "r")
    (root / ".git" / "HEAD").write_text(text)
    (only,) = rows(root)
    assert (only["repo"], only["path"]) == ("r", "")
    assert only["reason"] in ("git-no-commit", "git-broken")


def test_a_repository_without_a_commit(tmp_path):
    run(tmp_path, "init", "-q", "r")
    assert [row["reason"] for row in rows(tmp_path / "r")] == ["git-no-commit"]


@pytest.mark.parametrize(
    "what", ["HEAD:src/a.py", "HEAD:src", "HEAD^{tree}", "HEAD", "HEAD:LICENSE"]
)
@pytest.mark.parametrize("how", ["gone", "damaged", "empty"])
def test_a_missing_or_damaged_object_sets_the_repository_aside(tmp_path, what, how):
    root = make(tmp_path / "r")
    make(tmp_path / "sound")
    harm(root, run(root, "rev-parse", what), how)
    found = rows(tmp_path)
    assert [r["reason"] for r in found if r["repo"] == "r"] in (["git-broken"], ["git-no-commit"])
    assert len([r for r in found if r["repo"] == "sound"]) == len(TREE)


def test_a_damaged_pack_or_configuration_sets_the_repository_aside(tmp_path):
    root = make(tmp_path / "r")
    run(root, "gc", "-q")
    (pack,) = (root / ".git/objects/pack").glob("*.pack")
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:60])
    other = make(tmp_path / "s")
    (other / ".git/config").write_text("[core\nrepositoryformatversion = x\n")
    assert {r["repo"]: r["reason"] for r in rows(tmp_path)}.keys() == {"r", "s"}
    assert all(r["reason"].startswith("git-") for r in rows(tmp_path))


def test_a_repository_broken_after_it_was_listed(tmp_path):
    root = make(tmp_path / "r")
    (unit,) = git(paths=[str(root)])
    objects(root)[run(root, "rev-parse", "HEAD:b.c")].unlink()
    (only,) = read(unit)
    assert only["reason"] == "git-broken"
    assert only["bytes"] == sum(map(len, TREE.values()))


def test_nothing_that_a_repository_plants_is_run(tmp_path):
    root = make(tmp_path / "r", TREE | {".gitattributes": "* filter=evil diff=evil merge=evil\n"})
    marks = planted(tmp_path, root)
    before = run(tmp_path, "hash-object", str(root / ".git/index"))
    assert set(kept(rows(root))) == {*TREE, ".gitattributes"}
    assert list(marks.iterdir()) == []
    assert run(tmp_path, "hash-object", str(root / ".git/index")) == before
    subprocess.run(["git", "status"], cwd=root, capture_output=True, check=False)
    assert list(marks.iterdir())  # plain git does spring a trap: the traps are real


def test_a_promised_object_is_not_fetched(tmp_path):
    far = make(tmp_path / "far")
    run(far, "config", "uploadpack.allowFilter", "true")
    run(far, "config", "uploadpack.allowAnySHA1InWant", "true")
    run(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{far}", "near")
    count = len(list((tmp_path / "near/.git/objects").rglob("*")))
    assert [row["reason"] for row in rows(tmp_path / "near")] == ["git-broken"]
    assert len(list((tmp_path / "near/.git/objects").rglob("*"))) == count


def test_objects_outside_the_folder_are_not_read(tmp_path):
    secret = make(tmp_path / "secret", {"key.py": "k = 1\n"})
    paths = [tmp_path / name for name in ("shared", "gitfile", "link", "pack", "worktree")]
    run(tmp_path, "clone", "-q", "--shared", "secret", "shared")
    for path in paths[1:3]:
        path.mkdir()
    (paths[1] / ".git").write_text(f"gitdir: {secret}/.git\n")
    (paths[2] / ".git").symlink_to(secret / ".git")
    make(paths[3], {"a.py": "1\n"})
    (paths[3] / ".git/objects/pack").rmdir()
    (paths[3] / ".git/objects/pack").symlink_to(secret / ".git/objects/pack")
    run(secret, "worktree", "add", "-q", str(paths[4]))
    reasons = {path.name: [row["reason"] for row in rows(path)] for path in paths}
    assert reasons.pop("shared") == ["git-alternates"]
    assert all(one == ["git-outside"] for one in reasons.values()), reasons


def test_replaced_objects_show_as_they_were_committed(tmp_path):
    root = make(tmp_path / "r")
    other = run(root, "hash-object", "-w", "--stdin", feed="evil = 1\n")
    run(root, "replace", run(root, "rev-parse", "HEAD:src/a.py"), other)
    assert {r["path"]: r["segments"][0]["text"] for r in rows(root)} == TREE


def test_a_repository_of_another_user_is_read(tmp_path):
    if os.geteuid():
        pytest.skip("only the superuser can give a folder away")
    root = make(tmp_path / "r")
    for path in [root, *root.rglob("*")]:
        os.chown(path, 4321, 4321)
    assert set(kept(rows(root))) == set(TREE)


def test_the_callers_git_environment_has_no_effect(tmp_path):
    root, other = make(tmp_path / "r"), make(tmp_path / "other", {"x.py": "x = 1\n"})
    code = (
        "from starkiln.ingest.git import git, read\n"
        f"print(*(row['path'] for unit in git(paths=[{str(root)!r}]) for row in read(unit)))"
    )
    environment = os.environ | {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, env=environment, text=True)
    assert printed.split() == sorted(TREE)


def test_units_are_cut_by_size_and_travel(tmp_path):
    root = make(tmp_path / "r", TREE | {f"f{k:02d}.py": f"x = {k:03d}\n" for k in range(20)})
    units = git(paths=[str(root)], unit_bytes=40)
    assert len(units) > 4
    assert len({unit["name"] for unit in units}) == len(units)
    again = [row for unit in pickle.loads(pickle.dumps(units)) for row in read(unit)]
    assert again == rows(root)
    assert all(row["licences"] == ["0BSD"] for row in again)


def test_a_stamp_follows_head_and_stars(tmp_path):
    root = make(tmp_path / "r")
    (first,) = git(paths=[str(root)])
    assert git(paths=[str(root)]) == [first]
    assert git(paths=[str(root)], stars={"r": 1})[0]["stamp"] != first["stamp"]
    (root / "b.c").write_text("int c;\n")
    assert git(paths=[str(root)]) == [first]
    run(root, "commit", "-q", "-a", "-m", "two")
    assert git(paths=[str(root)])[0]["stamp"] != first["stamp"]


def test_wrong_paths_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/a.py").write_text("1\n")
    assert git(paths=[str(tmp_path / "empty")]) == []
    for name in ("plain", "missing"):
        with pytest.raises(UserError, match=name):
            git(paths=[str(tmp_path / name)])


def test_a_bundle_is_named_with_the_way_to_read_it(tmp_path):
    root = make(tmp_path / "r")
    run(root, "bundle", "create", "-q", str(tmp_path / "r.bundle"), "--all")
    with pytest.raises(UserError, match="git clone --mirror") as fault:
        git(paths=[str(tmp_path / "r.bundle")])
    words = fault.value.mend.partition("'")[2].partition("'")[0].replace("FOLDER", "made").split()
    run(tmp_path, *words[1:])
    assert kept(rows(tmp_path / "made")) == {name: ["0BSD"] for name in sorted(TREE)}


def test_real_histories(tmp_path, shared):
    run(tmp_path, "clone", "-q", str(shared("corpora/git/ts3.bundle")), "ts3")
    found = rows(tmp_path, stars={"ts3": 7})
    assert len(found) == len(run(tmp_path / "ts3", "ls-files").splitlines())
    assert {(r["licences"][0], r["stars"]) for r in found} == {("MIT", 7)}


def test_the_source_can_be_called_from_a_recipe():
    assert spec(git).read is read
    assert settings_model(git)(paths=["a"], stars={"a": 1}).names == {}
