import base64

import pytest

from starkiln.code.spans import SURE, Span, resolve
from starkiln.curate.pii import wording
from starkiln.curate.pii.detect import candidates

# Passwords in several styles; none is anybody's.
MIXED, LEET, MARKS, WORD, LONG = (
    "kV7rmoq2",
    "w1nt3rf3ll",
    "Tr-4b!zo$n",
    "sommerwind",
    "Ab9" * 3 + "x!",
)


def told(text: str) -> list[Span]:
    return candidates([text], ["PASSWORD"])[0]


def found(text: str, sure: bool = True) -> list[str]:
    return [text[s.start : s.end] for s in resolve(told(text)) if s.confidence >= SURE or not sure]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('password = "{}"', WORD),
        ("self.db_passwd = '{}'", MIXED),
        ('{{"user": "u", "userPassword": "{}"}}', LEET),
        ("'pwd' => '{}',", MARKS),
        ('const password: string = "{}";', LONG),
        ("connect(host='h', password='{}', port=1)", MIXED),
        ('assert config.sudo.password == "{}"', WORD),
        ('set_password("{}")', MARKS),
        ("define('DB_PASSWORD', '{}');", MIXED),
        ('props.setProperty("password", "{}");', LEET),
        ('urlencode([("user", "u"), ("password", "{}")])', MIXED),
        ("PGPASSWORD={} psql -h db", MIXED),
        ("export MYSQL_PWD={}\n", LEET),
        ("docker run -e POSTGRES_PASSWORD={} pg", MIXED),
        ("password: {}\n", MIXED),
        ("  password: {}  # of the test server\n", MIXED),
        ("password = {}\n", MARKS),
        ("# password4 = {}\n", MARKS),
        ("cli --user u --password {} run", MIXED),
        ("mysql -u root -p{} db", MIXED),
        ("sshpass -p '{}' ssh h", MIXED),
        ("curl -u bob:{} https://h", MIXED),
        ("postgresql://u:{}@db:5432/x", WORD),
        ("https://u:{}@h/", "pa%40ss%2Fw7"),
        ("mongodb://u:{}@h/x", "q@w9@z"),
        ("machine h login u password {}\n", MIXED),
        ("db.h:5432:*:u:{}\n", MIXED),
        ("CREATE USER u IDENTIFIED BY '{}'", MIXED),
        ("ALTER ROLE u PASSWORD '{}'", MIXED),
        ("userPassword: {}\n", MIXED),
        ('"Server=h;Uid=u;Pwd={};"', MIXED),
        ('requests.get(u, auth=("joe", "{}"))', MIXED),
        ('HTTPBasicAuth("joe", "{}")', LEET),
        ('client.login("joe", "{}")', MIXED),
        ('User.objects.create_user("joe", "j@h.io", "{}")', MIXED),
        ('<user name="u" password="{}"/>', MARKS),
        ("<password>{}</password>", MIXED),
        ("The default password is '{}'.", MIXED),
        ("https://h/login?user=u&password={}&x=1", MIXED),
        ('\\"password\\": \\"{}\\"', MIXED),
        ('\\\\\\"password\\\\\\": \\\\\\"{}\\\\\\"', MIXED),
        ("password: |\n  {}\n", MIXED),
        ("- password: >-  # folded\n    {}\n", WORD),
        ("password = <<~EOS\n  {}\nEOS\n", MIXED),
        ("PASSWORD=$(cat <<'EOF'\n{}\nEOF\n)\n", MIXED),
        ("read -r PASSWORD <<EOF\n{}\nEOF\n", MIXED),
        ('password = """{}"""', WORD),
        ("password = '''\n    {}\n'''", MIXED),
        ('password = textwrap.dedent("""\n  {}\n""")', MIXED),
        ("password = \\\n    '{}'", MIXED),
        ("<password><![CDATA[{}]]></password>", MIXED),
        ('<password plain="yes">{}</password>', MIXED),
        ('<string name="db_password">{}</string>', MIXED),
        ("&quot;password&quot;: &quot;{}&quot;", MIXED),
        ("[db]\npassword = {}\nhost = h\n", WORD),
        ("user: kim\npasswd: {}\n", WORD),
        ("user = kim\npassword = {}\n", MIXED),
        ("enable secret {}\n", WORD),
        ("username kim secret 0 {}\n", MIXED),
        ('login("h.io", "kim", "{}")', MIXED),
        ('auth=("kim", "{}")', WORD),
        ("HTTPBasicAuth('kim', '{}')", WORD),
        ('creds = ("h.io", "kim", "{}")', MIXED),
        ("new mysqli('h', 'kim', '{}', 'db')", MIXED),
        ("amqp://kim:{}@h.io/x", "482915"),
        ("amqp://kim:{}@<host>/x", MIXED),
        ('requirepass "{}"', WORD),
        ("requirepass {}\n", WORD),
        ('AuthPassword "{}"', WORD),
        ("AuthPassword {}\n", MIXED),
        ("tool --user kim --password {} x", WORD),
        ("keytool -storepass {} -list", MIXED),
        ("openssl rsa -passin pass:{} -in k", MIXED),
        ("USER kim\r\nPASS {}\r\n", WORD),
        ("s.send(b'USER kim\\r\\n'); s.send(b'PASS {}\\r\\n')", MIXED),
        ("a1 LOGIN kim {}\r\n", WORD),
        ('password = "{}"', "9f8ad081884c7d659a2fea40c57ad015"),
    ],
)
def test_context(text, value):
    assert found(text.format(value)) == [value]


