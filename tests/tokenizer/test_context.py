import inspect
import json
import textwrap

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from starkiln.code.sentinels import (
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    SENTINELS,
)
from starkiln.core.errors import UserError
from starkiln.tokenizer import context, fim, layout
from starkiln.tokenizer.context import Recent, prompt, trim
from starkiln.tokenizer.layout import metadata_ids

MODES = ("psm", "spm")
FILES = (("a.py", "import os\nA = 1\n"), ("b.py", "def b():\n    return 2\n"))
LONG = "".join(f"line number {i} of some text é\n" for i in range(300))


def parts(ids, tokenizer, metadata=()):
    """Documents before, prefix and suffix of an infilling prompt, as text."""
    start = ids.index(FIM_PREFIX)
    suffix, middle = ids.index(FIM_SUFFIX), ids.index(FIM_MIDDLE)
    prefix = ids[start + 1 : suffix] or ids[middle + 1 :]
    assert prefix[: len(metadata)] == list(metadata)
    before = tokenizer.decode(ids[:start]).split("<|endoftext|>")
    assert before.pop() == ""
    after = tokenizer.decode(ids[suffix + 1 : middle])
    return before, tokenizer.decode(prefix[len(metadata) :]), after


@pytest.mark.parametrize("mode", MODES)
def test_what_fits_is_laid_out_as_in_training(tokenizer, mode):
    how = {"repo": "o/r", "path": "c.py"}
    ids = prompt("x = ", "\n", tokenizer, limit=300, mode=mode, files=FILES, **how)
    own = fim.prompt("x = ", "\n", tokenizer, mode=mode, metadata=metadata_ids(tokenizer, **how))
    first, second = (
        [
            *metadata_ids(tokenizer, repo="o/r", path=path),
            *tokenizer.encode(text),
            END_OF_TEXT,
        ]
        for path, text in FILES
    )
    assert ids == [*first, *second, *own]


def test_without_suffix_the_prompt_is_left_to_right(tokenizer):
    ids = prompt("x = ", None, tokenizer, limit=99, path="c.py", files=FILES[:1])
    golden = "<filename>a.py\nimport os\nA = 1\n<|endoftext|><filename>c.py\nx = "
    assert tokenizer.decode(ids) == golden
    assert prompt("x = ", None, tokenizer, limit=99) == layout.prompt("x = ", tokenizer)


@given(
    limit=st.integers(12, 700),
    mode=st.sampled_from(MODES),
    at=st.integers(0, len(LONG)),
    files=st.lists(st.sampled_from([*FILES, ("", LONG), ("long.py", LONG), ("e.py", "")])),
)
def test_prompts_keep_what_is_next_to_the_cursor(tokenizer, limit, mode, at, files):
    metadata = metadata_ids(tokenizer, path="c")
    ids = prompt(LONG[:at], LONG[at:], tokenizer, limit=limit, mode=mode, path="c", files=files)
    assert len(ids) <= limit
    before, prefix, after = parts(ids, tokenizer, metadata)
    if limit > 120:
        assert LONG[:at].endswith(prefix)
        assert LONG[at:].startswith(after)
        assert prefix or not at
        assert LONG[: at - len(prefix)][-1:] in ("", "\n")
        assert after.endswith("\n") or not LONG[at:]
    assert len(prefix) + len(after) == len(LONG) or len(ids) > limit * 2 // 3 - 40
    texts = [layout_text(path, text) for path, text in files]
    for document in reversed(before):  # in their order; only beginnings, of whole lines
        while texts and not texts[-1].startswith(document):
            texts.pop()
        assert texts.pop().startswith(document)
        assert document.endswith("\n")


def layout_text(path, text):
    return f"<filename>{path}\n{text}" if path else text


@given(limit=st.integers(60, 400))
def test_the_last_file_is_kept_first(tokenizer, limit):
    files = [("a.py", LONG), ("b.py", LONG)]
    ids = prompt("x", "y", tokenizer, limit=limit, mode="spm", files=files)
    before, _, _ = parts(ids, tokenizer)
    assert [document[:15] for document in before] in (["<filename>b.py\n"], [])
    assert limit < 100 or len(ids) > limit * 3 // 4 - 30


def test_a_file_of_which_no_line_fits_makes_room_for_others(tokenizer):
    files = [("a.py", "A = 1\n"), ("long.json", "[" + "1, " * 500)]
    ids = prompt("x", "y", tokenizer, limit=100, mode="spm", files=files)
    assert parts(ids, tokenizer)[0] == ["<filename>a.py\nA = 1\n"]


