"""Golden rows, and a plain Python twin that must agree bit for bit."""

import re
from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starkiln.code.document import FILES
from starkiln.core import recipe, stage
from starkiln.core.errors import UserError
from starkiln.curate import filters, kernels, scan_kernels

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=8)


def _frame(*rows: tuple[str, str, str]) -> pl.DataFrame:
    schema = {"text": pl.String, "language": pl.String, "path": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _reasons(function, *rows, **settings):
    return function(_frame(*rows), **settings)["reason"].to_list()


STAGES = [
    filters.long_lines,
    filters.alphanumeric,
    filters.alphabetic,
    filters.xml,
    filters.html,
    filters.size,
    filters.generated,
    filters.encoded_runs,
]


GOLDEN = [  # text, longest line, mean line, share of letters and digits
    ("", 0, 0.0, 0.0),
    ("\n", 0, 0.0, 0.0),
    ("ab\n", 2, 1.0, 2 / 3),
    ("ab\r\ncd", 3, 2.5, 4 / 6),  # CR belongs to its line
    ("é日本\n𝔘x", 3, 2.5, 5 / 6),  # code points, whatever their width
    ("a\u2028b\x0cc", 5, 5.0, 3 / 5),  # only LF ends a line
    ("²½Ⅷ_", 4, 4.0, 3 / 4),  # numeric is alphanumeric, the underscore is not
    ("x" * 7 + "\n" + "y" * 3, 7, 5.0, 10 / 11),
]


@pytest.mark.parametrize(("text", "longest", "mean", "share"), GOLDEN)
def test_golden(text, longest, mean, share):
    rows = _frame((text, "python", "a.py"))
    found = filters.long_lines(rows)
    assert (found["max_line"][0], found["mean_line"][0]) == (longest, mean)
    assert filters.alphanumeric(rows)["alphanumeric_fraction"][0] == share
    lengths = [len(line) for line in text.split("\n")]  # the plain twin
    assert (max(lengths), sum(lengths) / len(lengths)) == (longest, mean)
    assert sum(map(str.isalnum, text)) / max(len(text), 1) == share


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_kernels_agree_with_python(texts):
    data, offsets = kernels.buffers(pl.Series(texts, dtype=pl.String))
    longest, lines, characters = kernels.lines(data, offsets)
    assert longest.tolist() == [max(map(len, t.split("\n"))) for t in texts]
    assert lines.tolist() == [len(t.split("\n")) for t in texts]
    assert characters.tolist() == [len(t) for t in texts]
    counts = kernels.letters(data, offsets, kernels.classes())
    assert counts[0].tolist() == [len(t) for t in texts]
    assert counts[1].tolist() == [sum(map(str.isalnum, t)) for t in texts]
    assert counts[2].tolist() == [sum(map(str.isalpha, t)) for t in texts]


def test_every_code_point_is_classed_as_python_does():
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    data, offsets = kernels.buffers(pl.Series(["".join(map(chr, points))]))
    count, alnum, alpha = kernels.letters(data, offsets, kernels.classes())[:, 0]
    assert count == len(points)
    assert alnum == sum(chr(c).isalnum() for c in points)
    assert alpha == sum(chr(c).isalpha() for c in points)


def test_long_lines_by_language_and_extension():
    long, wide, usual = "x" * 1001, "x" * 101, "x" * 1000 + "\n" * 9
    rows = [
        (usual, "python", "a.py"),
        (long, "python", "a.py"),
        (wide, "python", "a.py"),
        ("x" * 100, "python", "a.py"),
        (long, "markdown", "a.md"),
        (long, "json", "a.json"),
        (long, "an-unheard-of-language", "a.q"),
    ]
    bad = "long-line"
    assert _reasons(filters.long_lines, *rows) == [None, bad, bad, None, None, None, bad]


def test_alphanumeric_by_language():
    rows = [("a---", "python", "a.py"), ("a----", "python", "a.py"), ("a----", "sas", "a.sas")]
    assert _reasons(filters.alphanumeric, *rows) == [None, "alphanumeric", None]


def test_alphabetic_only_where_it_is_asked_for():
    rows = [
        ("1234a", "python", "a.py"),
        ("1234a", "json", "a.json"),
        ("12ab", "json", "a.json"),
        ("1234a", "yaml", "a.yml"),
        ("1234a", "ada", "a.ads"),
        ("1234a", "ada", "a.adb"),
        ("", "json", "a.json"),
    ]
    bad = "alphabetic"
    assert _reasons(filters.alphabetic, *rows) == [None, bad, None, bad, bad, None, bad]


def test_xml_in_the_first_100_characters():
    mark = '<?xml version="1.0"?>'
    rows = [
        (mark, "python", "a.py"),
        ("é" * 86 + mark, "python", "a.py"),
        ("é" * 87 + mark, "python", "a.py"),
        (mark, "xslt", "a.xsl"),
    ]
    assert _reasons(filters.xml, *rows) == ["xml", "xml", None, None]


@pytest.mark.parametrize("function", STAGES)
def test_filters_are_for_files_alone(function):
    assert stage.spec(function).kinds == FILES


@pytest.mark.parametrize("function", STAGES)
def test_empty_frames(function):
    found = function(_frame())
    assert found.height == 0
    assert found.schema["reason"] == pl.String


HTML = "<html><head><style>{css}</style></head><body><p>{text}</p></body></html>"


def test_html_by_its_visible_text():
    few, many = HTML.format(css="", text="x" * 100), HTML.format(css="", text="x" * 101)
    styled = HTML.format(css="p { a: b }" * 40, text="x" * 101)
    rows = [(few, "html", "a.html"), (many, "html", "a.html"), (styled, "html", "a.htm")]
    rows += [(styled, "markdown", "a.md")]
    found = filters.html(_frame(*rows))
    assert found["reason"].to_list() == ["html", None, "html", None]
    expected = [100 / len(few), 101 / len(many), 101 / len(styled), None]
    assert found["visible_fraction"].to_list() == expected
    assert _reasons(filters.html, *rows, visible_share=0.9) == ["html"] * 4
    loose = {"visible_share": False, "visible_characters": 99}
    assert _reasons(filters.html, *rows, by={"html": loose}) == [None] * 4


def test_html_whose_share_is_just_the_limit_is_dropped():
    text = "x" * 101 + "<!--" + "y" * 397 + "-->"
    assert len(text) == 5 * 101
    rows = [(text, "html", "a.html"), (text + "z", "html", "a.html")]
    assert _reasons(filters.html, *rows) == ["html", None]


SEEN = [  # markup, its visible characters
    ("", 0),
    ("é日本", 3),
    ("a<b>c</b >d", 3),
    ("1 < 2 <3", 8),
    ("a&amp;b&#233;&nosemicolon &;", 19),
    ("<!-- a > b -->c<!---->d<!-->e", 3),
    ("<!DOCTYPE html><?xml a?>x</ bogus>y", 2),
    ("<script>if (a < b) '</scr' </SCRIPT >x", 1),
    ("<STYLE a='>'>p{}</style>x<styles>y</styles>", 2),
    ("<a title=\"x > y\" alt='>'>z", 1),
    ("<p don't>z", 1),
    ("a<script>never closed", 1),
    ("a<!-- never closed", 1),
    ("a<b never closed", 1),
    ("a<", 2),
]


def _visible(texts):
    return scan_kernels.visible(*kernels.buffers(pl.Series(texts, dtype=pl.String))).tolist()


@pytest.mark.parametrize(("text", "characters"), SEEN)
def test_visible_characters(text, characters):
    assert _visible([text, "<p>", text]) == [characters, 0, characters]


class Reader(HTMLParser):
    """The slow, plain twin."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hidden, self.count = False, 0

    def handle_starttag(self, tag, attrs):
        self.hidden |= tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden &= tag not in ("script", "style")

    def handle_data(self, data):
        self.count += 0 if self.hidden else len(data)


def test_visible_text_of_real_pages_is_what_a_parser_finds(shared):
    frame = pl.read_parquet(shared("corpora/source/source.parquet"))
    pages = frame.filter(pl.col("language") == "html")["content"].to_list()
    expected = []
    for page in pages:
        reader = Reader()
        reader.feed(page)
        reader.close()
        expected.append(reader.count)
    assert len(pages) > 150
    assert _visible(pages) == expected


PIECES = st.sampled_from(
    ["<", ">", "</", "<!--", "-->", "<script", "</script", "<p ", "style", "'", '"', "=", "&", ";"]
)


@given(st.lists(PIECES | st.text("ab é\n", max_size=3), max_size=30).map("".join))
@settings(max_examples=200, deadline=None)
def test_visible_characters_of_broken_markup_are_some_of_them(text):
    (count,) = _visible([text])
    assert 0 <= count <= len(text)
    assert _visible(["x" + text]) == [count + 1]


HOSTILE = ["<", "<!--", "<script>", "</script", "&amp", "<a b='", "<script></scrip", "<![CDATA["]
HOSTILE += ["12 ", "\\u00", "\\", "0x", "12,12,x", "12" + 999 * " "]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece):
    """Anything quadratic takes hours on four megabytes."""
    small, frame = (
        _frame((piece * (size // len(piece)), "html", "a.html")) for size in (4_000, 4_000_000)
    )
    for scan in (filters.html, filters.encoded_runs):
        scan(small)  # compiles
        assert scan(frame).height == 1


def test_size_of_data_files():
    rows = [("x" * n, "json", "a.json") for n in (49, 50, 5000, 5001)]
    rows += [("é" * 50, "yaml", "a.yml"), ("", "python", "a.py")]
    assert _reasons(filters.size, *rows) == ["size", None, None, "size", None, None]
    assert _reasons(filters.size, *rows, max_characters=9, by={"json": {"max_characters": False}})[
        1:5
    ] == [None, None, None, "size"]


def test_limits_of_a_recipe_the_narrowest_counts():
    wide = "x" * 60
    rows = [(wide, "python", "a.py"), (wide, "python", "a.pyi"), (wide, "markdown", "a.md")]
    rows += [(wide, "unknown", "a.q")]
    long = "long-line"
    assert _reasons(filters.long_lines, *rows) == [None] * 4
    assert _reasons(filters.long_lines, *rows, max_line=50) == [long] * 4
    assert _reasons(filters.long_lines, *rows, max_line=50, mean_line=False) == [long] * 4
    by = {
        "python": {"max_line": 70},
        "python/pyi": {"max_line": 55},
        "unknown": {"max_line": False},
    }
    assert _reasons(filters.long_lines, *rows, max_line=50, by=by) == [None, long, long, None]
    assert _reasons(filters.long_lines, *rows, by=by) == [None, long, None, None]
    assert _reasons(filters.alphanumeric, ("a-", "c", "a.c"), alphanumeric=0.6) == ["alphanumeric"]
    assert _reasons(filters.alphabetic, ("1", "c", "a.c"), by={"c": {"alphabetic": 0.1}}) == [
        "alphabetic"
    ]
    mark = ('<?xml version="1.0"?>', "c", "a.c")
    assert _reasons(filters.xml, mark, by={"c": {"xml": False}}) == [None]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"by": {"pyton": {"max_line": 1}}}, "'pyton' names no language"),
        ({"by": {"python": {"maxline": 1}}}, "has no limit 'maxline'; known: max_line, mean_line"),
        ({"by": {"python/py": {"max_line": True}}}, "by.python/py.max_line: no such limit"),
        ({"max_line": -1}, "max_line: no such limit"),
        ({"max_line": "many"}, "max_line"),
        ({"alphanumeric": 0.5}, "no such key"),
    ],
)
def test_wrong_limits_are_refused(table, fault):
    with pytest.raises(UserError, match=fault):
        recipe.check(stage.settings_model(filters.long_lines), table, "recipe")


def test_limits_of_a_recipe_are_settings():
    table = {"max_line": 500, "by": {"python/pyi": {"mean_line": False}}}
    checked = recipe.check(stage.settings_model(filters.long_lines), table, "recipe")
    settings = checked.model_dump(mode="json")
    assert settings["by"]["python/pyi"]["mean_line"] is False
    assert _reasons(filters.long_lines, ("x" * 501, "c", "a.c"), **settings) == ["long-line"]


def test_generated_files():
    go = "// Code generated by protoc-gen-go. DO NOT EDIT.\npackage a\n"
    rows = [
        (go, "go", "a.go"),
        ("package a\n", "go", "a.go"),
        ("{}\n", "json", "web/package-lock.json"),
        ("# a\n# b\n# c\n# d\n# AUTO-Generated by x\n", "python", "a.py"),
        ("# a\n# b\n# c\n# d\n# e\n# auto-generated by x\n", "python", "a.py"),
        ("x = 'generated'\n", "python", "a.py"),
        ("", "python", "a.py"),
        ("\0# Automatically generated\r\n", "python", "a.py"),
    ]
    bad = "generated"
    assert _reasons(filters.generated, *rows) == [bad, None, bad, bad, None, None, None, bad]
    own = _reasons(filters.generated, *rows, phrases=["# E", "B"])
    assert own == [bad, None, bad, bad, bad, None, None, None]


# StarCoder2's patterns as published (rules §17), of ASCII
PATTERNS = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"[a-zA-Z0-9+/\n=]{64,}",
        r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}",
        r"(?:\\u[0-9a-fA-F]{4}){8,}",
    )
]
SCRAPS = ["0x1f", "0x", "\\x41", "\\x", "12", "ab", "a", "g", ",", " ", "\n", "\\u00e9", "\\u", "é"]


def _encoded(text):
    most, covered = scan_kernels.encoded(*kernels.buffers(pl.Series(["12", text])))
    return most[1], covered[1]


def _twin(text):
    matches = [match for pattern in PATTERNS for match in pattern.finditer(text)]
    covered = {at for match in matches for at in range(*match.span())}
    return max((len(match.group()) for match in matches), default=0), len(covered)


@given(st.lists(st.sampled_from(SCRAPS) | st.just("12,") | st.just("\\x1f"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_encoded_runs_are_the_published_patterns(pieces):
    text = "".join(pieces)
    assert _encoded(text) == _twin(text)
    assert _encoded(3 * text) == _twin(3 * text)


def test_encoded_runs_of_real_files_are_the_published_patterns(shared):
    frame = pl.read_parquet(shared("corpora/source/source.parquet"))
    texts = frame.filter(pl.col("size") < 40_000)["content"].sample(400, seed=5)
    found = zip(*(one.tolist() for one in scan_kernels.encoded(*kernels.buffers(texts))))
    assert list(found) == [_twin(text) for text in texts]


def test_encoded_files():
    code = "def f(x):\n    return x + 1\n\n\n"
    rows = [
        (code * 60 + "-" + "A" * 1024, "python", "a.py"),
        (code * 60 + "-" + "A" * 1025, "python", "a.py"),
        ("'" + "\\u00e9" * 8 + "'" + "-" * 45, "python", "a.py"),
        ("'" + "\\u00e9" * 8 + "'" + "-" * 46, "python", "a.py"),
        ("de,ad,be,ef,de,ad,be,ef,", "c", "a.c"),
        ("de,ad,be,ef,de,ad,be", "c", "a.c"),
    ]
    found = filters.encoded_runs(_frame(*rows))
    assert found["reason"].to_list() == [None, "encoded", "encoded", None, "encoded", None]
    assert found["encoded_fraction"].to_list()[-2:] == [1, 0]
    assert (
        filters.encoded_runs(_frame(*rows), max_run=9999, max_share=1)["reason"].null_count() == 6
    )


def test_a_kernel_without_a_cache_folder_still_runs():
    space: dict = {}
    exec("def double(x):\n    return 2 * x\n", space)  # no file, so no cache
    assert kernels.kernel(space["double"])(21) == 42
