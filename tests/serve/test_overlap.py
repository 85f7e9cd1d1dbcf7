"""Where a text comes from, as llm-vscode asks it and as our own pages do."""

import asyncio
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from editors import llm_vscode_attribution
from starkiln.serve.overlap import in_units
from starkiln.serve.server import application
from starkiln.serve.service import Service

KNOWN = "def copied(first):"


class Finder:
    """Finds the one line that it knows, at code points."""

    def report(self, text: str) -> list[dict]:
        at = text.find(KNOWN)
        return [{"span": [at, at + len(KNOWN)], "repo": "o/r", "path": "a.py"}] if at >= 0 else []


@pytest.fixture
def finding(serviced: Callable[..., Service]) -> TestClient:
    return TestClient(application(serviced(Finder())))


def test_llm_vscode(finding: TestClient) -> None:
    """Its spans are of JavaScript's strings, in UTF-16."""
    document = f"# 🙂 naïve\n{KNOWN}\n    pass\n"
    answer = finding.post("/overlap", json=llm_vscode_attribution(document))
    [[start, end]] = answer.json()["spans"]
    units = document.encode("utf-16-le")
    assert units[2 * start : 2 * end].decode("utf-16-le") == KNOWN
    assert finding.post("/overlap", json={"document": "nothing"}).json() == {"spans": []}


def test_attribution(finding: TestClient) -> None:
    answer = finding.post("/v1/attribution", json={"text": f"🙂{KNOWN}"}).json()
    assert answer == {"attribution": [{"span": [1, 1 + len(KNOWN)], "repo": "o/r", "path": "a.py"}]}


class Everywhere:
    """Finds a copy in every fourth place."""

    def report(self, text: str) -> list[dict]:
        return [{"span": [at, at + 3]} for at in range(0, len(text) - 3, 4)]


@pytest.mark.timeout(60)  # each span's text encoded anew took longer than anybody waits
def test_many_copies_in_a_long_text(serviced: Callable[..., Service]) -> None:
    client = TestClient(application(serviced(Everywhere())))
    document = "🙂abc" * 250_000
    spans = client.post("/overlap", json={"document": document}).json()["spans"]
    assert len(spans) == 250_000
    assert spans[:2] == [[0, 4], [5, 9]]
    assert spans[-1] == [5 * 249_999, 5 * 249_999 + 4]


class Slow:
    """Takes its time, and notes how many are asked at once."""

    now = most = 0

    def report(self, text: str) -> list[dict]:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        return []


def test_long_searches_leave_the_threads_to_others(serviced: Callable[..., Service]) -> None:
    finder = Slow()
    service = serviced(finder)

    async def ask() -> None:
        made = [service.aside(finder.report, "") for _ in range(40)]
        others = [asyncio.to_thread(int) for _ in range(40)]
        done, late = await asyncio.wait(
            [asyncio.ensure_future(asyncio.gather(*some)) for some in (others, made)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [task.result() for task in done] == [[0] * 40]
        await asyncio.wait(late)

    asyncio.run(ask())
    assert finder.most == 1


@given(st.text(), st.data())
def test_units_are_utf_16s(text: str, data: st.DataObject) -> None:
    place = st.integers(0, len(text))
    spans = data.draw(st.lists(st.lists(place, min_size=2, max_size=2)))
    expected = [[len(text[:at].encode("utf-16-le")) // 2 for at in span] for span in spans]
    assert in_units(text, spans) == expected


def test_without_an_index(client: TestClient) -> None:
    for path, body in (("/overlap", {"document": "x"}), ("/v1/attribution", {"text": "x"})):
        answer = client.post(path, json=body)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "no_index"


@pytest.mark.parametrize("body", [{}, {"document": 5}, {"document": None}, []])
def test_bad_values_are_refused(finding: TestClient, body: object) -> None:
    assert finding.post("/overlap", json=body).status_code == 400