@pytest.mark.parametrize("suffix", [None, "b"])
def test_metadata_that_leave_no_room_are_a_users_fault(tokenizer, suffix):
    with pytest.raises(UserError, match="no room"):
        prompt("a", suffix, tokenizer, limit=40, path="p/" * 40)


class Counting:
    """The tokenizer, and how many characters it was given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.characters = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode(self, text):
        self.characters += len(text)
        return self.tokenizer.encode(text)


@pytest.mark.parametrize(
    "names",
    [{"path": "p/" * 10**6}, {"repo": "r" * 10**6, "path": "a.py"}, {"repo": "r" * 10**6}],
)
def test_names_that_are_too_long_are_refused_unread(tokenizer, names):
    counting = Counting(tokenizer)
    with pytest.raises(UserError, match="give shorter names"):
        prompt("a", "b", counting, limit=200, **names)
    assert counting.characters < 10_000


def test_a_file_whose_name_is_too_long_is_left_out_unread(tokenizer):
    files = [("a.py", "A = 1\n"), ("b/" * 10**6, "B = 1\n"), ("c.py", "C = 1\n")]
    counting = Counting(tokenizer)
    ids = prompt("x", "y", counting, limit=200, files=files)
    assert parts(ids, tokenizer)[0] == ["<filename>a.py\nA = 1\n", "<filename>c.py\nC = 1\n"]
    assert counting.characters < 10_000


@given(text=st.lists(st.sampled_from([*SENTINELS, "x", "\n", "é🙂"])).map("".join))
def test_text_never_becomes_a_sentinel(tokenizer, text):
    files = [(text, text)]
    ids = prompt(text, text, tokenizer, limit=4000, repo=text, path=text, files=files)
    found = [i for i in ids if i < len(SENTINELS)]
    named = [18, 5] if text else []
    assert found == [*([*named, 0] if text.strip() else []), 1, *named, 3, 2]


@given(text=st.text(st.sampled_from("ab é🙂\n"), max_size=400), limit=st.integers(4, 60))
def test_any_text_at_any_limit(tokenizer, text, limit):
    for mode in MODES:
        ids = prompt(text, text, tokenizer, limit=limit, mode=mode, files=[("", text)])
        assert len(ids) <= limit


SOURCES = [inspect.getsource(module)[:9000] for module in (json, textwrap)]


@pytest.mark.parametrize("limit", [256, 700, 4000])
@pytest.mark.parametrize("source", SOURCES, ids=["json", "textwrap"])
def test_typing_changes_only_the_end_of_an_spm_prompt(tokenizer, source, limit):
    """The cache of prompts serves the next keystroke, even where text must be left out."""
    recomputed = []
    for cursor in (len(source) // 4, len(source) // 2):
        typed, suffix = source[cursor : cursor + 150], source[cursor + 150 :]
        last: list[int] = []
        for end in range(len(typed)):
            ids = prompt(
                source[:cursor] + typed[:end],
                suffix,
                tokenizer,
                limit=limit,
                mode="spm",
                path="a.py",
                files=[("b.py", LONG), ("c.py", "C = 1\n" * 9)],
            )
            if last:
                recomputed.append(len(ids) - _common(last, ids))
            last = ids
    recomputed.sort()
    assert recomputed[len(recomputed) // 2] <= 2
    assert recomputed[len(recomputed) * 9 // 10] <= 5
    assert sum(recomputed) / len(recomputed) < 4 + limit / 60


def _common(first, second):
    pairs = enumerate(zip(first, second))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


TRIMMED = [  # prefix, middle, suffix, what is left of the middle
    ("x = ", "1\n    return x\n", "\n    return x\n", "1"),
    ("x = ", "1\n\n    return x", "\n\n\n    return x\n", "1"),
    ("x = ", "1\n    return x\n\ndef ne", "\n    return x\n\n\ndef next():\n", "1"),
    ("x = ", "1\n    ret", "\n    return x\n", "1"),
    ("    ", "return x", "\n    return x\n", ""),
    ("x = ", "f()", "\nf()\n", "f()"),
    ("", "f()\n", "f()\n", ""),
    ("", "a = 1\nf()\n", "f()\n", "a = 1\n"),
    ("", "    a = 1\n    f()\n", "    f()\n", "    a = 1\n"),
    ("def f(", "a, b):\n    return a\n", "):\n    return a\n", "a, b"),
    ("f(", "x, y", "y)", "x, "),
    ("f(", "max", "x)", "max"),
    ("f(", "x)", ")", "x)"),
    ("f(", "g(x)", ")", "g(x)"),
    ("f(", "g(x))", "))", "g(x))"),
    ('print("', 'hello");', '");', "hello"),
    ("{\n", "  if (a) {\n    b();\n  }\n}\n", "}\n", "  if (a) {\n    b();\n  }\n"),
    ("{\n", "  if (a) {\n    b();\n  }", "  }\n}\n", "  if (a) {\n    b();\n  }"),
    ("function f() {", "\n  g();\n}\n", "\n}\n", "\n  g();"),
    ("x\n", "y\r\nz\r\n", "\r\nz\r\n", "y"),
    ("a = 1", "\n", "\nb = 2\n", "\n"),
    ("", "x\nx\nx", "\nx\n", ""),
    ("pri", "nt(x)", "nt(x)", ""),
    ("", "", "x", ""),
    ("x", "y", "", "y"),
]


@pytest.mark.parametrize(("prefix", "middle", "suffix", "left"), TRIMMED)
def test_trim(prefix, middle, suffix, left):
    assert trim(middle, suffix, prefix) == left


CODE = st.lists(st.sampled_from(["\n", "  ", "ab", "cd", "(", ")", "}", "{", " ", ";"])).map(
    "".join
)
WORDS = st.lists(st.sampled_from(["\n", "  ", "ab", "cd", " = ", "x", "\r\n"])).map("".join)


@given(prefix=CODE, middle=CODE, suffix=CODE)
def test_trim_only_cuts_at_the_end_and_once(prefix, middle, suffix):
    left = trim(middle, suffix, prefix)
    assert middle.startswith(left)
    cut = middle[len(left) :].split()
    assert not cut or "".join(cut)[:1] in "".join(suffix.split())
    assert trim(left, "", prefix) == left


@given(middle=CODE, suffix=st.text("xyz 1\n"), prefix=CODE)
def test_trim_never_cuts_what_does_not_overlap(middle, suffix, prefix):
    assert trim(middle, suffix, prefix) == middle


@given(prefix=WORDS, middle=WORDS, suffix=WORDS)
@example(prefix="", middle="x\nx\n  ab", suffix="\nx\n  abcd")
def test_trim_leaves_no_line_doubled(prefix, middle, suffix):
    left = trim(middle, suffix, prefix)
    above = prefix.rpartition("\n")[2]
    lines = [line.rstrip() for line in (above + left).split("\n")]
    if above.strip():
        del lines[0]
    first = next((line.rstrip() for line in suffix.split("\n") if line.strip()), None)
    assert next((line for line in reversed(lines) if line), "") != first


@given(prefix=WORDS, middle=WORDS, whole=WORDS)
def test_trim_takes_back_what_runs_into_the_suffix(prefix, middle, whole):
    """A completion that goes on with the first two lines of the suffix ends before them."""
    suffix = f"\nfirst line\nsecond line\n{whole}"
    assert trim(middle + suffix[:25], suffix, prefix) == trim(middle.rstrip(), suffix, prefix)


@given(st.lists(st.tuples(st.sampled_from(["a", "ab" * 90, "é" * 400]), st.integers(0, 3))))
def test_what_is_remembered_is_right_and_takes_little_room(tokenizer, asked):
    done = []

    def work(text, tokenizer, most):
        done.append((text, most))
        return layout.first_lines(text, tokenizer, most)

    recent = Recent(work, 12_000)
    for text, most in asked:
        assert recent(text, tokenizer, most) == layout.first_lines(text, tokenizer, most)
        assert 0 <= recent.held <= 12_000
        assert not recent.held or (text, most) in [key[::2] for key in recent._known]
    known = sum(context._size(*one) for one in recent._known.items())
    assert recent.held == known
    if asked and recent._known:
        before = len(done)
        recent(asked[-1][0], tokenizer, asked[-1][1])
        assert len(done) == before


def test_long_texts_are_not_kept_by_number(tokenizer):
    recent = Recent(layout.last_lines, 1 << 20)
    for i in range(50):
        recent(f"{i}\n" * 20_000, tokenizer, 100)
    assert 2 < len(recent._known) < 30
    assert recent("x" * (2 << 20), tokenizer, 3) == layout.last_lines("x" * (2 << 20), tokenizer, 3)
    assert (recent.held, recent._known) == (0, {})
