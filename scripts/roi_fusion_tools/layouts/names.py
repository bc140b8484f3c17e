# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the name of a file or folder says: which part of a case it is, which contrast, and a name that is safe to write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from roi_fusion.data.dicom_choice import contrast_of
from roi_fusion.data.io import split_ending

__all__ = ["OTHER_MASK", "case_name", "contrast_of", "role_of", "safe_name", "short_hash", "stem_of"]

#: Role of a mask whose name does not say of what: named and left alone.
OTHER_MASK = "other_mask"

_IMAGE_WORDS = {
    "ct": "ct",
    "ncct": "ct",
    "mri": "mri",
    "mr": "mri",
    "adc": "mri",
    "dwi": "mri",
    "trace": "mri",
    "flair": "mri",
    "t2": "mri",
    "t2w": "mri",
    "t1": "mri",
    "t1w": "mri",
}

_MASK_WORDS = {
    "lesion": "lesion_mask",
    "lesions": "lesion_mask",
    "infarct": "lesion_mask",
    "stroke": "lesion_mask",
    "bone": "bone_mask",
    "skull": "bone_mask",
    "brain": "brain_mask",
    "synthstrip": "brain_mask",
}

#: Behind a word of _MASK_WORDS they say no more than it; alone they may mean a head, an organ, anything.
_ANY_MASK = {"mask", "masks", "msk", "seg", "label", "labels", "roi"}

#: Files of a stroke study that are no part of a pair.
_NO_PAIR_WORDS = {"cta", "ctp", "cbf", "cbv", "mtt", "tmax", "perf", "pwi", "swi", "mra", "tof", "sbref", "bold"}

#: File systems take 255 bytes a name; endings and scratch names need some of them.
_LONGEST_NAME = 100


def stem_of(path: Path) -> str:
    """A file's name without its ending, ``.nii.gz`` being one."""
    return split_ending(path.name)[0]


def short_hash(text: str) -> str:
    """Eight hexadecimal digits that stay the same for the same text.

    Example:
        >>> short_hash("A/1")
        'cead5303'
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def safe_name(text: str, *, plain: bool = False) -> str:
    """A folder's name for `text`; a short hash of the text follows where characters had to go, so that no two texts meet.

    Args:
        text: a patient's id or the name of a file, as it came.
        plain: keep only ASCII letters, digits, ``_`` and ``-``; else all that can be printed but separators.

    Example:
        >>> safe_name("A_1", plain=True), safe_name("A/1", plain=True)
        ('A_1', 'A_1-cead5303')
    """
    if plain:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    else:
        name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text)
    name = name.lstrip(".-")[:_LONGEST_NAME]
    while len(name.encode()) > 2 * _LONGEST_NAME:
        name = name[:-1]
    return name if name == text and name else f"{name or 'case'}-{short_hash(text)}"


def _tail(words: Sequence[str]) -> tuple[int, str]:
    """How many words at the end of a name tell a role, and that role; ``(0, "")`` where the last one tells none.

    What stands before belongs to the case, even where it reads like a role: ``brain_01_ct``, ``stroke_01_mask``.
    """
    lower = [w.lower() for w in words]
    if not lower:
        return 0, ""
    if lower[-1] in _IMAGE_WORDS:
        return 1, _IMAGE_WORDS[lower[-1]]
    if lower[-1] == "stroke" and len(lower) > 1 and lower[-2] in _IMAGE_WORDS:  # a protocol, such as head_ct_stroke
        return 2, _IMAGE_WORDS[lower[-2]]
    count = 1 if lower[-1] in _ANY_MASK else 0
    role = OTHER_MASK if count else ""
    between = 0  # lesion_adc_mask
    while count and len(lower) > count + between + 1 and lower[-1 - count - between] in _IMAGE_WORDS:
        between += 1
    if len(lower) > count + between and lower[-1 - count - between] in _MASK_WORDS:
        role, count = _MASK_WORDS[lower[-1 - count - between]], count + between + 1
    if count and len(lower) > count + 1 and lower[-1 - count] in _IMAGE_WORDS:  # x_adc_lesion_mask
        count += 1
    return count, role


def case_name(name: str, separators: str = "_-") -> str:
    """A name without its role; empty where it is nothing but a role.

    Args:
        name: of a file, without its ending.
        separators: of its words.

    Example:
        >>> case_name("sub-01_ses-1_lesion-mask"), case_name("ct")
        ('sub-01_ses-1', '')
    """
    words = re.split(f"[{separators}]", name)
    kept = words[: len(words) - _tail(words)[0]]
    return name[: sum(map(len, kept)) + max(len(kept) - 1, 0)]


def role_of(name: str) -> tuple[str, str]:
    """The role that a name without ending tells and, for an MRI, its contrast; empty where it tells none.

    A lesion mask is one whose name says lesion, infarct or stroke; any other mask is an :data:`OTHER_MASK`.

    Example:
        >>> role_of("x_flair"), role_of("x_lesion_mask"), role_of("mask")
        (('mri', 'flair'), ('lesion_mask', ''), ('other_mask', ''))
    """
    entities = [e for e in name.split("_") if not re.match(r"(sub|ses|space|run)-", e)]
    words = [w for w in re.split(r"[^a-z0-9]+", "_".join(entities).lower()) if w]
    if _NO_PAIR_WORDS & set(words):
        return "", ""
    role = ""
    for end in range(len(words), 0, -1):  # the last word that tells one: ct_thin, lesion_r1
        role = _tail(words[:end])[1]
        if role:
            if role == "mri" and end < len(words) and {"ct", "ncct"} & set(words):  # ct_in_mri_space
                role = "ct"
            break
    return role, (contrast_of("_".join(words)) or "mri") if role == "mri" else ""
