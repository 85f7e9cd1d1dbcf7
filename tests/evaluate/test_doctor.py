"""Which languages can be judged here, told without guessing."""

from dataclasses import replace

import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate import doctor, toolchains
from starkiln.evaluate.sandbox import Sandbox
from starkiln.evaluate.toolchains import RUNNERS

SH = RUNNERS["sh"]


@pytest.fixture(scope="module")
def sandbox():
    try:
        toolchain = toolchains.toolchain(SH)
    except UserError as error:
        pytest.skip(str(error))
    with Sandbox(SH.limits, toolchain=toolchain) as made:
        yield made


def test_a_language_that_is_here_is_ready(sandbox):
    assert doctor.check(SH, sandbox) == ""
    (row,) = doctor.diagnosis(["sh"])
    assert row == ("Bash", "ready", toolchains.version(SH), "")


def test_a_language_that_is_missing_names_its_command(monkeypatch):
    row = replace(SH, version=("no-such-shell", "--version"))
    monkeypatch.setitem(RUNNERS, "sh", row)
    assert doctor.diagnosis(["sh"]) == [
        ("Bash", "missing", "", f"apt-get install {' '.join(SH.apt)}")
    ]


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("}\nexit 0", "a right program is judged error: ended itself before its tests were done"),
        ("}\nno-such-tool || exit", "a right program is judged error: "),
        ("}\ntrue", "a wrong program is judged passed"),
        (
            '}\n[[ $(f 2) = "4" ]] || exit\nif false; then [[ $(f 2) = "6" ]]; fi\n'
            'if false; then [[ $(f 2) = "5" ]]; fi',
            "a right program is judged passed by counter-tests",
        ),
    ],
)
def test_a_language_that_judges_wrongly_is_not_ready(sandbox, tests, reason):
    row = replace(SH, check={**SH.check, "tests": tests})
    assert doctor.check(row, sandbox).startswith(reason)


def test_a_module_that_is_missing_is_told_by_name(monkeypatch):
    """The check needs what the tests of a benchmark need: Perl without Test::Deep is no Perl."""
    row = RUNNERS["pl"]
    if not toolchains.version(row):
        pytest.skip("perl is missing")
    tests = row.check["tests"].replace("Test::Deep", "Test::NotHere")
    monkeypatch.setitem(RUNNERS, "pl", replace(row, check={**row.check, "tests": tests}))
    (told,) = doctor.diagnosis(["pl"])
    assert "Test/NotHere.pm" in told.state
    assert told.install == "apt-get install perl libtest-deep-perl"


def test_every_language_has_a_row():
    assert [row.language for row in doctor.diagnosis([])] == []
    assert doctor.diagnosis.__defaults__ == (tuple(RUNNERS),)
