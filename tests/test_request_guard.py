# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The label server's guard in front of a small app, spoken to in ASGI; `make test-label` attacks the server itself."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "roi_fusion_tools" / "label_app"))
from request_guard import GuardOptions, RequestGuard

HERE = "127.0.0.1:8000"


async def _echo(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


def ask(
    headers: dict[str, str] | list[tuple[str, str]],
    method: str = "GET",
    path: str = "/datastore/",
    query: str = "",
    body: Iterable[bytes] = (b"",),
    options: GuardOptions | None = None,
) -> tuple[int, dict[str, Any]]:
    """Status and content of the answer of a server that answers everything."""
    app = FastAPI()
    app.add_api_route("/{rest:path}", _echo, methods=["GET", "PUT", "POST", "DELETE", "OPTIONS"])
    app.add_middleware(RequestGuard, options=options)
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in pairs],
    }
    chunks, sent = list(body), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.mark.parametrize("host", [HERE, "localhost", "LOCALHOST:8000", "[::1]:8000", "localhost."])
def test_this_machine_may_ask(host: str) -> None:
    assert ask({"Host": host}) == (200, {"bytes": 0})
    assert ask({"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8000",  # rebound to 127.0.0.1
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil@localhost",
        "localhost:8000@evil.example",
        "localhost/evil.example",
        "192.168.1.7",
        "0.0.0.0:8000",
        "[::1",
        "",
        "lo cal",
        "\xe9",
    ],
)
def test_another_host_is_refused(host: str) -> None:
    status, answer = ask({"Host": host, "Origin": f"http://{host}"})
    assert status == 403
    assert answer["detail"].startswith("host: expected one of 127.0.0.1, ::1, localhost (more with --allowed_hosts), got")


def test_no_host_and_two_hosts_are_refused() -> None:
    assert ask({})[0] == 403
    assert ask([("Host", HERE), ("Host", "evil.example")])[0] == 403


def test_hosts_can_be_added() -> None:
    options = GuardOptions.from_conf({"allowed_hosts": "Reader7.example.org, 192.168.1.7,fe80::1"})
    for host in ("reader7.example.org:8000", "192.168.1.7", "[fe80::1]:80", HERE):
        assert ask({"Host": host}, options=options)[0] == 200
    assert ask({"Host": "reader8.example.org"}, options=options)[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", "http://localhost:3000", "http://127.0.0.1", "file://", "", f"http://{HERE}.evil.example"],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_pages_of_others_are_refused(origin: str, method: str) -> None:
    status, answer = ask({"Host": HERE, "Origin": origin}, method)
    assert (status, answer["detail"]) == (403, f"origin: expected a page of this server, got one of {origin}")


def test_two_origins_are_refused() -> None:
    assert ask([("Host", HERE), ("Origin", f"http://{HERE}"), ("Origin", "null")])[0] == 403


def test_requests_without_an_origin_go_by_where_the_browser_says_they_come_from() -> None:
    """A picture or a script of another page sends no Origin; a link that a reader follows may come from anywhere."""
    for site in ("cross-site", "same-site"):
        assert ask({"Host": HERE, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})[0] == 403
        assert ask({"Host": HERE, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}, "POST")[0] == 403
        assert ask({"Host": HERE, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})[0] == 200
    assert ask({"Host": HERE, "Sec-Fetch-Site": "none"})[0] == 200


def test_no_answer_lets_other_pages_in() -> None:
    """No header that a browser takes for leave to read, with credentials or without."""

    async def headers() -> list[tuple[bytes, bytes]]:
        sent: list[dict[str, Any]] = []
        guard = RequestGuard(Starlette(routes=[Route("/", _echo, methods=["GET", "OPTIONS"])]))
        scope = {"type": "http", "method": "OPTIONS", "path": "/", "query_string": b"", "root_path": ""}
        scope["headers"] = [(b"host", HERE.encode()), (b"origin", b"null"), (b"access-control-request-method", b"DELETE")]

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await guard(scope, None, send)
        return sent[0]["headers"]

    assert not [k for k, _ in asyncio.run(headers()) if k.startswith(b"access-control")]


def test_uploads_are_limited_whether_they_tell_their_length_or_not() -> None:
    options = GuardOptions(max_upload_mb=0.001)
    told = "upload: expected 0.001 MB or less, got more (--max_upload_mb sets the limit)"
    assert ask({"Host": HERE, "Content-Length": "1000"}, "PUT", body=[b"x" * 1000], options=options) == (200, {"bytes": 1000})
    for length in ("1001", "9" * 400, "-1", "1e3"):
        status, answer = ask({"Host": HERE, "Content-Length": length}, "PUT", options=options)
        assert (status, answer["detail"]) == (413, told)
    assert ask({"Host": HERE}, "PUT", body=[b"x" * 500] * 2, options=options) == (200, {"bytes": 1000})
    assert ask({"Host": HERE}, "PUT", body=[b"x" * 500] * 3, options=options)[0] == 413  # in chunks
    assert ask({"Host": HERE, "Content-Length": "10"}, "PUT", body=[b"x" * 1001], options=options)[0] == 413  # a lie


@pytest.mark.parametrize("path", ["/proxy/dicom/wado/x", "//proxy/dicom/x", "/Proxy/", "/proxy", "/api/proxy/x"])
def test_the_proxy_is_off_unless_asked_for(path: str) -> None:
    assert ask({"Host": HERE}, path=path)[0] == 404
    assert ask({"Host": HERE}, path=path, options=GuardOptions.from_conf({"proxy": "true"}))[0] == 200


@pytest.mark.parametrize(
    "query", ["image=/etc/hostname", "image=..%2Fx", "id=a/../b", "image=~root", "image=a%5Cb", "image=a%00"]
)
def test_queries_that_name_a_path_are_refused(query: str) -> None:
    status, answer = ask({"Host": HERE}, query=query)
    assert status == 400
    assert "expected the name of something in the studies" in answer["detail"]


def test_a_socket_is_closed_to_others() -> None:
    async def ask_socket(origin: str) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": [(b"host", HERE.encode())]}
        scope["headers"].append((b"origin", origin.encode()))
        await RequestGuard(app)(scope, None, send)
        return sent

    assert asyncio.run(ask_socket(f"http://{HERE}"))[0]["type"] == "websocket.accept"
    assert asyncio.run(ask_socket("null"))[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ({"max_upload_mb": "much"}, "max_upload_mb: expected a positive number, got 'much'"),
        ({"max_upload_mb": "0"}, "max_upload_mb: expected a positive number"),
        ({"max_upload_mb": "nan"}, "max_upload_mb: expected a positive number"),
        ({"allowed_hosts": "http://x"}, "allowed_hosts: expected names or addresses"),
        ({"allowed_hosts": "*"}, "allowed_hosts: expected names or addresses"),
        ({"proxy": "yes"}, "proxy: expected true or false"),
    ],
)
def test_options_are_checked(conf: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GuardOptions.from_conf(conf)
