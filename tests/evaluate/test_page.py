"""The page of an evaluation: its figures are the report's, and what a model wrote is only text."""

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright import sync_api

import scripted
from scripted import Script, evaluated
from starkiln.evaluate import page
from starkiln.evaluate.evaluation import SAMPLES, SCHEMA
from starkiln.evaluate.execute import Case, Executor
from starkiln.evaluate.grade import Checked, grade, summary
from starkiln.evaluate.journal import Journal
from starkiln.evaluate.page import failures, samples, scores
from starkiln.evaluate.protocol import Draw, draws
from starkiln.evaluate.sandbox import Verdict
from starkiln.evaluate.settings import EvaluateSettings
from starkiln.evaluate.sources.ask import Sample
from starkiln.problems.problem import Problem

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'\"&"
TEXTS = [
    "yes",
    EVIL,
    "a\x00b\x1b[31m\r\n",
    "admin = True  # \u202e } \u2066if admin\u2069 \u2066 begin",
    "x = 1\n" * 200_000,
    "<!--<script>" * 100,
]
FREE = {"n": 1, "k": [1]}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Every text as a completion, in problems and by a model with hostile names."""
    work = tmp_path_factory.mktemp("hostile")
    rows = [
        {"id": f"{EVIL}/{i}", "prompt": EVIL, "suffix": EVIL, "group": f"{EVIL}{i % 2}"}
        for i in range(len(TEXTS))
    ]
    task = scripted.problems(work / "own.jsonl", rows)
    source = Script(lambda problem, _: TEXTS[int(problem[-1])], name=EVIL)
    return evaluated(source, work / "out", [task], **FREE, limit=len(TEXTS), prefix=EVIL)


def written(folder: Path, report: dict[str, Any], against: Path | None = None) -> str:
    page.write(folder, report, pl.read_parquet(folder / SAMPLES), against)
    return (folder / page.NAME).read_text()


class Page(HTMLParser):
    """Every element and attribute, the text, and what the scripts hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.parts.append(data)


