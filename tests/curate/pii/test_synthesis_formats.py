import base64
import ipaddress
import json
import re
import uuid
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.core.errors import UserError
from starkiln.curate.pii.synthesis import formats, people
from starkiln.curate.pii.synthesis.draws import Draws
from starkiln.curate.pii.synthesis.formats import SLOTS
from starkiln.curate.pii.synthesis.makers import Scene

KNOWN = formats.read()
SHAPES = {  # written out once more, independently of the table
    ("key", "aws-id"): r"A[KS]IA[A-Z2-7]{16}",
    ("key", "aws-secret"): r"[A-Za-z0-9+/]{40}",
    ("key", "github"): r"gh[pousr]_[A-Za-z0-9]{36}",
    ("key", "github-fine"): r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    ("key", "gitlab"): r"glpat-[\w-]{20}",
    ("key", "slack"): r"xox[bpa]-\d{11,12}-\d{12,13}-[A-Za-z0-9]{24}",
    ("key", "google"): r"AIza[\w-]{35}",
    ("key", "sendgrid"): r"SG\.[\w-]{22}\.[\w-]{43}",
    ("key", "npm"): r"npm_[A-Za-z0-9]{36}",
    ("key", "telegram"): r"\d{9,10}:AA[\w-]{33}",
    ("key", "huggingface"): r"hf_[A-Za-z]{34}",
    ("key", "azure-storage"): r"[A-Za-z0-9+/]{86}==",
    ("key", "age"): r"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}",
    ("key", "wireguard"): r"[A-Za-z0-9+/]{43}=",
    ("key", "wif"): r"[KL][1-9A-HJ-NP-Za-km-z]{51}",
    ("key", "totp"): r"[A-Z2-7]{16,32}",
    ("key", "hex-md5"): r"[0-9a-f]{32}",
    ("key", "ethereum"): r"(?:0x)?[0-9a-f]{64}",
    ("pem", "openssh"): r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=\n]+",
    ("hook", "slack"): r"T[A-Z0-9]{8,10}/B[A-Z0-9]{8,10}/[A-Za-z0-9]{24}",
    ("bytes", "hex"): r"(?:\\x[0-9a-f]{2}){8}",
    ("octets", "list"): r"0x[0-9a-f]{2}(?:, 0x[0-9a-f]{2}){7}",
    ("password", "Word-digits"): r"[A-Z][a-z]+\d{2,4}[!@#$%^&*\-_=+?]?",
    ("email", "dotted"): r"[a-z]+\.[a-z]+@[a-z0-9.-]+\.[a-z]{2,3}",
    ("username", "dash"): r"[a-z]+-[a-z]+",
    ("name", "shorter"): r"\w\. \w\. .+",
}


def scene(seed, **more):
    draws = Draws("test", seed)
    return Scene(draws, people.person(draws), **more)


def row(slot, name):
    return next(r for r in KNOWN.rows if (r.slot, r.name) == (slot, name) and r.label is not None)


