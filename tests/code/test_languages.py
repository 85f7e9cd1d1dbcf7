import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from starkiln.code import languages
from starkiln.code.document import KINDS
from starkiln.code.languages import (
    LANGUAGES,
    PAPER,
    VOLUMES,
    Limits,
    detect,
    extension,
    kept,
    limits,
    named,
)

# Files that StarCoder's own lists kept: (language, extension), one or more of each kind of row.
LISTED = {
    "ada": "ada adb ads",
    "assembly": "a51 asm nasm",
    "c": "c h",
    "cpp": "c++ cc cxx hpp tpp",
    "c-sharp": "cake cs cshtml",
    "coffeescript": "_coffee cson",
    "clojure": "boot cljx",
    "fortran": "f f03 f90 fpp",
    "glsl": "frag vshader",
    "javascript": "es6 js xsjslib",
    "mathematica": "ma nb wl",
    "ocaml": "eliom ml mly",
    "pascal": "dfm lpr pas",
    "perl": "pl pm t",
    "php": "ctp phpt",
    "python": "bzl gyp py pyde pyw",
    "ruby": "rb ru thor",
    "shell": "bash sh zsh",
    "sql": "pkb prc sql",
    "tex": "bib sty tex",
    "visual-basic": "bas frm vb",
}

SIZE = {"min_characters": 50, "max_characters": 5000}

SAMPLES = [
    ("a.m", "#import <X.h>\n@interface A : NSObject\n@end\n", "objective-c"),
    ("a.m", "function y = f(x)\n% square\ny = x.^2;\nend\n", "matlab"),
    ("a.m", '(* ::Package:: *)\nBeginPackage["A`"]\nf[x_] := x^2\n', "mathematica"),
    ("a.v", "module top(input a);\nendmodule\n", "verilog"),
    ("a.v", "Require Import Arith.\nLemma x : 1 = 1.\nProof. auto. Qed.\n", "coq"),
    ("a.pl", "#!/usr/bin/perl\nuse strict;\nmy $x = 1;\n", "perl"),
    ("a.pl", ":- module(a, [b/1]).\nb(X) :- c(X), !.\n", "prolog"),
    ("a.pl", 'print "hello\\n";\n', "perl"),
    ("a.t", "use strict;\nuse Test::More;\nok(1);\n", "perl"),
    ("a.t", "expected output of line one\n", "unknown"),
    ("a.rkt", "#lang racket\n(define x 1)\n", "racket"),
    ("a.h", "int f(int);\n", "c"),
    ("a.h", "namespace a {\ntemplate <class T> class B {};\n}\n", "cpp"),
    ("a.h", "@interface A : NSObject\n@end\n", "objective-c"),
    ("a.st", "Object subclass: #A\n\tinstanceVariableNames: ''\n", "smalltalk"),
    ("a.st", "group g;\nmain(x) ::= <<hello $x$>>\n", "unknown"),
    ("a.do", "use data.dta, clear\nregress y x\n", "stata"),
    ("a.do", "vlib work\nvlog top.v\nvsim top\n", "tcl"),
    ("a.sas", "data a;\n set b;\nrun;\n", "sas"),
    ("a.ts", "export const a: number = 1;\n", "typescript"),
    ("a.ts", "#!/usr/bin/env node\nimport x from 'x';\n", "typescript"),
    ("a.ts", '<?xml version="1.0"?>\n<!DOCTYPE TS>\n<TS></TS>\n', "xml"),
    ("a.mpl", "f := proc(x) x^2 end proc:\n", "maple"),
    ("a.scm", "(define (f x) (* x x))\n", "scheme"),
    ("a.fs", "module A\nlet f x = x + 1\n", "f-sharp"),
    ("run", "#!/usr/bin/env python3\nprint(1)\n", "python"),
    ("run", "hello\n", "unknown"),
    ("Dockerfile", "FROM debian\n", "dockerfile"),
    ("x/Dockerfile.debian", "FROM debian\n", "dockerfile"),
    ("dockerfile.pm", "package dockerfile;\nuse strict;\n1;\n", "perl"),
    ("Makefile.am", "bin_PROGRAMS = a\n", "makefile"),
    ("CMakeLists.txt", "project(a)\n", "cmake"),
    ("notes.txt", "hello\n", "text"),
    ("BUILD", "cc_library(name = 'a')\n", "python"),
    ("a.py", "\0\0", "unknown"),
    ("", "", "unknown"),
    ("a.nonsuch", "????", "unknown"),
]


