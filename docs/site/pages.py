# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Gathers the repository's own pages for MkDocs: every Markdown file at its place, and what these link to.

A link that GitHub shows works on the site too, and one that leads nowhere ends a strict build. Pages that are not named below
stand at the end of the navigation, so a new page is never lost.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
#: Section → pages in the order of the navigation.
_SECTIONS = {
    "Use": (
        "README.md",
        "docs/walks.md",
        "docs/report.md",
        "docs/dicom.md",
        "docs/many_patients.md",
        "bundle/docs/monai_label.md",
    ),
    "Python and MONAI": ("bundle/docs/README.md", "bundle/docs/python.md"),
    "Train": ("docs/synthesis.md", "docs/public_data.md", "docs/bids.md", "docs/federated.md", "training/README.md"),
    "Numbers": ("docs/benchmarks.md", "docs/fusion_checklist.md"),
    "Project": ("CHANGELOG.md", "CONTRIBUTING.md"),
}
_LEFT_OUT = (".github/",)


def tracked_pages(root: Path = _ROOT) -> list[str]:
    """The Markdown files of the repository, relative to its root, with ``/`` between folders."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=root, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return [name for name in listed if name and not name.startswith(_LEFT_OUT)]


def linked_files(page: str, root: Path = _ROOT) -> list[str]:
    """Files that are no pages and that a page links to or shows."""
    found = []
    for target in _LINK.findall((root / page).read_text(encoding="utf-8")):
        if "://" in target or target.startswith(("mailto:", "/")):
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        if not name.startswith("..") and not name.endswith(".md") and (root / name).is_file():
            found.append(name)
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the navigation."""
    pages = tracked_pages()
    nav: list[dict[str, list[str]]] = []
    for section, names in _SECTIONS.items():
        nav.append({section: [name for name in names if name in pages]})
    known = {name for names in _SECTIONS.values() for name in names}
    if further := [name for name in pages if name not in known]:
        nav.append({"More": further})
    config.nav = [entry for entry in nav if all(entry.values())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and what they link to."""
    pages = tracked_pages()
    names = dict.fromkeys([*pages, *(name for page in pages for name in linked_files(page))])
    for name in names:
        files.append(File.generated(config, name, abs_src_path=str(_ROOT / name)))
    return files
