"""Defects of the original's patterns (rows 2 and 5 of them), and kinds of false alarm."""

import pytest

from starkiln.code.spans import SURE
from starkiln.curate.pii.detect import candidates, detect

EMAILS = [
    ("<email>kim.lee@corp.io</email>", ["kim.lee@corp.io"]),
    ("kim@corp.io,lee@corp.io;max@corp.io", ["kim@corp.io", "lee@corp.io", "max@corp.io"]),
    ("Kim <kim+tag@mail.corp.co.uk>.", ["kim+tag@mail.corp.co.uk"]),
    ('"Kim\\nkim@corp.io\\n"', ["kim@corp.io"]),
    ("写信给kim@corp.io谢谢", ["kim@corp.io"]),
    ("mailto:kim@corp.io?subject=x", ["kim@corp.io"]),
    ("kim@corp.io", ["kim@corp.io"]),
    ("(kim@corp.io)\r\n", ["kim@corp.io"]),
    ("kim@corp.io:", ["kim@corp.io"]),
    ("6035284+kim@users.noreply.forge.com", ["6035284+kim@users.noreply.forge.com"]),
    *(
        (text, [])
        for text in [
            "lodash@4.17.21.tgz",
            "pkg@1.2.3",
            "pkg@v1.2.3-beta.org",
            "git@github.com:org/repo.git",
            "https://user:pass@corp.io/x",
            "ssh://git@corp.io",
            "icon@2x.png",
            "getty@tty1.service",
            "@decorator.method",
            "@scope/pkg",
            "weights@matrix.transpose(0)",
            "a@b",
            "@example.com",
            "${user}@corp.io",
            "a..@corp.io",
            "kim@corp.c",
            "A" * 90 + "@corp.io",
        ]
    ),
]


def found(text, label="EMAIL"):
    return [text[s.start : s.end] for s in detect(text, [label])]


@pytest.mark.parametrize(("text", "values"), EMAILS)
def test_emails(text, values):
    assert found(text) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("kim (at) corp (dot) io", "kim (at) corp (dot) io"),
        (r"write to \fBkim@corp.io\fP.", "kim@corp.io"),
        (r"Kim <\fIkim@corp.io\fR>", "kim@corp.io"),
        (r'"\\fBkim@corp.io\\fP"', "kim@corp.io"),
        ("Kim Lee <kim at corp.io>", "kim at corp.io"),
        ("(c) 2001 Kim Lee (kim.lee at corp.io)", "kim.lee at corp.io"),
        ("kim at corp dot io", "kim at corp dot io"),
        ("?to=kim%40corp.io&x=1", "kim%40corp.io"),
        ("kim&#64;corp.io", "kim&#64;corp.io"),
        ("look at example dot product", None),
        ("kim at corp.io", None),
    ],
)
def test_spelt_signs(text, value):
    assert [one for one in found(text) if one == value] == ([value] if value else [])
    assert value or found(text) == []


EDGES = [
    ("a@b.co,d@e.fr", ["a@b.co", "d@e.fr"]),
    ("\u202bkim@corp.io\u202c", ["kim@corp.io"]),
    ("\u200fkim@corp.io", ["kim@corp.io"]),
    ("\U0001f600kim@corp.io\U0001f600", ["kim@corp.io"]),
    ("kim\u200b@corp.io", ["kim\u200b@corp.io"]),
    ("kim\uff20corp.io", ["kim\uff20corp.io"]),
    ("jos\u00e9@corp.es", ["jos\u00e9@corp.es"]),
    ("kim@m\u00fcnchen.de", ["kim@m\u00fcnchen.de"]),
    ("kim@xn--mnchen-3ya.de", ["kim@xn--mnchen-3ya.de"]),
    ('"Bj\\u00f6rn@corp.io"', ["Bj\\u00f6rn@corp.io"]),
    ('"\\x20kim@corp.io"', ["kim@corp.io"]),
    ('"C:\\\\nkim@corp.io"', ["nkim@corp.io"]),
    ("\0kim@corp.io\0", ["kim@corp.io"]),
    ("&lt;kim@corp.io&gt;", ["kim@corp.io"]),
    ("see ...kim@corp.io...", ["kim@corp.io"]),
    ("kim@corp.com.Please write", ["kim@corp.com"]),
    ("kim@corp.com.html", ["kim@corp.com"]),
    ("kim@corp.com.html()", []),
    ("kim@corp.io:secret", ["kim@corp.io"]),
    ("scp f kim@corp.io:/tmp", []),
    ("https://user:p@ss@corp.io/x", []),
    ("https://user:p%40ss@corp.io/x", []),
    ("hg@forge.org:22/x", []),
    ("x = w@y.shape", []),
    ("foo@bar.json", []),
    ("'%s@corp.io'", []),
    ("@x@", []),
    ("user@localhost", []),
]


