from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licence_texts import GPL, MIT
from starkiln.code.licences import (
    PERMISSIVE,
    UNRECOGNISED,
    above,
    declaration,
    declared,
    detect,
    governed,
    governing,
    is_licence,
    of_text,
    permissive,
)


def test_detect_gives_ids_and_shares_largest_first():
    (only,) = detect(MIT)
    assert only[0] == "MIT"
    assert 0.9 < only[1] <= 1
    both = detect(MIT + GPL)
    assert [one for one, _ in both] == ["MIT", "GPL-3.0-or-later"]
    assert sum(share for _, share in both) <= 1


def test_each_licence_of_a_licence_file_counts():
    assert of_text(MIT + GPL) == ["MIT", "GPL-3.0-or-later"]


def test_text_that_is_no_licence_is_unrecognised_never_permissive():
    assert of_text("All rights reserved. Ask us.") == [UNRECOGNISED]
    assert of_text("") == [UNRECOGNISED]
    assert not permissive(of_text("You may not use this at all. " * 80 + MIT))


def test_the_standard_librarys_own_licence_is_permissive():
    home = Path(__import__("os").__file__).parent / "LICENSE.txt"
    if not home.exists():
        pytest.skip("this Python's packager moved LICENSE.txt away")
    assert permissive(of_text(home.read_text()))


FREE = """MIT,Apache-2.0,BSD-2-Clause,BSD-3-Clause,ISC,0BSD,PSF-2.0,Python-2.0,Python-2.0.1,Zlib,
Unlicense,CC0-1.0,BSL-1.0,Apache-2.0 WITH LLVM-exception""".replace("\n", "").split(",")
BOUND = """GPL-2.0,GPL-3.0-only,LGPL-2.1-or-later,AGPL-3.0,MPL-2.0,EPL-2.0,CDDL-1.0,SSPL-1.0,
BUSL-1.1,Elastic-2.0,EUPL-1.2,CC-BY-SA-4.0,CC-BY-NC-4.0,LicenseRef-x,LicenseRef-unknown,
GPL-2.0 WITH Classpath-exception-2.0""".replace("\n", "").split(",")


@pytest.mark.parametrize("one", FREE)
def test_permissive(one):
    assert permissive([one])
    assert permissive([one, "MIT"])


@pytest.mark.parametrize("one", [*BOUND, ""])
def test_not_permissive(one):
    assert not permissive([one])
    assert not permissive(["MIT", one])


def test_no_licence_is_not_permissive():
    assert not permissive([])


def test_no_copyleft_family_is_on_the_list():
    families = ("GPL", "LGPL", "AGPL", "MPL", "EPL", "CDDL", "EUPL", "OSL", "SSPL", "GFDL", "CPL")
    assert not [one for one in PERMISSIVE if one.startswith(families)]
    assert not [
        one
        for one in PERMISSIVE
        for bad in ("-SA", "-NC", "-ND")
        if one[:3] == "CC-" and bad in one
    ]
    assert len(PERMISSIVE) >= 193


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("MIT", ["MIT"]),
        ("mit", ["MIT"]),
        ("MIT OR GPL-2.0-only", ["MIT"]),
        ("GPL-2.0-only OR MIT", ["MIT"]),
        ("GPL-3.0-only OR LGPL-2.1-only", ["GPL-3.0-only", "LGPL-2.1-only"]),
        ("MIT AND GPL-2.0-only", ["MIT", "GPL-2.0-only"]),
        ("(MIT AND BSD-3-Clause) OR GPL-2.0-only", ["MIT", "BSD-3-Clause"]),
        ("MIT AND (GPL-2.0-only OR Zlib)", ["MIT", "Zlib"]),
        ("MIT/Apache-2.0", ["MIT"]),
        ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0 WITH LLVM-exception"]),
        ("LicenseRef-Ours AND MIT", ["LicenseRef-Ours", "MIT"]),
        ("Apache License, Version 2.0", ["Apache-2.0"]),
        ("apache-2.0", ["Apache-2.0"]),
        (" Zlib ", ["Zlib"]),
        ("gpl-2.0", ["GPL-2.0-only"]),
        ("Expat", ["MIT"]),
        ("MIT AND Zlib", ["MIT", "Zlib"]),
        ("deprecated_BSD-2-Clause-FreeBSD", ["BSD-2-Clause-FreeBSD"]),
        ("deprecated_GPL-3.0+", ["GPL-3.0-or-later"]),
        ("deprecated_", []),
        ("other", []),
        ("NOASSERTION", []),
        ("see LICENSE", []),
        ("UNKNOWN", []),
        ("", []),
        ("(((", []),
        ("(/0", []),
        ("MIT AND", []),
        ("AND", []),
        ("(" * 20_000, []),
    ],
)
def test_declared(expression, ids):
    assert declared(expression) == ids


@given(st.text(alphabet="MITGPL-20.() ANDORWITH+/\n\0é", max_size=40))
def test_declared_never_fails(expression):
    assert all(isinstance(one, str) for one in declared(expression))


