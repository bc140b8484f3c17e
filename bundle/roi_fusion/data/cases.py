# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Cases on disk: finding them, splitting them, and data sets in which one bad case never stops the others.

A data set is a folder of cases ``<dataset_dir>/<case>/{mri,ct}.nii.gz`` and, where known,
``{lesion_mask,brain_mask,bone_mask}.nii.gz``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset, list_data_collate
from monai.transforms import Compose
from tqdm import tqdm

from ..console import duration, progress_bar
from ..errors import InputError, causes_of, input_error_behind
from ..values import as_bool, is_first_rank, listed_files, write_json
from .io import read_volume, split_ending
from .naming import Naming
from .shards import share_of
from .splits import PARTS, by_subject, make_splits, read_splits

__all__ = [
    "CASE_FILES",
    "CaseDataset",
    "case_name",
    "collate_cases",
    "each_item",
    "find_cases",
    "inference_datalist",
    "link_file",
    "load_datalist",
    "name_of",
    "sentence_for",
]

logger = logging.getLogger(__name__)


#: Pipeline key → file stem.
CASE_FILES = {"image": "mri", "ct": "ct", "label": "lesion_mask", "brain": "brain_mask", "bone": "bone_mask"}


def case_name(file: str | Path) -> str:
    """The case that a volume's file stands for: ``<case>/mri.nii.gz``, ``<case>_mri.nii.gz``, or its name without the ending.

    Example:
        >>> case_name("study/p1/mri.nii.gz"), case_name("p2_ct.nii.gz"), case_name("p3")
        ('p1', 'p2', 'p3')
    """
    path = Path(file)
    stem, _ = split_ending(path.name)
    if stem in ("mri", "ct"):
        return path.absolute().parent.name or "case"
    return stem.removesuffix("_mri").removesuffix("_ct")


def link_file(link: Path, file: Path) -> None:
    """Make `link` point to `file`, whatever it was."""
    link.unlink(missing_ok=True)
    link.symlink_to(file.resolve())


def _case_entry(folder: Path) -> dict[str, str]:
    entry = {"case": folder.name, "folder": str(folder)}
    for key, stem in CASE_FILES.items():
        for ending in (".nii.gz", ".nii"):
            if (folder / f"{stem}{ending}").is_file():
                entry[key] = str(folder / f"{stem}{ending}")
                break
    return entry