@pytest.mark.parametrize(("text", "values"), EDGES)
def test_edges(text, values):
    assert found(text) == values


@pytest.mark.parametrize("text", ["kim@corp.io", "\nkim@corp.io\r\n", "kim@corp.io " * 3])
@pytest.mark.parametrize("before", ["", "\u65e5\u672c ", "\U0001f600\n", "\r\n" * 40])
def test_places_are_of_code_points(text, before):
    spans = detect(before + text, ["EMAIL"])
    assert [(before + text)[s.start : s.end] for s in spans] == ["kim@corp.io"] * len(spans)
    assert len(spans) == text.count("@")


def test_an_unlisted_top_level_is_a_candidate_alone():
    (spans,) = candidates(["kim@corp.nosuchtop"], ["EMAIL"])
    assert spans
    assert all(s.confidence < SURE for s in spans)
    assert found("mailto:kim@corp.nosuchtop") == ["kim@corp.nosuchtop"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("#kim@corp.io", ["kim@corp.io"]),
        ("{kim@corp.io}", ["kim@corp.io"]),
        ("mail o'brien@corp.ie now", ["o'brien@corp.ie"]),
        ("<D'Arco.kim@corp.ie>", ["D'Arco.kim@corp.ie"]),
        ("f'kim@corp.io', b'lee@corp.io'", ["kim@corp.io", "lee@corp.io"]),
        ("'kim@corp.io'", ["kim@corp.io"]),
        ("#{user}@corp.io ${kim@corp.io}", []),
        ("scp a kim@corp.io:", []),
        ("write to kim@corp.io: hello", ["kim@corp.io"]),
    ],
)
def test_signs_before_an_address(text, values):
    assert found(text) == values


@pytest.mark.parametrize(
    "text",
    [
        r"kim\@corp.io",
        r"kim\\@corp.io",
        "kim@@corp.io",
        "kim{@literal @}corp.io",
        "kim&commat;corp.io",
        "kim&#x40;corp.io",
        "kim&#064;corp.io",
        r"kim\u0040corp.io",
        r"kim\\u0040corp.io",
        r"kim\x40corp.io",
        "kim [@] corp [.] io",
        "kim(@)corp.io",
    ],
)
def test_escaped_signs(text):
    assert found(f"'{text}'") == [text]
    assert found(f"{text}, {text}") == [text, text]


@pytest.mark.parametrize(
    "text",
    [
        r"\@corp.io",
        r"kim\@corp",
        "@@corp.io",
        "@@ -1,3 +1,3 @@ corp.io",
        "{@literal @}corp.io",
        "${names[@]}.corp.io",
        r"\u0040corp.io",
        "a&#x41;corp.io",
        "&commat;corp.io",
    ],
)
def test_an_escaped_sign_alone_is_no_address(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("иван@почта.рф, νίκος@corp.gr", ["иван@почта.рф", "νίκος@corp.gr"]),
        ("to դավիթ@corp.am", ["դավիթ@corp.am"]),
        ("用户@例子.公司谢谢", ["用户@例子.公司"]),
        ("kim@例え.jp", ["kim@例え.jp"]),
        ("联系kim@corp.io和lee@corp.io谢谢", ["kim@corp.io", "lee@corp.io"]),
        ("kim@corp.io和x.com", ["kim@corp.io"]),
        ("kim@corp.io.谢谢", ["kim@corp.io"]),
        ("jose\u0301@corp.es", ["jose\u0301@corp.es"]),
        ("иван@почта", []),
        ("@почта.рф", []),
        ("я@б.в", []),
    ],
)
def test_other_scripts(text, values):
    assert found(text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("kim@corp.io.py", ["kim@corp.io"]),
        ("mail/kim@corp.io.tar.gz", ["kim@corp.io"]),
        ("kim@corp.de.rs", ["kim@corp.de"]),
        ("kim@corp.com.py", ["kim@corp.com.py"]),  # Paraguay's
        ("kim@corp.pl", ["kim@corp.pl"]),
        ("kim@corp.com.pl", ["kim@corp.com.pl"]),
        ("--vault-id kim@ask-for-it.py x", []),
        ("kim@corp.io.py()", []),
    ],
)
def test_endings_of_files(text, values):
    assert found(text) == values