def test_all_88_languages_of_the_paper_are_known():
    assert len(PAPER) == len(set(PAPER)) == 88


@pytest.mark.parametrize("name", LANGUAGES)
def test_main_extension_is_kept(name):
    known = LANGUAGES[name]
    assert known.main in known.extensions or (not known.paper and not known.main)
    assert not known.paper or known.main


def test_every_extension_is_lower_case_without_a_dot():
    for known in LANGUAGES.values():
        assert all(one == one.lower().lstrip(".") for one in known.extensions)


@pytest.mark.parametrize("name", LISTED)
def test_the_papers_extensions_are_kept(name):
    assert all(kept(name, one) for one in LISTED[name].split())


@pytest.mark.parametrize(
    ("language", "mended"), [("racket", "rkt"), ("matlab", "m"), ("verilog", "v"), ("prolog", "pl")]
)
def test_the_holes_of_the_papers_list_are_mended(language, mended):
    assert kept(language, mended)


@pytest.mark.parametrize(
    ("language", "out"),
    [
        ("c-sharp", "csx"),
        ("perl", "plx"),
        ("tex", "aux"),
        ("sql", "pls"),
        ("python", "txt"),
        ("unknown", "py"),
        ("nonsuch", "py"),
        ("yacc", "yy"),
    ],
)
def test_what_inspection_excluded_stays_out(language, out):
    assert not kept(language, out)


@pytest.mark.parametrize(("path", "text", "language"), SAMPLES)
def test_detect(path, text, language):
    assert detect(path, text) == language


def test_detect_gives_names_of_the_table_only(shared):
    frame = pl.read_parquet(shared("corpora/source/source.parquet")).sample(400, seed=1)
    names = {detect(p, t) for p, t in frame.select("path", "content").iter_rows()}
    assert names <= set(LANGUAGES) | {"unknown"}


def test_detection_agrees_with_the_labels_of_real_files(shared):
    """The labels are by extension alone, so ambiguous extensions are left out of the count."""
    frame = pl.read_parquet(shared("corpora/source/source.parquet"))
    wrong, total = Counter(), 0
    for path, text, label in frame.select("path", "content", "language").iter_rows():
        if extension(path) not in {"h", "m", "v", "pl", "pro", "st", "do", "sas", "t"}:
            total += 1
            wrong[label] += detect(path, text) != label
    assert total > 8000
    assert wrong.total() <= 0.002 * total, wrong.most_common(5)


def test_extension_is_empty_where_the_name_decides():
    names = ("Dockerfile.x", "CMakeLists.txt", "run", ".bashrc")
    assert [extension(name) for name in ("a/B.PY", *names)] == ["py", "", "", "", ""]


class Row(NamedTuple):
    """One row of the paper's inspection table, or one that we added to it (rules §2, §3)."""

    language: str
    extension: str
    include: bool | None  # by the paper; None: it never met this extension
    kept: bool  # by us
    limits: Limits


def _table():
    data = tomllib.loads(Path(languages.__file__).with_suffix(".toml").read_text("utf-8"))
    for name in LANGUAGES:
        own = data[name]
        listed = own.get("extensions", []) if name in PAPER else []
        include = dict.fromkeys(own.get("added", []), None)
        include |= dict.fromkeys(own.get("excluded", []), False)
        include |= dict.fromkeys([*listed, *own.get("strays", [])], True)
        for suffix, verdict in include.items():
            yield Row(name, suffix, verdict, kept(name, suffix), limits(name, suffix))


