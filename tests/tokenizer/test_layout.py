import re
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.code.document import SCHEMA, blob_id, code_document
from starkiln.code.sentinels import END_OF_TEXT, ID, SENTINELS
from starkiln.core.errors import UserError
from starkiln.tokenizer import bulk
from starkiln.tokenizer.layout import (
    first_lines,
    last_lines,
    lay_out,
    metadata_ids,
    prompt,
    star_bucket,
)
from starkiln.tokenizer.settings import LayoutSettings

ALWAYS = LayoutSettings(repo_p=1.0, path_p=1.0, stars_p=1.0)
NEVER = LayoutSettings(repo_p=0.0, path_p=0.0, stars_p=0.0)


def code(text="x = 1\n", **rest):
    row = {"repo": "o/r", "path": "a/b.py", "language": "Python", "licences": [], "stars": 12}
    return code_document(text, **{**row, **rest})


def other(kind, *segments):
    pairs = [{"marker": marker, "text": text} for marker, text in segments]
    ids = blob_id("\n".join(text for _, text in segments))
    return {**code(), "id": ids, "kind": kind, "segments": pairs}


def laid(tokenizer, rows, settings=ALWAYS, seed=0):
    """Each row's ids, and how many of them are metadata."""
    encode = partial(bulk.encode, tokenizer)
    found = lay_out(pl.DataFrame(rows, SCHEMA), encode, settings, seed)
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.tokens)
    documents = np.split(found.tokens, found.offsets[1:-1]) if rows else []
    assert len(documents) == len(rows) == len(found.content)
    return [(ids.tolist(), int(n)) for ids, n in zip(documents, found.content)]


GOLDEN = {
    "<issue_start>Title: T\nusername_0: a<issue_comment>username_1: b<issue_closed>": other(
        "issue",
        ("<issue_start>", "Title: T\nusername_0: a"),
        ("<issue_comment>", "username_1: b"),
        ("<issue_closed>", ""),
    ),
    "<jupyter_start><jupyter_text>T<jupyter_code>C<jupyter_output><empty_output>": other(
        "notebook",
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "T"),
        ("<jupyter_code>", "C"),
        ("<jupyter_output>", ""),
        ("<empty_output>", ""),
    ),
    "<commit_before>B\r\n<commit_msg>subject<commit_after>A": other(
        "commit", ("<commit_before>", "B\r\n"), ("<commit_msg>", "subject"), ("<commit_after>", "A")
    ),
    "print()\n": other("notebook-script", ("", "print()\n")),
    "<reponame>o/r<filename>a/b.py<gh_stars>10-100\nx = 1\n": code(),
    "<filename>a/b.py<gh_stars>0\n": code("", repo="", stars=None),
}


@pytest.mark.parametrize(
    ("golden", "row"), GOLDEN.items(), ids=[r["kind"] for r in GOLDEN.values()]
)
def test_templates(tokenizer, golden, row):
    ((ids, _),) = laid(tokenizer, [row])
    assert tokenizer.decode(ids) == golden + "<|endoftext|>"
    named = "".join(f"<{name}>" for name in re.findall("<(.*?)>", golden + "<|endoftext|>"))
    assert "".join(SENTINELS[i] for i in ids if i < len(SENTINELS)) == named


def test_metadata_order_and_content(tokenizer):
    ((ids, content),) = laid(tokenizer, [code()])
    assert ids[:content] == [
        ID["<reponame>"],
        *tokenizer.encode("o/r"),
        ID["<filename>"],
        *tokenizer.encode("a/b.py"),
        ID["<gh_stars>"],
        *tokenizer.encode("10-100"),
        *tokenizer.encode("\n"),
    ]
    assert ids[content:] == [*tokenizer.encode("x = 1\n"), END_OF_TEXT]
    given_ids = metadata_ids(tokenizer, repo="o/r", path="a/b.py", stars=12)
    assert given_ids == ids[:content]
    assert metadata_ids(tokenizer) == []


@pytest.mark.parametrize(
    ("stars", "bucket"),
    [
        *((None, "0"), (0, "0"), (1, "1-10"), (10, "1-10"), (11, "10-100"), (100, "10-100")),
        *((101, "100-1000"), (1000, "100-1000"), (1001, "1000+")),
    ],
)
def test_star_bucket(stars, bucket):
    assert star_bucket(stars) == bucket


