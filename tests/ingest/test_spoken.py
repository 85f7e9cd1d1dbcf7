import pytest

from starkiln.code.languages import LANGUAGES
from starkiln.ingest.spoken import _LINES, guess, named


@pytest.mark.parametrize(
    ("spoken", "ours"),
    [
        ("C++17", "cpp"),
        ("Python 3", "python"),
        ("ipython", "python"),
        ("octave", "matlab"),
        ("C#", "c-sharp"),
        ("fsharp", "f-sharp"),
        ("Wolfram Language", "mathematica"),
        (" R ", "r"),
        ("q", None),
        ("", None),
        ("x" * 10**6, None),
        (None, None),
        (["python"], None),
    ],
)
def test_names_that_kernels_give(spoken, ours):
    assert named(spoken) == ours


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("import numpy as np\nx = np.zeros(3)\nfor i in x:\n    print(i)", "python"),
        ("%matplotlib inline\nx.plot()", "python"),
        ('print("the same in Lua")', "python"),
        ("library(dplyr)\nx <- c(1, 2)\nsummary(x)", "r"),
        ("using Plots\nfunction f(x)\n  2x\nend\nprintln(f(1))", "julia"),
        ("#include <iostream>\nstd::cout << 1;", "cpp"),
        ("const a = require('fs');\nconsole.log(a);", "javascript"),
        ("(define (f x) (+ x 1))\n(display (f 2))", "scheme"),
        ("local t = {}\nfor k, v in pairs(t) do\nend", "lua"),
        ("1 + 1", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_look_of_code(code, language):
    assert guess(code) == language


def test_every_language_with_telling_lines_is_one_of_ours():
    assert set(_LINES) <= set(LANGUAGES)


def test_a_guess_looks_at_a_bounded_part():
    assert guess("x" * 10**6 + "\n" * 10**6 + "import os\n") == "unknown"
