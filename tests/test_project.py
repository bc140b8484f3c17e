# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What holds for the repository as a whole: versions agree, links lead somewhere, workflows run targets that exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from conftest import BUNDLE, ROOT
from roi_fusion import __version__

PACKAGES = (BUNDLE / "roi_fusion", ROOT / "scripts" / "roi_fusion_tools")
MODULES = sorted(p for package in PACKAGES for p in package.rglob("*.py"))
LONGEST_MODULE = 350
DOCUMENTS = [p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *BUNDLE.glob("docs/*.md"), *ROOT.glob(".github/*.md"))]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_one_version_everywhere() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert metadata["version"] == __version__
    assert __version__ in metadata["changelog"]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == __version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == __version__


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
    assert used <= targets, used - targets


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
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_types_are_shipped() -> None:
    assert all((package / "py.typed").is_file() for package in PACKAGES)


def test_the_train_config_can_be_read_at_a_glance() -> None:
    assert len((BUNDLE / "configs" / "train.json").read_text().splitlines()) < LONGEST_MODULE


def test_no_machine_paths() -> None:
    pattern = re.compile(r"(^|[^A-Za-z_./-])/(root|home|work|Users)/")
    for path in (*MODULES, *ROOT.glob("tests/**/*.py"), *BUNDLE.glob("configs/*.json"), *DOCUMENTS):
        if path.name != "test_project.py":
            assert not pattern.search(path.read_text()), name(path)
