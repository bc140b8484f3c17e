# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Write the generated parts of the documents again: the table of knobs and every number, from the files they come from."""

from __future__ import annotations

import json
import re
import sys

from roi_fusion.config.knobs import knob_table
from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.errors import InputError

from .benchmark.documents import benchmark_document, eval_metrics, model_card_parts

__all__ = ["filled", "generated", "update_docs"]

ROOT = BUNDLE_ROOT.parent
RESULTS = BUNDLE_ROOT / "docs" / "results"
METADATA = "bundle/configs/metadata.json"
DOCUMENTS = ("README.md", "bundle/docs/README.md")


def generated() -> dict[str, str]:
    """Name of each generated part → its text."""
    lesions = RESULTS / "lesions.json"
    found = json.loads(lesions.read_text()) if lesions.is_file() else None
    return {"knobs": knob_table(), **model_card_parts(json.loads((RESULTS / "quality.json").read_text()), found)}


def filled(text: str, parts: dict[str, str]) -> str:
    """`text` with what stands between ``<!-- name -->`` and ``<!-- /name -->`` replaced by the part of that name."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name not in parts:
            sys.exit(f"error: {name}: expected a part among {', '.join(parts)}")
        return f"<!-- {name} -->\n{parts[name]}\n<!-- /{name} -->"

    return re.sub(r"<!-- ([a-z_:0-9]+) -->\n.*?<!-- /\1 -->", replace, text, flags=re.DOTALL)


def update_docs(check: bool = False) -> None:
    """Fill the generated parts of the documents.

    Args:
        check: change nothing; exit 1 when a document is not up to date.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise InputError("dev documents: expected a checkout of the repository, got an installed package")
    parts = generated()
    expected = {name: filled((ROOT / name).read_text(), parts) for name in DOCUMENTS}
    expected["docs/benchmarks.md"] = benchmark_document(RESULTS, ROOT / "docs" / "benchmarks.md.j2")
    metadata = json.loads((ROOT / METADATA).read_text())
    metadata["eval_metrics"] = eval_metrics(json.loads((RESULTS / "quality.json").read_text()))
    expected[METADATA] = json.dumps(metadata, indent=4, ensure_ascii=False) + "\n"
    for name, new in expected.items():
        path = ROOT / name
        if check and (not path.is_file() or path.read_text() != new):
            sys.exit(f"{name} is not up to date: run roi-fusion dev documents")
        if not check:
            path.write_text(new)
