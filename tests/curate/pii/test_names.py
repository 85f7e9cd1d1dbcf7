import pytest

from starkiln.code.spans import SURE, Span, resolve
from starkiln.curate.pii import persons
from starkiln.curate.pii.detect import candidates


def told(text: str) -> list[Span]:
    return candidates([text], ["NAME"])[0]


def found(text: str, sure: bool = True) -> list[str]:
    return [text[s.start : s.end] for s in resolve(told(text)) if s.confidence >= SURE or not sure]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# Tamsin Okoro <tamsin@okoro.net>", ["Tamsin Okoro"]),
        ("Tamsin B. Okoro (tamsin@okoro.net)", ["Tamsin B. Okoro"]),
        ("// tamsin@okoro.net (Tamsin Okoro)", ["Tamsin Okoro"]),
        ("# Tamsin Okoro <tamsin at okoro.net>", ["Tamsin Okoro"]),
        ("Copyright (c) 2001-2004, 2007 Tamsin Okoro", ["Tamsin Okoro"]),
        (
            "Copyright 2001 by Tamsin Okoro, Piet van der Veld and Anselm Dubrov",
            ["Tamsin Okoro", "Piet van der Veld", "Anselm Dubrov"],
        ),
        (
            "Copyright: 1998, Tamsin Okoro\n   2000, Anselm Dubrov\n",
            ["Tamsin Okoro", "Anselm Dubrov"],
        ),
        ("Copyright &copy; 2006 Tamsin Okoro", ["Tamsin Okoro"]),
        ("© 2006 Tamsin Okoro. All rights reserved.", ["Tamsin Okoro"]),
        (" * @author Tamsin Okoro", ["Tamsin Okoro"]),
        ("__author__ = 'Tamsin Okoro'", ["Tamsin Okoro"]),
        ('"author": {"name": "Tamsin Okoro"', ["Tamsin Okoro"]),
        ("Signed-off-by: Tamsin Okoro", ["Tamsin Okoro"]),
        ("Reviewed-by: Anselm DUBROV", ["Anselm DUBROV"]),
        ("Thanks to Tamsin Okoro for the report.", ["Tamsin Okoro"]),
        ("Patch from Tamsin Okoro.", ["Tamsin Okoro"]),
        ("- fixed a leak (Tamsin Okoro, #123)", ["Tamsin Okoro"]),
        ("\n -- Tamsin Okoro <t@okoro.net>  Tue, 10 Oct 2006", ["Tamsin Okoro"]),
        ("x\n  [ Tamsin Okoro ]\n  * new", ["Tamsin Okoro"]),
        ("* Mon Apr  2 2001 Tamsin Okoro <t@okoro.net>", ["Tamsin Okoro"]),
        (
            "AUTHORS\n=======\n\n* Tamsin Okoro\n* Anselm Dubrov\n",
            ["Tamsin Okoro", "Anselm Dubrov"],
        ),
        ("x\nN: Tamsin Okoro\nE: x", ["Tamsin Okoro"]),
        ('{"login": "tok", "name": "Tamsin Okoro"}', ["Tamsin Okoro"]),
        ("[Tamsin Okoro](https://github.com/tok)", ["Tamsin Okoro"]),
        ('(c) 2001 Anselm "Fox" O\'Dubrov-Ray', ['Anselm "Fox" O\'Dubrov-Ray']),
        ("@author J. R. Okoro", ["J. R. Okoro"]),
        ("@author Zoë Łukasiewicz", ["Zoë Łukasiewicz"]),
        (r'"author": "Bj\u00f6rn Dubrov"', [r"Bj\u00f6rn Dubrov"]),
        ("by J&ouml;rn Dubrov <j@dubrov.net>", ["J&ouml;rn Dubrov"]),
        ("@author Иван Дубров", ["Иван Дубров"]),
        ("@author 山田太郎", ["山田太郎"]),
        ("@author Petra Long", ["Petra Long"]),
        ("Author: Jan Dubrov", ["Jan Dubrov"]),
        ("# Copyright (c) 2011 tamsin okoro", ["tamsin okoro"]),
        ("# © 2011 piet van der veld\n", ["piet van der veld"]),
        (" * @author tamsin okoro", ["tamsin okoro"]),
        ("// Created by: anselm dubrov on 12/3/14", ["anselm dubrov"]),
        ("# tamsin okoro <tamsin@okoro.net>", ["tamsin okoro"]),
        ("// © Tamsin Okoro", ["Tamsin Okoro"]),
        ("// (c) Tamsin Okoro", ["Tamsin Okoro"]),
        ("SPDX-FileCopyrightText: 2020 Tamsin Okoro", ["Tamsin Okoro"]),
        (
            " * Copyright (c) 2001, 2003-2007 by Tamsin\n * Okoro and Anselm Dubrov\n",
            ["Tamsin\n * Okoro", "Anselm Dubrov"],
        ),
        ("# Written for this kernel by Piet van\n# der Veld, 2001", ["Piet van\n# der Veld"]),
        ("# Author: Okoro, Tamsin", ["Okoro, Tamsin"]),
        ("# Authors: Okoro, T. and Dubrov, A. B.", ["Okoro, T.", "Dubrov, A. B."]),
        ("author = {Okoro, Tamsin and Dubrov, Jan},", ["Okoro, Tamsin", "Dubrov, Jan"]),
        ('# Author: Tamsin "tam" Okoro', ['Tamsin "tam" Okoro']),
        ("# Author: Tamsin 'The Tam' Okoro <t@okoro.net>", ["Tamsin 'The Tam' Okoro"]),
        ("# Author: Tamsin (tok) Okoro", ["Tamsin (tok) Okoro"]),
        ("the plugin by *Tamsin Okoro*", ["Tamsin Okoro"]),
        ("by **Tamsin Okoro**", ["Tamsin Okoro"]),
        ("made by _Tamsin Okoro_", ["Tamsin Okoro"]),
        ("Contributor(s): Tamsin Okoro", ["Tamsin Okoro"]),
        (
            " * Contributor(s):\n *   Tamsin Okoro\n *   Anselm Dubrov\n",
            ["Tamsin Okoro", "Anselm Dubrov"],
        ),
        ('MODULE_AUTHOR("Tamsin Okoro");', ["Tamsin Okoro"]),
        ("Co-developed-by: Tamsin Okoro", ["Tamsin Okoro"]),
        ("Cc: Tamsin Okoro", ["Tamsin Okoro"]),
        ("Currently maintained by Tamsin Okoro.", ["Tamsin Okoro"]),
        ("inspired by Tamsin Okoro's post", ["Tamsin Okoro"]),
        ('<meta name="author" content="Tamsin Okoro">', ["Tamsin Okoro"]),
        ("<developer>\n  <name>Tamsin Okoro</name>", ["Tamsin Okoro"]),
        ("// as Peter Dubrov pointed out, see below", ["Peter Dubrov"]),
        ("Copyright 2001 Tamsin Okoro and contributors", ["Tamsin Okoro"]),
        (
            "x\nOkoro, Tamsin\nDubrov, Peter\nMbeki, Jan\n",
            ["Okoro, Tamsin", "Dubrov, Peter", "Mbeki, Jan"],
        ),
        (
            "Okoro, Tamsin; Dubrov, Peter; Vass, Piet",
            ["Okoro, Tamsin", "Dubrov, Peter", "Vass, Piet"],
        ),
        (
            "x\n* Tamsin Okoro\n* Peter Dubrov\n* Jan Vass\n",
            ["Tamsin Okoro", "Peter Dubrov", "Jan Vass"],
        ),
        (
            "## Contributors\n\nThe following people helped:\n\nTamsin Okoro\nPiet van der Veld\n",
            ["Tamsin Okoro", "Piet van der Veld"],
        ),
        (
            "Many thanks to everyone who helped:\n\n- Tamsin Okoro\n- Omar al Dubrov\n",
            ["Tamsin Okoro", "Omar al Dubrov"],
        ),
        (r"written by \fBTamsin Okoro\fR.", ["Tamsin Okoro"]),
        (r"\fBTamsin Okoro\fR <\fIt@okoro.net\fP>", ["Tamsin Okoro"]),
        (r"was \fIPeter Dubrov\fP who", ["Peter Dubrov"]),
        ('x = [\n  {name = "Tamsin Okoro", email = "t@okoro.net"},', ["Tamsin Okoro"]),
        ('{ email = "t@okoro.net", name = "Tamsin Okoro" }', ["Tamsin Okoro"]),
        ("Thanks to Mask Velborg Okoro for it", ["Mask Velborg Okoro"]),
        ("* It is mended for all of us. Thanks to Peter\n  Dubrov. #5", ["Peter\n  Dubrov"]),
        (
            "* It is mended for all of us. Thanks to Tamsin\n  Okoro. I too",
            ["Tamsin\n  Okoro"],
        ),
        ("* The switch is on. (Tamsin Okoro)\n", ["Tamsin Okoro"]),
        ("<li>It is on. (Tamsin Okoro)</li>", ["Tamsin Okoro"]),
        ("Authors\n-------\n\nOkoro, Tamsin\nDubrov, Piet\n", ["Okoro, Tamsin", "Dubrov, Piet"]),
    ],
)
def test_names_are_found_whole(text, wanted):
    assert found(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "Copyright (c) 2001 Free Software Foundation, Inc.",
        "Copyright 2001 Okoro Systems GmbH. All Rights Reserved.",
        "Copyright 2012 The Okoro Authors",
        "Copyright (C) 1998 The Regents of the University of California",
        "Licensed by Apache License Version",
        "written by Jane Doe <jane@doe.net>",
        'COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS',
        "Last updated by March April",
        "@author Okoro",
        "import x from Okoro",
        "Okoro Mailing List <list@okoro.net>",
        "PyOkoro DubrovKit <kit@okoro.net>",
        "Copyright 2001 Okoro Systems, Ltd",
        "Copyright 2001 Tamsin Okoro, Ltd.",
        "Copyright 2001 Okoro Dubrov Inc.",
        "Copyright 2001 Okoro Dubrov, S.A.",
        "Copyright 2001 The Okoro Dubrov Project",
        "Copyright 2001 Okoro Dubrov Team",
        "Copyright 2001 Okoro Dubrov contributors",
        "Written by the Okoro Dubrov authors",
        "may not alter any copyright notices contained within",
        "Copyright (c) 1995 Okoro, Finland",
        "Please send patches to <okoro-patches@okoro.net>.",
        "class author(Okoro, TextElement): pass",
        "Create(Type t, MethodBase creator, string okoro)",
        "set by HW\n    // We go on from there",
        "modules that are written using okoro dubrovs.",
        "x\n* Getting Started\n* Basic Usage\n* Advanced Topics\n",
        "x\n- Roboto Mono\n- Fira Sans\n- Noto Serif\n",
        "Author: x\n\nimport Name, \\\n    Button, Widget\n",
        "Two authors::\n\n    Okoro Dubrov\n    ============\n",
        "Lagos, Nigeria; Oslo, Norway; Lima, Peru",
        "Dear Okoro, Thanks\n",
        'f(x, name = "Tamsin Okoro")',
        "Thanks to Browser Widget for it",
        "Thanks to Mask Velborg Okoro and",
        "The switch is on (Tamsin Okoro)\n",
        "The switch is on. (Basic Usage)\n",
        "the authorization token from Okoro Dubrov",
    ],
)
def test_others_are_no_names(text):
    assert found(text) == []


