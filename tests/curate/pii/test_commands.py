import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii.detect import candidates

DRAWN, WORD = "kV7rmoq2", "sommerwind"


def found(text: str) -> list[str]:
    spans = candidates([text], ["PASSWORD"])[0]
    return [text[s.start : s.end] for s in resolve(s for s in spans if s.confidence >= SURE)]


@pytest.mark.parametrize("value", [DRAWN, WORD])
@pytest.mark.parametrize(
    "text",
    [
        "CREATE USER u IDENTIFIED BY '{}'",
        'ALTER USER u IDENTIFIED BY "{}";',
        "CREATE USER u IDENTIFIED WITH mysql_native_password BY '{}';",
        "ALTER USER u PASSWORD '{}';",
        "CREATE ROLE u LOGIN ENCRYPTED PASSWORD '{}';",
        "enable secret {}\n",
        "x\nusername kim password 0 {}\n",
        "ldapsearch -x -D cn=admin -w {} -b x\n",
        "redis-cli -h x -a {} ping\n",
        "unzip -P {} x.zip\n",
        "7z x -p{} x.7z\n",
        "htpasswd -bc /etc/x kim {}\n",
        "htpasswd -nb kim {}\n",
        "smbclient //h/s -U kim%{}\n",
        "net user kim {} /add\n",
        "lftp -u kim,{} h\n",
        "sqlplus kim/{}@orcl\n",
        "jdbc:oracle:thin:kim/{}@h:1521:x",
        "openssl passwd -1 {}\n",
        "rabbitmqctl add_user kim {}\n",
        "mysqladmin -u root password {}\n",
        "rootpw --plaintext {}\n",
        "d-i passwd/root-password password {}\n",
        "cmdkey /add:h /user:kim /pass:{}\n",
        "ACL SETUSER kim on >{} ~*",
        "kim:{{PLAIN}}{}:1000",
        '.password("{{noop}}{}")',
        "httpbin + '/basic-auth/kim/{}'",
        'ConvertTo-SecureString "{}" -AsPlainText -Force',
        "child.expect('assword:')\nchild.sendline('{}')",
        'bcrypt.hashpw(b"{}", salt)',
        "hashlib.pbkdf2_hmac('sha256', b'{}', b'salt', 1000)",
        'scrypt(b"{}", b"salt", 16)',
        'crypt("{}", salt)',
        "BCrypt::Password.create('{}')",
        "echo 'kim:{}' | chpasswd\n",
        "echo {} | sudo -S ls\n",
        'sql.Open("mysql", "kim:{}@tcp(127.0.0.1:3306)/db")',
        'ks.load(in, "{}".toCharArray());',
        "sshpass -p '{}' ssh h\n",
        "openssl rsa -passin pass:{} -in k\n",
        "db.h:5432:*:kim:{}\n",
        "db.h:5433:*:kim:{}\n",
        'ldapsearch -x -w "{}" -b x\n',
        "mysql -u root -p'{}' db\n",
        'sh("sshpass -p \\"{}\\" ssh h")',
        "curl --user 'kim:{}' h.io\n",
    ],
)
def test_the_form_of_a_command_tells_its_password(text, value):
    assert found(text.format(value)) == [value]


@pytest.mark.parametrize("sign", "&,;(")
@pytest.mark.parametrize(
    "text",
    [
        "ldapsearch -x -w '{}' -b x\n",
        'redis-cli -a "{}" ping\n',
        "mysql -u root -p{} db\n",
        "sshpass -p '{}' ssh h\n",
        "curl -u 'kim:{}' h.io\n",
        "curl -u kim:{} h.io\n",
        "echo 'kim:{}' | chpasswd\n",
        "net user kim {} /add\n",
        'sql.Open("mysql", "kim:{}@tcp(127.0.0.1:3306)/db")',
    ],
)
def test_a_sign_does_not_cut_a_word(text, sign):
    value = f"kV7r{sign}moq2x"
    assert found(text.format(value)) == [value]


def test_an_escape_and_a_quote_do_not_either():
    assert found("mysql -u root -pkV7r\\&moq2 db\n") == ["kV7r\\&moq2"]
    assert found('mysql -u root -pkV7r"moq2"x9 db\n') == ['kV7r"moq2"x9']
    assert found("db.h:5432:*:kim:kV7r\\:moq2\n") == ["kV7r\\:moq2"]
    assert found("mysql -u root -pkV7rmoq2 | cat; echo north9x\n") == ["kV7rmoq2"]
    assert found("mysql -u root -pkV7rmoq2</dump.sql\n") == ["kV7rmoq2"]
    assert found("poetry publish -u __token__ -p pypi-<token>\n") == []


@pytest.mark.parametrize(
    "text",
    [
        '// the block identified by "handle" is',
        "identified by its title9",
        "sshpass -p $PASS ssh h",
        "sshpass -p `get north9x` ssh h",
        "echo $user | passwd --stdin $user",
        'start = "abcdgh".toCharArray();',
        "\\thispagestyle{plain}opaque9",
        "get_salted_sha512_pbkdf2('entropy', x)",
        "root:*:0:0:daemon:0:0:Charlie:/root",
        "docker login --username kim --password-stdin h",
        "ldapsearch -x -W -b x",
        "authenticate(+Request, -UserOptions:list9) is det",
        "kim:{SSHA}q7Wm2ZtR9x",
        "/basic-auth/:user/:password9",
    ],
)
def test_others_have_none(text):
    assert found(text) == []
