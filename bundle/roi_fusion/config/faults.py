# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Static checks of bundle configs: what is broken, where, and by what cause, without running anything of it."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from ..errors import InputError
from .check import STRUCTURE, check_config

__all__ = ["Fault", "find_fault", "foreign_code", "walk"]

_REFERENCE = re.compile(r"@((?:\w+)(?:(?:#|::)\w+)*)")


#: Where code that a config names may come from; bare names are MONAI's own components.
ALLOWED_ROOTS = ("monai", "torch", "ignite", "roi_fusion")


#: Standard modules and builtins that expressions may name.
ALLOWED_NAMES = ("os", "pathlib", "str", "len", "min", "max", "float", "int")


class Fault(InputError):
    """A broken config: ``str()`` is three lines with the id, the file and the first cause."""

    def __init__(self, item: str, file: str | Path, cause: str) -> None:
        super().__init__(f"id: {item}\nfile: {file}\ncause: {cause}")
        self.item, self.file, self.cause = item, str(file), cause


def walk(config: Any, item: str = "") -> Iterator[tuple[str, Any]]:
    """Every node of a config with its id, parents first."""
    yield item, config
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from walk(value, f"{item}#{key}" if item else str(key))
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from walk(value, f"{item}#{index}")


def _load(files: Sequence[str | Path]) -> tuple[ConfigParser, dict[str, Path]]:
    """The merged config, and which file each top-level key came from last."""
    source: dict[str, Path] = {}
    for file in map(Path, files):
        if not file.is_file():
            raise Fault("-", file, "expected a config file, found no such file")
        try:
            content = json.loads(file.read_text())
        except ValueError as e:
            raise Fault("-", file, f"expected JSON, got {e}") from None
        if not isinstance(content, dict):
            raise Fault("-", file, f"expected an object of ids, got {type(content).__name__}")
        source.update({key.lstrip("+"): file for key in content})
    parser = ConfigParser()
    try:
        parser.read_config([str(f) for f in files])
    except KeyError as e:  # validate#dataset#data in a config without validate
        expected = f"expected the config that it lies over before it, as train.json,{Path(files[-1]).name}, got it alone ({e})"
        raise Fault("-", Path(files[-1]), expected) from None
    return parser, source


def _target(name: str, locator: ComponentLocator) -> Any:
    found = locator.get_component_module_name(name) if "." not in name else name
    if isinstance(found, (list, tuple)):
        found = found[0]
    if isinstance(found, str) and "." not in name:
        found = f"{found}.{name}"
    return locate(str(found)) if found else None


def _check_component(node: Mapping[str, Any], locator: ComponentLocator) -> str | None:
    name = str(node["_target_"])
    try:
        target = _target(name, locator)
    except Exception as e:  # a module that fails to import, for whatever reason
        return f"_target_ {name}: expected a class or function that imports, got {type(e).__name__}: {e}"
    if target is None:
        return f"_target_ {name}: expected a class or function that exists, found none"
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    given = [k for k in node if not (k.startswith("_") and k.endswith("_"))]
    unknown = [k for k in given if k not in parameters]
    if unknown:
        return f"{name}: expected arguments among {', '.join(parameters)}, got {unknown[0]}"
    positional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in positional and n not in given]
    return f"{name}: expected the argument {missing[0]}, got without it" if missing else None


def find_fault(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Fault | None:
    """The first fault of one config or of several merged in order; None when there is none.

    Checked are JSON, knobs, references, expressions' syntax, and that every ``_target_`` exists and takes its arguments.

    Args:
        files: configs as ``--config_file`` takes them.
        overrides: ``{id: value}`` as the command line gives them.
    """
    try:
        parser, source = _load(files)
        parser.update(dict(overrides or {}))
    except Fault as fault:
        return fault
    config = parser.get()
    if "run" not in config:
        return Fault("run", Path(files[-1]), "expected a config with a run list, or those that it lies over before it")
    file_of = lambda item: source.get(item.split("#")[0], "command line" if item in (overrides or {}) else files[-1])  # noqa: E731
    try:
        check_config(config, STRUCTURE)
    except InputError as e:
        return Fault(str(e).split(":")[0], file_of(str(e).split(":")[0]), str(e))
    locator = ComponentLocator()
    for item, node in walk(config):
        cause = None
        if isinstance(node, Mapping) and "_target_" in node:
            cause = _check_component(node, locator)
        elif isinstance(node, str) and node.startswith("$"):
            try:
                ast.parse(_REFERENCE.sub("_ref_", node[1:]).strip())
            except SyntaxError as e:
                cause = f"expected a Python expression, got {node!r} ({e.msg})"
        if cause is None and isinstance(node, str) and node[:1] in "$@":
            missing = [r for r in _REFERENCE.findall(node) if r.replace("::", "#") not in parser]
            cause = f"expected a reference to an id of the config, got @{missing[0]}" if missing else None
        if cause is not None:
            return Fault(item, file_of(item), cause)
    return None


def foreign_code(config: Mapping[str, Any]) -> list[str]:
    """Ids whose ``_target_`` or expression names code outside of :data:`ALLOWED_ROOTS` and :data:`ALLOWED_NAMES`.

    Configs run code: a downloaded bundle should name none that a reader does not expect.
    """
    found = []
    for item, node in walk(config):
        if isinstance(node, Mapping) and "_target_" in node:
            root, _, rest = str(node["_target_"]).partition(".")
            if rest and root not in ALLOWED_ROOTS:
                found.append(f"{item}: {node['_target_']}")
        elif isinstance(node, str) and node.startswith("$"):
            tree = ast.parse(_REFERENCE.sub("_ref_", node[1:]).strip())
            imported = [a.name for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names]
            names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | set(imported)
            wrong = {n for n in names if n.split(".")[0] not in (*ALLOWED_ROOTS, *ALLOWED_NAMES, "_ref_")}
            private = [
                n.attr
                for n in ast.walk(tree)
                if isinstance(n, ast.Attribute) and n.attr.startswith("__") and n.attr != "__file__"
            ]
            calls_os = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _dotted(n) not in ("os.environ", "")]
            if wrong or private or calls_os:
                found.append(f"{item}: {node}")
    return found


def _dotted(node: ast.Attribute) -> str:
    """``os.<name>`` for attributes of os, else the empty string."""
    return f"os.{node.attr}" if isinstance(node.value, ast.Name) and node.value.id == "os" else ""