def test_a_name_beside_a_reserved_address_is_a_candidate():
    text = "Tamsin Okoro <tamsin@example.com>"
    assert found(text) == []
    assert found(text, sure=False) == ["Tamsin Okoro"]


@pytest.mark.parametrize(
    "text",
    [
        "// an idea of Tamsin Okoro about hashing",
        "Thanks go out, in no order: Edouard Chin",
        "[1] A. Gurtovoy, On trees, 2001",
        "see Tamsin Okoro (2001)",
        "* Nipunn Koorapati",
    ],
)
def test_prose_gives_candidates(text):
    assert found(text) == []
    assert found(text, sure=False)


def test_ordinary_prose_gives_none():
    text = "Return True. The Next Value of a Key is read; Hello World, Read Only Memory."
    assert found(text, sure=False) == []


def test_words_are_believed_by_what_they_are():
    assert persons.trust(["Peter", "Dubrov"]) > persons.trust(["Tamsin", "Button"])
    assert persons.trust(["Tamsin", "Button"]) > persons.trust(["Button", "Widget"])
    assert persons.trust(["Dubrov", "Foundation"]) == 0.0


@pytest.mark.parametrize(
    ("unit", "filler", "wanted"),
    [
        ("@a", "a", None),
        (" by Ab ", " ", None),
        ("(c) Ab Cd, ", " ", None),
        ("<a@", "a", None),
        ("Ab Cd <a@b.c> ", " ", None),
        ("Author: Ab, Cd ", " ", None),
        ("Abel, Jan; ", " ", "Abel, Jan"),
        ("Abel, Jan\n", "\n", "Abel, Jan"),
        ("* Jan Abel\n", "\n", "Jan Abel"),
        ("Thanks to all:\n* Jan Abel\n", "\n", "Jan Abel"),
        ("Contributors to it:\n", "\n", None),
        ("A. Ab ", " ", None),
        ("by Ab\n * ", "*", None),
        ("© ab cd ", " ", None),
    ],
)
def test_no_rule_reads_on_without_end(unit, filler, wanted, amid):
    text = amid(unit, filler)
    assert found(text) == ([wanted] * text.count(unit) if wanted else [])


