import pytest

from starkiln.code.spans import SURE, Span, resolve
from starkiln.curate.pii.detect import candidates


def told(text: str) -> list[Span]:
    return candidates([text], ["USERNAME"])[0]


def found(text: str, sure: bool = True) -> list[str]:
    return [text[s.start : s.end] for s in resolve(told(text)) if s.confidence >= SURE or not sure]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- Fix a leak by @tokoro7 in #7957", ["tokoro7"]),
        ("Thanks to @tokoro7 and @adubrov (#12)", ["tokoro7", "adubrov"]),
        ("* fix: leak ([@tokoro7](https://github.com/tokoro7))", ["tokoro7", "tokoro7"]),
        ("Thanks to `tokoro7 <https://github.com/tokoro7>`_ for", ["tokoro7", "tokoro7"]),
        ("Thanks to Tamsin Okoro (github.com/tokoro7).", ["tokoro7"]),
        ("cd /home/tokoro/src", ["tokoro"]),
        ("/Users/tokoro/Library", ["tokoro"]),
        (r"C:\Users\tokoro\Desktop", ["tokoro"]),
        (r'"C:\\Users\\tokoro\\Desktop"', ["tokoro"]),
        ("username = 'tokoro7'", ["tokoro7"]),
        ('{"login": "tokoro7", "id": 1}', ["tokoro7"]),
        ("connect(user='tokoro7')", ["tokoro7"]),
        ("// TODO(tokoro): mend this", ["tokoro"]),
        ("# $Id: a.c,v 1.2 2001/02/03 04:05:06 tokoro Exp $", ["tokoro"]),
        ("ssh tokoro@build.okoro.net", ["tokoro"]),
        ("# Copyright 2018 tokoro7 <t@okoro.net>", ["tokoro7"]),
        ("x\nN: tokoro7\nW: y", ["tokoro7"]),
        ("imap(tokoro): Debug: opened", ["tokoro"]),
        ("// TODO(tokoro, adubrov): mend this", ["tokoro", "adubrov"]),
        ("// TODO(@tokoro): mend this", ["tokoro"]),
        ("Submitted by: tokoro", ["tokoro"]),
        ("Reported by: tokoro7, adubrov\n", ["tokoro7", "adubrov"]),
        (" * @author tokoro7", ["tokoro7"]),
        ("scp a.tgz tokoro@build.okoro.net:", ["tokoro"]),
        ("$ rsync -a x/ tokoro@build:/srv", ["tokoro"]),
        ("cvs -d :pserver:tokoro@cvs.okoro.net:/cvs", ["tokoro"]),
        ("tokoro@build:~/src$ make", ["tokoro"]),
        ("[tokoro@build src]$ make", ["tokoro"]),
        ("cc @tokoro7 @adubrov and @piet-v", ["tokoro7", "adubrov", "piet-v"]),
        ("/docs/ @tokoro7 @adubrov\n", ["tokoro7", "adubrov"]),
        ("* @tokoro7 @adubrov\n", ["tokoro7", "adubrov"]),
        ("Props tokoro7, adubrov3.", ["tokoro7", "adubrov3"]),
        ("- Mend a leak (@tokoro7, @adubrov)\n", ["tokoro7", "adubrov"]),
        ("* Mend a leak (@tokoro7)", ["tokoro7"]),
        ("gcc -I/home/tokoro/include -c x.c", ["tokoro"]),
        ("cp x ~tokoro/src", ["tokoro"]),
        ("user = 'TokoroSan'", ["TokoroSan"]),
        ("thanks to :user:`The-Okoro`", ["The-Okoro"]),
        ('"from_user": "Okoro_press"', ["Okoro_press"]),
        ("username = t-okoro\n", ["t-okoro"]),
        ("login: t.okoro\n", ["t.okoro"]),
        ("https://tokoro:kV7rmoq2@h.io/", ["tokoro"]),
        ("curl -u tokoro:kV7rmoq2 h.io", ["tokoro"]),
        ("USER tokoro\r\nPASS kV7rmoq2\r\n", ["tokoro"]),
        ("auth=('tokoro', 'kV7rmoq2')", ["tokoro"]),
        ('"Tamsin Okoro <t@brenno.io> (https://github.com/tokoro)"', ["tokoro"]),
        ('"Tamsin <t@brenno.io> (https://github.com/button)"', ["button"]),
        ("cli : a leak mended, by Zoë Łukasz (@tokoro)\n", ["tokoro"]),
        ("build: a recipe, by Tamsin van Okoro (@tokoro)", ["tokoro"]),
        ("- Mend the recipe of all tests (#5) by\n  @tokoro\n", ["tokoro"]),
        ("Thanks to:\n    @tokoro\n    @adubrov,\n    @piet-v\n", ["tokoro", "adubrov", "piet-v"]),
        ("    # The idea is from @tokoro\n", ["tokoro"]),
        (":copyright: (c) 2019-2022 by J. Tamsin Okoro (tokoro).", ["tokoro"]),
        ("© 2019 Tamsin Okoro (Tok7)", ["Tok7"]),
        ("Jan Vass <j@d.io>\ntokoro <t@d.io>\nXYQZ <x@d.io>\n", ["tokoro", "XYQZ"]),
    ],
)
def test_usernames_are_found(text, wanted):
    assert found(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "@override\ndef f(): ...",
        " * @param tokoro the value",
        " * @tparam T the value",
        "import x from '@okoro/core'",
        "SELECT @total = 1",
        "prefix=@prefix@",
        "@media screen",
        "mail tokoro@okoro.net",
        "username = 'admin'",
        "username = 'test_user'",
        "user = 'johndoe'",
        "user=user, login=login",
        "username = get_login()",
        "/home/user/x and /Users/root/y",
        "see https://github.com/okoro/kit/issues/1",
        "See {@link Okoro}",
        "git@github.com:okoro/kit",
        "TODO(v3.4): drop",
        "TODO(ABC-123): drop",
        "TODO(register okoros) restore it",
        "(syntax/loc/props expanded-body\n  (begin))",
        "  @inventory ||= Hash.new",
        "assert_same code, @short_length",
        "f from(@module_name)",
        "go acc@Node{} = by @unglueGlue@ as in",
        "(values `(,@byte-vars ,@place-vars)",
        "our @EXPORT_OK = qw(x);",
        "foreach my $x (@wanted) {",
        "@dataclass\nclass X:",
        "@pytest.fixture",
        "#' @inheritParams layer",
        "@font-feature-values x {}",
        "@charset 'utf-8';",
        "npm i @okoro/kit",
        "user: 'openshift'",
        "login = 'basicauth'",
        "user='scott', password='tiger'",
        'String USERNAME = "optimus";',
        "plots created by ggplot, added by installf",
        "- Mend a leak (@override, @param)",
        "- the leak (see @tokoro7 for more)",
        "https://admin:kV7rmoq2@h.io/",
        "curl -u user:kV7rmoq2 h.io",
        "auth = ('user', 'kV7rmoq2')",
        "$x =~tokoro/a/",
        "cp x ~user/src ~/src",
        "username = self.name\nlogin = tokoro-x\nf(tokoro-x)",
        "user = 'ChatWindow'",
        '"Tamsin Okoro <t@brenno.io> (https://github.com/tokoro/kit)"',
        "Follow the `Okoro <https://github.com/okoro>`_ lead",
        "made by Tamsin Okoro (@override)",
        "# all that is mended by\n@dataclass\nclass X",
        "class X:\n    y = 1\n\n    @tokoro\n    def f",
        "# shift it from @tokoro\nmy @tokoro = 1;",
        "// import it from @tokoro/core",
        "(c) 2019 Tamsin Okoro (maintainer)",
        "(c) 2019 Tamsin Okoro (original)",
        "(c) 2019 Tamsin Okoro (TUX)",
        "(c) 2019 Tamsin Okoro (www.brenno.io)",
        "(c) 2019 Okoro Systems (oks)",
        "x = tokoro <t@brenno.io>\n",
        "Jan Vass <j@d.io>\nTamsin <t@d.io>\ninfo <i@d.io>\nokoro-devel <o@d.io>\n",
    ],
)
def test_others_are_no_usernames(text):
    assert found(text) == []