@pytest.mark.parametrize(
    "text",
    [
        "y = x@w.data",
        "y=h@self.weight.data",
        "return (x@self.name)",
        "out = hidden@weight.data\nhidden = 3",
        "attention = q@k.mT * 2",
        "if x@np.int > 0",
        "        get() = this@Outer.name",
        "        when (this@projectDefault.name) {",
        "  e@A.Fun{} -> go e",
        "npm i react@latest.com",
        "$ yarn add --dev left-pad@next.dev",
        "npx create-app@beta.app",
        "go install tool@main.dev",
        "follow @kim@social.corp.io",
    ],
)
def test_operands_labels_and_packages_are_no_addresses(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ADMIN=kim@lee.name", "kim@lee.name"),
        ("mail = k@lee.name", "k@lee.name"),
        ("Kim Lee (kim@lee.name)", "kim@lee.name"),
        ("Kim <x@w.data>", "x@w.data"),
        ("'x@w.data'", "x@w.data"),
        ("by super@corp.io", "super@corp.io"),
        ("KIM@CORP.IO", "KIM@CORP.IO"),
        ("Kim@Corp.Io", "Kim@Corp.Io"),
        ("npm config set email kim@corp.io", "kim@corp.io"),
        ("go to kim@corp.io", "kim@corp.io"),
    ],
)
def test_addresses_in_such_places(text, value):
    assert found(text) == [value]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("'kim' + '@' + 'corp.io'", ["kim' + '@' + 'corp.io"]),
        ('["kim", "@", "corp.io"].join("")', ['kim", "@", "corp.io']),
        ('"kim" . "@" . "corp.io"', ['kim" . "@" . "corp.io']),
        ('"kim lee"@corp.io', ['"kim lee"@corp.io']),
        ('"react" + "@" + "1.2.3"', []),
        ("'kim' + '@' + host", []),
        ('{"domain": "@corp.io"}', []),
        ('"pattern" = "@corp.io"', []),
        ('"chat"@fr .', []),
    ],
)
def test_addresses_in_pieces(text, values):
    assert found(text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("imap://rosa.bek@brenno.io:hq8Zt2@imap.brenno.io:993", ["rosa.bek@brenno.io"]),
        ("https://rosa.bek%40brenno.io:hq8Zt2@git.brenno.io/x", ["rosa.bek%40brenno.io"]),
        ("https://rosa@brenno.io:<PASSWORD>@brenno.io/x", ["rosa@brenno.io"]),
        ("ftp://rosa@brenno.io@files.brenno.io/x", ["rosa@brenno.io"]),
        (r"imap:\/\/rosa@brenno.io:hq8Zt2@h.io\/x", ["rosa@brenno.io"]),
        ("ftp://rosa@brenno.io:21/x", []),
        ("https://rosa:hq@8zt@brenno.io/x", []),
        ("Rosa Bek E<lt>rosa@brenno.ioE<gt>", ["rosa@brenno.io"]),
    ],
)
def test_mailboxes_as_users_of_urls_and_in_pod(text, values):
    assert [text[s.start : s.end] for s in detect(text, ["EMAIL"])] == values
