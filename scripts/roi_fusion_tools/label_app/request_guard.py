# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What is decided on a request before the server sees it: from which page, to which host, how large, and what it names.

A MONAI Label server runs on a reader's own machine, where every web page that the reader has open can send it requests. Plain
ASGI, without MONAI Label.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

__all__ = ["LOOPBACK", "GuardOptions", "RequestGuard"]

#: Names of this machine for itself. A page of another site can make its own name point here, but not one of these.
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_PROXY = re.compile(r"(^|/)proxy(/|$)", re.IGNORECASE)


def _host_of(value: str) -> str:
    """The host of a ``Host`` header without its port, in lower case; empty where it is none."""
    try:
        return (urlsplit(f"//{value}").hostname or "").rstrip(".") if re.fullmatch(r"[\w.:\[\]-]+", value) else ""
    except ValueError:
        return ""


@dataclass(frozen=True)
class GuardOptions:
    """What is let in.

    Attributes:
        hosts: names under which the server may be asked, beside :data:`LOOPBACK`; without ports.
        max_upload_mb: largest body of a request, in megabytes.
        proxy: whether ``/proxy/`` passes requests on to the DICOMweb server of the studies.

    Raises:
        ValueError: when a host or the limit is none.
    """

    hosts: tuple[str, ...] = ()
    max_upload_mb: float = 1024.0
    proxy: bool = False

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not _host_of(host) and not _is_address(host):
                raise ValueError(f"allowed_hosts: expected names or addresses as reader7.example.org, got {host!r}")
        if not self.max_upload_mb > 0:
            raise ValueError(f"max_upload_mb: expected a positive number, got {self.max_upload_mb}")

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> GuardOptions:
        """The options that ``--conf`` gives as text: allowed_hosts (names with commas between), max_upload_mb and proxy."""
        text = conf.get("max_upload_mb", "1024")
        try:
            limit = float(text)
        except ValueError:
            raise ValueError(f"max_upload_mb: expected a positive number, got {text!r}") from None
        proxy = conf.get("proxy", "false").lower()
        if proxy not in ("true", "false"):
            raise ValueError(f"proxy: expected true or false, got {proxy!r}")
        hosts = tuple(h.strip() for h in conf.get("allowed_hosts", "").split(",") if h.strip())
        return cls(hosts, limit, proxy == "true")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class RequestGuard:
    """ASGI middleware that answers what is not let in with one sentence.

    400 for a query that names a path, 403 for another host or a page of another site, 404 for ``/proxy/``, 413 for a large
    body.
    """

    def __init__(self, app: Any, options: GuardOptions | None = None) -> None:
        self.app, self.options = app, options or GuardOptions()
        self._hosts = {*LOOPBACK, *(h.lower() if _is_address(h) else _host_of(h) for h in self.options.hosts)}
        self._limit = int(self.options.max_upload_mb * 1e6)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):  # lifespan
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is None:
            await self.app(scope, self._limited(receive), send)
        elif scope["type"] == "http":
            await JSONResponse({"detail": refused[1]}, refused[0])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": refused[1][:120]})

    def _refused(self, scope: Any) -> tuple[int, str] | None:
        headers: dict[str, list[str]] = {}
        for key, value in scope["headers"]:
            headers.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        return (
            self._of_another_host(headers)
            or self._of_another_page(headers, scope.get("method", ""))
            or self._to_the_proxy(scope["path"])
            or self._too_large(headers)
            or self._names_a_path(scope["query_string"])
        )

    def _of_another_host(self, headers: Mapping[str, list[str]]) -> tuple[int, str] | None:
        came = headers.get("host", [])
        if len(came) == 1 and _host_of(came[0]) in self._hosts:
            return None
        expected = ", ".join(sorted(self._hosts))
        return 403, f"host: expected one of {expected} (more with --allowed_hosts), got {', '.join(came) or 'none'}"

    def _of_another_page(self, headers: Mapping[str, list[str]], method: str) -> tuple[int, str] | None:
        host = headers["host"][0]
        for origin in headers.get("origin", []):  # "null": a sandboxed frame, a file, a redirect
            same = origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
            if not same:
                return 403, f"origin: expected a page of this server, got one of {origin}"
        site, mode = (headers.get(f"sec-fetch-{k}", [""])[0] for k in ("site", "mode"))
        opened = mode == "navigate" and method in ("GET", "HEAD")  # a link that a reader follows
        if site in ("cross-site", "same-site") and not opened and "origin" not in headers:
            return 403, "origin: expected a page of this server, got a request of another site's page"
        return None

    def _to_the_proxy(self, path: str) -> tuple[int, str] | None:
        if _PROXY.search(path) and not self.options.proxy:
            return 404, "/proxy/: expected requests to this server only, as it was started without --proxy true"
        return None

    def _too_large(self, headers: Mapping[str, list[str]]) -> tuple[int, str] | None:
        for text in headers.get("content-length", []):
            if not text.isascii() or not text.isdigit() or int(text[:20]) > self._limit:
                return 413, self._size_sentence()
        return None

    def _size_sentence(self) -> str:
        return f"upload: expected {self.options.max_upload_mb:g} MB or less, got more (--max_upload_mb sets the limit)"

    def _limited(self, receive: Any) -> Any:
        """`receive` that counts: a body in chunks does not tell its length beforehand."""
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if seen > self._limit:
                raise HTTPException(413, self._size_sentence())
            return message

        return counted

    @staticmethod
    def _names_a_path(query: bytes) -> tuple[int, str] | None:
        for name, value in parse_qsl(query.decode(errors="replace")):
            if value.startswith(("/", "~")) or "\\" in value or "\0" in value or ".." in value.split("/"):
                return 400, f"{name}: expected the name of something in the studies, got the path {value!r}"
        return None
