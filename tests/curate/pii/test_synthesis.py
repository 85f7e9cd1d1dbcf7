import random
import re
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starkiln.code.spans import LABELS, Span
from starkiln.core.errors import UserError
from starkiln.curate.pii.synthesis import formats, people, weak, windows
from starkiln.curate.pii.synthesis.draws import Draws
from starkiln.curate.pii.synthesis.examples import SCHEMA, examples
from starkiln.curate.pii.synthesis.makers import Scene
from starkiln.curate.pii.synthesis.settings import SynthesisSettings

KNOWN = formats.read()
RULES = {  # a small detector of our own: label, pattern, confidence
    "EMAIL": (r"[a-z.]+@[a-z]+\.[a-z]+", 0.9),
    "IP_ADDRESS": (r"\b\d+\.\d+\.\d+\.\d+\b", 0.9),
    "USERNAME": (r"(?<=by @)\w+", 0.6),
    "NAME": (r"(?<=Written by )[A-Z]\w+ [A-Z]\w+", 0.85),
}


def candidates(texts):
    return [
        [
            Span(*match.span(), label, "test", confidence)
            for label, (pattern, confidence) in RULES.items()
            for match in re.finditer(pattern, text)
        ]
        for text in texts
    ]


def _code(seed, lines=60):
    draw = random.Random(seed)
    out = [
        "# Written by Kim Novak <kim.novak@corp.org>",
        "# patch by @kimdev, host 81.2.69.142",
        "",
    ]
    for number in range(lines):
        word = "".join(draw.choices("abcdefghij", k=6))
        body = f"return {word} + {draw.randrange(99)}"
        out += [f"def {word}_{number}(value):", f"    # say why this {word} is here", f"    {body}"]
    return "\n".join(out) + "\n"


def _documents(count=60, lines=60):
    languages = ["python", "java", "yaml", "markdown", "c", "unknown"]
    rows = [
        {"id": f"doc{n}", "repo": f"owner/repo{n // 2}", "language": languages[n % 6]}
        | {"text": _code(n, lines)}
        for n in range(count)
    ]
    return pl.DataFrame(rows)


PLAIN = {"most": 0, "files": 0.0, "swap": 0.0}


def test_the_table_is_as_the_tagger_reads_it():
    made = examples(_documents(), SynthesisSettings(), 0, candidates)
    assert dict(made.schema) == SCHEMA
    assert made.height > 60
    assert made["id"].is_unique().all()
    labels = set()
    for text, spans, unsure in made.select("text", "spans", "unsure").iter_rows():
        places = sorted((s["start"], s["end"]) for s in [*spans, *unsure])
        assert all(start < end <= len(text) for start, end in places)
        assert all(a[1] <= b[0] for a, b in pairwise(places))
        labels |= {s["label"] for s in spans}
    assert labels == set(LABELS)


def test_sharding_and_order_make_no_difference():
    documents, chosen = _documents(24), SynthesisSettings()
    whole = examples(documents, chosen, 5, candidates)
    parts = [examples(documents[i::3].reverse(), chosen, 5, candidates) for i in range(3)]
    assert pl.concat(parts).sort("id").equals(whole.sort("id"))
    assert not examples(documents, chosen, 6, candidates)["text"].equals(whole["text"])


def test_all_of_a_repository_is_of_one_split():
    documents = pl.DataFrame(
        {
            "id": [f"d{n}" for n in range(900)],
            "repo": [f"r{n // 2}" for n in range(900)],
            "language": ["python"] * 900,
            "text": [_code(0, 4)] * 900,
        }
    )
    chosen = SynthesisSettings(**PLAIN, windows=1, validation=0.2, test=0.1)
    made = examples(documents, chosen, 0, candidates)
    assert made.group_by("repo").agg(pl.col("split").n_unique())["split"].max() == 1
    counts = dict(made["split"].value_counts().iter_rows())
    assert 0.05 < counts["test"] / 900 < 0.16
    assert 0.13 < counts["validation"] / 900 < 0.28
    assert counts["train"] > 500