def test_an_address_that_begins_the_text_has_no_name_before_it():
    for text in ("token@:", "x@y\0<:", "kim@corp.io <", "a@b>:"):
        assert [s for s in candidates([text])[0] if s.label == "NAME"] == []


GIVEN = ["Jane", "Robert", "Alice", "Peter", "Maria", "David", "Susan", "Karen", "Laura", "Paul"]
LAST = ["Miller", "Johnson", "Schneider", "Garcia", "Nakamura", "Brown", "Wilson", "Anderson"]
ODD = ["Zorvik", "Ulmeth", "Brindo", "Kalvex", "Trosha", "Vendik", "Olmara", "Pelgun", "Shriva"]


def people(count: int, first: list[str], last: list[str]) -> list[str]:
    return [f"{first[n % len(first)]} {last[n // len(first) % len(last)]}" for n in range(count)]


@pytest.mark.parametrize("separator", [" ", "\t", "  ", ", ", '", "', " | ", "; ", "\\n"])
def test_all_known_names_of_a_long_line_are_found_at_once(separator):
    names = people(700, GIVEN, LAST)
    assert " ".join(found(separator.join(names))).split() == " ".join(names).split()


@pytest.mark.parametrize("before", ["Author: ", "Thanks to ", "(c) 2001 ", '{"authors": ["'])
@pytest.mark.parametrize("separator", [", ", '", "', "; ", " and ", " | "])
def test_a_list_of_authors_is_read_to_its_end(before, separator):
    names = people(700, ODD, ODD[::-1])
    assert found(before + separator.join(names) + "\n") == names


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Author: " + "Acme Widgets Inc, " * 40 + "Tamsin Okoro", []),
        ("Author: Tamsin Okoro, " + "the usual suspects, " * 9 + "Anselm Dubrov", ["Tamsin Okoro"]),
        ("Alpha Beta Gamma Delta Epsilon Zeta Eta Theta", []),
        ("Latin Mandaic Mani Marchen Marc Masaram_Gondi Gonm Hang Hani", []),
        ("by Tamsin Okoro_Dubrov", []),
    ],
)
def test_a_list_ends_where_no_names_follow(text, wanted):
    assert found(text) == wanted


