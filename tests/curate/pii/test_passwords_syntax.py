"""Passwords in the syntax of many languages and tools, and what looks like one and is none."""

import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii.detect import candidates

VALUE = "Zt47kwQ9rHm"  # nobody's


def found(text: str, label: str = "PASSWORD") -> list[str]:
    (spans,) = candidates([text], [label])
    return [text[s.start : s.end] for s in resolve(spans) if s.confidence >= SURE]


@pytest.mark.parametrize(
    "text",
    [
        'const PASSWORD: &str = "{}";',
        'static DB_PASSWORD: &\'static str = "{}";',
        'let password = String::from("{}");',
        '    password: Some("{}".to_string()),',
        'char password[] = "{}";',
        'static char passwd[32] = "{}";',
        'std::string password{{"{}"}};',
        'password <- "{}"',
        'var password string = "{}"',
        'const dbPassword string = "{}"',
        'const password: []const u8 = "{}";',
        'Dim password As String = "{}"',
        'public string Password {{ get; set; }} = "{}";',
        'public string Password {{ get; private set; }} = "{}";',
        "DB_PASSWORD := {}\n",
        "DB_PASSWORD ?= {}\n",
        "$password = getenv('DB_PASSWORD') ?: '{}';",
        "ENV['DB_PASSWORD'] ||= '{}'",
        'password: str = Field(default="{}")',
        '{{password, "{}"}}',
        "CREATE USER kim IDENTIFIED BY {};",
        "INSERT INTO users (name, password) VALUES ('kim', '{}');",
        "INSERT INTO `u` (`id`, `password`, `role`) VALUES (1, '{}', 'x')",
        "insert into u (password, at)\nvalues\n  ('{}', now())",
        "root:{}@tcp(127.0.0.1:3306)/db\n",
        "kubectl create secret generic x --from-literal=password={}\n",
        'psk="{}"',
        "env: DB_PASSWORD={} PATH=/bin\n",
        "**Password:** {}\n",
        'DB_PASS_PROD = "{}"',
        'password_staging = "{}"',
        'passwordForReports = "{}"',
        'contraseña = "{}"',
        'clave = "{}"',
        'mot_de_passe = "{}"',
        'пароль = "{}"',
        'Пароль: "{}"',
        "密码: {}\n",
        "密码：{}\n",
    ],
)
def test_syntax(text):
    assert found(text.format(VALUE)) == [VALUE]


@pytest.mark.parametrize(
    "name", ["ansible_become_pass", "rabbitmq_pass", "svc_pw", "POSTGRES_PASS"]
)
@pytest.mark.parametrize("link", ["=", ": "])
@pytest.mark.parametrize("text", ["{}{}{}\n", "port{1}1\n{0}{1}{2}\nhost{1}db1\n"])
def test_pass_among_settings(name, link, text):
    assert found(text.format(name, link, VALUE)) == [VALUE]


def test_every_row_of_an_insert():
    text = "INSERT INTO u (name, password) VALUES ('a', 'Zt47kwQ9rHm'), ('b, (c)', 'Hq8-vvT2x');"
    assert found(text) == ["Zt47kwQ9rHm", "Hq8-vvT2x"]


@pytest.mark.parametrize("head", ["v", "V", "x", "X", "es", "ps", "rs", "sa", "py", "us"])
@pytest.mark.parametrize("text", ['password = "{}"', "A=1\nDB_PASSWORD={}\n", "ftp://kim:{}@h.io/"])
def test_what_begins_as_a_version(head, text):
    value = f"{head}7wQ2rtHm9Lk"
    assert found(text.format(value)) == [value]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(end):
    text = end.join(["A=1", "DB_PASSWORD=Zt47&kwQ9r", "password: Hq8!vvT2x", "END"])
    assert found(text) == ["Zt47&kwQ9r", "Hq8!vvT2x"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_continued_line(end):
    text = f"DB_PASSWORD=Zt47kwQ9\\{end}rHm2LpXb\\{end}Vn3{end}B=2\n"
    assert found(text) == ["Zt47kwQ9", "rHm2LpXb", "Vn3"]


@pytest.mark.parametrize("next_", ["--host=h", "HOST=h", "$HOST"])
def test_another_argument_continues_nothing(next_):
    assert found(f"DB_PASSWORD=Zt47kwQ9rHm\\\n{next_}\n") == [VALUE]


@pytest.mark.parametrize(
    "value",
    [
        "Copper-Canyon-Otter",
        "monkey614",
        "?Copper22x",
        "%Zt47kwQ9rHm",
        "^Zt47kwQ9rHm",
        "*Zt47kwQ9rHm",
        "Zt47k%dwQ9rHm",
        "w1nt3Rf3ll: 7xyz#4",
    ],
)
def test_quoted_value(value):
    assert found(f'db:\n  password: "{value}"\n  port: 1\n') == [value]


@pytest.mark.parametrize("value", ["Zt47kwQ9&rH#mQ?bO", "}Zt4[kw7Q9rHmX2Lp,", "Zt4>kw7Q9r|HmX2Lp&"])
def test_whole_line(value):
    assert found(f"A=1\nDB_PASSWORD={value}\nB=2\n") == [value]


@pytest.mark.parametrize("user", ["kim", "kim@corp.io", "kim%40corp.io"])
@pytest.mark.parametrize("value", ["Copper42#", "Copper42?x"])
def test_raw_signs_in_a_url(user, value):
    assert found(f"smtp://{user}:{value}@h.io:25/") == [value]
    assert found("http://localhost:8080#kim@h.io http://localhost:8080?to=kim@h.io") == []


@pytest.mark.parametrize(
    "value",
    [
        *("string?", "String!", "str?", "string|null", "required|string", "required|min:8|max:64"),
        *("min:8", "type:string", "string,required", "@string/password", "nullable|min:6"),
        *("required_if:kind,1", "sameAs:pw1", "varchar64", "col-md-6", "step2", "input1"),
        *("pw_input_1", "3-password-reset", "x509v3", "v2beta1", "sha256", "utf8mb4", "es2015"),
        *("x86_64", "%d users, 3 left", "^[a-zA-Z0-9]{8,}$", "Must be 8 chars", "At least 8"),
    ],
)
@pytest.mark.parametrize("text", ['{{"password": "{0}", "a": "{0}"}}', "password: '{0}',\n"])
def test_none(text, value):
    assert found(text.format(value)) == []


@pytest.mark.parametrize(
    "text",
    [
        "password = 84736251\n",
        "db_password=84736251\n",
        "passwd: int = 84736251\n",
        "port = 5\npassword = 84736251\nlive = true\n",
        "self.password=84736251\n",
        "var password string = name",
        "PASSWORD := $(shell pass show x9)\n",
        "password := other9x\n",
        "clave: valor\n",
        '"plugin.psk" = "unset"',
        "tokens identified by rfc2324 here",
        "INSERT INTO u (name, password) VALUES (?, ?)",
        "INSERT INTO u (name, password) VALUES ('Zt47kwQ9rHm', NULL)",
    ],
)
def test_code(text):
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    ["DB_PASSWORD={}\n", "db.password={}\n", "[db]\nuser = kim\npassword = {}\n", "password: {}\n"],
)
def test_digits_among_settings(text):
    assert found(text.format("84736251")) == ["84736251"]


def test_echo_of_what_tells_alone():
    assert found('password = "Zt47kwQ9rHm"\nlogin("Zt47kwQ9rHm")\n') == [VALUE] * 2
    assert found('password = "harbour9"\nname = "harbour9"\n') == ["harbour9"]
