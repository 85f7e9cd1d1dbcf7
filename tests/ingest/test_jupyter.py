import csv
import json
import tarfile
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, SET_ASIDE
from starkiln.code.sentinels import ID
from starkiln.ingest import jupyter
from starkiln.ingest.jupyter import prose
from starkiln.ingest.spoken import named

MARKERS = (
    "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>",
)  # fmt: skip


def code(source: Any, *outputs: Any) -> dict:
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": {}}


def text(source: Any) -> dict:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def stream(words: Any) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": words}


def kernel(language: str) -> dict:
    return {"language_info": {"name": language}}


def notebook(*cells: dict, metadata: Any = None, **rest: Any) -> bytes:
    metadata = kernel("python") if metadata is None else metadata
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, **rest}).encode()


def rows(data: bytes, **rest: Any) -> list[dict]:
    return list(jupyter.rows(data, repo="r", path="n.ipynb", licences=["MIT"], **rest))


def reasons(data: bytes, **rest: Any) -> list[str]:
    return [row.get("reason", row.get("kind")) for row in rows(data, **rest)]


def script(data: bytes, **rest: Any) -> str:
    (row,) = rows(data, forms=["script"], **rest)
    (segment,) = row["segments"]
    assert segment["marker"] == ""
    return segment["text"]


def segments(data: bytes, **rest: Any) -> list[tuple[str, str]]:
    (row,) = rows(data, forms=["structured"], **rest)
    return [(segment["marker"], segment["text"]) for segment in row["segments"]]


def test_the_two_forms():
    one, two = rows(notebook(text("# T\nwords"), code("x = 1\nprint(x)", stream("1\n"))), stars=7)
    assert one["kind"] == "notebook-script"
    assert one["segments"] == [{"marker": "", "text": "# # T\n# words\n\nx = 1\nprint(x)\n"}]
    assert two["kind"] == "notebook"
    assert [(s["marker"], s["text"]) for s in two["segments"]] == [
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "T\nwords"),
        ("<jupyter_code>", "x = 1\nprint(x)"),
        ("<jupyter_output>", "1"),
    ]
    for row in (one, two):
        assert list(row) == list(SCHEMA)
        told = [row[name] for name in ("language", "repo", "path", "stars", "licences")]
        assert told == ["python", "r", "n.ipynb", 7, ["MIT"]]
    assert one["id"] != two["id"]


# ---- the structured form (rules §4)


def test_an_empty_output_has_its_own_marker_behind_that_of_outputs():
    assert segments(notebook(text("t"), code("1"), text("u"), code("2", stream("2"))))[1:] == [
        ("<jupyter_text>", "t"),
        ("<jupyter_code>", "1"),
        ("<jupyter_output>", ""),
        ("<empty_output>", ""),
        ("<jupyter_text>", "u"),
        ("<jupyter_code>", "2"),
        ("<jupyter_output>", "2"),
    ]
    assert all(marker in ID for marker in MARKERS)


def test_cells_in_succession_are_one_and_loose_ends_fall():
    found = segments(
        notebook(
            code("import os"),
            text("a"),
            text("  "),
            text("b"),
            code(""),
            code("1", stream("first")),
            {"cell_type": "raw", "source": "for LaTeX"},
            code("2", stream("last"), stream("second output")),
            text("the end"),
        )
    )
    assert found[1:] == [
        ("<jupyter_text>", "a\nb"),
        ("<jupyter_code>", "1\n2"),
        ("<jupyter_output>", "last"),
    ]


def test_only_the_text_of_the_first_output_counts():
    image = {"output_type": "display_data", "data": {"image/png": "A" * 10**6, "text/plain": "x"}}
    for outputs in ([image], [image, stream("late")], [{"text": {}}], [None], ["x"], [stream([1])]):
        assert segments(notebook(text("t"), code("1", *outputs)))[-1] == ("<empty_output>", "")
    bad = {"cell_type": "code", "source": "1", "outputs": {"text": "x"}}
    assert segments(notebook(text("t"), bad))[-1] == ("<empty_output>", "")


@pytest.mark.parametrize("size", [999, 1000, 1001, 10**6])
def test_a_long_output_is_cut(size):
    found = segments(notebook(text("t"), code("1", stream(["é" * size]))))[-1][1]
    assert found == "é" * min(size, 1000) + "[...]" * (size > 1000)