def test_the_inspection_table_is_rebuilt():
    rows = {(row.language, row.extension): row for row in _table()}
    verdicts = Counter(row.include for row in rows.values())
    # 303 rows and 267 kept in the paper's table, where stan stands twice: two people read it
    assert (verdicts[True], verdicts[False]) == (267 - 1, 36)
    assert {language for language, _ in rows} == {*PAPER, "bison"}
    assert sum(row.limits.max_line is None for row in rows.values() if row.include) == 30
    letters = [row for row in rows.values() if row.include and row.limits.alphabetic]
    assert Counter(row.limits.alphabetic for row in letters) == {0.25: 16, 0.5: 3}
    assert [r[:2] for r in rows.values() if r.include and not r.limits.xml] == [
        ("xslt", "xsl"),
        ("xslt", "xslt"),
    ]
    assert rows["stata", "sthlp"][2:4] == (False, False)
    assert rows["racket", "rkt"][2:4] == (False, True)  # the main extension, mended
    assert rows["racket", "scrbl"][2:4] == (True, True)
    assert rows["matlab", "m"][2:4] == (None, True)  # not in the paper's table
    assert rows["dockerfile", "mustache"][2:4] == (True, False)  # a file, not an extension


def test_what_the_paper_kept_we_keep():
    lost = {row[:2] for row in _table() if row.include and not row.kept}
    assert lost == {("dockerfile", "1"), ("dockerfile", "3"), ("dockerfile", "mustache")}


def test_volumes_sum_to_the_published_totals():
    assert set(VOLUMES) == {*PAPER, *KINDS} - {"code"}
    assert len(VOLUMES) == 92
    assert sum(one.documents for one in VOLUMES.values()) == pytest.approx(206.642239, abs=0.01)
    assert sum(one.characters for one in VOLUMES.values()) == pytest.approx(815.45, abs=0.01)


@pytest.mark.parametrize(
    ("spoken", "ours"),
    [
        ("C#", "c-sharp"),
        ("c-sharp", "c-sharp"),
        ("C++", "cpp"),
        ("Visual Basic", "visual-basic"),
        ("VISUAL BASIC .NET", "visual-basic"),
        ("protocol-buffer", "protocol-buffer"),
        ("Protocol Buffer", "protocol-buffer"),
        ("reStructuredText", "restructuredtext"),
        ("literate coffeescript", "literate-coffeescript"),
        ("Emacs_Lisp", "emacs-lisp"),
        ("VimL", "vim-script"),
        (" Python ", "python"),
        ("tcsh", "tcsh"),
        ("Brainfuck", None),
        ("", None),
    ],
)
def test_languages_by_what_others_call_them(spoken, ours):
    assert named(spoken) == ours


def test_every_name_of_a_language_is_its_own():
    for name, known in LANGUAGES.items():
        assert {named(one) for one in (name, *known.spoken)} == {name}


def test_limits_of_most_languages_are_the_papers():
    assert limits("python", "py") == Limits(1000, 100.0, 0.25, None, True)
    assert limits("unknown", "x") == Limits()


@pytest.mark.parametrize(
    ("language", "suffix", "expected"),
    [
        ("r", "r", Limits(None, None)),
        ("r", "rd", Limits()),
        ("sql", "sql", Limits(None, None)),
        ("sql", "prc", Limits(alphabetic=0.25)),
        ("markdown", "md", Limits(None, None)),
        ("tex", "bib", Limits(None, None)),
        ("matlab", "m", Limits(None, None, alphabetic=0.25)),
        ("mathematica", "nb", Limits(None, None, None, 0.25, ngram=3)),
        ("mathematica", "mt", Limits()),
        ("glsl", "fsh", Limits(max_line=500)),
        ("glsl", "fp", Limits(alphabetic=0.25)),
        ("visual-basic", "frm", Limits(None, None, None, ngram=3)),
        ("pascal", "dfm", Limits(near_dedup=False)),
        ("html", "htm", Limits(visible_share=0.2, visible_characters=100)),
        ("visual-basic", "bas", Limits(alphabetic=0.25)),
        ("sas", "sas", Limits(alphanumeric=None, similarity=0.6)),
        ("json", "json", Limits(None, None, alphabetic=0.5, **SIZE)),
        ("yaml", "yml", Limits(alphabetic=0.5, **SIZE)),
        ("scheme", "sld", Limits(alphabetic=0.25)),
        ("xslt", "xsl", Limits(xml=False)),
    ],
)
def test_limits_that_differ(language, suffix, expected):
    assert limits(language, suffix) == expected


def test_the_table_is_read_without_heavy_imports():
    code = (
        "import sys, starkiln.code.languages as l; l.limits('c', 'c')\n"
        "sys.exit(bool({'torch', 'polars', 'enry', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
