"""Rules on a benchmark of the user's that is planted in every way, and on what must stay."""

import ast
import builtins
import json
import keyword
import math
import subprocess
import sys
import sysconfig
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.core.errors import UserError
from starkiln.core.stage import settings_model
from starkiln.curate import needles
from starkiln.curate.decontaminate import decontaminate, stamp
from starkiln.curate.python_names import BUILTINS, KEYWORDS
from starkiln.problems.benchmarks import contaminants

DOCSTRING = (
    "Sort the Ünderwater baskets by the number of oysters in each,\n"
    "    then by the name of the diver. Empty baskets come last.\n"
    '    >>> baskets("a\\nb")\n    [2, 3]'
)
SOLUTION = (
    "    found, sum = {}, 0\n"
    "    for diver in sorted(baskets, key=lambda b: (-b.oysters, b.diver)):\n"
    "        if diver.oysters < 1.0: # nothing in it\n"
    "            continue\n"
    "        elif len(diver.name) == 7:\n"
    "            sum += diver.oysters\n"
    "        found[diver.name] = sum * found.get('all', 1)\n"
    "    return found\n"
)
GCD = "while b:\n        a, b = b, a % b\n    return a"


@pytest.fixture
def own(tmp_path):
    rows = [
        {"id": 7, "prompt": DOCSTRING, "solution": SOLUTION},
        {"id": 8, "solution": GCD},
        {"id": 9, "prompt": "x + y"},
        {
            "id": "中文",
            "prompt": "给定一个整数列表,请返回其中最大的偶数,如果没有则返回零并抛出异常。",
        },
    ]
    path = tmp_path / "sea.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def _run(own, *texts, **given):
    frame = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
    return decontaminate(frame, **({"benchmarks": [], "own": own} | given))


def _by(own, *texts, **given):
    return _run(own, *texts, **given)["contaminated_by"].to_list()


