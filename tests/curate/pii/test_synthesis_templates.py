import ast
import html
import ipaddress
import json
import re
import tomllib
from itertools import product
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from starkiln.code.languages import LANGUAGES
from starkiln.code.spans import LABELS
from starkiln.curate.pii.synthesis import formats, people, templates
from starkiln.curate.pii.synthesis.draws import Draws
from starkiln.curate.pii.synthesis.makers import Scene
from starkiln.curate.pii.synthesis.templates import Margin

KNOWN = formats.read()
GROUPS = {group.name: group for group in templates.groups()}
EVERY = [(g, t) for g in GROUPS.values() for t in (*g.asking, *g.plain)]


def render(template, group, seed, margin=None, *, real=True):
    draws = Draws("test", group.name, seed)
    scene = Scene(draws, people.person(draws), camel=seed % 2 == 0)
    margin = margin or Margin("  // " if group.comment else "\t")
    return templates.render(template, group, scene, KNOWN, margin, real=real)


def source(template):
    return "".join(p if isinstance(p, str) else f"«{p.name}»" for p in template.parts)


def test_there_are_many_templates_and_their_slots_and_languages_are_known():
    assert len(EVERY) >= 400
    for group, template in EVERY:
        assert group.languages <= LANGUAGES.keys()
        for part in template.parts:
            if isinstance(part, str):
                assert "«" not in part
                continue
            special = part.name in ("#", templates.ANY) or part.name in templates._SPELT
            name = part.name if not part.name.isupper() else part.name.lower()
            assert special or name in KNOWN.real or name in KNOWN.other, source(template)


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group.name)
@pytest.mark.parametrize("real", [True, False])
def test_spans_of_every_template_are_exact_and_apart(group, real):
    for template, seed in product((*group.asking, *group.plain), range(6)):
        text, spans = render(template, group, seed, real=real)
        last = 0
        for start, end, label in spans:
            assert last <= start < end <= len(text)
            last = end
            _check(text, start, end, label)
        if real:
            assert len(spans) == len(template.asks)


def _check(text, start, end, label):
    value = text[start:end]
    assert value == value.strip()
    if label == "EMAIL":
        assert re.fullmatch(r"[\w.+-]+@[\w.-]+\.[a-z.]{2,}", html.unescape(value))
    if label == "IP_ADDRESS":
        assert ipaddress.ip_address(value)
    if label in ("EMAIL", "IP_ADDRESS"):
        assert not re.match(r"(?!E<gt>)\w", text[end:])
        assert not re.search(r"[A-Za-z0-9]\Z", text[:start])
    if label == "USERNAME":
        assert re.fullmatch(r"[\w-]+", value)
    if label == "NAME":
        assert len(re.split(r"[\s,]+", value)) > 1 or not value.isascii()


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group.name)
def test_lines_keep_their_margin_and_their_breaks(group):
    margin = Margin("  ## ", " !!", "\r\n")
    for template in (*group.asking, *group.plain):
        lines = render(template, group, 3, margin).text.split("\r\n")
        assert "\n" not in "".join(lines)
        for number, line in enumerate(lines):
            assert line.endswith(" !!")
            assert (group.tail and number == 0) or line.startswith("  ## ")


def test_where_no_entity_is_wanted_none_is():
    for group, template in EVERY:
        names = {template.parts[i].name for i in template.asks}
        if names <= {"key", "password", "email", "ip", "name", "username", "pem", "value"}:
            pem_alone = "pem" in names and not template.named
            for seed in range(4):
                spans = render(template, group, seed, real=False).spans
                assert pem_alone or not {label for *_, label in spans} & set(LABELS)


def test_a_field_names_its_value():
    group = GROUPS["python"]
    template = templates.parse('«field» = "«key»"')
    hashes = keys = 0
    for seed in range(900):
        text, spans = render(template, group, seed, Margin(), real=False)
        found = re.fullmatch(r'\w*?_?(commit|sha1|sha|rev|revision) = "[0-9a-f]{40}"', text)
        hashes += bool(found)
        assert not (found and spans)
        text, spans = render(template, group, seed, Margin(), real=True)
        assert [label for *_, label in spans] == ["KEY"]
        keys += bool(re.fullmatch(r'\w*(token|secret|key)\w* = "[0-9a-f]{40}"', text))
    assert hashes > 3
    assert keys > 3


