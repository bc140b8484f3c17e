# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What holds for the repository as a whole: versions agree, links lead somewhere, workflows run targets that exist."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import BUNDLE, ROOT
from roi_fusion import __version__

PACKAGES = (BUNDLE / "roi_fusion", ROOT / "scripts" / "roi_fusion_tools")
#: Without the MONAI Label app, which is no package: MONAI Label loads it, and names and documents its methods.
MODULES = sorted(p for package in PACKAGES for p in package.rglob("*.py") if "label_app" not in p.parts)
LONGEST_MODULE = 350
#: Remaining exceptions. Each counts only while it applies, and is to be deleted with the change that mends it.
TOO_LONG = {
    "scripts/roi_fusion_tools/layouts.py",
    "scripts/roi_fusion_tools/prepare.py",
}
UNDOCUMENTED: dict[str, set[str]] = {}
AWAITED_TARGETS = {"fuzz"}
DOCUMENTS = [p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *BUNDLE.glob("docs/*.md"), *ROOT.glob(".github/*.md"))]
#: Methods whose meaning torch, MONAI or ignite fixes: a docstring would repeat theirs.
DOCUMENTED_BY_THE_BASE = {"attach", "forward", "inverse", "load_state_dict", "set_random_state", "state_dict"}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_one_version_everywhere() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert metadata["version"] == __version__
    assert __version__ in metadata["changelog"]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == __version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == __version__


def test_the_hook_formats_with_the_pinned_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert [r["rev"] for r in hooks if r["repo"].endswith("ruff-pre-commit")] == [f"v{pinned}"]
    largest = next(h for r in hooks for h in r["hooks"] if h["id"] == "check-added-large-files")["args"][0].split("=")[1]
    assert (BUNDLE / "models" / "model.pt").stat().st_size < int(largest) * 1024


def test_pins_are_within_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    for file in ("constraints.txt", "constraints-label.txt"):
        pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / file).read_text(), re.M))
        pins = {canonicalize_name(package): version for package, version in pins.items()}
        for package in ("torch", "monai"):
            assert pins[package] in wanted[package], f"{file}: {package}"
    assert "2.7" not in wanted["torch"]
    assert "1.5.2" not in wanted["monai"]


def test_the_map_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:core|data|metrics|config|report|engine)/[\w/]+\.py)`", text):
        assert (BUNDLE / "roi_fusion" / path).is_file(), path
    for path in re.findall(r"`((?:bundle/roi_fusion|scripts|tests)/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file(), path


def test_the_citation_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_workflows_run_targets_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    workflow = yaml.safe_load(path.read_text())
    assert workflow["jobs"]
    used = set(re.findall(r"make ([a-z-]+)", path.read_text()))
    for job in workflow["jobs"].values():
        used |= set(job.get("strategy", {}).get("matrix", {}).get("target", []))
    missing = used - targets
    if missing and missing <= AWAITED_TARGETS:
        pytest.xfail(f"still without a make target: {missing}")
    assert not missing, missing


def test_configuration_files_parse() -> None:
    for path in (ROOT / ".pre-commit-config.yaml", *(ROOT / ".github").rglob("*.yml")):
        assert yaml.safe_load(path.read_text()), name(path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_is_too_long(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    if lines > LONGEST_MODULE and name(path) in TOO_LONG:
        pytest.xfail(f"{lines} lines, still to be split")
    assert lines <= LONGEST_MODULE


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes and, within classes, public methods other than those that the base class documents."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            if not (prefix and child.name in DOCUMENTED_BY_THE_BASE):
                yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module"
    missing = [found for found, node in public(tree) if not ast.get_docstring(node)]
    if missing and set(missing) <= UNDOCUMENTED.get(name(path), set()):
        pytest.xfail(f"still without a docstring: {missing}")
    assert not missing, f"no docstring: {missing}"


def test_types_are_shipped() -> None:
    assert all((package / "py.typed").is_file() for package in PACKAGES)


def test_the_train_config_can_be_read_at_a_glance() -> None:
    lines = len((BUNDLE / "configs" / "train.json").read_text().splitlines())
    if lines >= LONGEST_MODULE and "bundle/configs/train.json" in TOO_LONG:
        pytest.xfail(f"{lines} lines, still to be shortened")
    assert lines < LONGEST_MODULE


def test_no_machine_paths() -> None:
    pattern = re.compile(r"(^|[^A-Za-z_./-])/(root|home|work|Users)/")
    for path in (*MODULES, *ROOT.glob("tests/**/*.py"), *BUNDLE.glob("configs/*.json"), *DOCUMENTS):
        if path.name != "test_project.py":
            assert not pattern.search(path.read_text()), name(path)