@pytest.mark.parametrize(("place", "shape"), SHAPES.items())
@given(seed=st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_values_have_the_shape_that_their_format_has(place, shape, seed):
    value = row(*place).draw(scene(seed))
    assert re.fullmatch(shape, value), value


@pytest.mark.parametrize("slot", sorted({row.slot for row in KNOWN.rows}))
def test_every_row_gives_values_that_stand_on_one_line(slot):
    for one in (row for row in KNOWN.rows if row.slot == slot):
        drawn = [one.draw(scene(seed)) for seed in range(12)]
        assert all(value and value == value.strip() for value in drawn), one
        if slot not in ("pem", "certificate"):
            assert all(value.isprintable() for value in drawn), one


def test_there_are_formats_enough_and_values_on_both_sides():
    providers = [r for r in KNOWN.rows if r.slot == "key" and r.label and len(r.fields)]
    assert len(providers) >= 60
    assert {r.label for r in KNOWN.rows} == {*SLOTS.values(), None, "unsure"}
    for slot in ("key", "pem", "password", "email", "ip", "name", "username"):
        assert slot in KNOWN.real
        assert slot in KNOWN.other


@given(seed=st.integers(0, 10**9), name=st.sampled_from(["github", "npm"]))
@settings(max_examples=40, deadline=None)
def test_checksums_are_right(seed, name):
    body = row("key", name).draw(scene(seed)).rpartition("_")[2]
    order = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for character in body[-6:]:
        number = number * 62 + order.index(character)
    assert number == zlib.crc32(body[:-6].encode())


@given(seed=st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_tokens_decode(seed):
    head, body, signature = row("key", "jwt").draw(scene(seed)).split(".")
    decoded = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (head, body)]
    assert json.loads(decoded[0])["typ"] == "JWT"
    assert json.loads(decoded[1])["sub"].isdigit()
    assert len(signature) >= 43
    assert uuid.UUID(row("key", "uuid").draw(scene(seed))).version == 4
    assert b":" in base64.b64decode(row("basic", "pair").draw(scene(seed)))


@given(seed=st.integers(0, 10**9))
@settings(max_examples=40, deadline=None)
def test_addresses_are_of_their_class(seed):
    def address(name, slot="ip"):
        return ipaddress.ip_address(row(slot, name).draw(scene(seed)))

    assert address("public").is_global
    assert address("private").is_private
    assert address("multicast").is_multicast
    assert address("public-6").version == 6
    assert address("link-6").is_link_local
    assert address("mapped").ipv4_mapped
    assert address("documentation-6") in ipaddress.ip_network("2001:db8::/32")
    assert address("documentation").is_private
    assert address("link", "long-ip").version == 6


def test_a_private_key_is_in_lines_of_64_and_joins_as_it_is_told():
    lines = row("pem", "rsa").draw(scene(1, joint="\\n")).split("\\n")
    assert len(lines) > 10
    assert {len(line) for line in lines[:-1]} == {64}
    assert base64.b64decode("".join(lines)[:64])


def test_names_come_from_many_countries_and_scripts():
    drawn = [KNOWN.real["name"].draw(s).draw(s) for s in map(scene, range(3000))]
    assert len(set(drawn)) > 2500
    other = sum(any(c.isalpha() and ord(c) > 0x36F for c in name) for name in drawn) / len(drawn)
    assert 0.03 < other < 0.12
    assert any(name.isupper() for name in drawn)
    assert any("-" in name for name in drawn)
    assert any(re.search(r" [A-Z]\. ", name) for name in drawn)
    assert any(", " in name for name in drawn)


def test_a_seed_gives_the_same_values_again():
    first = [r.draw(scene(7)) for r in KNOWN.rows]
    assert first == [r.draw(scene(7)) for r in KNOWN.rows]
    assert first != [r.draw(scene(8)) for r in KNOWN.rows]


OWN = """
[alphabets]
vowel = "aeiou"

[lists]
colour = "red green blue"

[key]
acme = { pattern = "acme_{live|test}_{vowel:20}", fields = "acme_key", weight = 1000000 }

[none.key]
ticket = "ACME-{colour}-{digit:4}"
"""


def test_a_user_adds_formats(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace("1000000", "99999"))
    known = formats.read(str(path))
    values = [known.real["key"].draw(s).draw(s) for s in map(scene, range(40))]
    assert sum(bool(re.fullmatch(r"acme_(live|test)_[aeiou]{20}", v)) for v in values) > 35
    ticket = next(r for r in known.rows if r.name == "ticket")
    assert ticket.label is None
    assert re.fullmatch(r"ACME-(red|green|blue)-\d{4}", ticket.draw(scene(1)))
    assert "acme_key" in known.fields["key"]
    assert len(known.rows) == len(KNOWN.rows) + 2


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[key]\nacme = 'x{bas62:20}'", 2, "did you mean {base62}"),
        ("\n\n[key]\nacme = '{base62:20-10}'", 4, "is no count"),
        ("[key]\nok = 'a'\nacme = 'a{b'", 3, "is alone"),
        ("[key]\nacme = { fields = 'a' }", 2, "no pattern"),
        ("[key]\nacme = { pattern = 'a', size = 2 }", 2, "'size' is no part"),
        ("[key]\nacme = { pattern = 'a', weight = 0 }", 2, "no positive number"),
        ("[key]\nacme = { pattern = 'a', fields = ['b'] }", 2, "fields are no string"),
        ("[key]\nacme = '{ipv4:office}'", 2, "public, private"),
        ("[key]\nacme = '{walk:a}'", 2, "from low to high"),
        ("[key]\nacme = '{uuid:4}'", 2, "nothing after a colon"),
        ("[none.key]\na = 'a'\nb = '{nothing}'", 3, "nothing is called"),
        ("[secret]\nacme = 'a'", 2, "no kind of entity"),
        ("key = 3", 1, "no table"),
        ("[alphabets]\na = 'a'", 2, "no string of two"),
        ("[lists]\na = []", 2, "holds no words"),
        ("[key\n", 1, "is not TOML"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(tmp_path, text, line, what):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        formats.read(str(path))
    assert f"{path}:{line}: " in str(caught.value)
    assert what in str(caught.value)


def test_a_file_that_is_absent_or_no_text_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        formats.read(str(tmp_path / "absent.toml"))
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        formats.read(str(tmp_path / "own.toml"))
