#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Write the generated parts of the documents again: the table of knobs and every number, from the files they come from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from _cli import main
from roi_fusion.knobs import knob_table
from roi_fusion.report import markdown_table

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "bundle/docs/README.md")


def generated() -> dict[str, str]:
    """Name of each generated part → its text."""
    parts = {"knobs": knob_table()}
    for file in sorted((ROOT / "bundle" / "docs" / "results").glob("*.json")):
        parts[f"results:{file.stem}"] = markdown_table(json.loads(file.read_text()))
    return parts


def filled(text: str, parts: dict[str, str]) -> str:
    """`text` with what stands between ``<!-- name -->`` and ``<!-- /name -->`` replaced by the part of that name."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name not in parts:
            sys.exit(f"error: {name}: wanted a part among {', '.join(parts)}")
        return f"<!-- {name} -->\n{parts[name]}\n<!-- /{name} -->"

    return re.sub(r"<!-- ([a-z_:0-9]+) -->\n.*?<!-- /\1 -->", replace, text, flags=re.DOTALL)


def update_docs(check: bool = False) -> None:
    """Fill the generated parts of the documents.

    Args:
        check: change nothing; exit 1 when a document is not up to date.
    """
    parts = generated()
    for name in DOCUMENTS:
        path = ROOT / name
        old = path.read_text()
        new = filled(old, parts)
        if new != old and check:
            sys.exit(f"{name} is not up to date: run python scripts/update_docs.py")
        path.write_text(new)


if __name__ == "__main__":
    main(update_docs)