def test_a_handle_without_credit_is_a_candidate():
    text = "we asked the friendly @tokoro7 about it"
    assert found(text) == []
    assert found(text, sure=False) == ["tokoro7"]


@pytest.mark.parametrize(
    ("unit", "filler", "wanted"),
    [
        ("@a", "a", None),
        (" @a", "a", None),
        ("by @ab ", " ", "ab"),
        ("/home/", "/", None),
        ("user=", "=", None),
        ("login:'", "'", None),
        ("Copyright 1 ", " ", None),
        ("$Id: a ", " ", None),
        ("ssh ", " ", None),
        ("todo(", "(", None),
        ("- (@a, @b", "b", None),
        ("username = a-bc\n", "\n", None),
        ("x://kim:kV7rmoq2@h ", " ", "kim"),
        (" ~kim/x", "x", "kim"),
        ("(c) Ab Cd (e", " ", None),
        ("ab <a@b.c>", "\n", None),
        ("by\n @ab\n", " ", "ab"),
    ],
)
def test_no_rule_reads_on_without_end(unit, filler, wanted, amid):
    text = amid(unit, filler)
    assert found(text) == ([wanted] * text.count(unit) if wanted else [])


def test_a_class_named_as_a_service_marks_no_user() -> None:
    text = "class LMTP(SMTP):\n    pass\n"
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("follow @tokoro@social.okoro.net or @adubrov", ["tokoro@social.okoro.net"]),
        ("Mastodon: `@tokoro@okoro.social <https://okoro.social/@tokoro>`_", None),
        ("@user@okoro.social", []),
        ("@tokoro@social.example.org", []),
        ("@WITH_PERL_TRUE@db100.xml: $(srcdir)/x", []),
        ("@REBUILD@search.pl: x", []),
        ("@tokoro@file.okoro", []),
        ("x = @a@b.c()", []),
    ],
)
def test_handles_of_federated_servers(text, wanted):
    assert found(text)[:1] == (["tokoro@okoro.social"] if wanted is None else wanted)