def test_declaration_prefers_the_expression():
    told = declaration(
        "Name: a\nLicense-Expression: MIT OR GPL-2.0-only\n"
        "Classifier: License :: OSI Approved :: GNU General Public License v2 (GPLv2)\n\nbody"
    )
    assert told == ("a", ["MIT"], True)


@pytest.mark.parametrize(
    ("lines", "ids"),
    [
        ("License: BSD", ["BSD-3-Clause"]),
        (
            "License: Dual License\nClassifier: License :: OSI Approved :: BSD License\n"
            "Classifier: License :: OSI Approved :: Apache Software License",
            ["BSD-3-Clause", "Apache-2.0"],
        ),
        (
            "Classifier: License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)",
            ["MPL-2.0"],
        ),
        ("Classifier: License :: Free For Home Use", [UNRECOGNISED]),
        ("Classifier: License :: OSI Approved", []),
        ("Summary: none", []),
        ("License: " + MIT.replace("\n", "\n        "), ["MIT"]),
    ],
)
def test_older_declarations(lines, ids):
    assert declaration(f"Name: a\n{lines}\n\nbody") == ("a", ids, False)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("LICENSE", ""),
        ("COPYING.LESSER", ""),
        ("a/LICENCE.txt", "a"),
        ("a/b/MIT-LICENSE", "a/b"),
        ("LICENSE-APACHE", ""),
        ("UNLICENSE", ""),
        ("LICENSES/MIT.txt", ""),
        ("a/LICENSES/X", "a"),
        ("License.md", ""),
    ],
)
def test_licence_files_and_the_folder_they_govern(path, folder):
    assert is_licence(path)
    assert governed(path) == folder


@pytest.mark.parametrize(
    "path",
    [
        "license.py",
        "copying.c",
        "licenses.json",
        "licensed/a.txt",
        "docs/licensing.md",
        "docs/license.rst",
        "README",
        "licenses/a.html",
    ],
)
def test_files_that_only_sound_like_licences(path):
    assert not is_licence(path)


def test_licence_files_apply_to_what_lies_beneath():
    table = governing([("", MIT), ("vendor/x", GPL)])
    assert above(table, "a.py") == ["MIT"]
    assert above(table, "vendor/y/a.py") == ["MIT"]
    assert above(table, "vendor/x/deep/a.py") == ["GPL-3.0-or-later", "MIT"]
    assert above(table, "vendor/xy/a.py") == ["MIT"]
    assert above(governing([]), "a.py") == []


def test_a_pointer_beside_a_known_licence_is_no_doubt():
    assert governing([("", "see LICENSE.MIT"), ("", MIT)])[""] == ["MIT"]
    assert governing([("", "see elsewhere")])[""] == [UNRECOGNISED]
    assert governing([("", "see elsewhere")], ["MIT"])[""] == ["MIT"]


def test_every_permissive_licence_is_known_in_any_case():
    assert all(declared(one.lower()) == [one] for one in PERMISSIVE)
    assert all(declared(f"deprecated_{one}") == [one] for one in PERMISSIVE)


def test_declared_licences_agree_with_the_labels_of_real_packages(shared):
    frame = pl.read_csv(shared("corpora/manifests/manifest.csv"))
    told = frame.select("package", "licence_class", pl.col("licence_declared").fill_null(""))
    found = {(name, label): declared(text) for name, label, text in told.rows()}
    taken = {(n, label) for (n, label), ids in found.items() if permissive(ids)}
    # vim-runtime declares the licence of Vim and holds files under the GPL as well
    assert {name for name, label in taken if label == "reject"} == {"vim-runtime"}
    refused = [n for (n, label), ids in found.items() if label == "permissive" and ids
               and not permissive(ids)]  # fmt: skip
    assert refused == []
    free = [1 for _, label in found if label == "permissive"]
    assert sum(label == "permissive" for _, label in taken) > 0.9 * len(free)


def test_licence_names_of_files_agree_with_their_labels(shared):
    frame = pl.read_parquet(shared("corpora/licences/file_licences.parquet"))
    pairs = frame.select(pl.col("licence_debian").fill_null(""), "licence_class").unique().rows()
    sure = [(declared(name), label) for name, label in pairs if len(declared(name)) == 1]
    assert len(sure) >= 25
    for ids, label in sure:
        if label in ("permissive", "strong-copyleft", "weak-copyleft"):
            assert permissive(ids) == (label == "permissive"), (ids, label)


def test_licence_notices_in_files_agree_with_their_labels(shared):
    frame = pl.read_parquet(shared("corpora/licences/file_licences.parquet"))
    right, decided = 0, 0
    for head, label in frame.select("head", "licence_class").drop_nulls().rows():
        ids = of_text(head)
        if UNRECOGNISED not in ids and label in ("permissive", "strong-copyleft", "weak-copyleft"):
            decided += 1
            right += permissive(ids) == (label == "permissive")
    assert decided >= 350
    assert right >= 0.975 * decided