@pytest.mark.parametrize(
    "text",
    [
        "password = getpass()",
        "password = self.password",
        "password=password",
        'password = os.environ["DB_PASSWORD"]',
        'password = getpass("Password: ")',
        'get_password("system9x")',
        "password: string;",
        "password: user_password, scope: scope_2",
        "WITH_PASSWORD = 0x200",
        'password = "${DB_PASSWORD}"',
        'password: "{{ vault_pw }}"',
        'password = "%s" % pw1',
        'password = "<password>"',
        'password: "********"',
        'password = "changeme..."',
        'type="password" name="password"',
        '"password": "Enter your password"',
        '"password": "Passwort"',
        '"password": "Пароль"',
        'password_hash = "$2b$12$abcDEF123"',
        'password = "{SSHA}q7Wm2ZtR9x"',
        "('username', 'password', 'email2')",
        'fields = ["password", "full_name9"]',
        'password_regex = "^[a-z]{8,}1$"',
        'passwordLabel = "label9x7"',
        'compass = "north9x"',
        "http://host:8080/a@b",
        "https://u:$PASS@h/",
        "git@host:path/x.git",
        "mkdir -p build9x",
        'auth = ("MD5", "SHA-512")',
        'password.encode("utf-8")',
        'passwords = {"shape7": "x9"}',
        "user = CharField2\npassword = PasswordField2\nhost = x\n",
        'password = "PasswordField2"',
        "password: PasswordInput2\n",
        "password = Argon2Hasher2()",
        "password: |\n  Enter your password here, please\n",
        'password = """\nOf the user whose name9 is above.\n"""',
        "<password><![CDATA[Enter it9 here]]></password>",
        "<password>${db.password9}</password>",
        '<label for="user">password</label> <b>north9x</b>',
        "if (pass == 2) render_pass('opaque7')",
        "Pass `override1` to it",
        "word1 = f()\nuser = kim\npassword = word1\n",
        "tidings = f()\nuser = kim\npassword = tidings\n",
        "def f(password):\n    self.password = tidings\n",
        "PASS winter9x\nFAIL winter8x",
        "enable secret 5 abcdef9x",
        "http://h.io:8080@x",
        "Enter the\npassword again\n",
        "use --password option",
        'password_md5 = "9f8ad081884c7d659a2fea40c57ad015"',
        'password = md5("9f8ad081884c7d659a2fea40c57ad015")',
        'login("page", "north", "opaque")',
    ],
)
def test_no_password(text):
    assert found(text) == []


@pytest.mark.parametrize("value", ["password", "secret", "test1", "admin", "123456", "new_pass"])
def test_trivial_values_are_weak(value):
    text = f'password = "{value}"'
    spans = told(text)
    assert [(text[s.start : s.end], s.reason) for s in spans] == [(value, wording.WEAK)]
    assert spans[0].confidence < SURE


def test_base64_in_ldif():
    value = base64.b64encode(MIXED.encode()).decode()
    assert found(f"userPassword:: {value}\n") == [value]
    assert found(f"userPassword:: {base64.b64encode(b'secret').decode()}\n") == []


