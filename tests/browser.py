# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pages in headless Chromium: a script is added, and what it found out is read from the page."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
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
    browser = next((b for name in _NAMES if (b := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
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