def test_values_that_are_none_by_their_field_stand_behind_one():
    template = templates.parse("ping «ip» now")
    for seed in range(200):
        text, _ = render(template, GROUPS["shell"], seed, Margin(), real=False)
        assert not re.search(r"ping \d+\.\d+\.\d+\.\d+ now", text) or re.search("127|0.0.0.0", text)


def test_fields_are_spelt_as_asked():
    template = templates.parse("«FIELD» «Field» «fieldName» «field-name» «field name» «key»")
    for seed in range(40):
        text, _ = render(template, GROUPS["env"], seed, Margin())
        loud, pascal, camel, kebab, *_ = text.split(" ")
        words = kebab.split("-")
        assert loud == "_".join(words).upper()
        assert pascal == "".join(word.capitalize() for word in words)
        assert camel == words[0] + pascal[len(words[0]) :]
        assert " ".join(words) in text


def test_a_slot_with_a_number_comes_again():
    template = templates.parse("<«email1»> «email1»")
    for seed in range(20):
        text, spans = render(template, GROUPS["people"], seed, Margin())
        values = {text[start:end] for start, end, _ in spans}
        assert len(spans) == 2
        assert len(values) == 1


def _password(line, group, seed):
    text, spans = render(templates.parse(line), GROUPS[group], seed, Margin())
    (start, end), *_ = [(s, e) for s, e, label in spans if label == "PASSWORD"]
    return text, text[start:end]


def test_values_are_escaped_as_their_language_wants_it():
    escaped = 0
    for seed in range(300):
        text, raw = _password("'password': '«password»'", "python", seed)
        value = ast.literal_eval("{" + text + "}")["password"]
        escaped += value != raw
        text, raw = _password('"password": "«password»"', "json", seed)
        assert json.loads("{" + text + "}", strict=True)["password"]
        text, raw = _password('<a b="«password»"/>', "markup", seed)
        assert ElementTree.fromstring(text).attrib["b"] == html.unescape(raw)
        text, raw = _password("x = '«password»'", "sql", seed)
        assert re.fullmatch(r"x = '(?:[^']|'')*'", text)
        text, raw = _password("https://u:«password:url»@host/", "http", seed)
        assert urlsplit(text).hostname == "host"
        assert urlsplit(text).password == raw
        assert unquote(raw)
        text, raw = _password("PASSWORD=«password»", "env", seed)
        assert re.fullmatch(r"PASSWORD=[^\s\"'`\\#]+", text)
    assert escaped > 3


@pytest.mark.parametrize(
    ("group", "begins"), [("json", '"[«a-z_]+»?": ?'), ("toml", "[«a-z-]+»? = ")]
)
def test_settings_files_parse(group, begins):
    lines = [t for t in GROUPS[group].asking if re.match(begins + r"[\"'\[{]", source(t))]
    assert len(lines) > 4
    for template in lines:
        for seed in range(30):
            text = render(template, GROUPS[group], seed, Margin()).text
            if group == "toml":
                assert tomllib.loads(text)
            else:
                assert json.loads("{" + text.strip().rstrip(",") + "}")


def test_pem_blocks_are_whole_in_every_manner():
    for group, template in EVERY:
        if not any(getattr(p, "name", "") == "pem" for p in template.parts):
            continue
        for seed in range(8):
            text, spans = render(template, group, seed, Margin("    "))
            (start, end), *_ = [(s, e) for s, e, label in spans if label == "KEY"]
            kind = re.search(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY[A-Z ]*)-----", text)
            assert f"-----END {kind[1]}-----" in text
            assert kind.end() <= start
            assert text.index("-----END") >= end
            body = re.sub(r"\\n|[\s\"]", "", text[start:end])
            assert re.fullmatch(r"[A-Za-z0-9+/]+=*", body)
