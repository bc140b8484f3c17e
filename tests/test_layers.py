# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The packages form floors: a module imports from its own floor and from those below, never upwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUNDLE, ROOT

#: From the ground up. CONTRIBUTING.md has the same list in words.
FLOORS = ("errors", "values", "console", "core", "data", "metrics", "config", "report", "engine")
PACKAGE, TOOLS = BUNDLE / "roi_fusion", ROOT / "scripts" / "roi_fusion_tools"
#: `core` holds the method and reads no files: what it may import besides the standard library and lower floors.
CORE_MAY_IMPORT = {"torch", "monai", "numpy", "scipy", "skimage"}


def imported(path: Path, root: Path) -> Iterator[str]:
    """Dotted names that a module imports, relative ones resolved, imports inside functions included."""
    package = [root.name, *path.relative_to(root).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def floor_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "roi_fusion" and len(parts) > 1 and parts[1] in FLOORS else None


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = set(imported(path, PACKAGE))
    above = {n for n in names if (floor := floor_of(n)) and FLOORS.index(floor) > FLOORS.index(own)}
    assert not above, f"{own} lies below what it imports: {sorted(above)}"
    assert not {n for n in names if n.split(".")[0] == "roi_fusion_tools"}, "the bundle ships without the tools"


def test_core_reads_no_files() -> None:
    import sys

    for path in (PACKAGE / "core").glob("*.py"):
        roots = {n.split(".")[0] for n in imported(path, PACKAGE)} - {"roi_fusion", "lazy_loader", "__future__"}
        foreign = {r for r in roots if r not in sys.stdlib_module_names} - CORE_MAY_IMPORT
        assert not foreign, f"{path.name}: {sorted(foreign)}"


def test_every_floor_is_there_and_named() -> None:
    there = {p.stem for p in PACKAGE.iterdir() if p.name not in ("__init__.py", "__pycache__", "py.typed")}
    assert there == set(FLOORS)


@pytest.mark.parametrize("path", sorted(TOOLS.rglob("*.py")), ids=lambda p: str(p.relative_to(TOOLS)))
def test_no_circles_among_the_tools(path: Path) -> None:
    """Depth-first from each module: none reaches itself."""
    graph = {p: set() for p in TOOLS.rglob("*.py")}
    for p in graph:
        for name in imported(p, TOOLS):
            parts = name.split(".")
            if parts[0] == "roi_fusion_tools":
                target = TOOLS.joinpath(*parts[1:]).with_suffix(".py")
                if target in graph and target != p:
                    graph[p].add(target)
    seen, todo = set(), list(graph[path])
    while todo:
        step = todo.pop()
        assert step != path, f"{path.name} imports itself by way of others"
        if step not in seen:
            seen.add(step)
            todo += graph[step]
