"""Where a text comes from: ``/v1/attribution``, and ``/overlap`` as llm-vscode asks it."""

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starkiln.serve.errors import Fault
from starkiln.serve.forms import Form
from starkiln.serve.service import Service
from starkiln.serve.wire import Row


class AttributionForm(Form):
    """A text."""

    text: str


class OverlapForm(Form):
    """A text, as Data Portraits calls it."""

    document: str


async def _report(service: Service, text: str) -> list[dict[str, Any]]:
    """Spans of ``text`` in the training data; Fault (404) without an index of it."""
    if service.attribution is None:
        raise Fault(404, "no index of the training data is served", code="no_index")
    return await service.aside(service.attribution.report, text)


async def attribution(service: Service, form: AttributionForm, request: Request) -> Response:
    """``POST /v1/attribution``: spans in code points, with their documents."""
    found = await _report(service, form.text)
    return JSONResponse({"attribution": found})


async def overlap(service: Service, form: OverlapForm, request: Request) -> Response:
    """``POST /overlap``: spans in UTF-16 units, as its clients count."""
    found = await _report(service, form.document)
    spans = await service.aside(in_units, form.document, [one["span"] for one in found])
    return JSONResponse({"spans": spans})


def in_units(text: str, spans: list[list[int]]) -> list[list[int]]:
    """``spans`` in UTF-16 units, by one pass over ``text``."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    wide = np.concatenate(([0], np.cumsum(codes > 0xFFFF)))
    return [[place + int(wide[place]) for place in span] for span in spans]


ROWS = (
    Row("/v1/attribution", attribution, AttributionForm),
    Row("/overlap", overlap, OverlapForm),
)
