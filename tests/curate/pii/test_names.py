import time

import polars as pl
import pytest

from starkiln.code.spans import SURE, resolve
from starkiln.curate.pii import names, persons


def places(text: str) -> list[int]:
    series = pl.Series([text], dtype=pl.String).str
    at = series.find_many(list(names.ANCHORS), ascii_case_insensitive=True, overlapping=True)
    raw = text.encode()  # find_many counts bytes
    return sorted({len(raw[:i].decode()) for i in at[0].to_list()})


def found(text: str, sure: bool = True) -> list[str]:
    spans = resolve(names.find(text, places(text)))
    return [text[s.start : s.end] for s in spans if s.confidence >= SURE or not sure]


def test_anchors_are_lower_case_literals():
    assert all(a == a.lower() and a.isascii() and a for a in names.ANCHORS)


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
    ],
)
def test_others_are_no_names(text):
    assert found(text) == []


def test_a_name_beside_a_reserved_address_is_a_candidate():
    text = "Tamsin Okoro <tamsin@example.com>"
    assert found(text) == []
    assert found(text, sure=False) == ["Tamsin Okoro"]


def test_words_are_believed_by_what_they_are():
    assert persons.trust(["Peter", "Dubrov"]) > persons.trust(["Tamsin", "Button"])
    assert persons.trust(["Tamsin", "Button"]) > persons.trust(["Button", "Widget"])
    assert persons.trust(["Dubrov", "Foundation"]) == 0.0


@pytest.mark.parametrize(
    "piece",
    [
        "@a",
        " by ",
        "Copyright ",
        " by Ab ",
        "Authors:\n",
        "(c) Ab Cd, ",
        "<a@",
        "Ab Cd <a@b.c> ",
        "A",
        "name='",
    ],
)
def test_hostile_text_takes_linear_time(piece):
    spent = []
    for times in (5_000, 40_000):
        text = piece * times
        at = places(text)
        start = time.process_time()
        list(names.find(text, at))
        spent.append(time.process_time() - start)
    assert spent[1] < 24 * spent[0] + 0.2