def find_cases(dataset_dir: str | Path, allow_missing: bool = False) -> list[dict[str, str]]:
    """Cases of a data set, sorted by name: folders that hold at least one file of :data:`CASE_FILES`.

    A case that lacks its MRI or CT is listed too and refused with a sentence when it is loaded, so that none is lost unseen.

    Returns:
        ``[{"case", "folder", "image"?, "ct"?, "label"?, "brain"?, "bone"?}]``

    Raises:
        InputError: when the folder does not exist or no case in it has both volumes.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise InputError(f"dataset_dir: expected a folder of cases, found no folder {root}")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    cases = [entry for entry in map(_case_entry, folders) if len(entry) > 2]
    enough = any if allow_missing else all
    if not any(enough(key in c for key in ("image", "ct")) for c in cases):
        raise InputError(
            f"{root}: expected folders <case>/ with mri.nii.gz and ct.nii.gz, found {len(folders)} folders and none with both"
        )
    return cases


@lru_cache(maxsize=1)  # a training reads the splits once for each part
def _warn_of_left_out(root: Path, names: tuple[str, ...], count: int) -> None:
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    logger.warning("%s: %d of %d cases stand in no part of the splits and are left out: %s", root, len(names), count, listed)


def load_datalist(
    dataset_dir: str | Path,
    split: str | None = None,
    seed: int = 0,
    allow_missing: bool | str = False,
    shard: str | None = None,
) -> list[dict[str, str]]:
    """The cases of one split, or all of them.

    ``splits.json`` is read, else ``splits/{train,val,test}.txt``; where there is neither, ``splits.json`` is made, by patient
    (see :func:`~roi_fusion.data.splits.subject_of`). A name
    without a folder stays in the list and is refused when it is loaded; cases in no part are left out with a warning.

    Args:
        dataset_dir: folder of cases.
        split: ``"train"``, ``"val"``, ``"test"``, or ``None`` for all cases.
        seed: of a new split.
        allow_missing: also take a folder in which no case has both volumes.
        shard: a share of these cases, see :func:`~roi_fusion.data.shards.share_of`.

    Raises:
        InputError: when the folder or the split holds no case, or one case or one patient stands in two splits.
    """
    root = Path(dataset_dir)
    cases = find_cases(root, as_bool("allow_missing", allow_missing))
    if split is None:
        return share_of(cases, shard)
    if split not in PARTS:
        raise InputError(f"split: expected train, val or test, got {split!r}")
    splits = read_splits(root)
    if splits is None:
        splits = make_splits(cases, seed)
        write_json(root / "splits.json", splits)
    by_name = {c["case"]: c for c in cases}
    placed = {n for names in splits.values() for n in names}
    left_out = tuple(n for n in by_name if n not in placed)
    if left_out:
        _warn_of_left_out(root, left_out, len(cases))
    chosen = [by_name.get(n, {"case": n, "folder": str(root / n)}) for n in splits[split]]
    if not chosen:
        patients = len(by_subject(cases))
        of = f" of {patients} patient{'s' if patients > 1 else ''}" if patients < len(cases) else ""
        raise InputError(f"{root}: expected at least one case in the {split} split, got {len(cases)} cases{of} and none in it")
    return share_of(chosen, shard)


def inference_datalist(
    dataset_dir: str | Path,
    split: str | None = None,
    mri: str | None = None,
    ct: str | None = None,
    naming: Naming | None = None,
    shard: str | None = None,
) -> list[dict[str, str]]:
    """All cases of a folder, of one of its splits or of a shard of these, or the single case of `mri`, `ct` or both.

    Args:
        dataset_dir, split: see :func:`load_datalist`.
        mri, ct: of the single case: a file, or a folder of DICOM files or several of them with commas between.
        naming: gives a case of DICOM its name; None: it is called as its folder.
        shard: a share of the cases of a folder, see :func:`~roi_fusion.data.shards.share_of`.

    Raises:
        InputError: when a file is not there, or the folder holds no case.
    """
    if mri is None and ct is None:
        return load_datalist(dataset_dir, split, allow_missing=True, shard=shard)
    if shard is not None:
        raise InputError("shard: expected dataset_dir beside it, got a single pair")
    given = {key: str(path) for key, path in (("image", mri), ("ct", ct)) if path is not None}
    for path in given.values():
        for one in listed_files(path) or [Path(path)]:
            if not Path(one).exists():
                raise InputError(f"{one}: expected a volume, found no such file")
    return [{**given, **(naming.entry(given) if naming is not None else {})}]


def sentence_for(error: BaseException, case: dict[str, Any]) -> str:
    """One sentence on why a case was refused: the InputError behind `error`, else what the reader said of which file."""
    found = input_error_behind(error)
    if found is not None:
        return str(found)
    for key in CASE_FILES:
        if key in case and isinstance(case[key], str):
            try:
                read_volume(case[key], as_stored=True, shown_as=case.get(f"{key}_shown", ""))
            except InputError as e:
                return str(e)
    *_, error = causes_of(error)
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{case.get('case', 'case')}: expected a usable case, got {type(error).__name__}: {first_line[:200]}"


class CaseDataset(CacheDataset):
    """Cases through transforms; a case that fails is recorded, logged and left out.

    With `cache` (training, validation) every case is loaded once at the start, results of the deterministic transforms are
    kept in memory up to `cache_rate`, and refused cases leave the data set. Without (inference), cases are loaded one at a
    time, and a refused one yields ``{"case", "refused": sentence}`` alone, see :func:`collate_cases`.

    Args:
        data: entries of :func:`load_datalist`.
        transform: transforms.
        cache: load all cases at the start.
        cache_rate: share of the cases whose volumes stay in memory.
        num_workers: threads that fill the cache.
        what: a case's name for the console, such as ``training case``.

    Attributes:
        errors: refused cases, ``{case: sentence}``.
        loaded: cases kept in memory, as the deterministic transforms have left them.

    Raises:
        InputError: with `cache`, when no case is left.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Sequence[Any] | Compose,
        cache: bool = True,
        cache_rate: float = 1.0,
        num_workers: int = 2,
        what: str = "case",
    ) -> None:
        self.errors: dict[str, str] = {}
        self.loaded: list[dict[str, Any]] = []
        self._screen, self._kept, self.what = cache, 0, what
        self._bar: tqdm | None = None
        super().__init__(
            data=list(data),
            transform=transform,
            cache_rate=cache_rate if cache else 0.0,
            num_workers=num_workers,
            progress=False,  # MONAI's bar has one name for all data sets and is drawn in files too
            copy_cache=False,
        )

    def _fill_cache(self, indices: Any = None) -> list:
        if not self._screen:
            return []
        self._kept = self.cache_num
        self.cache_num = len(self.data)
        begun = time.monotonic()
        with progress_bar(len(self.data), f"reading {self.what}s", "cases", leave=False) as self._bar:
            items = super()._fill_cache(list(range(len(self.data))))
        self._bar = None
        good = [i for i, item in enumerate(items) if item is not None]
        if not good:
            raise InputError(f"expected at least one usable case, got none ({next(iter(self.errors.values()), 'no cases')})")
        self.data = [self.data[i] for i in good]
        self.loaded = [items[i] for i in good if i < self._kept]
        self.cache_num = len(self.loaded)
        count = f"{len(good)} {self.what}{'s' if len(good) != 1 else ''}"
        if is_first_rank():
            logger.info("%s read in %s", count, duration(time.monotonic() - begun))
        return self.loaded

    def _load_cache_item(self, idx: int) -> Any:
        try:
            item = super()._load_cache_item(idx)
            return item if idx < self._kept else {}  # read to know whether it can be used, but not kept
        except Exception as e:  # one bad case never stops the others
            self._refuse(self.data[idx], e)
            return None
        finally:
            if self._bar is not None:
                self._bar.update()

    def _transform(self, index: int) -> Any:
        if self._screen:
            return super()._transform(index)
        try:
            return Dataset._transform(self, index)
        except Exception as e:  # one bad case never stops the others
            self._refuse(self.data[index], e)
            name = name_of(self.data[index])
            return {"case": name, "refused": self.errors[name]}

    def _refuse(self, case: dict[str, Any], error: BaseException) -> None:
        name = name_of(case)
        self.errors[name] = sentence_for(error, case)
        logger.warning("refused case %s: %s", name, self.errors[name])


def each_item(dataset: CaseDataset, count: int | None = None) -> Iterator[Mapping[str, Any]]:
    """The first `count` preprocessed cases, for what is over all cases or over none.

    Raises:
        InputError: at the first case that is refused.
    """
    for i in range(len(dataset))[:count]:
        item = dataset[i]
        if dataset.errors:
            raise InputError(next(iter(dataset.errors.values())))
        yield item


def name_of(case: Mapping[str, Any]) -> str:
    """What a case is called in ``errors.json``: its name, or the file of a pair that was given without one."""
    return str(case.get("case") or case.get("image_shown") or case.get("image") or case.get("ct"))


def collate_cases(batch: Sequence[Any]) -> dict[str, Any]:
    """Collate, without refused cases, whose sentences by name lie under ``refused``; nothing else when no case is left."""
    flat = [item for entry in batch for item in (entry if isinstance(entry, list) else [entry])]
    usable = [item for item in flat if "image" in item]
    refused = {item["case"]: item["refused"] for item in flat if "refused" in item}
    return {**(list_data_collate(usable) if usable else {}), **({"refused": refused} if refused else {})}