CASELESS = ["سامر الخطيب", "דנה ברקוביץ", "วิชัย ทองคำ", "सुनील वर्मा", "மாலா கண்ணன்", "ნინო ბერიძე"]


@pytest.mark.parametrize("name", CASELESS)
@pytest.mark.parametrize(
    "text",
    [
        *("Signed-off-by: {} <s@brenno.io>", "# Copyright (c) 2014 {}", "Author: {}", "by {}"),
        *('"name": "{}", "email": "s@brenno.io"', "* {} <s@brenno.io>", "@author {}"),
        *("- name: {}\n  email: s@brenno.io\n", "<author><name>{}</name></author>"),
    ],
)
def test_scripts_without_letter_case(name, text):
    assert found(text.format(name), sure=text != "by {}") == [name]


@pytest.mark.parametrize(
    "text",
    [
        *("* TAMSIN OKOROVA <t@brenno.io>", "Reviewed-by: TAMSIN OKOROVA"),
        *("Author: TAMSIN OKOROVA", '{"name": "TAMSIN OKOROVA", "email": "t@brenno.io"}'),
        "- name: TAMSIN OKOROVA\n  email: t@brenno.io\n",
    ],
)
def test_capitals_are_believed_in_the_places_of_persons(text):
    assert found(text) == ["TAMSIN OKOROVA"]


@pytest.mark.parametrize(
    "text",
    [
        *("Copyright 2001 BRENNO OKOROVA", "BRENNO OKOROVA, see below", "by BRENNO OKOROVA"),
        *("* FREE SOFTWARE FOUNDATION <t@brenno.io>", "Author: PROJECT TEAM <t@brenno.io>"),
        *("- name: Build Docs\n  run: make\n", "- name: Deploy Site\n  with:\n    email: x\n"),
        *("# Copyright (c) 2014 " + "سامر " * 6, "filename: Tamsin Okoro\n  email: t@b.io\n"),
    ],
)
def test_titles_and_sentences_are_none(text):
    assert found(text) == []


def test_pairs_of_yaml_in_either_order():
    for text in (
        "- name: Tamsin Okoro\n  email: t@b.io\n",
        "- email: t@b.io\n  name: Tamsin Okoro\n",
    ):
        assert found(text) == ["Tamsin Okoro"]


def test_signs_of_pod_are_no_initials():
    assert found("Written by Tamsin Okoro E<lt>t@b.ioE<gt>.") == ["Tamsin Okoro"]
    assert found("=head1 AUTHOR\n\nTamsin Okoro C<< <t@b.io> >>\n") == ["Tamsin Okoro"]
    assert found("# Tamsin E. Okoro <t@b.io>") == ["Tamsin E. Okoro"]
