"""Which protocol draws what, and for which tasks."""

import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate.printed import drawn
from starkiln.evaluate.protocol import PROTOCOLS, draws, stored
from starkiln.evaluate.settings import EvaluateSettings


def of(family, **keys):
    return draws(family, EvaluateSettings(**keys))


@pytest.mark.parametrize("family", ["humaneval", "mbpp"])
def test_the_prefix_of_the_first_version_is_for_python_functions(family):
    (draw,) = of(family, protocol="prompted")
    assert draw.path == "solutions/solution_1.py"
    assert draw.prefix.startswith("# Here is the correct")


@pytest.mark.parametrize("family", ["multiple", "ds1000", "infill", "infill-single", "my.jsonl"])
def test_the_prefix_is_refused_elsewhere(family):
    with pytest.raises(UserError, match=f"prompted: is for humaneval and mbpp, not for {family}"):
        of(family, protocol="prompted")
    assert of(family, protocol="paper", prefix="# do it\n")[0].prefix == "# do it\n"


@pytest.mark.parametrize("protocol", ["paper", "leaderboard", "api"])
def test_the_papers_ds1000_is_the_first_edition(protocol):
    (draw,) = of("ds1000", protocol=protocol)
    assert draw.returns
    assert "first edition" in drawn({**draw.__dict__, "k": [1]})
    (draw,) = of("ds1000", protocol=protocol, returns=False)
    assert not draw.returns
    assert not any(draw.returns for draw in of("humaneval", protocol=protocol, returns=True))


def test_quick_and_stored_are_the_last_edition_unless_told():
    assert [d.returns for d in of("ds1000")] == [False]
    assert [d.returns for d in of("ds1000", returns=True)] == [True]
    how = EvaluateSettings(returns=True)
    assert [d.returns for d in stored("ds1000", how)] == [True]
    assert [d.returns for d in stored("humaneval", how)] == [False]
    assert [d.returns for d in stored("ds1000", EvaluateSettings(protocol="paper"))] == [False]


def test_every_protocol_but_that_of_the_prefix_is_for_all_tasks():
    assert {name for name, table in PROTOCOLS.items() if "*" not in table} == {"prompted"}