def test_without_metadata_there_is_no_newline(tokenizer):
    whole = [*tokenizer.encode("x = 1\n"), END_OF_TEXT]
    assert laid(tokenizer, [code()], NEVER) == [(whole, 0)]


def test_each_field_is_drawn_by_itself_with_its_probability(tokenizer):
    rows = [code(f"x = {i}") for i in range(4000)]
    found = [set(ids) for ids, _ in laid(tokenizer, rows, LayoutSettings(), 7)]
    fields = [ID["<reponame>"], ID["<filename>"], ID["<gh_stars>"]]
    has = np.array([[field in ids for field in fields] for ids in found])
    assert np.abs(has.mean(0) - 0.2).max() < 0.02  # 3 standard deviations
    assert np.abs(np.corrcoef(has.T) - np.eye(3)).max() < 0.05
    again = [set(ids) for ids, _ in laid(tokenizer, rows[::-1], LayoutSettings(), 7)]
    assert again[::-1] == found
    assert [set(ids) for ids, _ in laid(tokenizer, rows, LayoutSettings(), 8)] != found


@given(texts=st.lists(st.lists(st.sampled_from([*SENTINELS, "x", "é", "\n"])).map("".join)))
def test_documents_stand_end_to_end_and_text_stays_text(tokenizer, texts):
    rows = [code(text, repo=text or "r", path="<fim_pad>") for text in texts]
    for text, (ids, content) in zip(texts, laid(tokenizer, rows), strict=True):
        before = metadata_ids(tokenizer, repo=text or "r", path="<fim_pad>", stars=12)
        assert ids == [*before, *tokenizer.encode(text), END_OF_TEXT]
        assert content == len(before)
        assert tokenizer.decode_bytes(ids[content:]).decode() == text
        assert [j for j in ids if j < len(SENTINELS)] == [18, 5, 6, 0]


def test_rows_of_all_kinds_stand_side_by_side(tokenizer):
    rows = [*GOLDEN.values(), other("issue")]
    alone = [laid(tokenizer, [row])[0] for row in rows]
    assert laid(tokenizer, rows) == alone
    assert alone[-1] == ([END_OF_TEXT], 0)


def test_unknown_marker_is_named(tokenizer):
    with pytest.raises(UserError, match="marker 'commit_msg' is no sentinel"):
        laid(tokenizer, [other("commit", ("commit_msg", "x"))], NEVER)


LINES = "".join(f"line {i} of some text é\n" for i in range(40))


@given(limit=st.integers(1, 509))
def test_prompts_keep_whole_lines_next_to_the_cursor(tokenizer, limit):
    end, start = last_lines(LINES, tokenizer, limit), first_lines(LINES, tokenizer, limit)
    assert len(end) <= limit
    assert len(start) <= limit
    one = len(tokenizer.encode("line 39 of some text é\n"))
    if limit > one:
        text = tokenizer.decode(end)
        assert LINES.endswith(text)
        assert text.startswith("line ")
        assert limit - len(end) <= one
        text = tokenizer.decode(start)
        assert LINES.startswith(text)
        assert text.endswith("é\n")
        assert limit - len(start) <= one
    else:
        assert tokenizer.decode_bytes(end) == LINES.encode()[-len(tokenizer.decode_bytes(end)) :]


def test_prompt_keeps_metadata_and_says_when_there_is_no_room(tokenizer):
    metadata = metadata_ids(tokenizer, path="a.py")
    ids = prompt(LINES, tokenizer, metadata=metadata, limit=60)
    assert len(ids) <= 60
    assert tokenizer.decode(ids).startswith("<filename>a.py\nline ")
    assert tokenizer.decode(ids).endswith("line 39 of some text é\n")
    assert prompt(LINES, tokenizer) == tokenizer.encode(LINES)
    with pytest.raises(UserError, match="no room"):
        prompt("x", tokenizer, metadata=metadata, limit=len(metadata))


def test_a_text_that_fits_is_kept_whole(tokenizer):
    whole = tokenizer.encode(LINES)
    assert len(whole) == 510
    assert last_lines(LINES, tokenizer, 510) == first_lines(LINES, tokenizer, 510) == whole
