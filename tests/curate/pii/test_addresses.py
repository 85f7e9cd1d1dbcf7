"""Defects of the original's patterns (rows 1 to 5 of them), and kinds of false alarm."""

import pytest

from starkiln.code.spans import SURE
from starkiln.curate.pii.detect import candidates, detect

IPS = [
    ("1.22.3.4,5.6.77.8,9.10.11.12", ["1.22.3.4", "5.6.77.8", "9.10.11.12"]),
    ("http://81.2.69.142/x", ["81.2.69.142"]),
    ("<ip>81.2.69.142</ip>", ["81.2.69.142"]),
    ("81.2.69.142:8080", ["81.2.69.142"]),
    ("81.2.69.0/24", ["81.2.69.0"]),
    ("81.2.69.142", ["81.2.69.142"]),
    ("at 81.2.69.142.", ["81.2.69.142"]),
    ("81.2.69.142-81.2.69.160", ["81.2.69.142", "81.2.69.160"]),
    ("[2a01:4f8:c17::2]:443", ["2a01:4f8:c17::2"]),
    ("fe80::1ff:fe23:4567:890a%eth2", ["fe80::1ff:fe23:4567:890a"]),
    ("2a01:4f8:c17::2/64", ["2a01:4f8:c17::2"]),
    ("::ffff:81.2.69.142", ["::ffff:81.2.69.142"]),
    ("::ffff:5102:458e", ["::ffff:5102:458e"]),
    ("2a01:4f8:c17:1:2:3:4:5:8080", ["2a01:4f8:c17:1:2:3:4:5"]),
    ("1.0.1.0, 1.0.2.0, 223.4.0.0", ["1.0.1.0", "1.0.2.0", "223.4.0.0"]),
    ("# 81.2.69.142\n", ["81.2.69.142"]),
    ('<bindingRedirect oldVersion="0.0.0.0-13.4.0.1" newVersion="13.4.0.1" />', []),
    ("x\n## 21.10.40.1\n", []),
    ("x\n## [21.10.40.1] - 2020-01-02\n", []),
    ("x\n### v21.10.40.1 (2020-01-02)\n", []),
    ("[4.2.3.1](#4231)", []),
    ("[RFC 3411 4.2.3.1](http://rfc.io/x)", []),
    ("1.0.1.0, 1.0.2.0, 1.3.0.0", []),
    ("2001:0DB8:0000:0000:0000:0000:71E2:9BC4", ["2001:0DB8:0000:0000:0000:0000:71E2:9BC4"]),
    ("2a01:4f8:c17::2: unreachable", ["2a01:4f8:c17::2"]),
    ('server = "4.4.4.4"', ["4.4.4.4"]),
    *(
        (text, [])
        for text in [
            "version 21.10.4.1",
            'Version = "21.10.4.1"',
            'AssemblyVersion("1.0.0.0")',
            "v21.10.4.1",
            "pkg==21.10.4.1",
            "pkg>=21.10.4.1",
            "pkg-21.10.4.1.tar.gz",
            "Chrome/91.0.4.12",
            "2.5.13.20",
            "OID 2.5.4.3",
            "1.3.6.1",
            "81.2.69.142.7",
            "256.1.1.1",
            "01.2.3.4",
            "3.1.4.1",
            "1.2.3.4 Introduction",
            "x[0::2]",
            "std::a::1",
            "cafe::babe",
            "a::b",
            "12:34:56",
            "00:1b:44:11:3a:b7",
            "00:11:22:33:44:55:66:77",
            "a::b::c",
            "1::2",
            "::",
        ]
    ),
]


@pytest.mark.parametrize(("text", "values"), IPS)
def test_addresses(text, values):
    assert [text[s.start : s.end] for s in detect(text, ["IP_ADDRESS"])] == values