EXACT = {
    "as it is": f"x = 1\n{DOCSTRING}\n",
    "in capitals": DOCSTRING.upper(),
    "with CRLF": DOCSTRING.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", EXACT.values(), ids=EXACT)
def test_exact_copies_are_found_whatever_the_case(own, text):
    for methods in (["exact"], ["exact", "normalised", "ngram", "structure"]):
        found = _run(own, "clean", text, methods=methods)
        assert found["reason"].to_list() == [None, "contaminated:sea"]
        assert found["contaminated_by"].to_list() == [None, ["sea/7:prompt:exact"]]


def _lines(leader, text=DOCSTRING):
    return "\n".join(leader + line for line in text.split("\n"))


NORMALISED = {
    "C++": _lines("// "),
    "block": f"/*\n{_lines(' * ')}\n */",
    "shell, capitals": _lines("# ", DOCSTRING.upper()),
    "SQL": _lines("-- "),
    "Lisp": _lines(";; "),
    "TeX": _lines("% "),
    "batch": _lines("REM "),
    "autoconf": _lines("dnl "),
    "Fortran": _lines("C "),
    "J": _lines("NB. "),
    "Visual Basic": _lines("' "),
    "reflowed": " ".join(DOCSTRING.split()),
    "notebook": json.dumps([line + "\n" for line in DOCSTRING.split("\n")], indent=1),
    "JSON in JSON": json.dumps(json.dumps(DOCSTRING)),
    "raw letters in JSON": json.dumps(DOCSTRING, ensure_ascii=False),
    "HTML": DOCSTRING.replace(">", "&gt;").replace('"', "&quot;"),
    "joined literals": 's = ("' + DOCSTRING.replace(" by ", ' by "\n     "') + '")',
}


@pytest.mark.parametrize("text", NORMALISED.values(), ids=NORMALISED)
def test_docstrings_in_another_dress(own, text):
    assert _by(own, text) == [["sea/7:prompt:normalised"]]
    assert _by(own, text, methods=["exact"]) == [None]


def test_reformatted_solutions_with_and_without_comments(own):
    tight = SOLUTION.replace(", ", ",").replace("    ", "\t").replace("'", '"')
    bare = ast.unparse(ast.parse(f"def f(baskets):\n{SOLUTION}"))  # no comments, 1.0 the same
    assert _by(own, tight, bare) == 2 * [["sea/7:solution:normalised"]]


def test_other_scripts(own):
    text = "给定一个整数列表\n# 请返回其中最大的偶数,如果没有,则返回零并抛出异常"
    escaped = json.dumps(text)
    assert _by(own, text, escaped) == 2 * [["sea/中文:prompt:normalised"]]


def test_partial_and_edited_copies_by_ngrams(own):
    words = DOCSTRING.split(" ")
    cut, edited = " ".join(words[:-9]), DOCSTRING.replace("diver", "swimmer")
    assert _by(own, cut, edited) == 2 * [["sea/7:prompt:ngram"]]
    spread = (40 * " lorem ipsum").join([DOCSTRING[:70], DOCSTRING[70:140], DOCSTRING[140:]])
    assert _by(own, DOCSTRING[:60], spread) == [None, None]
    for other in ({"ngram_share": 1.0}, {"ngram": 30}, {"methods": ["exact", "structure"]}):
        assert _by(own, edited, **other) == [None]


RENAMED = """
def g(row):
  (one, two) = ({}, 0)
  for it in sorted(row, key=lambda z: (-z.oysters, z.diver)):
    if it.oysters < 1.0:
        continue
    else:
        if len(it.name) == 7:
            two += it.oysters
    one[it.name] = two * one.get("all", 1);
  return one
"""


def test_renamed_solutions(own):
    assert _by(own, RENAMED) == [["sea/7:solution:structure"]]
    assert _by(own, RENAMED, methods=["exact", "normalised", "ngram"]) == [None]
    others = {
        "another built-in": RENAMED.replace("len(", "hash("),
        "another attribute": RENAMED.replace(".get", ".pop"),
        "another literal": RENAMED.replace('"all"', '"any"'),
        "another number": RENAMED.replace("7", "8"),
        "another operator": RENAMED.replace("+=", "-="),
        "two names made one": RENAMED.replace("two", "one"),
        "one name made two": RENAMED.replace("return one", "return other"),
        "a statement more": RENAMED.replace("continue", "pass; continue"),
    }
    assert dict(zip(others, _by(own, *others.values()))) == dict.fromkeys(others)


def test_short_needles_are_exact_or_nothing(own):
    again = GCD.replace("a, b = b", "(a, b) = (b)")
    assert _by(own, f"def gcd(a, b):\n    {GCD}\n", again, "x + y") == [
        ["sea/8:solution:exact"],
        None,
        None,
    ]


def test_one_entry_a_problem_the_surest_first(own):
    whole = f'def baskets(s):\n    """{DOCSTRING}"""\n{SOLUTION}'
    assert _by(own, f"{_lines('# ')}\n{RENAMED}\n{GCD}", whole) == [
        ["sea/8:solution:exact", "sea/7:prompt:normalised"],
        ["sea/7:prompt:exact"],
    ]


def test_commits_and_notebooks_are_their_segments(own):
    commit = f"old\nmessage\nx = 1\n# {DOCSTRING}"
    notebook = f"some text\n{SOLUTION}\n[1, 2]"
    assert _by(own, commit, notebook) == [["sea/7:prompt:exact"], ["sea/7:solution:exact"]]


def test_clean_text_stays(own):
    texts = [
        "",
        "\r\n",
        "日本語",
        "\\",
        "&",
        "\\u12",
        "\\\\u",
        "REM",
        DOCSTRING[: len(DOCSTRING) // 3],
    ]
    assert _run(own, *texts)["reason"].null_count() == 9
    assert _run(own).height == 0


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(), st.sampled_from([*EXACT.values(), *NORMALISED.values()]))
def test_whatever_stands_around_it(before, after, text):
    """Hostile neighbours break nothing and hide nothing, once a line sets them apart."""
    frame = pl.Series([f"{before}\n{text}\n{after}".encode(errors="replace").decode()])
    pair = ("sea", needles.Needle("sea/7", "prompt", DOCSTRING))
    index = needles.build([pair], frozenset(["normalised"]), 5, 0.5)
    assert needles.find(frame, index, True) == [(0, 0, "copy")]


def test_the_fast_search_agrees_with_python(own):
    """Letters and digits alone, as plain strings, on real files with needles cut out of them."""
    texts = [p.read_text() for p in sorted(Path(ast.__file__).parent.glob("[a-d]*.py"))]
    cuts = [text[len(text) // 2 :][:size] for text, size in zip(texts, range(90, 300, 5))]
    cuts = [cut.replace("\\", " ").replace("&", " ") for cut in cuts]
    pairs = [("x", needles.Needle(f"x/{i}", "prompt", cut)) for i, cut in enumerate(cuts)]
    index = needles.build(pairs, frozenset(["normalised"]), 5, 0.5)
    plain = [text.replace("\\", " ").replace("&", " ") for text in texts]
    found = needles.find(pl.Series(plain), index, True)
    letters = [_letters(text) for text in plain]
    slow = {
        (row, spelled[0][1].problem)
        for row, text in enumerate(letters)
        for spelled in index.spellings
        if _letters(spelled[0][1].text) in text and len(_letters(spelled[0][1].text)) >= 20
    }
    assert {(row, index.spellings[n][0][1].problem) for row, n, _ in found} == slow
    assert len(slow) >= len([c for c in cuts if len(_letters(c)) >= 20]) > 20


def _letters(text):
    return "".join(c for c in text if c.isalnum()).lower()


def test_no_benchmark_no_pass(own, tmp_path):
    with pytest.raises(UserError, match=r"holds no mbpp\.jsonl"):
        _run(own, "text", benchmarks=["mbpp"], data=str(tmp_path))
    with pytest.raises(UserError, match="no such benchmark"):
        _run(own, "text", benchmarks=["humanevil"])
    with pytest.raises(UserError, match="cannot be read"):
        _run(str(tmp_path / "absent.jsonl"), "text")


def test_an_edited_file_is_read_again(own, tmp_path):
    """In one process: the index is kept by what its files hold."""
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    question = "How many {} has Ann if she had {} of them at noon, and Bob took away {}?"
    for fruit in ("apples", "melons"):
        text = question.format(fruit, 2 * fruit, 3 * fruit)
        (folder / "test.jsonl").write_text(json.dumps({"question": text}))
        Path(own).write_text(json.dumps({"id": 1, "prompt": f"{fruit} and pears of {fruit}"}))
        benchmark = {"benchmarks": ["gsm8k"], "data": str(tmp_path)}
        assert _by(None, text, **benchmark) == [["GSM8K/0:question:exact"]]
        assert _by(own, f"{fruit} and pears of {fruit}") == [["sea/1:prompt:exact"]]


def test_the_order_of_methods_is_no_setting():
    model = settings_model(decontaminate)
    orders = (["ngram", "exact"], ["exact", "ngram"], ["ngram", "exact", "ngram"])
    assert {tuple(model(methods=methods).methods) for methods in orders} == {("exact", "ngram")}


def test_names_of_this_python_are_known():
    assert set(keyword.kwlist) <= set(KEYWORDS)
    assert {name for name in dir(builtins) if name[0] != "_"} <= set(BUILTINS)


def _near(text, needle, n, share):
    """Whether ``needle`` is found in ``text`` by n-grams, as the docstring has it."""
    grams = {tuple(needle[i : i + n]) for i in range(len(needle) - n + 1)}
    needed = max(math.ceil(share * len(grams)), needles.FEWEST)
    placed = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    width = needles.SPREAD * len(needle)
    windows = (placed[max(0, i - width + 1) : i + 1] for i in range(len(placed)))
    return len(grams) >= needed and any(len(grams & {*window}) >= needed for window in windows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.2, 0.5, 0.9]))
def test_ngrams_agree_with_python(seed, share):
    """Texts made of pieces of a few needles, at every density."""
    random, vocabulary = Random(seed), [f"w{i}" for i in range(12)]
    them = [random.choices(vocabulary, k=random.randint(12, 30)) for _ in range(6)]
    pairs = [("x", needles.Needle(f"x/{i}", "prompt", " ".join(t))) for i, t in enumerate(them)]
    texts = []
    for _ in range(8):
        text = []
        while len(text) < 120:
            cut, begin = random.choice(them), random.randint(0, 20)
            text += cut[begin : begin + random.randint(1, 12)]
            text += ["none"] * random.randint(0, 6)
        texts.append(text)
    index = needles.build(pairs, frozenset(["ngram"]), 3, share)
    found = needles.find(pl.Series([" ".join(text) for text in texts]), index, False)
    expected = {(i, k) for i, text in enumerate(texts) for k, needle in enumerate(them)
                if _near(text, needle, 3, share)}  # fmt: skip
    assert {(row, int(index.spellings[k][0][1].problem[2:])) for row, k, _ in found} == expected


@pytest.mark.timeout(60)  # a second; a walk of the text for each needle takes minutes
def test_pieces_of_benchmarks_take_linear_time(shared):
    """Four megabytes in which most needles have n-grams enough, though they stand far apart."""
    random = Random(1)
    names, data = ["humaneval", "mbpp", "gsm8k"], shared("benchmarks/gsm8k").parent
    given = {"benchmarks": names, "data": str(data)}
    held = [needle.text.split() for name in names for needle in contaminants(name, data)]
    held = [words for words in held if len(words) >= 6]

    def text(size):
        pieces = []
        for words in random.choices(held, k=size // 36):
            begin = random.randint(0, len(words) - 6)
            pieces.append(" ".join(words[begin : begin + 6]).ljust(36))
        return pl.DataFrame({"text": ["\n".join(pieces)]})

    decontaminate(text(10_000), **given)  # compiles, and reads the benchmarks
    hostile = text(4_000_000)
    found = decontaminate(hostile, **given)
    assert found["contaminated_by"].list.len()[0] > 50


def test_the_stamp_follows_the_files(shared, tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    given = {"benchmarks": ["gsm8k"], "data": str(tmp_path)}
    stamps = set()
    for question in ("How many?", "How few?"):
        (folder / "test.jsonl").write_text(json.dumps({"question": question}))
        stamps |= {stamp(given), stamp(given)}
    assert len(stamps) == 2


def test_the_standard_library_is_clean(shared):
    """No false positive but the gcd loop: on Python's own 600 files, all benchmarks loaded."""
    data = str(shared("benchmarks/multipl-e").parent)
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    paths += sorted(Path(sysconfig.get_path("stdlib")).glob("[a-su-z]*/*.py"))
    texts = [path.read_text(errors="replace") for path in paths if path.stat().st_size < 300_000]
    found = decontaminate(pl.DataFrame({"text": texts[:900]}), data=data)
    hits = found["contaminated_by"].drop_nulls().to_list()
    assert [hit for hit in hits if hit != ["HumanEval/13:solution:exact"]] == []


def test_importing_the_stage_is_quick():
    code = "import starkiln.curate.decontaminate, sys; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
