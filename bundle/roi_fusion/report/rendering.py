# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pages from the templates of a package, all in the same dress, with everything escaped."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from .. import __version__
from ..values import printable, whole_file

__all__ = ["address_of", "write_page"]

_OWN = "roi_fusion.report"


def address_of(name: str) -> str:
    """A file name as part of an address; bytes that are no UTF-8 stay what they are.

    Example:
        >>> address_of("case 07/ü")
        'case%2007%2F%C3%BC'
    """
    return quote(os.fsencode(name), safe="")


@cache
def _environment(package: str) -> Environment:
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, _OWN))]
    made = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["address"] = address_of
    return made


def write_page(path: str | Path, template: str, *, package: str = _OWN, **content: Any) -> Path:
    """Write a page so that a reader never sees half of it.

    Args:
        path: file to write.
        template: name of the template; it extends ``page.html.j2``.
        package: whose folder ``templates`` holds it.
        content: what the template names, beside ``version``.

    Returns:
        The file.
    """
    path = Path(path)
    page = _environment(package).get_template(template).render(version=__version__, **content)
    with whole_file(path) as scratch:
        scratch.write_text(printable(page), encoding="utf-8")
    return path
