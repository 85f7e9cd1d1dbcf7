import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import make
from starkiln.core.errors import UserError
from starkiln.ingest import repository
from starkiln.ingest.repository import Broken, ask, blobs, halved, sizes


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_halving_answers_for_every_item_and_finds_the_broken(broken):
    items = list(enumerate(broken))

    def ask_all(some):
        if any(bad for _, bad in some):
            raise Broken("bad")
        return [number for number, _ in some]

    found = list(halved(ask_all, items))
    assert len(found) == len(items)
    for (number, bad), answer in zip(items, found, strict=True):
        assert isinstance(answer, Broken) or (answer == number and not bad)
        if sum(broken) <= repository.FAULTS:
            assert isinstance(answer, Broken) == bad


def test_halving_gives_up_where_all_is_broken():
    asked = []

    def ask_all(some):
        asked.append(len(some))
        raise Broken("bad")

    assert len(list(halved(ask_all, list(range(4096))))) == 4096
    assert len(asked) < 50


def test_blobs_beyond_the_room_are_refused(tmp_path):
    root = make(tmp_path / "r", {"a": "x" * 100}) / ".git"
    name = ask(root, "rev-parse", "HEAD:a").decode().strip()
    assert sizes(root, [name, "0" * 40]) == {name: 100}
    assert blobs(root, [name], 100) == {name: b"x" * 100}
    for room in (0, 99):
        with pytest.raises(Broken, match="git-too-large"):
            blobs(root, [name], room)
    with pytest.raises(Broken, match="git-broken"):
        blobs(root, [name, "0" * 40], 100)
    with pytest.raises(Broken, match="git-too-large"):
        ask(root, "cat-file", "blob", name, room=99)


def test_a_command_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    root = make(tmp_path / "r")
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(repository, "PATIENCE", 0.2)
    with pytest.raises(Broken, match="git-broken"):
        ask(root, "status")


def test_a_machine_without_git_is_told_so(tmp_path, monkeypatch):
    root = make(tmp_path / "r")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="not installed"):
        ask(root, "status")
