"""A value without quotes is whole, or not found: never one half of it."""

import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii.detect import candidates

HEAD, TAIL = "qT7wYz", "M81vK7hb"  # of passwords that are nobody's
SETTINGS = [
    "DB_PASSWORD={}\n",
    "export DB_PASSWORD={}\n",
    "password={}\n",
    "[db]\nuser = x\npassword = {}\nhost = h\n",
    "db.password={}\r\n",
    "db:\n  user: x\n  password: {}\n  host: h\n",
    "- password: {}\n",
    "# db_password: {}",
    "spring.datasource.password = {}\nspring.x = y\n",
]


def found(text: str, labels: tuple[str, ...] = ("PASSWORD",)) -> list[str]:
    spans = candidates([text], labels)[0]
    return [text[s.start : s.end] for s in resolve(s for s in spans if s.confidence >= SURE)]


@pytest.mark.parametrize("template", SETTINGS)
@pytest.mark.parametrize("sign", "&\"'`(),|;<>[]{}=\\$%#@*^~?:/!+")
def test_signs_in_settings(sign, template):
    for value in (f"{HEAD}{sign}{TAIL}", f"hunter22{sign}co9", f"a{sign}{TAIL}"):
        assert found(template.format(value)) == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"GET /login?user=u&password={HEAD}{TAIL}&next=1", HEAD + TAIL),
        (f"user=u&password={HEAD}{TAIL}&next=1", HEAD + TAIL),
        (f'"Server=h;Uid=u;Pwd={HEAD}&{TAIL};Database=d"', f"{HEAD}&{TAIL}"),
        (f"Server=h;Password={HEAD}{TAIL};Database=d", HEAD + TAIL),
        (f"curl -d 'password={HEAD}{TAIL}' h.io", HEAD + TAIL),
        (f'run "x --password={HEAD}{TAIL}"|tail', HEAD + TAIL),
        (f"<db:password>{HEAD}{TAIL}</db:password>", HEAD + TAIL),
        (f"<password>{HEAD}&amp;{TAIL}</password>", f"{HEAD}&amp;{TAIL}"),
        (f'<password plain="yes">{HEAD}"{TAIL}</password>', f'{HEAD}"{TAIL}'),
        (f"<password>\n  {HEAD}{TAIL}\n</password>", HEAD + TAIL),
        (f"{{user: u, password: {HEAD}{TAIL}, host: h}}", HEAD + TAIL),
        (f"db: {{password: {HEAD}{TAIL}}}", HEAD + TAIL),
        (f"password{' ' * 60}= '{HEAD}{TAIL}'", HEAD + TAIL),
        (f"password:{' ' * 60}{HEAD}{TAIL}\n", HEAD + TAIL),
        ("  password: cVQ3d1l6TTgxdks3aGI=\n", "cVQ3d1l6TTgxdks3aGI="),
        (f'"host=h user=u password={HEAD}&{TAIL} dbname=d"', f"{HEAD}&{TAIL}"),
        (f"machine h login u account a password {HEAD},{TAIL}\n", f"{HEAD},{TAIL}"),
        (f"machine h\n  login u\n  password a&{TAIL}\n", f"a&{TAIL}"),
    ],
)
def test_what_ends_a_value_is_told_by_its_place(text, value):
    assert found(text) == [value]


def test_what_a_shell_adds_to_a_quoted_value():
    assert found(f'DB_PASSWORD="{HEAD}M8"{TAIL}\n') == [f"{HEAD}M8", TAIL]
    assert found(f"DB_PASSWORD='{HEAD}M8'\"'\"'{TAIL}'\n") == [f"{HEAD}M8", TAIL]
    assert found(f'x = f(password="{HEAD}{TAIL}"if y else z)\n') == [HEAD + TAIL]


@pytest.mark.parametrize(
    "text",
    [
        "password = get(first9, second9)\n",
        "password = decrypt(a1b2c3d4)\n",
        "password = row[a1b2c3d4]\n",
        "password = first9 | second9;\n",
        "password=foo9(bar)",
        "f(password=first9, user=second9)",
        "password = x.y(z)[0] or 'none'\n",
        "password = qr/[\\x21\\x23-\\x27q7Z]/;\n",
        "if password==first9&&second9:\n",
        "PASS=$(cat /run/secrets/x9 | head -1)\n",
        "let password: Option<String9> = None;\n",
        "password: Map<String, Value9>\n",
        "const {password, user9} = row9;\n",
        "password = {a1: b2, c3: d4}\n",
        "#define PASSWORD_FLAGS (1<<3|1<<4)\n",
        "if (password > 3) {\n  return x</y/.test(z);\n}",
        "{user: user9, password: pass9}",
        "For the account and password expiration functions\n",
    ],
)
def test_code_is_no_value(text):
    assert found(text) == []


def test_a_key_of_signs_in_settings():
    value = "dj-r#k8(q&z!7w=p@x2v)m9t^b4"
    assert found(f"SECRET_KEY={value}\n", ("KEY",)) == [value]
    assert found("my $token = qr/[\\x21\\x23-\\x27\\x2A\\x2B\\x5E-\\x7A]/;\n", ("KEY",)) == []


@pytest.mark.parametrize(
    "unit",
    ["password=a&", 'password=a"b', "pwd=a,b", "password=a(b", "password='a'b", "<password>a&amp;"],
)
def test_no_sign_is_looked_past_without_end(unit, amid):
    assert found(amid(unit, unit[-1])) == []
