"""A secret in several string literals."""

import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii.detect import candidates
from starkiln.curate.pii.literals import pieces, spliced

ONE, TWO = "qT7wYzM8", "vK7hb9!x"  # of passwords that are nobody's
KEY = "q8Zt4nW2kLp0VdRyB7sXm3Fa"


def found(text: str, label: str = "PASSWORD") -> list[str]:
    spans = candidates([text], [label])[0]
    return [text[s.start : s.end] for s in resolve(s for s in spans if s.confidence >= SURE)]


@pytest.mark.parametrize(
    "text",
    [
        'password = "{}" + "{}"',
        'password = "{}" \\\n    "{}"',
        "password = ('{}'\n            '{}')",
        "$password = '{}' . '{}';",
        'local password = "{}" .. "{}"',
        'password: "{}" +\n  "{}",',
        'Dim pwd = "{}" & "{}"',
        "{{'password': '{}' + \"{}\"}}",
        'set_password("{}" + "{}")',
        'char *password = "{}"\n  "{}";',
        'password = f"{}" f"{}"',
    ],
)
@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), ("sommer", "wind9")])
def test_a_password_is_judged_by_all_of_its_pieces(text, one, two):
    assert found(text.format(one, two)) == [one, two]


def test_no_bit_of_it_stays():
    """Redaction leaves what is shorter than four characters: not here."""
    assert found('password = "qT" + "7wYzM8v"') == ['qT" + "7wYzM8v']


@pytest.mark.parametrize(
    "text",
    ['login("kim", "{}" + "{}")', 'auth=("kim", "{}" + "{}")', 'h.get("password") or "{}" + "{}"'],
)
def test_further_pieces_where_no_name_stands(text):
    assert found(text.format(ONE, TWO)) == [ONE, TWO]


@pytest.mark.parametrize(
    "text",
    [
        'password = "" + name + "first9"',
        'log("password: " + "enter it9")',
        '"password": "Password" + "\\n" + "second9"',
        'password = "label" + separator',
    ],
)
def test_what_is_added_to_no_password_is_none(text):
    assert found(text) == []


def test_the_next_name_or_argument_is_no_piece():
    assert found(f'password: "{ONE}"\n"user": "kim9"\n') == [ONE]
    assert found(f'tool --password "{ONE}" "other"\n') == [ONE]
    assert found(f'PGPASSWORD="{ONE}" "psql" -h h\n') == [ONE]
    assert found(f'f("{ONE}", password="{TWO}", x="y9")') == [TWO]


@pytest.mark.parametrize("join", ['" + "', '"\n  "', '" . "', '" \\\n "'])
def test_a_key_in_pieces(join):
    parts = [KEY[:8], KEY[8:16], KEY[16:]]
    assert found(f'api_key = "{join.join(parts)}"', "KEY") == parts
    assert found(f'SECRET = "{join.join(parts[:2])}"', "KEY") == parts[:2]


def test_what_is_unlike_a_key_is_no_piece_of_one():
    assert found(f'token = "{KEY}" + "/path/of/it"', "KEY") == [KEY]
    pattern = 'token = r"((?:[nN][oO][tT][eE])-(?:ptBR|zhCN|"\n  r"enCN|frFR|deDE|itIT|esMX))"'
    assert found(pattern, "KEY") == []


BODY = "D7N2kHD9FSUuErsEz5jhy0I9lO7F3vlfFrGY"


@pytest.mark.parametrize("join", ['" + "', "' '", '" \\\n  "', '" . "'])
@pytest.mark.parametrize("cut", [0, 10, 30])
def test_a_provider_s_key_in_pieces(join, cut):
    head, tail = "ghp_" + BODY[:cut], BODY[cut:]
    quote = join[-1]
    assert found(f"x = {quote}{head}{join}{tail}{quote}", "KEY") == [head, tail]


def test_prefixes_and_other_literals_are_no_key():
    assert found('x = "ghp_" + "token"', "KEY") == []
    assert found(f'x = "ghp_", "{BODY}"', "KEY") == []
    assert found(f'x = "AKIA" + f("{BODY}")', "KEY") == []


def test_templates():
    assert found(f'password = f"{{a}}{ONE}{TWO}"') == [f"{{a}}{ONE}{TWO}"]
    assert found(f'PASSWORD="${{PRE}}{ONE}{TWO}"\n') == [f"${{PRE}}{ONE}{TWO}"]
    assert found(f'token = f"{KEY}{{x}}"', "KEY") == [f"{KEY}{{x}}"]
    for text in (
        'password = f"{user}_pass9"',
        'password = f"{a}{b}"',
        'password = "{SSHA}q7Wm2Zt"',
    ):
        assert found(text) == [], text
    assert found('token = f"{prefix}-token-{x1}"', "KEY") == []


def test_pieces_and_what_they_make():
    text = '"ab12" + \'cd34\' . "ef"'
    assert [text[p.start : p.end] for p in pieces(text, 5)] == ["cd34", "ef"]
    assert [p.operator for p in pieces(text, 5)] == ["+", "."]
    assert spliced(text, 1) == ("ab12cd34ef", [(1, 5), (10, 14), (19, 21)])
    assert spliced('"ab12", "cd"', 1) == ("", [])


@pytest.mark.parametrize("unit", ['password="a" + ', '"ghp_" "', 'password = "a1b2" "c3d4" '])
def test_no_literal_leads_to_others_without_end(unit, amid):
    found(amid(unit, '"'))
    found(amid(unit, " "), "KEY")
