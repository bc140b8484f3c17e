# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Results as a BIDS derivative data set: https://bids-specification.readthedocs.io/en/stable/derivatives/introduction.html."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..values import as_bool, is_first_rank, read_json, whole_file, write_json
from .dicom_choice import contrast_of
from .naming import is_named
from .results import read_result, result_folders, versions

__all__ = ["BIDS_FOLDER", "SUFFIXES", "bids_names", "write_bids", "write_run"]

logger = logging.getLogger(__name__)

#: Where a run puts its results as BIDS, in its output folder.
BIDS_FOLDER = Path("derivatives", "roi_fusion")

#: Contrast of an MRI → BIDS suffix and the folder that it lies in.
SUFFIXES = {
    "t1": ("T1w", "anat"),
    "t2": ("T2w", "anat"),
    "flair": ("FLAIR", "anat"),
    "dwi": ("trace", "dwi"),  # _dwi would need b values and directions
    "adc": ("ADC", "dwi"),
}

_BIDS_VERSION = "1.10.0"
_NAME = "ROI Fusion"
_RESEARCH = "For research, not for diagnosis."

#: File of a case → what its name ends on; the fused volume has the suffix of its MRI.
_FILES = {
    "fused": "desc-fused_{suffix}",
    "lesion": "label-lesion_mask",
    "lesion_prob": "label-lesion_probseg",
}