def test_without_injection_and_swap_the_windows_are_the_documents_own():
    documents = _documents(20)
    made = examples(documents, SynthesisSettings(**PLAIN, longest=900), 0, candidates)
    texts = dict(documents.select("id", "text").iter_rows())
    own = 0
    for name, text, spans, unsure in made.select("id", "text", "spans", "unsure").iter_rows():
        whole = texts[name.partition(":")[0]]
        assert text in whole
        assert len(text) <= 900
        for span in spans:
            value = text[span["start"] : span["end"]]
            expected = {"EMAIL": "kim.novak@corp.org", "IP_ADDRESS": "81.2.69.142"}
            assert value == expected.get(span["label"], "Kim Novak")
        own += bool(unsure)
        for place in unsure:
            assert text[place["start"] : place["end"]] == "kimdev"
    assert own > 3


def test_three_quarters_of_what_was_found_is_replaced_and_equal_values_alike():
    documents = _documents(200, lines=8)
    chosen = SynthesisSettings(windows=1, most=0, files=0.0, longest=4000)
    texts = examples(documents, chosen, 0, candidates)["text"]
    kept = texts.str.contains("81.2.69.142", literal=True).mean()
    assert 0.15 < kept < 0.35
    assert not any("kim.novak@corp.org" in t for t in _swapped(documents, 1.0)["text"])
    twice = pl.DataFrame(
        {"id": ["a"], "repo": ["r"], "language": ["c"], "text": ["x 9.8.7.6 y 9.8.7.6\n" * 9]}
    )
    text = _swapped(twice, 1.0)["text"][0]
    assert len(set(re.findall(r"\d+\.\d+\.\d+\.\d+", text))) == 1
    assert "9.8.7.6" not in text


def _swapped(documents, share):
    chosen = SynthesisSettings(windows=1, most=0, files=0.0, swap=share)
    return examples(documents, chosen, 0, candidates)


def _spans(**chosen):
    quiet = SynthesisSettings(files=0.0, **chosen)
    made = examples(_documents(150), quiet, 0, lambda texts: [[] for _ in texts])
    return made["spans"].list.len().sum()


def test_half_of_the_lines_put_in_hold_no_entity():
    every, half = _spans(negatives=0.0), _spans(negatives=0.5)
    assert 0.4 < half / every < 0.6
    assert _spans(negatives=1.0) < 0.05 * every  # the few slots that nothing else fits
    assert _spans(negatives=0.0, most=0) == 0


def test_entities_stand_at_the_very_start_and_end_at_times():
    made = examples(_documents(400, lines=5), SynthesisSettings(windows=1), 0, candidates)
    first = made["spans"].list.first().struct.field("start") == 0
    last = made["spans"].list.last().struct.field("end") == made["text"].str.len_chars()
    assert first.sum() > 3
    assert last.sum() > 3


def test_formats_of_the_users_come_through(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('[key]\nacme = { pattern = "ACME{digit:12}", weight = 99999 }\n')
    made = examples(_documents(40), SynthesisSettings(formats=str(path)), 0, candidates)
    assert made["text"].str.contains("ACME[0-9]{12}").sum() > 5
    path.write_text("[key]\nacme = '{'\n")
    with pytest.raises(UserError, match=r"own\.toml:2: "):
        examples(_documents(4), SynthesisSettings(formats=str(path)), 0, candidates)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="below shortest"):
        SynthesisSettings(shortest=900, longest=800)


HOSTILE = [
    "",
    None,
    "short",
    "x" * 300_000,
    "\0" * 3000,
    "a@b.org " * 40_000,
    "line\r\n" * 500,
    "\u202eمرحبا\u200b\u2028\x0c" * 300,
    "\n" * 5000,
    "é😀" * 4000 + "\n",
]


def test_hostile_documents_give_windows_or_none():
    size = range(len(HOSTILE))
    frame = {"id": [f"h{n}" for n in size], "repo": ["r"] * len(HOSTILE)}
    frame |= {"language": [None, "c", "python"] * 3 + ["html"], "text": HOSTILE}
    made = examples(pl.DataFrame(frame), SynthesisSettings(), 0, candidates)
    assert {name.partition(":")[0] for name in made["id"]} == {f"h{n}" for n in range(3, 10)}
    crlf = made.filter(pl.col("id").str.starts_with("h6"))["text"]
    assert any("\r\n" in text for text in crlf)


