# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The layout of the bundle's JSON configs: what reads as one thing, a vector or a transform, stands on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roi_fusion.config.root import BUNDLE_ROOT

__all__ = ["config_files", "format_config", "format_file"]

#: Columns of a line, as in the Python code.
WIDTH = 128


def format_config(content: Any) -> str:
    """`content` as JSON text, indented by 4 spaces, that ends with a line break.

    A list of numbers or words, and an object that holds nothing but values and such lists, stand on one line where they fit.

    Example:
        >>> print(format_config({"patch_size": [96, 96, 16], "handlers": [{"name": "train"}]}), end="")
        {
            "patch_size": [96, 96, 16],
            "handlers": [
                {"name": "train"}
            ]
        }
    """
    return _layout(content, 0, 0, root=True) + "\n"


def _layout(content: Any, depth: int, used: int, root: bool = False) -> str:
    """`content` at `depth` levels of indent, behind `used` columns of its first line."""
    line = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, (dict, list)) or not content:
        return line
    if not root and _is_leaf(content) and used + len(line) + 1 <= WIDTH:  # 1: a comma may follow
        return line
    indent = " " * 4 * (depth + 1)
    if isinstance(content, dict):
        keys = [f"{json.dumps(k, ensure_ascii=False)}: " for k in content]
        parts = [k + _layout(v, depth + 1, len(indent + k)) for k, v in zip(keys, content.values())]
    else:
        parts = [_layout(v, depth + 1, len(indent)) for v in content]
    first, last = ("{", "}") if isinstance(content, dict) else ("[", "]")
    body = ",\n".join(indent + p for p in parts)
    return f"{first}\n{body}\n{' ' * 4 * depth}{last}"


def _is_leaf(content: Any) -> bool:
    """Whether it holds plain values only; an object may hold lists of them."""
    if isinstance(content, list):
        return not any(isinstance(v, (dict, list)) for v in content)
    return all(not isinstance(v, dict) and (not isinstance(v, list) or _is_leaf(v)) for v in content.values())


def config_files(bundle_root: str | Path = BUNDLE_ROOT) -> list[Path]:
    """The configs that have this layout; ``metadata.json``, which the model zoo's tools write, has its own."""
    return [p for p in sorted((Path(bundle_root) / "configs").glob("*.json")) if p.name != "metadata.json"]


def format_file(path: Path, check: bool = False) -> bool:
    """Lay a config out again; with `check` change nothing. Returns whether it was laid out already."""
    before = path.read_text(encoding="utf-8")
    after = format_config(json.loads(before))
    if before != after and not check:
        path.write_text(after, encoding="utf-8")
    return before == after