EDGES = [
    ("1.22.3.4\n5.66.7.8", ["1.22.3.4", "5.66.7.8"]),
    ('"\\n81.2.69.142\\n"', ["81.2.69.142"]),
    ("\u65e581.2.69.142\u65e5", ["81.2.69.142"]),
    ("\u202b81.2.69.142\u200b", ["81.2.69.142"]),
    ("\U0001f60081.2.69.142\0", ["81.2.69.142"]),
    ("81.2.69.142-50", ["81.2.69.142"]),
    ("user@81.2.69.142", ["81.2.69.142"]),
    ("ip=81.2.69.142;", ["81.2.69.142"]),
    ("FE80::1%25en0", ["FE80::1"]),
    ("ff02::fb", ["ff02::fb"]),
    ("1:2:3:4:5:6:7:8", ["1:2:3:4:5:6:7:8"]),
    ("http://[::1]:80/", ["::1"]),
    ("inet6 2a01:4f8::1:a/64 scope", ["2a01:4f8::1:a"]),
    ("'1::'", ["1::"]),
    ("2a01:4f8:::2", []),
    ("2020:01:02:03", []),
    ("std::cafe::abc", []),
    ("x[::1]", []),
    ("f(x)::1", []),
    ("4.33.2.81.in-addr.arpa", []),
    ("81.02.69.142", []),
    ("81.2.69.*", []),
    ("81.2.69.142-rc1", []),
    ("linux 2.6.24.40-64.fc8", []),
    ("<Version>21.10.40.1</Version>", []),
    ("Edge/18.17.76.3", []),
    ("2.4.0.2\n-------\n* a change", []),
    ("12.4.1.3 Scope of the rules", []),
    ("\u00a7 21.10.4.1", []),
    (r"net is \fI10.0.0.0/24\fP and", ["10.0.0.0"]),
    (r'"\\fB81.2.69.142\\fP"', ["81.2.69.142"]),
    (r"\f(CW81.2.69.142\fP", ["81.2.69.142"]),
    (r"\fI2001:db8::1\fR and \fB2001:db8::2\fR", ["2001:db8::1", "2001:db8::2"]),
    (r"\fBfe80::1\fR", ["fe80::1"]),
    ("exim -bh 10.40.3.9.2525\n", ["10.40.3.9"]),
    ("192.168.1.5.443 > 10.0.0.2.51234: Flags", ["192.168.1.5", "10.0.0.2"]),
    ("IP 81.2.69.142.https > 81.2.69.7.51234: Flags", ["81.2.69.142", "81.2.69.7"]),
    ("exim -bh fe80::1c2:7ff:fe31:9.5678\n", ["fe80::1c2:7ff:fe31:9"]),
    ("10.2.0.4.22 10.1.2.3.0 10.1.2.3.4.5", []),
    ("IP 81.2.69.142.corp.io is\n10.40.3.9.70000", []),
    ("1.3.6.1.4.1.311.20 and 1.3.6.1.4", []),
    ("http://brenno.io/?doi=10.1.1.12.4254", []),
    ("x\n    # 5.3.2.6 \n    # The server SHOULD", []),
    ("x\n    # 5.3.2.6 \n    # is the address", ["5.3.2.6"]),
    ("server 5.3.2.6\n", ["5.3.2.6"]),
]


@pytest.mark.parametrize(("text", "values"), EDGES)
def test_edges(text, values):
    assert [text[s.start : s.end] for s in detect(text, ["IP_ADDRESS"])] == values


@pytest.mark.parametrize("before", ["", "x" * 99, "x" * 101 + " ", "é" * 300 + " "])
def test_the_context_is_seen_wherever_the_address_stands(before):
    """The original looked at text[start - 100:], which is empty near the head of a file."""
    assert detect(f"{before}\nversion 21.10.4.1", ["IP_ADDRESS"]) == []
    assert len(detect(f"{before}\nserver 21.10.4.1", ["IP_ADDRESS"])) == 1


def test_small_octets_alone_are_a_candidate():
    (spans,) = candidates(["1.2.3.4"], ["IP_ADDRESS"])
    assert [s.confidence < SURE for s in spans] == [True]