def bids_names(case: str) -> tuple[str, str]:
    """Subject and session of a case; the session is empty where its name tells none.

    Example:
        >>> bids_names("sub-01_ses-2"), bids_names("patient-3f_77")
        (('sub-01', 'ses-2'), ('sub-patient3f77', ''))
    """
    found = re.fullmatch(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?", case)
    if found:
        return found[1], found[2] or ""
    return f"sub-{re.sub('[^A-Za-z0-9]', '', case)}", ""


def write_bids(folders: Sequence[str | Path], bids_dir: str | Path, contrast: str = "") -> dict[str, str]:
    """Write the results of some cases into a BIDS derivative data set, beside those of other cases.

    Of each case the fused volume, the lesion and its probability are written, each with a JSON that names the images and
    weights that it was made of.

    Args:
        folders: of cases, with ``result.json``.
        bids_dir: the data set, such as ``derivatives/roi_fusion``; new, or one that this function wrote.
        contrast: of the MRI, a key of :data:`SUFFIXES`; empty: as the case's record or the name of the MRI's file tells.

    Returns:
        Case → one sentence, of those that were left out.

    Raises:
        InputError: when the folder holds another data set, or `contrast` is none.
    """
    root = Path(bids_dir)
    if contrast and contrast not in SUFFIXES:
        raise InputError(f"contrast: expected one of {', '.join(SUFFIXES)}, got {contrast!r}")
    description = root / "dataset_description.json"
    known = _description_of(description)
    links: dict[str, str] = dict(known.get("DatasetLinks") or {})
    left_out: dict[str, str] = {}
    taken: dict[tuple[str, str], str] = {}
    for folder in map(Path, folders):
        subject = bids_names(folder.name)
        facts = read_result(folder)
        kind = contrast or (_contrast(facts) if facts else "")
        if facts is None or facts.get("stale"):
            left_out[folder.name] = f"{folder}: expected the results of a case, got none or those of an earlier run"
        elif taken.setdefault(subject, folder.name) != folder.name:
            left_out[folder.name] = f"{folder}: expected a BIDS label of its own, got that of {taken[subject]}"
        elif not kind and facts.get("mri"):
            left_out[folder.name] = (
                f"{folder}: expected an MRI whose contrast is known, got none that its name or header tells; "
                "roi-fusion export_bids --contrast says it"
            )
        else:
            _write_case(root, folder, facts, *SUFFIXES.get(kind, ("", "anat")), links)
    if len(left_out) < len(folders):
        by = [{"Name": _NAME, "Version": versions()["roi_fusion"], "Description": _RESEARCH}]
        content = {"Name": f"{_NAME} results", "BIDSVersion": _BIDS_VERSION, "DatasetType": "derivative", "GeneratedBy": by}
        write_json(description, {**content, **({"DatasetLinks": links} if links else {})})
        (root / "README").write_text(f"Fused volumes and lesion masks by {_NAME}. {_RESEARCH}\n", encoding="utf-8")
    return left_out


def write_run(output_dir: str | Path, enabled: bool | str, shard: str | None = None) -> None:
    """Write all results in a folder as BIDS to :data:`BIDS_FOLDER` in it, where it is asked for; say what was left out.

    A shard writes none, because others write results meanwhile, and says how it is done behind them.
    """
    if not as_bool("bids", enabled) or not is_first_rank():
        return
    if shard is not None:
        logger.warning("bids: not written by a shard; behind the last one the same command without --shard writes it")
        return
    for sentence in write_bids(result_folders(output_dir), Path(output_dir) / BIDS_FOLDER).values():
        logger.warning("not written as BIDS: %s", sentence)


def _description_of(path: Path) -> Mapping[str, Any]:
    if not path.parent.is_dir() or not any(path.parent.iterdir()):
        return {}
    try:
        found = read_json(path)
        ours = found["GeneratedBy"][0]["Name"] == _NAME
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{path.parent}: expected a new folder or a BIDS derivative data set of {_NAME}, got another folder")
    return found


def _contrast(facts: Mapping[str, Any]) -> str:
    """As ``case.json`` beside the MRI, the result itself or the name of the MRI's file tells; empty where nothing does."""
    if facts.get("contrast") in SUFFIXES:
        return str(facts["contrast"])
    mri = Path(str(facts.get("mri") or ""))
    try:
        noted = read_json(mri.parent / "case.json").get("contrast")
    except (OSError, ValueError, AttributeError):
        noted = None
    return str(noted) if noted in SUFFIXES else contrast_of(mri.name.replace("_", " "))


def _write_case(root: Path, folder: Path, facts: Mapping[str, Any], suffix: str, kind: str, links: dict[str, str]) -> None:
    subject, session = bids_names(folder.name)
    place = root / subject / session / kind if session else root / subject / kind
    stem = f"{subject}_{session}" if session else subject
    weights = facts.get("weights") or {}
    sources = [_source(str(facts[k]), root, links) for k in ("mri", "ct") if facts.get(k)]
    shared = {
        "Sources": sources,
        "WeightsSHA256": weights.get("sha256"),
        "SoftwareVersions": ", ".join(f"{k} {v}" for k, v in (facts.get("versions") or {}).items()),
        "IntendedUse": _RESEARCH,
    }
    own: dict[str, dict[str, Any]] = {
        "fused": {"Description": "MRI detail in the brain, CT detail in bone, blood and calcium", "SkullStripped": False},
        "lesion": {
            "Description": "mask of the stroke lesion",
            "Type": "Lesion",
            "LesionVolumeML": facts.get("lesion_ml"),
            "LesionVolumeIntervalML": facts.get("lesion_ml_interval"),
            "LesionThreshold": facts.get("lesion_threshold"),
            "Warnings": facts.get("warnings") or [],
        },
        "lesion_prob": {"Description": "probability of the stroke lesion, 0 to 1", "Type": "Lesion"},
    }
    for name, end in _FILES.items():
        if name == "fused" and not suffix:  # of the CT alone there is nothing to fuse
            continue
        target = place / f"{stem}_{end.format(suffix=suffix)}"
        with whole_file(f"{target}.nii.gz") as scratch:
            shutil.copyfile(folder / f"{name}.nii.gz", scratch)
        grid = {"SpatialReference": sources[0]} if sources and name != "fused" else {}
        write_json(f"{target}.json", {**own[name], **grid, **shared})


def _source(path: str, root: Path, links: dict[str, str]) -> str:
    """A BIDS URI of an input; the folder that it is counted from is one of the data set's links, as seen from the data set."""
    if is_named(path):
        return path
    file = Path(path)
    base = next((p for p in file.parents if (p / "dataset_description.json").is_file()), None)
    if base is None:
        base = file.parent.parent if file.name.startswith(("mri.", "ct.")) else file.parent
    link = Path(os.path.relpath(base, root)).as_posix()
    name = next((n for n, known in links.items() if known == link), f"input{len(links) + 1}")
    links[name] = link
    return f"bids:{name}:{file.relative_to(base).as_posix()}"
