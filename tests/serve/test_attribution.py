"""Copies of indexed documents are found where they are, and nothing else is."""

import random
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from starkiln.builders import Job
from starkiln.builders.lookup import lookup
from starkiln.catalogue import Recipe
from starkiln.code.document import SCHEMA, code_document
from starkiln.code.sentinels import SENTINELS
from starkiln.core import manifest, table
from starkiln.core.errors import UserError
from starkiln.core.log import Line
from starkiln.core.manifest import Identity, Manifest
from starkiln.core.pool import Pool
from starkiln.serve import attribution
from starkiln.serve.attribution import Attribution

MARKS = re.compile("|".join(map(re.escape, SENTINELS)))
GREEK = "μέγα βιβλίον"
MANY = """def shared_by_all(first, second, third):
    # one line that every file has, word for word, in the same place
    return first * 3 + second / (third - 17)
"""


def plain(text: str) -> str:
    """The normal form, the slow way."""
    text = MARKS.sub("\n", text)
    text = re.sub(r"(?<=[\w\x80-\U0010ffff])\s+(?=[\w\x80-\U0010ffff])", "\0", text, flags=re.ASCII)
    return re.sub(r"\s+", "", text).replace("\0", " ")


def files() -> list[str]:
    """Some real code, and what is awkward."""
    names = ("textwrap", "bisect", "heapq", "calendar", "csv", "shelve", "sched", "tabnanny")
    library = Path(sysconfig.get_path("stdlib"))
    texts = [(library / f"{name}.py").read_text() for name in names]
    accents = "\n".join(f"größe_{i} = '{GREEK * 2} 😀 {i * i}'  # naïve, zähle" for i in range(40))
    return [*texts, accents, "", "x", "=" * 4000, texts[0][:90]]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of an index of texts, in so many shards."""

    def made(texts: list[str], shards: int = 3, **settings: float) -> Path:
        work = tmp_path_factory.mktemp("work")
        rows = [
            code_document(
                text,
                repo=f"github.com/acme/r{i % 3}",
                path=f"f{i}.py",
                language="python",
                licences=["MIT"],
            )
            for i, text in enumerate(texts)
        ]
        (work / "curated").mkdir()
        size = -(-len(rows) // shards)
        for i in range(shards):
            frame = pl.DataFrame(rows[i * size : (i + 1) * size], schema=SCHEMA)
            table.write(work / "curated" / f"{i:05d}.parquet", frame)
        total = sum(len(text.encode()) for text in texts)
        manifest.write(work / "curated", Manifest(Identity("table", [], {}), bytes=total))
        out = work / "lookup"
        out.mkdir()
        recipe = Recipe.model_validate({"lookup": settings})
        line = Line(Console(quiet=True), "lookup")
        job = Job(work, out, recipe, Identity("lookup", [], {}), Pool(1), line)
        manifest.write(out, lookup(job))
        return out

    return made


@pytest.fixture(scope="session")
def index(make: Callable[..., Path]) -> Attribution:
    return Attribution.open(make(files()))


def check(index: Attribution, text: str, texts: list[str]) -> list[attribution.Match]:
    """What ``text`` shares, after proof that every part of it is really there."""
    found = index.search(text)
    for match in found:
        asked = plain(text[match.start : match.end])
        assert len(asked) == match.characters
        assert match.exact
        assert 1 <= len(match.documents) <= min(match.count, attribution.SHOWN)
        lengths = [one.characters for one in match.documents]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] == match.characters
        for one in match.documents:
            document = texts[int(one.path[1:-3])]
            assert len(plain(document[one.start : one.end])) == one.characters >= index.minimum
            assert plain(document[one.start : one.end]) in asked
    spans = [(match.start, match.end) for match in found]
    assert spans == sorted(spans)
    assert all(a[1] < b[1] for a, b in pairwise(spans))
    return found


def reindented(text: str) -> str:
    return "\n".join("\t  " + line.strip() for line in text.splitlines())


def wrapped(text: str) -> str:
    """Broken after brackets and commas, and where there were spaces."""
    return re.sub(r"([(,\[])\s*", "\\1\n        ", text).replace(" ", "\r\n ")


WAYS = {"plain": str, "reindented": reindented, "wrapped": wrapped}


@given(data=st.data(), way=st.sampled_from(sorted(WAYS)), around=st.sampled_from(["", "é ", "#"]))
def test_a_planted_copy_is_found_with_its_document_and_span(
    index: Attribution, data: st.DataObject, way: str, around: str
) -> None:
    texts = files()
    number = data.draw(st.integers(0, 8))
    begin = data.draw(st.integers(0, len(texts[number]) - 400))
    copy = texts[number][begin : begin + data.draw(st.integers(150, 400))].strip()
    form = plain(copy)
    if len(form) < 99 or any(len(set(form[i : i + 50])) < 9 for i in range(len(form) - 49)):
        return
    asked = around + WAYS[way](copy) + around
    found = check(index, asked, texts)
    low = len(around)
    high = len(asked) - len(around)
    inside = [m for m in found if m.start <= low + 3 and m.end >= len(asked[:high].rstrip())]
    assert inside
    assert any(
        one.path == f"f{number}.py" and form in plain(texts[number][one.start : one.end])
        for match in inside
        for one in match.documents
    )
    spans = index.member(asked)
    assert any(max(len(plain(asked[low:a])), len(plain(asked[b:high]))) <= 50 for a, b in spans)


@given(st.text(min_size=0, max_size=400))
def test_strange_text_shares_nothing(index: Attribution, text: str) -> None:
    assert check(index, text, files()) == []


WORDS = "if (x) { return fetch items[key] += 1 ; } else def self.name = None while not done"


def soup() -> list[str]:
    """Documents of few words, so that they share much with each other and with themselves."""
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS.split(), k=90)) for _ in range(12)]


@pytest.fixture(scope="session")
def fine(make: Callable[..., Path]) -> Attribution:
    return Attribution.open(make(soup(), stride=1))


def longest(asked: str, documents: list[str]) -> list[tuple[int, int]]:
    """The spans of ``asked`` that some document has, none within another; the slow way."""
    spans = set()
    for document in documents:
        end = 0
        for begin in range(len(asked)):
            end = max(begin, end)
            while end < len(asked) and asked[begin : end + 1] in document:
                end += 1
            part = asked[begin:end]
            spans.add(
                (begin + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()))
            )
    spans = {(a, b) for a, b in spans if b - a >= 50}
    inner = {s for s in spans if any(s != t and t[0] <= s[0] and s[1] <= t[1] for t in spans)}
    return sorted(spans - inner)


pieces = st.tuples(st.integers(0, 11), st.integers(0, 500), st.integers(0, 250))


@given(st.lists(pieces, min_size=1, max_size=5), st.sampled_from(["", " ", "?"]))
def test_spans_are_those_of_a_search_by_hand(
    fine: Attribution, taken: list[tuple[int, int, int]], between: str
) -> None:
    texts = soup()
    asked = plain(between.join(texts[i][begin : begin + size] for i, begin, size in taken))
    found = [(match.start, match.end) for match in check(fine, asked, texts)]
    assert found == longest(asked, [plain(text) for text in texts])


def test_offsets_are_code_points(index: Attribution) -> None:
    texts = files()
    copy = texts[8][99:399]
    assert copy == copy.strip()
    (match,) = check(index, "😀é " + copy, texts)
    assert (match.start, match.end) == (3, 303)
    assert (match.documents[0].start, match.documents[0].end) == (99, 399)
    (span,) = index.member("😀é " + copy)
    assert copy[span[0] - 3 : span[1] - 3] in copy


def test_a_lone_surrogate_is_but_a_strange_character(index: Attribution) -> None:
    texts = files()
    asked = "\ud800" + texts[0][200:500] + "\udfff"
    (match,) = index.search(asked)
    assert match.start >= 1
    assert match.end <= len(asked) - 1


def test_a_sentinels_text_is_white_space(make: Callable[..., Path]) -> None:
    copy = files()[0][300:700]
    one = Attribution.open(make([copy.replace("\n", "<fim_middle>", 3)], shards=1))
    (match,) = one.search(copy)
    assert match.characters == len(plain(copy))


def test_rulers_and_short_copies_are_no_matches(index: Attribution) -> None:
    assert index.search("=" * 300) == []
    assert index.member("=" * 300) == []
    short = files()[3][5000:5045]
    assert index.search(short) == []
    assert index.member(short) == []


def test_a_longer_minimum_leaves_out_more(make: Callable[..., Path]) -> None:
    folder = make(files())
    copy = files()[2][3000:3300]
    assert Attribution.open(folder, minimum=150).search(copy)
    assert Attribution.open(folder, minimum=1000).search(copy) == []
    assert Attribution.open(folder, minimum=1000).member(copy) == []


def test_a_smaller_stride_finds_shorter_copies(make: Callable[..., Path]) -> None:
    texts = files()
    fine = Attribution.open(make(texts, stride=1))
    copy = texts[1][700:780].strip()
    assert 50 <= len(plain(copy)) < 99
    assert check(fine, copy, texts)[0].characters == len(plain(copy))


def test_what_many_have_is_counted_and_the_longest_shown(make: Callable[..., Path]) -> None:
    texts = [f"# {i}\n{MANY}" for i in range(400)]
    asked = "# 7\n" + MANY
    (match,) = check(Attribution.open(make(texts)), asked, texts)
    assert attribution.PLACES <= match.count <= 400
    assert len(match.documents) == attribution.SHOWN
    few = [MANY, *files(), MANY + "rest()"]
    one = Attribution.open(make(few))
    (match,) = check(one, MANY + "rest()", few)
    assert match.count == 2
    assert match.documents[0].path == f"f{len(few) - 1}.py"


def test_a_report_has_what_the_wire_needs(index: Attribution) -> None:
    texts = files()
    (told,) = index.report("\n" + texts[4][1000:1300])
    (match,) = index.search("\n" + texts[4][1000:1300])
    assert told == {
        "span": [match.start, match.end],
        "repo": "github.com/acme/r1",
        "path": "f4.py",
        "licences": ["MIT"],
        "url": "https://github.com/acme/r1",
        "characters": match.characters,
        "files": 1,
    }


@pytest.mark.parametrize(
    ("repo", "url"),
    [
        ("acme/thing", None),
        ("thing", None),
        ("https://gitlab.com/a/b.git", "https://gitlab.com/a/b.git"),
        ("http://git.acme.io:8080/~a/b", "http://git.acme.io:8080/~a/b"),
        ("javascript:alert(1)//github.com/a", None),
        ('github.com/a"onclick="x', None),
    ],
)
def test_only_an_address_becomes_a_link(repo: str, url: str | None) -> None:
    assert attribution._url(repo) == url


def damages() -> dict[str, Callable[[Path], object]]:
    def flipped(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)

    one_of = {
        f"{name} {how}": lambda folder, name=name, break_=break_: break_(folder / name)
        for name in ("texts.npy", "starts.npy", "filter.npy", "keys.npy", "documents.parquet")
        for how, break_ in {
            "gone": Path.unlink,
            "flipped": flipped,
            "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
            "empty": lambda path: path.write_bytes(b""),
        }.items()
    }
    return one_of | {
        "no manifest": lambda folder: (folder / manifest.NAME).unlink(),
        "not JSON": lambda folder: (folder / manifest.NAME).write_text("{"),
        "of a table": lambda folder: manifest.write(folder, Manifest(Identity("table", [], {}))),
        "no facts": lambda folder: manifest.write(folder, Manifest(Identity("lookup", [], {}))),
        "few facts": lambda folder: manifest.write(
            folder, Manifest(Identity("lookup", [], {}), facts={"format": 1})
        ),
        "of another format": lambda folder: manifest.write(
            folder, Manifest(Identity("lookup", [], {}), facts={"format": 99})
        ),
        "gone": shutil.rmtree,
    }


@pytest.fixture(scope="session")
def small(make: Callable[..., Path]) -> Path:
    return make(files()[:3])


OPENED = """
import sys
from pathlib import Path
from starkiln.serve import gram_kernels
from starkiln.serve.attribution import Attribution

