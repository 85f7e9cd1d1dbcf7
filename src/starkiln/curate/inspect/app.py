"""The inspection page: served to this machine only, and only to who knows its address.

The address holds a random token, so that neither another page in the same browser nor another user
of the machine can read code or write verdicts; requests under another host name are refused.
"""

import json
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import resources
from os import environ
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starkiln.core.errors import UserError
from starkiln.curate.inspect import store
from starkiln.curate.inspect.colour import Painter, plain
from starkiln.curate.inspect.sample import LIMITS, SHOWN, Sample

HOST = "127.0.0.1"
MAX_BODY = 64 << 10  # bytes of one change
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
COUNTERS = ("characters", "lines", *LIMITS, "xml", "visible")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """Lets through what the page itself asks: right host, right token, and no form of another's."""

    def __init__(self, app: ASGIApp, hosts: set[str], token: str) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers that keep the page to itself."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        if scope["type"] == "http":
            inside = self.app if self._welcome(scope) else Response(status_code=404)
            await inside(scope, receive, guarded)

    def _welcome(self, scope: Scope) -> bool:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        token = scope["path"].split("/")[1].encode("utf-8", "replace")
        known = secrets.compare_digest(token, self.token.encode())
        if not known or host not in self.hosts:
            return False
        writes = scope["method"] not in ("GET", "HEAD")
        ours = headers.get("origin", f"http://{host}") == f"http://{host}"
        return not writes or (ours and headers.get("content-type") == "application/json")


def application(
    sample: Sample, verdicts: Path, painter: Painter, *, hosts: set[str], token: str
) -> Starlette:
    """The ASGI application; ``hosts`` are the names it answers to, ``token`` begins every path."""
    routes = [
        Route("/", page),
        Route("/strata", strata),
        Route("/stratum", stratum),
        Route("/file", file),
        Route("/verdicts", decided),
        Route("/verdicts", decide, methods=["POST"]),
        Route("/{name}", page),
    ]
    guard = Middleware(Guard, hosts=hosts, token=token)
    mounted = [Mount(f"/{token}", routes=routes)]
    app = Starlette(routes=mounted, middleware=[guard], max_body_size=MAX_BODY)
    app.state.sample, app.state.verdicts, app.state.painter = sample, verdicts, painter
    return app


def page(request: Request) -> Response:
    """A file of the page itself."""
    name = request.path_params.get("name", "page.html")
    kind = KINDS.get(name.rpartition(".")[2])
    found = resources.files("starkiln.curate.inspect") / name
    if kind is None or not found.is_file():
        return Response(status_code=404)
    return Response(found.read_bytes(), media_type=kind)


def strata(request: Request) -> Response:
    """The table and its strata, each with the ids to be read."""
    sample: Sample = request.app.state.sample
    found = [
        {**asdict(one), "label": plain(one.key), "ids": sample.ids(one)} for one in sample.strata
    ]
    told = {name: getattr(sample, name) for name in ("table", "left_out", "decided", "stale")}
    return JSONResponse({**told, "shown": SHOWN, "strata": found})


def stratum(request: Request) -> Response:
    """The rows of one stratum, column by column, in the order to be read."""
    sample: Sample = request.app.state.sample
    key = request.query_params.get("key")
    found = [one for one in sample.strata if one.key == key]
    if not found:
        return Response(status_code=404)
    rows = sample.rows.slice(found[0].first, found[0].drawn)
    columns = rows.select("id", "path", *COUNTERS).to_dict(as_series=False)
    return JSONResponse({**columns, "path": [plain(path) for path in columns["path"]]})


def file(request: Request) -> Response:
    """One file of the sample."""
    sample: Sample = request.app.state.sample
    row = request.query_params.get("row", "")
    if not (row.isascii() and row.isdecimal()) or int(row) >= sample.rows.height:
        return Response(status_code=404)
    return JSONResponse(document(sample, int(row), request.app.state.painter))


def decided(request: Request) -> Response:
    """All verdicts."""
    state = request.app.state
    return _answer(lambda: store.read(state.verdicts, state.sample.table))


async def decide(request: Request) -> Response:
    """Change one verdict: ``{"at": [...], "value": ...}``; without a value it is removed."""
    state, body = request.app.state, await request.body()
    change = partial(_change, state.verdicts, state.sample.table, body)
    return await run_in_threadpool(_answer, change)


def _change(path: Path, table: str, body: bytes) -> dict[str, Any]:
    asked = json.loads(body)
    at = asked.get("at") if isinstance(asked, dict) else None
    if not isinstance(at, list) or not all(isinstance(part, str) for part in at):
        raise ValueError("no such entry")
    store.change(path, table, at, asked.get("value", store.ABSENT))
    return {"saved": True}


def _answer(work: Callable[[], dict[str, Any]]) -> Response:
    """What ``work`` gives; a fault is a status and a sentence."""
    try:
        return JSONResponse(work())
    except UserError as error:
        return JSONResponse({"fault": str(error)}, status_code=409)
    except OSError as error:
        return JSONResponse({"fault": f"{error.filename}: {error.strerror}"}, status_code=507)
    except (ValueError, RecursionError) as error:  # JSON's and pydantic's are among them
        return JSONResponse({"fault": str(error)}, status_code=400)


def document(sample: Sample, row: int, painter: Painter) -> dict[str, Any]:
    """One file: where it is from, its counters, what the run said, its coloured text."""
    found = sample.rows.row(row, named=True)
    counters = {name: found[name] for name in COUNTERS}
    facts = json.loads(found["facts"])
    if found.get("redactions"):
        facts["redactions"] = found["redactions"]
    segments = sample.segments(row)
    return {
        **{name: found[name] for name in ("id", "kind", "stars", "stage", "reason")},
        **{name: plain(found[name]) for name in ("repo", "path", "language")},
        "licences": [plain(one) for one in found["licences"] or []],
        "counters": counters,
        "facts": {k: plain(str(v)) for k, v in facts.items() if v not in counters.values()},
        "crlf": any("\r\n" in one["text"] for one in segments),
        "segments": painter.paint(segments, found["language"], found["path"]),
    }


def serve(sample: Sample, verdicts: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until interrupted; ``say`` gets its address."""
    store.read(verdicts, sample.table)  # a damaged file is told now, not at the first key
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        what = f"port {port}: {error.strerror}"
        raise UserError("inspect", what, "name another, or 0 for a free one") from error
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(16)
    hosts = {f"{HOST}:{port}", f"localhost:{port}"}
    painter = Painter()
    app = application(sample, verdicts, painter, hosts=hosts, token=token)
    address = f"http://{HOST}:{port}/{token}/"
    say(address)
    if _has_browser():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=2
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        painter.close()


def _has_browser() -> bool:
    """Whether a person sits at this machine's screen; a browser in a terminal is no help."""
    screen = (
        sys.platform in ("darwin", "win32") or "DISPLAY" in environ or "WAYLAND_DISPLAY" in environ
    )
    return sys.stdout.isatty() and screen
