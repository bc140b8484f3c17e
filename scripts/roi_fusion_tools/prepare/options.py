# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the outcome of a preparation depends on: the options, and a fingerprint of them and of the input files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from roi_fusion.errors import InputError

from ..layouts import CaseSource

__all__ = ["PrepareOptions", "fingerprint"]

#: Part of every fingerprint: a change of what is written makes finished cases old.
_FORMAT = 1


@dataclass(frozen=True)
class PrepareOptions:
    """What the outcome depends on, beside the input files.

    Attributes:
        reference: ``"mri"`` or ``"ct"``: whose grid the case is written on.
        spacing_mm: voxel size of that grid; the reference's own when None.
        register: find the pose; false trusts the headers.
        affine: allow scaling and shear after the rigid pose.

    Raises:
        InputError: when an option is none of these.
    """

    reference: str = "mri"
    spacing_mm: tuple[float, float, float] | None = None
    register: bool = True
    affine: bool = False

    def __post_init__(self) -> None:
        if self.reference not in ("mri", "ct"):
            raise InputError(f"reference: expected mri or ct, got {self.reference!r}")
        spacing = self.spacing_mm
        if spacing is not None and (len(spacing) != 3 or not all(isinstance(s, (int, float)) and s > 0 for s in spacing)):
            raise InputError(f"spacing_mm: expected three positive lengths such as 0.9,0.9,6, got {spacing}")


def fingerprint(source: CaseSource, options: PrepareOptions) -> str:
    """A hash of the contents of all input files, their roles and the options; names and times do not count."""
    digest = hashlib.blake2b(json.dumps([_FORMAT, asdict(options)]).encode(), digest_size=16)
    for role, path in source.files():
        digest.update(role.encode())
        with path.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()