index = Attribution.open(Path(sys.argv[1]))
names = ("normal", "rolled", "held", "occurrences", "extend")
ready = [getattr(gram_kernels, name).signatures[:] for name in names]
texts = [Path(path).read_text() for path in sys.argv[2:]]
assert any([index.report(text) for text in texts]) or not len(index.arrays["keys"])
used = [getattr(gram_kernels, name).signatures[:] for name in names]
print(ready == used, sum(map(len, ready)))
"""


@pytest.mark.parametrize("texts", [files()[:3], ["x", "größe"]])
def test_an_opened_index_has_its_kernels_compiled(
    make: Callable[..., Path], tmp_path: Path, texts: list[str]
) -> None:
    """The first request waits for no compiler."""
    asked = [tmp_path / name for name in ("known.py", "strange.py")]
    asked[0].write_text("é" + texts[0])
    asked[1].write_text("".join(map(chr, range(60, 160))))
    command = [sys.executable, "-c", OPENED, str(make(texts)), *map(str, asked)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert told.returncode == 0, told.stderr
    same, kernels = told.stdout.split()
    assert same == "True"
    assert int(kernels) >= (5 if len(texts) > 2 else 3)


@pytest.mark.parametrize("damage", damages().values(), ids=damages().keys())
def test_a_damaged_or_foreign_folder_is_one_sentence(
    damage: Callable[[Path], object], small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(small, folder)
    damage(folder)
    with pytest.raises(UserError) as told:
        Attribution.open(folder)
    assert str(folder) in str(told.value)
    assert "\n" not in str(told.value)


COPIES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 6), st.integers(0, 9)),
    max_size=40,
)


@given(COPIES)
def test_copies_are_grouped_by_spans_that_lie_in_no_other(drawn: list[tuple[int, ...]]) -> None:
    copies = [(low, low + size, document, first, 0) for low, size, document, first in drawn]
    spans = {one[:2] for one in copies}
    heads = sorted(
        (low, high)
        for low, high in spans
        if not any(a <= low and high <= b and (a, b) != (low, high) for a, b in spans)
    )
    expected = []
    for i, (low, high) in enumerate(heads):
        later = set(heads[i + 1 :])
        inside = [
            one
            for one in copies
            if low <= one[0] and one[1] <= high and not any(a <= one[0] for a, _ in later)
        ]
        best: dict[int, tuple[int, ...]] = {}
        for one in sorted(inside, key=lambda one: (one[0] - one[1], one[0], one[2], one[3])):
            best.setdefault(one[2], one)
        expected.append((list(best.values())[: attribution.SHOWN], len(best)))
    found = attribution.grouped(np.array(copies, np.int64).reshape(-1, 5))
    assert [([tuple(row) for row in rows.tolist()], count) for rows, count in found] == expected
