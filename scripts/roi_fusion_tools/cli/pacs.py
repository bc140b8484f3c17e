# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command that works with an archive: pacs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from roi_fusion.errors import InputError, input_error_behind

from .arguments import with_knobs

__all__ = ["pacs"]


#: Of a study, or options of the command itself.
_WITHOUT = ("mri", "ct", "dataset_dir", "split", "dicom", "guidance_masks", "num_workers", "names", "name_key")


@with_knobs("inference", without=_WITHOUT)
def pacs(
    *,
    url: str,
    output: str,
    study: str | None = None,
    watch: bool = False,
    ct_study: str | None = None,
    mri_series: str | None = None,
    ct_series: str | None = None,
    every_s: float = 30,
    settled_s: float = 60,
    timeout_s: float = 60,
    patience_s: float = 300,
    names: str = "hash",
    name_key: str | None = None,
    **knobs: Any,
) -> None:
    """Fetch a study from a DICOMweb archive, fuse its MRI and CT, and store the results in it as DICOM.

    Results are stored once: a study that has those of the same images, weights and options is left alone. A user and password
    are taken from the file .netrc.

    Args:
        url: DICOMweb root of the archive, such as http://127.0.0.1:8042/dicom-web.
        output: folder that keeps the results, too.
        study: StudyInstanceUID of the MRI.
        watch: instead of one study, take every study that holds CT and MR, until Ctrl-C.
        ct_study: StudyInstanceUID of the CT, where it is another study.
        mri_series, ct_series: SeriesInstanceUID of the one to take, where several are there.
        every_s: pause between two looks of --watch, in seconds.
        settled_s: how long no image of a study may have come before --watch takes it, in seconds.
        timeout_s: how long one answer of the archive may take, in seconds.
        patience_s: how long an archive that is away is asked again, in seconds.
        names: of the folders of results: hash, a keyed hash of the study's UID, or keep, the UID.
        name_key: file with the key of the hash, beside which names.csv maps names back; by default roi_fusion/name_key in
            ~/.config.

    Example:
        roi-fusion pacs --url http://127.0.0.1:8042/dicom-web --study 1.2.3.4 --output results --register true
        roi-fusion pacs --url http://127.0.0.1:8042/dicom-web --watch true --output results --register true
    """
    if (study is None) is not watch:
        raise InputError(f"pacs: expected either --study or --watch true, got {'both' if watch else 'none'}")
    if watch and (ct_study or mri_series or ct_series):
        raise InputError("pacs: expected --ct_study, --mri_series and --ct_series beside --study, got them beside --watch")
    from roi_fusion.data.naming import Naming
    from roi_fusion_tools.pacs.archive import Archive
    from roi_fusion_tools.pacs.study import Wanted, process_study
    from roi_fusion_tools.pacs.watch import watch_studies

    naming = Naming(names, name_key, output)
    archive = Archive(url, timeout_s, patience_s)
    # An archive that is away is told before the network is loaded.
    if study is not None:
        archive.series(study)
    else:
        archive.studies()
    from roi_fusion.engine.prediction import Predictor

    predict = Predictor(dicom=True, names="keep", **knobs)  # the folder of the images has the study's new name

    def process(wanted: Wanted) -> Any:
        return process_study(archive, wanted, output, predict, naming)

    if study is not None:
        print(_line(study, process(Wanted(study, ct_study, mri_series, ct_series))), flush=True)
        return
    watch_studies(archive, lambda found: _taken(found, lambda: process(Wanted(found))), every_s, settled_s)


def _taken(study: str, process: Callable[[], Any]) -> bool:
    """Say what became of a study; false where it is to be tried again."""
    from roi_fusion_tools.pacs.archive import ArchiveAwayError

    try:
        print(_line(study, process()), flush=True)
    except Exception as e:
        sentence = input_error_behind(e)
        if sentence is None:
            raise
        print(f"{study}  refused: {sentence}", file=sys.stderr, flush=True)
        return not isinstance(sentence, ArchiveAwayError)
    return True


def _line(study: str, outcome: Any) -> str:
    if outcome.folder is None:
        return f"{study}  has these results already"
    volume = "lesion volume unknown" if outcome.lesion_ml is None else f"lesion {outcome.lesion_ml:.1f} mL"
    return f"{study}  {volume}  {outcome.sent} files stored"