def test_prose_keeps_words_apart_and_c_sharp():
    given = (
        "# Title #1\r\n\r\n\r\n  ## C# and F#\n<div class='a'>one <b>two</b></div>\n<!-- no -->\n"
        'a < b and c > d\n<https://example.org> <img src="data:image/png;base64,AA" />\n - item'
    )
    assert prose(given).split("\n") == [
        "Title #1",
        "C# and F#",
        "one two",
        "a < b and c > d",
        "<https://example.org>",
        " - item",
    ]


def test_text_of_tags_alone_is_empty():
    data = notebook(text("t"), code("1"), text("<br/>"), code("2"))
    assert segments(data)[1:3] == [("<jupyter_text>", "t"), ("<jupyter_code>", "1\n2")]
    assert reasons(notebook(text("<hr>"), code("1"))) == ["notebook-script", "structured-pairs"]


def test_structured_is_for_the_languages_named():
    data = notebook(text("t"), code("x <- 1"), metadata=kernel("R"))
    assert reasons(data) == ["notebook-script", "structured-language"]
    assert reasons(data, structured=["r"]) == ["notebook-script", "notebook"]


def test_text_that_looks_like_a_sentinel_stays_text():
    data = notebook(text("`<|endoftext|>`"), code("'<jupyter_text>'", stream("<empty_output>")))
    assert segments(data)[1:] == [
        ("<jupyter_text>", "`<|endoftext|>`"),
        ("<jupyter_code>", "'<jupyter_text>'"),
        ("<jupyter_output>", "<empty_output>"),
    ]


# ---- scripts


def test_magics_and_other_languages_are_commented_out():
    data = notebook(code("%matplotlib inline\nimport os"), code("%%bash\nls -l"), code("!ls"))
    found = script(data)
    assert "# %matplotlib inline\nimport os" in found
    assert "# ls -l" in found
    assert "# !ls" in found
    compile(found, "script", "exec")


def test_styles():
    data = notebook(text("t"), code("x = 1\n\n\ny = 2"), code("z"))
    assert "# +\nx = 1" in script(data)
    assert script(data, style="percent").startswith("# %% [markdown]\n# t\n\n# %%\nx = 1")


@pytest.mark.parametrize(
    ("language", "ours", "comment"),
    [
        ("julia", "julia", "# words"),
        ("c++", "cpp", "// words"),
        ("Octave", "matlab", "% words"),
        ("haskell", "haskell", "-- words"),
        ("OCaml", "ocaml", "(* words *)"),
        ("scheme", "scheme", ";; words"),
        ("ruby", "ruby", "# words"),  # from here on jupytext has no extension
        ("kotlin", "kotlin", "// words"),
        ("mathematica", "mathematica", "(* words *)"),
        ("SQL", "sql", "-- words"),
    ],
)
def test_comments_are_those_of_the_language(language, ours, comment):
    data = notebook(text("words"), code("x"), metadata=kernel(language))
    (row,) = rows(data, forms=["script"])
    assert row["language"] == ours
    assert row["segments"][0]["text"] == f"{comment}\n\nx\n"


def test_what_a_notebook_asks_of_a_converter_is_not_heard():
    whole = {"jupytext": {"cell_metadata_filter": "all", "encoding": "# -*- coding: x -*-"}}
    cell = code("x = 1")
    cell["metadata"] = {"lines_to_next_cell": 10**9, "tags": ["active-md"], "cell_marker": "'''"}
    data = notebook(cell, text("t"), metadata=whole | kernel("python"))
    assert script(data) == "x = 1\n\n# t\n"


def test_very_long_lines_take_no_time():
    long = "(" * 900_000  # a minute of backtracking in jupytext
    data = notebook(text("words"), code(long), metadata=kernel("ocaml"))
    assert script(data) == f"(* words *)\n\n{long}\n"


def test_a_fault_of_the_converter_costs_the_marks_alone(monkeypatch):
    def broken(*_: Any) -> str:
        raise RecursionError

    monkeypatch.setattr("jupytext.writes", broken)
    assert script(notebook(text("t"), code("x\n\n\ny"))) == "# t\n\nx\n\n\ny\n"