@pytest.mark.parametrize(
    "text",
    ["curl/7.68.0.11", "User-Agent: curl/7.68.0.11 (x)", "apt/1.0.10.2", "via libfoo-x/8.2.30.1"],
)
def test_versions_of_products_are_no_addresses(text):
    assert not [s for s in detect(text) if s.label == "IP_ADDRESS"]


@pytest.mark.parametrize("text", ["tcp/81.2.69.142", "http://81.2.69.142/", "/ip/81.2.69.142"])
def test_addresses_behind_a_slash(text):
    assert [text[s.start : s.end] for s in detect(text)] == ["81.2.69.142"]


@pytest.mark.parametrize(
    "before",
    [r"\u003a", r"\x3a", "%3A", "%20", "http%3A%2F%2F", r"\r\n", "ip_", "IP-", "addr_"],
)
def test_escapes_and_names_before_an_address(before):
    assert [s.start for s in detect(f"'{before}81.2.69.142'", ["IP_ADDRESS"])] == [len(before) + 1]


@pytest.mark.parametrize("text", [r"'\n2a01:4f8:c17::2'", r"'\t2a01:4f8:c17::2\n'"])
def test_escapes_before_ipv6(text):
    assert [text[s.start : s.end] for s in detect(text, ["IP_ADDRESS"])] == ["2a01:4f8:c17::2"]


@pytest.mark.parametrize(
    "text",
    [
        "v81.2.69.142",
        "lib_81.2.69.142",
        "ship_81.2.69.142",
        r"'\\n81.2.69.142'",
        "81.2.69.142_amd64.deb",
        "%81.2.69.142.5",
        "milestone%3A22.6.12.1+is",
        "ec2-81-2-69-142.compute.corp.io",
        "ip-81-2-69-142",
        "ip_81_2_69_142 = 1",
        "2024-10-11-12.log",
        "1-800-55-123",
    ],
)
def test_names_of_hosts_versions_and_dates_are_none(text):
    assert detect(text, ["IP_ADDRESS"]) == []


@pytest.mark.parametrize(
    "text",
    [
        *("dump-93.41.7.188.conf", "logs/93.41.7.188.log", "host_93.41.7.188.log.gz"),
        *("93.41.7.188.pem", "a/93.41.7.188.json", "x-93.41.7.188.txt.bak"),
    ],
)
def test_files_that_are_named_after_addresses(text):
    assert [text[s.start : s.end] for s in detect(text, ["IP_ADDRESS"])] == ["93.41.7.188"]


@pytest.mark.parametrize(
    "text",
    [
        *("lib-93.41.7.18.tar.gz", "redis-6.12.14.1.conf", "93.41.7.188.corp.io"),
        *("upgrade Foo to 4.21.16.2", "bump the parser from 12.40.1.2 to 12.41.0.3"),
        *("Hg 1.9.14.3", "* Foo 2.17.10.4 fixes this", "12.40.51.2 released"),
        *('d="M11 8c0 1.62-.7 2.3-2.42 4.61.97.42 2.13.6"', 'd="c.28.5 3.61.97.42 1.5.2z"'),
        *("std::vector<c10::Half> x", "// a c10:: type", "listing of 1000::\n  x"),
    ],
)
def test_versions_in_prose_drawings_and_scopes_are_none(text):
    assert detect(text, ["IP_ADDRESS"]) == []


@pytest.mark.parametrize(
    "text",
    [
        *("update the host to 93.41.7.18", "1066036250.603   310 93.41.7.188 TCP_HIT"),
        *("f(93.41.7.188, 1.5, 2.5)", "Server 21.10.4.1", "0.5 93.41.7.188 - - [x]"),
        *("2001::/32", "fd10::/16 is ours"),
    ],
)
def test_addresses_like_those_are_found(text):
    assert len(detect(text, ["IP_ADDRESS"])) == 1