def test_what_a_model_wrote_is_text_and_nothing_is_loaded(hostile):
    html = written(*hostile)
    assert len(html) < 200_000  # a completion of 1.2 MB is cut
    assert not re.search("[\x00\u202e\u2066\u2069\x1b]", html)
    found = Page(html)
    tags = [tag for tag, _ in found.elements]
    assert not {"img", "iframe", "object", "embed", "audio", "video", "base"} & set(tags)
    assert tags.count("script") == 2
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("href", "src", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    data, script = found.scripts
    policy = next(a["content"] for t, a in found.elements if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    told = json.loads(data)
    assert told["prompts"] == [[EVIL, EVIL]]
    texts = [sample[5] for sample in told["samples"]]
    assert texts[:2] == ["yes", EVIL]
    assert texts[2] == "a␀b␛[31m␍\n"
    assert "⟨U+202E⟩ } ⟨U+2066⟩if admin" in texts[3]
    assert texts[4].endswith("… 1,194,000 characters left out …")


def test_the_figures_are_the_reports(hostile):
    folder, report = hostile
    text = Page(written(folder, report)).text
    (score,) = report["passes"][0]["scores"]
    interval = f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"
    assert score["score"] == 1 / 6
    for told in (
        "6 completions judged on 1 task",
        f"16.7\N{NO-BREAK SPACE}% {interval}",
        "6 problems: n 1, T 0.2, top-p 0.95, 512 new tokens",
        "6 16.7 % wrong 5",
        "requests 3 cost 0.2500",
        "6 samples",
    ):
        assert told.replace("\N{NO-BREAK SPACE}", " ") in text.replace("\N{NO-BREAK SPACE}", " ")
    for group in (0, 1):
        assert f"{EVIL}{group}" in text


def test_the_same_evaluation_gives_the_same_bytes(hostile):
    assert written(*hostile) == written(*hostile)


@given(st.text(max_size=200), st.integers(1, 50), st.booleans())
def test_what_is_shown_is_visible_and_short(text, most, end):
    shown = samples.shown(text, most, end)
    assert not samples._HIDDEN.search(shown)
    kept = text[-most:] if end else text[:most]
    assert samples.visible(kept) in shown
    assert (shown == samples.visible(text)) == (len(text) <= most)
    shown.encode()  # half characters are told too


# What was published, and what differs


def one_pass(task: str, draw: Draw, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A pass of a report, of rows that ``graded`` gave."""
    told = {"task": task, "draw": asdict(draw), "broken": {}, **summary(rows, draw.k, 0)}
    return failures.labelled([told | more])[0]


def graded(
    tmp_path: Path,
    verdicts: dict[str, list[Verdict]],
    groups: Callable[[str], str] = lambda _: "",
    checked: Checked | None = None,
) -> list[dict[str, Any]]:
    """Rows of samples with these verdicts by problem."""
    plain = {"canonical": "", "tests": "", "entry_point": "", "context": "", "stop": ()}
    asked = [Problem(id=p, prompt=f"# {p}\n", group=groups(p), **plain) for p in verdicts]
    drawn = [Sample(p, i, "pass", "stop") for p, own in verdicts.items() for i in range(len(own))]
    known = checked or Checked(dict.fromkeys(verdicts, True))
    with Journal(tmp_path / "verdicts.jsonl") as journal, Executor(journal) as executor:

        def make(_: Problem, one: Sample, __: bool) -> Case:
            return Case(None, None, verdicts[one.problem][one.index])

        return list(grade(asked, drawn, make, executor, known))


PASSED, WRONG = Verdict("passed", "", 0.1), Verdict("wrong", "AssertionError", 0.1)
PAPER = {"limit": 0, "prelude": ""}


def paper(family: str, protocol: str = "paper") -> Draw:
    return draws(family, EvaluateSettings(protocol=protocol))[0]


def test_the_papers_settings_do_not_differ(tmp_path):
    for task, family, each in (("humaneval", "humaneval", 200), ("ds1000", "ds1000", 40)):
        one = one_pass(task, paper(family), graded(tmp_path, {"P": [PASSED] * each}))
        assert scores.remarks(one, 1, PAPER) == []
    prompted = paper("humaneval", "prompted")
    one = one_pass("humaneval", prompted, graded(tmp_path, {"P": [PASSED] * 200}))
    assert scores.remarks(one, 1, PAPER) == []


@pytest.mark.parametrize(
    ("change", "settings", "told"),
    [
        ({"n": 20}, {}, ["n 20 (200)"]),
        ({"temperature": 0.4}, {}, ["T 0.4 (0.2)"]),
        ({"max_total_tokens": None, "max_new_tokens": 512}, {},
         ["new tokens 512 (any)", "tokens with the prompt any (512)"]),
        ({}, {"limit": 1}, ["the first 1 problems only"]),
        ({}, {"prelude": "import math"}, ["prelude 'import math'"]),
        ({"n": 0}, {}, ["drawn elsewhere, 200 a problem"]),
    ],
)  # fmt: skip
def test_what_differs_from_the_paper_is_said(tmp_path, change, settings, told):
    drawn = Draw(**{**asdict(paper("humaneval")), **change})
    one = one_pass("humaneval", drawn, graded(tmp_path, {"P": [PASSED] * 200}))
    assert scores.remarks(one, 1, {**PAPER, **settings}) == told


def test_published_scores_stand_beside_ones_own(tmp_path):
    rows = graded(tmp_path, {"P/1": [PASSED, WRONG], "P/2": [PASSED, WRONG]})
    drawn = Draw(n=2, temperature=0.2, k=(1, 2))
    first, second = scores.told([one_pass("humaneval", drawn, rows)], PAPER)["lines"]
    assert first["marks"] == [("StarCoderBase", 0.304), ("StarCoder", 0.336)]
    order = [bar["name"] for bar in first["ladder"]]
    assert order[:3] == ["this model", "code-davinci-002", "StarCoder, prompted"]
    assert (second["k"], second["ladder"], second["differs"]) == (2, [], [])


def test_a_library_stands_beside_the_papers(tmp_path):
    verdicts = {f"{group}/{i}": [PASSED if i else WRONG] for group in "ab" for i in range(3)}
    names = {"a": "Numpy", "b": "Pandas"}
    rows = graded(tmp_path, verdicts, lambda problem: names[problem[0]])
    one = one_pass("ds1000", Draw(n=1, temperature=0.2, k=(1,)), rows)
    (table,) = scores.told([one], PAPER)["tables"]
    found = {row["name"]: row for row in table["rows"]}
    assert found["Numpy"]["score"] == pytest.approx(2 / 3)
    assert found["Numpy"]["marks"] == [("StarCoderBase", 0.271), ("StarCoder", 0.297)]
    assert found["Pandas"]["problems"] == 3
    assert table["marked"] == ["StarCoderBase", "StarCoder"]
    assert "n 1 (40)" in table["differs"]


def test_languages_that_were_drawn_alike_make_one_table(tmp_path):
    drawn, other = Draw(n=1, temperature=0.2, k=(1,)), Draw(n=1, temperature=0.8, k=(1,))
    rows = graded(tmp_path, {"P": [PASSED]})
    tasks = [("multiple-js", drawn), ("multiple-rkt", drawn), ("multiple-java", other)]
    tasks += [("multiple-mbpp-js", drawn), ("multiple-mbpp-cpp", drawn)]
    passes = [one_pass(task, draw, rows) for task, draw in tasks]
    told = scores.told(passes, PAPER)
    names = [(table["title"], [row["name"] for row in table["rows"]]) for table in told["tables"]]
    assert names == [
        ("MultiPL-E, HumanEval, by language, pass@1", ["JavaScript", "Racket"]),
        ("MultiPL-E, MBPP, by language, pass@1", ["JavaScript", "C++"]),
    ]
    assert [line["task"] for line in told["lines"]] == ["multiple-java"]
    assert told["tables"][0]["rows"][0]["marks"][0] == ("StarCoderBase", pytest.approx(0.317))


def test_further_figures_have_their_lines(tmp_path):
    rows = graded(tmp_path, {"P": [PASSED], "Q": [WRONG]})
    figure = {"score": 0.5, "low": 0.4, "high": 0.6}
    near = one_pass("infill-py", paper("infill"), rows, extra={"closeness": figure})
    types = {
        "all": {**figure, "functions": 9, "precision": 0.5, "recall": 0.5},
        "non_none": {**figure, "functions": 7, "precision": 0.5, "recall": 0.5},
    }
    typed = one_pass("return-types", paper("return-types"), rows, extra={"return_types": types})
    told = scores.told([near, typed], PAPER)["lines"]
    measures = [(line["task"], line["measure"], line["problems"]) for line in told]
    assert measures == [
        ("infill-py", "exact match", 2),
        ("infill-py", "edit similarity", 2),
        ("return-types", "exact match", 2),
        ("return-types", "F1", 9),
        ("return-types", "F1 without None", 7),
    ]
    published = [[figure and round(figure, 4) for _, figure in line["marks"]] for line in told]
    assert published[0] == [0.62, None]
    assert published[1:3] == [[None, None]] * 2
    assert [figures[1] for figures in published[3:]] == [0.864, 0.771]


def test_perplexity_is_a_line_by_context(tmp_path):
    windows = [
        {"window": w, "perplexity": p, "low": p - 0.1, "high": p + 0.1, "bits_per_byte": 0.4}
        for w, p in ((2048, 2.0), (8192, 1.5))
    ]
    languages = {name: {"documents": 3, "windows": windows} for name in ("all", "cpp", "$x^{")}
    found = {"scored": 1024, "windows": [2048, 8192], "too_long": [16384], "left_out": {"dull": 2}}
    extra = {"perplexity": {**found, "languages": languages}}
    one = {"task": "perplexity", "scores": [], "verdicts": {}, "extra": extra}
    report = {"model": "m", "settings": {"protocol": "quick"}, "seed": 0, "samples": 0}
    frame = pl.DataFrame(schema=SCHEMA)
    page.write(tmp_path, {**report, "passes": [one]}, frame, None)
    text = Page((tmp_path / page.NAME).read_text()).text
    for told in ("cpp 3 2.000 (2.01) 1.500 (1.79)", "all 1.50", "$x^{ 3 2.000", "dull 2", "16,384"):
        assert told in text
    assert "No sample was judged" in text


# What came of the samples


def test_messages_are_grouped_without_their_names_and_numbers(tmp_path):
    details = [
        "NameError: name 'a' is not defined",
        "NameError: name 'b' is not defined",
        "SyntaxError: can't assign at line 3\n  x = 1",
        "SyntaxError: can't assign at line 14",
        "AssertionError: assert candidate([1, 2]) == 3",
        "AssertionError",
        "expected [1, -2, 3] and [4]",
        "expected 'long text that was c",
        "",
    ]
    verdicts = {f"P/{i}": [Verdict("error", detail, 0.1)] for i, detail in enumerate(details)}
    rows = graded(tmp_path, verdicts | {"P/ok": [PASSED]})
    frame = pl.DataFrame([{"task": "t", "temperature": 0.2, **row} for row in rows], schema=SCHEMA)
    found = {row["kind"]: row["samples"] for row in failures.kinds(frame).to_dicts()}
    assert found == {
        "NameError: name '…' is not defined": 2,
        "SyntaxError: can't assign at line N": 2,
        "AssertionError": 2,
        "expected [N, …] and [N]": 1,
        "expected '…'": 1,
        "": 1,
    }


def test_what_could_not_be_judged_is_named_with_its_reason(tmp_path):
    lost = Verdict("infrastructure", "no network", 0.0)
    known = Checked({"P/1": True, "P/2": False, "P/3": True}, {"P/3": "error: URLError"})
    rows = graded(tmp_path, {"P/1": [PASSED], "P/2": [WRONG], "P/3": [lost]}, checked=known)
    one = one_pass("ds1000", Draw(1, 0.2, (1,)), rows, broken=known.broken)
    swift = {"task": "multiple-swift", "draw": one["draw"], "not_run": "no swiftc", "scores": []}
    frame = pl.DataFrame([{"task": "ds1000", "temperature": 0.2, **r} for r in rows], schema=SCHEMA)
    report = {"model": "m", "settings": {"protocol": "quick"}, "seed": 0, "samples": 3}
    page.write(tmp_path, {**report, "passes": [one, swift]}, frame, None)
    text = Page((tmp_path / page.NAME).read_text()).text
    for told in (
        "ds1000: 1 problem P/2",
        "ds1000: P/3 error: URLError",
        "multiple-swift no swiftc",
        "passed wrong infrastructure",
        "3 samples",
    ):
        assert told in text
    assert "judged in one process" in text


def test_a_page_has_room_for_every_kind_and_says_what_it_leaves_out(tmp_path, monkeypatch):
    """Of 3,000 samples few fit, and the one timeout is among them."""
    verdicts = {f"P/{i}": [PASSED] * 10 for i in range(300)}
    verdicts["P/299"][7] = Verdict("timeout", "3 s", 3.0)
    rows = graded(tmp_path, verdicts)
    one = one_pass("t", Draw(10, 0.2, (1,)), rows)
    frame = pl.DataFrame([{"task": "t", "temperature": 0.2, **row} for row in rows], schema=SCHEMA)
    monkeypatch.setattr(samples, "MOST_BYTES", 9_000)
    told = samples.told([one], frame)
    assert told["embedded"] + told["left_out"] == 3_000
    assert 50 < told["embedded"] < 150
    assert len(json.dumps(told["browsed"])) < 9_000 + 10 * told["embedded"]
    shown = told["browsed"]["samples"]
    assert [sample[2] for sample in shown if sample[3] == "timeout"] == [7]
    passed = [sample[1] for sample in shown if sample[3] == "passed"]
    assert len(set(passed)) == len(passed)  # one a problem before a second of any
    assert [(one["verdict"], one["problem"]) for one in told["first"]] == [
        ("passed", "P/0"),
        ("timeout", "P/299"),
    ]


def test_two_passes_over_a_task_are_told_apart(tmp_path):
    rows = graded(tmp_path, {"P": [PASSED]})
    passes = [
        {"task": task, "draw": asdict(Draw(1, temperature, (1,)))}
        for task, temperature in (("a", 0.2), ("a", 0.8), ("b", 0.2))
    ]
    passes = failures.labelled(passes)
    assert [one["label"] for one in passes] == ["a, T 0.2", "a, T 0.8", "b"]
    cells = [{"task": one["task"], "temperature": one["draw"]["temperature"]} for one in passes]
    frame = pl.DataFrame([{**cell, **row} for cell in cells for row in rows], schema=SCHEMA)
    shown = samples.told(passes, frame)["browsed"]["samples"]
    assert [sample[0] for sample in shown] == ["a, T 0.2", "a, T 0.8", "b"]


def test_a_comparison_is_shown_or_why_there_is_none(hostile, tmp_path):
    folder, report = hostile
    text = Page(written(folder, report, folder)).text
    assert f"With {EVIL} , over the problems that both have" in text
    assert "16.7 % here, 16.7 % there, on 6 problems: better on 0, worse on 0, alike on 6" in text
    absent = tmp_path / EVIL.replace("/", "")
    text = Page(written(folder, report, absent)).text
    assert "Not compared" in text
    assert "holds no evaluation" in text


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture
def opened(browser, hostile) -> Iterator[Callable[..., Any]]:
    """``opened(**context)``: the page of a file, which runs nothing of a model's and asks none."""
    folder, report = hostile
    written(folder, report, folder)
    address = (folder / page.NAME).as_uri()
    asked: list[str] = []
    faults: list[str] = []
    windows = []

    def opening(**how: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
        context.on("request", lambda request: asked.append(request.url))
        context.on("console", lambda said: faults.append(said.text))
        context.on("weberror", lambda error: faults.append(str(error.error)))
        found = context.new_page()
        found.set_default_timeout(30_000)
        found.goto(address)
        windows.append((context, found))
        return found

    yield opening
    for context, found in windows:
        assert found.evaluate("window.hacked") is None
        context.close()
    assert faults == []
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}
    assert len([url for url in asked if url.startswith("file:")]) == len(windows)


def test_samples_are_picked_by_task_verdict_and_problem(opened):
    window = opened()
    rows, found = window.locator("#list > details"), window.locator("#found")
    sync_api.expect(rows).to_have_count(6)
    assert found.inner_text() == "6 of 6"
    window.locator("select[name=verdict]").select_option("passed")
    sync_api.expect(rows).to_have_count(1)
    rows.first.locator("summary").click()
    right = rows.first.locator(".sides > div").nth(1)
    sync_api.expect(right.locator("pre")).to_have_text(["yes"])
    window.locator("select[name=verdict]").select_option("wrong")
    assert found.inner_text() == "5 of 6"
    window.locator("input[name=problem]").fill("/3")
    sync_api.expect(rows).to_have_count(1)
    rows.first.locator("summary").click()
    sync_api.expect(rows.first.locator(".sides pre")).to_have_count(4)
    before, after = rows.first.locator(".sides > div").nth(0).locator("pre").all_inner_texts()
    assert (before, after) == (EVIL, EVIL)
    made, error = rows.first.locator(".sides > div").nth(1).locator("pre").all_inner_texts()
    assert "⟨U+202E⟩" in made
    assert error == "expected 'yes'"
    window.locator("input[name=problem]").fill("nothing such")
    assert found.inner_text() == "0 of 6"
    window.locator("input[name=problem]").fill("")
    window.locator("select[name=verdict]").select_option("")
    for row in rows.all():
        row.locator("summary").click()
    sync_api.expect(window.locator("#list .sides")).to_have_count(6)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_hangs_over_the_edge(opened, width):
    window = opened(viewport={"width": width, "height": 800}, color_scheme="dark")
    for folded in window.locator("summary").all():
        if folded.is_visible():
            folded.click()
    assert window.evaluate("document.documentElement.scrollWidth") <= width


def test_lines_of_three_languages_stand_beside_what_was_published_of_each(tmp_path):
    rows = graded(
        tmp_path, {"J": [PASSED], "P": [WRONG]}, lambda p: {"J": "Java", "P": "Python"}[p]
    )
    one = one_pass("infill", paper("infill"), rows)
    (table,) = scores.told([one], PAPER)["tables"]
    assert table["title"] == "infill, exact match"
    assert table["marked"] == ["StarCoderBase"]
    assert [row["marks"][0] for row in table["rows"]] == [
        ("StarCoderBase", 0.73),
        ("StarCoderBase", 0.62),
    ]


def test_a_prefix_on_a_task_without_a_prefix_of_the_papers_differs(tmp_path):
    drawn = Draw(**{**asdict(paper("multiple")), "prefix": "// right\n"})
    one = one_pass("multiple-js", drawn, graded(tmp_path, {"P": [PASSED] * 50}))
    assert scores.remarks(one, 1, PAPER) == [r"prefix '// right\n' ('')"]


def test_stored_answers_judged_by_the_other_edition_say_so(tmp_path):
    rows = graded(tmp_path, {"P": [PASSED]})
    for returns, told in ((False, ["the edition of 2024 (the first)"]), (True, [])):
        drawn = Draw(n=0, temperature=0.0, k=(1,), returns=returns)
        said = scores.remarks(one_pass("ds1000", drawn, rows), 1, PAPER)
        assert said == ["drawn elsewhere, 1 a problem", *told]


def test_prompts_without_room_stand_beside_their_score(tmp_path):
    rows = [row | {"finish": "no room"} for row in graded(tmp_path, {"P": [WRONG], "Q": [WRONG]})]
    (line,) = scores.told([one_pass("humaneval", paper("humaneval"), rows)], PAPER)["lines"]
    assert line["asides"] == ["2 with a prompt that fills the context"]