# ---- the language


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({"kernelspec": {"name": "ir", "language": "R"}}, "r"),
        ({"kernelspec": {"name": "python3", "display_name": "Python 3"}}, "python"),
        ({"kernelspec": {"name": "conda-env-py38", "display_name": "x"}}, "python"),
        ({"kernelspec": {"name": "calysto", "language": "scheme", "x": "(Python)"}}, "scheme"),
        ({"language_info": {"name": "strange", "file_extension": ".jl"}}, "julia"),
        ({"language_info": {"name": "c++", "file_extension": ".C"}}, "cpp"),
        ({"jupytext": {"main_language": "julia"}}, "julia"),
        ({}, "python"),
        (["no table"], "python"),
        ({"kernelspec": "python3", "language_info": 7}, "python"),
        ({"kernelspec": {"name": ["python3"], "language": None}}, "python"),
    ],
)
def test_where_the_language_is_said(metadata, language):
    (row,) = rows(notebook(code("import os\nx = 1"), metadata=metadata), forms=["script"])
    assert row["language"] == language


@pytest.mark.parametrize("metadata", [kernel("q"), {"kernelspec": {"language": "logtalk"}}])
def test_an_unknown_language_is_not_guessed(metadata):
    assert reasons(notebook(code("import os"), metadata=metadata)) == ["notebook-language"]


def test_no_language_and_nothing_that_tells_it():
    assert reasons(notebook(code("1 + 1"), metadata={})) == ["notebook-language"]


# ---- formats, and what is none


def old(cells: list[dict], version: int = 3) -> bytes:
    sheets = [{"cells": cells[:2]}, {"cells": cells[2:]}]
    return json.dumps({"worksheets": sheets, "metadata": {}, "nbformat": version}).encode()


def test_format_three():
    output = {"output_type": "stream", "stream": "stdout", "text": ["1\n", "2\n"]}
    data = old(
        [
            {"cell_type": "heading", "level": 2, "source": ["Title"]},
            {"cell_type": "code", "input": ["x\n", "y"], "language": "python", "outputs": [output]},
            {"cell_type": "heading", "level": 10**9, "source": "Deep"},
            {"cell_type": "html", "source": "<b>bold</b>"},
            {"cell_type": "code", "input": "z", "outputs": []},
        ]
    )
    assert script(data) == "# ## Title\n\nx\ny\n\n# ###### Deep\n\n# <b>bold</b>\n\nz\n"
    assert segments(data)[1:] == [
        ("<jupyter_text>", "Title"),
        ("<jupyter_code>", "x\ny"),
        ("<jupyter_output>", "1\n2"),
        ("<jupyter_text>", "Deep\nbold"),
        ("<jupyter_code>", "z"),
        ("<jupyter_output>", ""),
        ("<empty_output>", ""),
    ]


def test_format_one():
    cells = [{"cell_type": "text", "text": "t"}, {"cell_type": "code", "code": "import os"}]
    data = json.dumps({"cells": cells}).encode()
    assert script(data) == "# t\n\nimport os\n"


DEEP = b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "notebook-json"),
        (b"not json", "notebook-json"),
        (b'{"cells": [\0]}', "notebook-json"),
        (b"\x80\x81", "encoding"),
        (b'{"cells": ' + b"1" * 5000 + b"}", "notebook-json"),
        (DEEP, "notebook-json"),
        (b"[]", "notebook-shape"),
        (b"7", "notebook-shape"),
        (b'"cells"', "notebook-shape"),
        (b"null", "notebook-shape"),
        (b"{}", "notebook-shape"),
        (b'{"nbformat": 3, "metadata": {}}', "notebook-shape"),
        (b'{"cells": {}}', "notebook-shape"),
        (b'{"cells": [1]}', "notebook-shape"),
        (b'{"cells": null}', "notebook-shape"),
        (b'{"worksheets": [[]]}', "notebook-shape"),
        (b'{"worksheets": [{"cells": "x"}]}', "notebook-shape"),
        (notebook(code(7)), "notebook-shape"),
        (notebook(code({"a": 1})), "notebook-shape"),
        (notebook(code(["a", 1])), "notebook-shape"),
        (notebook(text([["a"]]), code("1")), "notebook-shape"),
        (b'{"cells": []}', "notebook-empty"),
        (b'{"worksheets": []}', "notebook-empty"),
        (notebook(text("only text")), "notebook-empty"),
        (notebook(code(None), code("\n")), "notebook-empty"),
        (notebook({"cell_type": ["code"], "source": "1"}), "notebook-empty"),
        (notebook(code("x" * 1_000_001)), "too-large"),
        (notebook(*[code("1")] * 10_001), "too-large"),
    ],
    ids=range(30),
)
def test_what_is_no_notebook_has_one_reason(data, reason):
    (row,) = rows(data)
    assert list(row) == list(SET_ASIDE)
    assert (row["path"], row["bytes"], row["reason"]) == ("n.ipynb", len(data), reason)


