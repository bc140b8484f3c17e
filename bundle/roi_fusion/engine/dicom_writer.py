# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The handler that writes results as DICOM too, where the MRI came as DICOM."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Events

from ..data.dicom_out.source import load_highdicom
from ..data.dicom_out.write import write_dicom
from ..data.io import dicom_series_of
from ..data.naming import original_of
from ..errors import InputError
from ..values import as_bool, is_first_rank

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["DicomWriter", "check_dicom_mri"]

logger = logging.getLogger(__name__)


def check_dicom_mri(mri: str | Path | None) -> None:
    """Refuse what results as DICOM cannot be made of.

    Args:
        mri: folder or file of the MRI.

    Raises:
        InputError: when there is none, it is no DICOM, or highdicom is not installed.
    """
    if mri is None:
        raise InputError("dicom: expected the MRI as a DICOM folder (--mri) for results as DICOM, got none")
    load_highdicom()
    if dicom_series_of(mri, "mr") is None:
        raise InputError(f"dicom: expected the MRI as a DICOM folder (--mri) for results as DICOM, got {mri}")


class DicomWriter:
    """Write ``<output_dir>/<case>/dicom/`` behind :class:`~roi_fusion.engine.writers.ResultWriter`.

    Args:
        output_dir: folder of results.
        mri: folder or file of the MRI of the one case.
        enabled: whether to write anything.

    Raises:
        InputError: when it is enabled and the MRI is no DICOM.
    """

    def __init__(self, output_dir: str | Path, mri: str | Path | None, enabled: bool | str = False) -> None:
        self.output_dir, self.mri, self.enabled = Path(output_dir), mri, as_bool("dicom", enabled)
        if self.enabled:
            check_dicom_mri(mri)

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        state: Any = engine.state
        for facts in state.case_facts:
            folder = self.output_dir / facts["case"]
            assert self.mri is not None
            written = write_dicom(folder, self.mri, original_of(facts["ct"]) or None)
            logger.info("%s: %d DICOM files", folder / "dicom", sum(map(len, written.values())))
