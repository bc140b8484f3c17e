# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pages in headless Chromium: a script is added, and what it found out is read from the page."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")

_HARNESS = """<script>
const found = { refused: [], errors: [] };
addEventListener("securitypolicyviolation", (e) => found.refused.push(e.blockedURI));
addEventListener("error", (e) => found.errors.push(e.message));
addEventListener("unhandledrejection", (e) => found.errors.push(String(e.reason)));
const wide = () => [document.documentElement.scrollWidth, document.documentElement.clientWidth];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
addEventListener("load", async () => {
  try { %s } catch (e) { found.errors.push(String(e)); }
  found.fetched = performance.getEntriesByType("resource").map((e) => e.name.slice(0, 80));
  document.documentElement.dataset.found = JSON.stringify(found);
});
</script></head>"""


def _browser() -> str:
    """The installed Chromium; skips the test where there is none."""
    found = next((b for name in _NAMES if (b := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    return found


def open_page(page: Path, script: str, *, width: int = 1280, dark: bool = False, virtual_ms: int = 8000) -> dict[str, Any]:
    """What a script found in a page; skips the test where there is no Chromium.

    Args:
        page: file; a copy with the script is made beside it and removed.
        script: body of an async function that fills ``found``; ``wide()`` gives the widths of the content and the window.
        width: of the window in pixels.
        dark: prefer the dark colours.
        virtual_ms: time that the page is given, which passes as fast as it can.

    Returns:
        ``found`` with ``refused`` (addresses that the page's policy stopped), ``errors`` and ``fetched``.
    """
    browser = _browser()
    copy = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</head>", _HARNESS % script, 1), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-dev-shm-usage",
    ]
    options += ["--disable-background-networking", "--no-first-run", f"--window-size={width},900", "--dump-dom"]
    options += [f"--virtual-time-budget={virtual_ms}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    profile = page.parent / ".profile"
    try:
        command = [browser, *options, f"--user-data-dir={profile}", copy.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        copy.unlink()
        shutil.rmtree(profile, ignore_errors=True)
    answer = re.search(r'<html[^>]* data-found="([^"]*)"', done.stdout)
    assert answer, done.stderr[-2000:]
    return json.loads(html.unescape(answer[1]))


class _Pipe:
    """Chromium's debugging protocol over its pipe: a message is JSON that ends in a zero byte."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing, self.buffer, self.sent = reading, writing, b"", 0

    def __call__(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                read = os.read(self.reading, 1 << 20)
                assert read, "Chromium has ended"
                self.buffer += read
            text, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.sent:
                assert "error" not in answer, answer["error"]
                return answer["result"]


def open_in_real_time(page: Path, script: str, *, profile: Path) -> Any:
    """What a script returns in a page whose clock runs as a reader's does, so that pictures are read when they come into view.

    :func:`open_page` lets the time pass as fast as it can, and Chromium then waits for every picture.

    Args:
        page: file.
        script: body of an async function, run once the page has loaded.
        profile: folder for Chromium's profile, new.
    """
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    options += ["--no-first-run", "--disable-sync", "--disable-component-update", "--window-size=1280,900"]
    command = [_browser(), *options, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    (commands, writing), (reading, answers) = os.pipe(), os.pipe()

    def as_three_and_four() -> None:  # where Chromium looks for them
        spare = [os.dup(fd) for fd in (commands, answers)]
        for fd, wanted in zip(spare, (3, 4), strict=True):
            os.dup2(fd, wanted)

    process = subprocess.Popen(
        command, preexec_fn=as_three_and_four, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(commands), os.close(answers)
    try:
        send = _Pipe(reading, writing)
        target = send("Target.createTarget", url="about:blank")["targetId"]
        session = send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        send("Page.navigate", session, url=page.as_uri())
        while True:
            state = send("Runtime.evaluate", session, expression="document.URL + document.readyState")["result"]["value"]
            if state == page.as_uri() + "complete":
                break
            time.sleep(0.05)
        expression = f"(async () => {{ {script} }})()"
        found = send("Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")
    finally:
        os.close(reading), os.close(writing)
        process.terminate()
        process.wait(30)