def test_nul_is_binary():
    data = notebook(text("t"), code("1", stream("a\0b")))
    assert reasons(data) == ["notebook-script", "binary"]
    assert reasons(notebook(text("t"), code("a\0"))) == ["binary", "binary"]


def test_encodings_and_surrogates():
    plain = notebook(code("x = '\ud83d'"), text("\udc00 \ud83d\ude00"))
    assert script(plain) == "x = '\ufffd'\n\n# \ufffd \U0001f600\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        data = json.dumps({"cells": [code("é = 1; import os")]}, ensure_ascii=False)
        assert "é = 1" in script(data.replace("é = 1;", "é = 1\\n").encode(encoding))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
SOURCE = st.text(alphabet="\n\n# +-%!'\"\\(*){}[]x=1ab\r\x0c\u2028é\ud800", max_size=60)
CELL = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown", "raw", "heading"]) | JSON},
    optional={
        "source": SOURCE | st.lists(SOURCE, max_size=3) | JSON,
        "outputs": st.lists(st.fixed_dictionaries({"text": JSON}), max_size=2) | JSON,
        "metadata": JSON,
        "level": JSON,
        "language": JSON,
    },
)
LANGUAGE = st.sampled_from(["python", "R", "ocaml", "bash", "c++", "go", "haskell", "sas"])
METADATA = JSON | LANGUAGE.map(kernel)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CELL, max_size=5), METADATA, st.sampled_from(["light", "percent"]))
def test_any_json_gives_whole_rows(cells, metadata, style):
    data = json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}).encode()
    found = rows(data, style=style, structured=["python", "r"])
    assert len(found) in (1, 2)
    for row in found:
        assert list(row) == list(SET_ASIDE if "reason" in row else SCHEMA)
        for segment in row.get("segments", []):
            segment["text"].encode()
            assert segment["marker"] in ("", *MARKERS)


def test_real_notebooks(shared):
    """All that have code and a known language become scripts, in the language of the index."""
    with shared("corpora/notebooks/index.csv").open(newline="") as file:
        index = {line["path"]: line for line in csv.DictReader(file)}
    found: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    with tarfile.open(shared("corpora/notebooks/notebooks.tar.xz")) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".ipynb"):
                line = index.pop(member.name)
                made = rows(tar.extractfile(member).read())  # pyrefly: ignore
                found.update(row.get("reason", row.get("kind")) for row in made)
                for row in made:
                    if row.get("kind") == "notebook-script":
                        assert row["language"] == (
                            named(line["kernel_language"]) or row["language"]
                        )
                        languages[row["language"]] += 1
                if line["parses"] == "1" and not int(line["code_cells"]):
                    assert made[0]["reason"] == "notebook-empty" or line["nbformat"] == "3"
    assert not index
    assert found == {
        "notebook-script": 319,
        "notebook": 211,
        "structured-pairs": 90,
        "structured-language": 18,
        "notebook-empty": 17,
        "notebook-language": 6,  # Logtalk, q, plain text; three say nothing but "1 + 1"
        "notebook-shape": 1,  # neither cells nor worksheets
    }
    assert languages == {
        "python": 301, "julia": 4, "r": 2, "shell": 1, "cpp": 1, "c-sharp": 1, "haskell": 1,
        "javascript": 1, "lua": 1, "matlab": 1, "powershell": 1, "scheme": 1, "stata": 1, "tcl": 1,
        "typescript": 1,
    }  # fmt: skip