def test_the_same_value_elsewhere_in_quotes():
    text = f'password = "{MIXED}"\nlogin = f("{MIXED}")\nfree {MIXED} text'
    assert found(text) == [MIXED, MIXED]


def test_candidates_stay_below_sure():
    text = 'passphrase = "grey horse"'
    assert found(text) == []
    assert found(text, sure=False) == ["grey horse"]


def test_words_drawn_by_dice_are_a_password():
    assert found('passphrase = "correct horse battery staple"') == ["correct horse battery staple"]
    assert found('password = "the words that you must enter"') == []


@pytest.mark.parametrize(
    "text",
    [
        "PW={}\n",
        "url.password = '{}'",
        "auth: 'kim:{}'",
        "curl_setopt($ch, CURLOPT_USERPWD, 'kim:{}');",
        "curl --proxy-user kim:{} http://h",
        'ssh.connect("h", 22, "kim", "{}")',
        '.basic_auth("kim", Some("{}"))',
        'new PasswordAuthentication("kim", "{}".toCharArray())',
        "user.authenticate_password('{}')",
    ],
)
def test_further_forms(text):
    assert found(text.format(MIXED)) == [MIXED]


def test_settings_need_no_value_that_is_drawn():
    for text in (
        "PW=winterwort\n",
        "db:\n  password: winterwort\n",
        'basic_authenticate_with name: "Kim", password: "Winterwort"',
    ):
        assert [one.lower() for one in found(text)] == ["winterwort"], text


def test_edges_and_offsets():
    assert found(f"pwd={MIXED}") == [MIXED]
    text = f"пароль: Ω\npassword = '{MIXED}'"
    assert found(text) == [MIXED]


@pytest.mark.parametrize(
    ("unit", "filler", "wanted"),
    [
        ("password=", "=", None),
        ('pass="', '"', None),
        ("://", "/", None),
        ("://a:b", "b", None),
        ("a:@", ":", None),
        ("password ", " ", None),
        (f'password = "{MIXED}"\n', "\n", MIXED),
        ("mysql -p", "p", None),
        ('auth("a",', ",", None),
        ("a = b\npassword = winterwort\n", "\n", None),
        ("USER kim\r\nPASS winterwort\r\n", "\n", "winterwort"),
        ('login("h", "u", ', " ", None),
        ('password = "' + "1234" * 49 + 'x"\n', "\n", None),
        ('password = "' + "apasstestax" * 18 + '-"\n', "x", "apasstestax" * 18 + "-"),
        ("password: |\n", "  a\n", None),
        ('<password a=""', "a", None),
        ("password=<<", "a", None),
    ],
)
def test_no_rule_reads_on_without_end(unit, filler, wanted, amid):
    text = amid(unit, filler)
    assert found(text) == ([wanted] * text.count(unit) if wanted else [])


def test_many_values_are_looked_for_nearby():
    """Each of them again in the whole text would take an hour."""
    values = [f"q{number}w7" for number in range(10_000, 30_000)]
    text = "".join(f'password = "{value}"\n' for value in values) + " " * 50_000_000
    assert found(text) == values


def test_a_mailbox_may_be_the_login_of_a_url() -> None:
    secret = "tR4n" + "sp0rt!9"
    text = f"proxy = http://kim.lee@corp.io:{secret}@proxy.corp.io:8080/"
    assert secret in found(text)
    assert not told("http://kim@corp.io:8080/a")


def test_a_mark_that_cannot_be_seen_hides_no_password() -> None:
    for text in (
        f"password\u202e = '{MIXED}'",
        f"pass\u200bword='{MIXED}'",
        f"pwd =\u2067 '{MIXED}'",
    ):
        assert found(text) == [MIXED], ascii(text)


def test_a_fragment_is_no_part_of_a_password() -> None:
    assert found(f"GET /login?user=kim&password={MIXED}#top") == [MIXED]
    assert found(f"PASSWORD={MIXED}#top") == [f"{MIXED}#top"]


@pytest.mark.parametrize("word", ["PSWD", "Pswrd", "psswd", "paswd", "psw", "pwd"])
def test_abbreviations_of_the_word_are_none(word):
    assert found(f'"password": "{word}"') == []
