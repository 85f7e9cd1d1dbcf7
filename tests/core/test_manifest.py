from pathlib import Path

import pytest

from starkiln.core import manifest
from starkiln.core.errors import UserError
from starkiln.core.manifest import Identity, Manifest


def identity(**settings: object) -> Identity:
    return Identity("table", [{"name": "f", "version": 1, "settings": settings}], {"up": "abc"})


def test_round_trip(tmp_path: Path) -> None:
    made = Manifest(identity(x=0.5), rows=3, drops={"f:long": 1}, facts={"tokens": 9})
    manifest.write(tmp_path, made)
    first = (tmp_path / "manifest.json").read_bytes()
    assert manifest.read(tmp_path) == made
    manifest.write(tmp_path, made)
    assert (tmp_path / "manifest.json").read_bytes() == first


def test_fingerprint_depends_on_every_part() -> None:
    base = identity(x=1)
    others = [
        identity(x=2),
        identity(y=1),
        Identity("other", base.stages, base.inputs),
        Identity("table", base.stages, {"up": "abd"}),
    ]
    assert len({i.fingerprint for i in [base, *others]}) == 5


def test_difference_is_readable() -> None:
    old, new = (
        identity(x=0.7, same=1),
        Identity("table", identity(x=0.8, same=1).stages, {"up": "z"}),
    )
    assert manifest.difference(old, new) == ["f.x 0.7 -> 0.8", "input up changed"]


@pytest.mark.parametrize("text", ["", "{", "{}", '{"format": 1}'])
def test_damage_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        manifest.read(tmp_path)


def test_other_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99, expected 1"):
        manifest.read(tmp_path)


def test_absent_is_none(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None