@given(st.text(max_size=3000), st.integers(0, 99), st.sampled_from(["c", "html", "text", ""]))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_exact_spans(text, seed, language):
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    frame = pl.DataFrame({"id": ["x"], "repo": ["r"], "language": [language], "text": [text]})
    for made, spans in examples(frame, SynthesisSettings(), seed, candidates)[
        "text", "spans"
    ].iter_rows():
        assert all(0 <= s["start"] < s["end"] <= len(made) for s in spans)


@given(st.integers(0, 10**6), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_windows_are_cut_at_lines_and_lie_apart(seed, lines):
    text = _code(1, lines)
    cuts = sorted(windows.cut(text, Draws(seed), 4, 600, 2000))
    for start, end in cuts:
        assert 80 <= end - start <= 2000
        assert start == 0 or text[start - 1] == "\n"
        assert end == len(text) or text[end - 1] == "\n"
    assert all(a[1] <= b[0] for a, b in pairwise(cuts))


def test_lines_are_commented_as_their_neighbours_are():
    def margin(text, language, comment=True):
        place = windows.places(text, [])[-1]
        return windows.margin(place, language, "\n", comment=comment)

    assert margin("\t  x = 1", "python").before == "\t  # "
    assert margin("  return", "python", comment=False).before == "  "
    assert margin("    // so it is", "c").before == "    // "
    assert margin(" * so it is", "java").before == " * "
    assert margin(";;; so it is", "emacs-lisp").before == ";;; "
    css = margin("a { }", "css")
    assert (css.before, css.after) == ("/* ", " */")
    assert margin("x", "sql").before == "-- "
    assert [place.at for place in windows.places("a\nb\nc\n", [(1, 4)])] == [0, 4]


def _voted(text, *found):
    spans = [Span(text.index(v), text.index(v) + len(v), label, "r", c) for v, label, c in found]
    return [(text[s.start : s.end], s.label) for s in weak.votes(text, spans, sure=0.8, doubt=0.3)]


def test_two_votes_make_a_weak_label():
    text = "login kim4x pass Zr5gh_x8w mail kim4x@corp.org"
    assert _voted(text, ("kim4x@corp.org", "EMAIL", 0.9)) == [("kim4x@corp.org", "EMAIL")]
    assert _voted(text, ("kim4x", "USERNAME", 0.6)) == [("kim4x", "unsure")]
    assert _voted(text, ("kim4x", "USERNAME", 0.2)) == []
    pair = ("Zr5gh_x8w", "PASSWORD", 0.9), ("Zr5gh_x8w", "KEY", 0.6)
    assert _voted(text, *pair) == [("Zr5gh_x8w", "unsure")]
    inside = ("kim4x@corp.org", "EMAIL", 0.9), ("corp", "USERNAME", 0.9)
    assert _voted(text, *inside) == [("kim4x@corp.org", "EMAIL")]
    for trivial in ("password", "test1", "123456", "changeme", "new_pass"):
        assert _voted(f"x {trivial}", (trivial, "PASSWORD", 0.9)) == [(trivial, "unsure")]


@given(st.text(st.sampled_from("abzABZ019_-./+=\\n\n"), min_size=1, max_size=60), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_a_secret_is_replaced_by_one_of_its_shape(value, seed):
    draws = Draws(seed)
    made = weak.same_shape(value, Scene(draws, people.person(draws)))
    for one, other in zip(value, made, strict=True):
        assert one.isdigit() == other.isdigit()
        assert one.islower() == other.islower()
        assert one.isupper() == other.isupper()
        assert one.isalnum() or one == other


def test_an_address_is_replaced_by_one_of_its_version():
    draws = Draws(1)
    scene = Scene(draws, people.person(draws))
    for _ in range(30):
        assert ":" in weak.fresh("2a01:4f8::2", "IP_ADDRESS", scene, KNOWN)
        assert ":" not in weak.fresh("9.8.7.6", "IP_ADDRESS", scene, KNOWN)
        assert "\n" not in weak.fresh("Kim Novak", "NAME", scene, KNOWN)
