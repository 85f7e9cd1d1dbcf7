import codecs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, SET_ASIDE
from starkiln.ingest.rows import cut, decode, excluded, place, row

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SPANISH = "# año nuevo: información, corazón\nx = 1\n"
RUSSIAN = "// Функция возвращает значение, если строка найдена в файле; иначе ошибка\n" * 2
JAPANESE = (
    "// これは日本語のコメントです。ファイルを読み込みます。もう一度ファイルを読み込みます。\n" * 2
)
CHINESE = "// 这是一个中文注释，用于测试编码检测的功能，请不要修改这个文件的内容。\n" * 2


@given(st.binary())
@example(b"\xff\xfe")
@example(b"\xff\xfe\x00")
@example(b"\x80" * 200)
def test_any_bytes_give_a_text_or_a_reason(data):
    text, reason = decode(data)
    assert reason in (None, "empty", "binary", "encoding")
    assert (reason is None) == bool(text)
    assert "\0" not in text
    text.encode("utf-8")


@given(TEXTS)
def test_utf8_comes_back_unchanged(text):
    text = text.lstrip("\ufeff")
    if text.strip():
        assert decode(text.encode()) == (text, None)
        assert decode(codecs.BOM_UTF8 + text.encode()) == (text, None)
    else:
        assert decode(text.encode())[1] == "empty"


@given(
    TEXTS.filter(str.strip), st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
)
def test_a_byte_order_mark_tells_the_encoding(text, encoding):
    assert decode(("\ufeff" + text).encode(encoding)) == (text, None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (b"MZ\0\0\x90", "binary"),
        ("int main(void);".encode("utf-16-le"), "binary"),
        ("\ufeffa\0b".encode("utf-16-le"), "binary"),
        (codecs.BOM_UTF16_LE + b"a\0b", "encoding"),
        (codecs.BOM_UTF16_LE + b"\0\xd8a\0", "encoding"),
        (codecs.BOM_UTF8 + b"a\xff", "encoding"),
        (b"# -*- coding: ascii -*-\n# \xc3\xa9\xff\xfe\n", "encoding"),
        (b"x = '\xf8\xe8'", "encoding"),
    ],
)
def test_what_is_set_aside(data, reason):
    assert decode(data) == ("", reason)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
        ("/* Jürgen Häußler, © 1999 */\nint x;\n", "latin-1"),
        ("# -*- coding: latin-1 -*-\n" + SPANISH, "latin-1"),
        ("# vim: set fileencoding=koi8-r :\n# да\n", "koi8-r"),
        ("<meta charset='iso-8859-2'>\n<p>Příliš žluťoučký</p>\n", "iso-8859-2"),
    ],
)
def test_legacy_encodings_that_can_be_told(text, encoding):
    assert decode(text.encode(encoding)) == (text, None)


def test_a_declared_encoding_is_no_way_to_run_a_codec():
    for name in ("rot13", "unicode_escape", "idna", "zip", "utf-7", "nonsuch", "undefined"):
        assert decode(f"# coding: {name}\n# ".encode() + b"\xff\xd8\xf8\n")[1] == "encoding"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.py", ("a/b.py", None)),
        ("./a//b.py", ("a/b.py", None)),
        ("a..b/...", ("a..b/...", None)),
        ("/etc/passwd", ("/etc/passwd", "path-traversal")),
        ("../a", ("../a", "path-traversal")),
        ("a/../../b", ("a/../../b", "path-traversal")),
        ("a\\..\\b", ("a\\..\\b", "path-traversal")),
        ("C:\\a", ("C:\\a", "path-traversal")),
        ("\\\\host\\a", ("\\\\host\\a", "path-traversal")),
        ("a\nb", ("a?b", "path-name")),
        ("a\udcff.py", ("a?.py", "path-name")),
    ],
)
def test_place(name, expected):
    assert place(name) == expected


@given(st.text())
def test_a_place_can_be_written_and_stays_inside(name):
    path, reason = place(name)
    path.encode("utf-8")
    assert reason or not (path.startswith("/") or ".." in path.split("/"))


def test_excluded_looks_at_components_and_at_whole_paths():
    assert excluded("a/.git/config", [".git"])
    assert not excluded("a/.github/x", [".git"])
    assert excluded("a/x.egg-info/PKG", ["*.egg-info"])
    assert excluded("test/data/x.bin", ["test/data/*"])
    assert not excluded("a/test/data/x.bin", ["test/data/*"])


def test_rows_have_the_columns_of_their_tables():
    kept = row(b"x = 1\n", repo="r", path="a.py", licences=["MIT"], stars=3)
    assert list(kept) == list(SCHEMA)
    assert kept["id"] == "7d4290a117a4ddcc11daae7ea675841033830c8f"  # git hash-object
    assert (kept["language"], kept["stars"], kept["licences"]) == ("python", 3, ["MIT"])
    assert row(b"\0", repo="r", path="a", licences=[]) == dict(
        zip(SET_ASIDE, ("r", "a", 1, "binary"), strict=True)
    )


@given(st.lists(st.integers(0, 9)), st.integers(1, 20))
def test_cut_keeps_the_order_and_the_limit(sizes, limit):
    pieces = list(cut(enumerate(sizes), lambda item: item[1], limit))
    assert [item for piece in pieces for item in piece] == list(enumerate(sizes))
    for piece, following in zip(pieces, [*pieces[1:], [(0, limit + 1)]]):
        total = sum(size for _, size in piece)
        assert total <= limit or sum(size > 0 for _, size in piece) == 1
        assert total + following[0][1] > limit  # none is cut too early
