# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Commands that make and look at data: prepare, explore, phantoms, paint, stack_slices, export_slices."""

from __future__ import annotations

from pathlib import Path

from roi_fusion.errors import InputError

from .arguments import expect_there

__all__ = ["explore", "export_slices", "paint", "phantoms", "prepare", "stack_slices"]


def prepare(
    *,
    input: str,
    output: str,
    layout: str = "auto",
    contrast: str = "auto",
    reference: str = "mri",
    spacing_mm: tuple[float, float, float] | None = None,
    register: bool = True,
    affine: bool = False,
    masks_dir: str | None = None,
    names: str = "hash",
    name_key: str | None = None,
    num_workers: int = 2,
) -> None:
    """Turn DICOM, BIDS trees, challenge data or loose pairs into registered cases with masks.

    Writes <output>/<case>/{mri,ct,brain_mask,bone_mask[,lesion_mask]}.nii.gz, transform.tfm, overlay.png and case.json, and
    prepare.html for review. Called again it skips cases whose inputs are unchanged, and never removes a file that was made
    or changed by hand.

    Args:
        input: folder with the data; nothing in it is changed.
        output: folder of cases; also gets prepare.html, prepare.json and errors.json.
        layout: auto, cases, pairs, bids, dicom, or published data by name: isles22, isles24, apis, soop, atlas2 or isles15.
        contrast: which MRI to take of several: auto (the first of adc, dwi, flair, t2, t1) or one of these.
        reference: mri or ct, whose grid stays.
        spacing_mm: voxel size of the outcome in mm, as 0.9,0.9,6; the reference's own by default.
        register: false trusts the positions in the headers.
        affine: true allows scaling and shear after the rigid registration.
        masks_dir: folder <case>/ with brain and bone masks of TotalSegmentator or SynthStrip, used instead of ours.
        names: of cases that come as DICOM: hash, a keyed hash of the PatientID or the folder; keep, the PatientID or folder
            itself.
        name_key: file with the key of the hash, beside which names.csv maps names back; by default roi_fusion/name_key in
            ~/.config.
        num_workers: processes.

    Example:
        roi-fusion prepare --input raw --output cases
    """
    expect_there(input=input, masks_dir=masks_dir)
    from roi_fusion_tools.prepare import PrepareOptions, prepare_dataset

    options = PrepareOptions(reference=reference, spacing_mm=spacing_mm, register=register, affine=affine)
    record = prepare_dataset(
        input,
        output,
        layout=layout,
        contrast=contrast,
        masks_dir=masks_dir,
        names=names,
        name_key=name_key,
        num_workers=num_workers,
        options=options,
    )
    flagged = sum(bool(c["flags"]) for c in record["cases"])
    parts = [*(f"{n} {status}" for status, n in record["counts"].items()), f"{flagged} flagged"]
    parts += [f"{len(record['stale'])} stale"] if record["stale"] else []
    print(f"{', '.join(parts)}: {output}")


def explore(dataset_dir: str, output: str | None = None) -> None:
    """Look at a data set before a training and flag what would spoil it; writes explore.html.

    Args:
        dataset_dir: folder of cases.
        output: folder to write to; the data set's own by default.

    Example:
        roi-fusion explore cases
    """
    expect_there(dataset_dir=dataset_dir)
    from roi_fusion.console import progress_bar
    from roi_fusion.data.cases import find_cases
    from roi_fusion_tools.explore import FLAGS, look_at_case
    from roi_fusion_tools.explore_page import write_exploration

    cases, found = find_cases(dataset_dir), []
    with progress_bar(len(cases), "exploring", "case") as bar:
        for case in cases:
            found.append(look_at_case(case))
            bar.update()
    folder = Path(output or dataset_dir)
    summary = write_exploration(found, folder, f"Data set {Path(dataset_dir).resolve().name}")
    lesions = summary["lesions"]
    print(f"{summary['cases']} cases; lesions: {', '.join(f'{lesions[k]} {k}' for k in ('known', 'unknown', 'without'))}")
    for name, names in summary["flags"].items():
        print(f"{name} ({FLAGS[name]}): {', '.join(names)}")
    print(f"{'no flags; ' if not summary['flags'] else ''}{folder / 'explore.html'}")


def phantoms(
    *,
    output: str,
    num_cases: int,
    shape: tuple[int, int, int] = (256, 256, 26),
    spacing_mm: tuple[float, float, float] = (0.9, 0.9, 6.0),
    contrast: str = "random",
    lesions: str = "procedural",
    lesion_ids: str | None = None,
    misregistration_mm: float = 0.0,
    varied_grid: bool = False,
    lesion_free_share: float = 0.1,
    seed: int = 0,
    num_workers: int = 0,
) -> None:
    """Make a data set of simple simulated heads with known brain, bone and lesion masks.

    Writes <output>/phantom_NNNN/{mri,ct,lesion_mask,brain_mask,bone_mask}.nii.gz and dataset.json.

    Args:
        output: folder to write to.
        num_cases: number of cases.
        shape: voxels along x, y, z, as 256,256,26.
        spacing_mm: voxel size along x, y, z in mm, as 0.9,0.9,6.
        contrast: adc, dwi, flair, t2, t1, several as adc,dwi to draw from, or random for all five.
        lesions: procedural, or a packed .npz file of real masks in MNI space.
        lesion_ids: FIRST:LAST, which masks of the file to draw from, as 0:800.
        misregistration_mm: move the CT by up to this many mm and turn it by up to as many degrees.
        varied_grid: a grid for each case: 0.4-1.2 mm in plane, 3-7 mm slices, one in eight 1 mm isotropic.
        lesion_free_share: share of cases without a lesion, 0 to 1.
        seed: the same seed gives the same voxels.
        num_workers: processes to draw with; an interrupted call is completed by the same call.

    Example:
        roi-fusion phantoms --output phantoms --num_cases 40
    """
    if lesion_ids is not None and lesions == "procedural":
        raise InputError(f"lesion_ids: expected a packed file of --lesions to draw {lesion_ids} from, got none")
    from roi_fusion.data.lesions import PackedLesions
    from roi_fusion_tools.phantoms.render import PhantomConfig
    from roi_fusion_tools.phantoms.write import make_phantoms

    config = PhantomConfig(
        shape=shape,
        spacing_mm=spacing_mm,
        contrast=contrast,
        misregistration_mm=misregistration_mm,
        lesion_free_share=lesion_free_share,
        varied_grid=varied_grid,
    )
    packed = None if lesions == "procedural" else PackedLesions(lesions, lesion_ids)
    make_phantoms(output, num_cases, config, lesions=packed, seed=seed, num_workers=num_workers)
    print(f"{num_cases} cases in {output}")


def paint(
    *,
    output: str,
    num_cases: int,
    label_maps: str | None = None,
    lesions: str | None = None,
    heads: str | None = None,
    lesion_ids: str | None = None,
    misregistration_mm: float = 2.0,
    seed: int = 0,
) -> None:
    """Paint heads from label maps, as cases with true masks to measure with.

    Args:
        output: folder to write to; cases that an earlier call with the same options wrote are kept.
        num_cases: number of cases; contrasts take turns, one case in six has no lesion.
        label_maps: packed file or folder of NIfTI label maps; the MNI atlas by default.
        lesions: packed .npz file of lesion masks; made-up shapes by default.
        heads: ids of the heads, with commas between; those that validate by default.
        lesion_ids: FIRST:LAST of the masks; those that validate by default.
        misregistration_mm: move the CT by up to this many mm and turn it by up to half as many degrees.
        seed: of the set.

    Example:
        roi-fusion paint --output unseen --num_cases 12
    """
    expect_there(label_maps=label_maps, lesions=lesions)
    from roi_fusion.console import progress_bar
    from roi_fusion.data.synthesis.unseen import write_cases

    drawn = write_cases(
        output,
        num_cases,
        label_maps=label_maps,
        lesions=lesions,
        heads=heads,
        lesion_ids=lesion_ids,
        seed=seed,
        misregistration_mm=misregistration_mm,
    )
    count = 0
    with progress_bar(num_cases, "painting", "head") as bar:
        for _ in drawn:
            count += 1
            bar.update()
    print(f"{count} cases in {output}")


def stack_slices(
    *,
    ct_dir: str,
    mri_dir: str,
    output: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 5.0),
    window_hu: tuple[float, float] = (-5.0, 80.0),
    slice_digits: int = 2,
    fill_gaps: bool = False,
) -> None:
    """Stack numbered 8-bit CT and MR pictures into cases.

    Writes <output>/<patient>/{mri,ct}.nii.gz from pictures named by patient and slice (16003.png: patient 160, slice 3).

    Args:
        ct_dir: folder of CT pictures in a brain window.
        mri_dir: folder of MR pictures with the same names.
        output: folder of cases.
        spacing_mm: of pixels and slices in mm, as 1,1,5.
        window_hu: HU of black and white; 250 and above counts as bone, outside the head as air.
        slice_digits: how many last digits of a name count slices.
        fill_gaps: true interpolates missing slices; otherwise such a patient is refused.

    Example:
        roi-fusion stack_slices --ct_dir CT --mri_dir MRI --output cases
    """
    expect_there(ct_dir=ct_dir, mri_dir=mri_dir)
    from roi_fusion_tools.slices import slices_to_cases

    how = {"spacing_mm": spacing_mm, "window_hu": window_hu, "slice_digits": slice_digits, "fill_gaps": fill_gaps}
    for folder in slices_to_cases(ct_dir, mri_dir, output, **how):  # type: ignore[arg-type]
        print(folder)


def export_slices(*, results_dir: str, output: str, window_mri: tuple[float, float], volume: str = "fused") -> None:
    """Export fused volumes to 8-bit pictures, one a slice.

    Args:
        results_dir: folder of results.
        output: folder of pictures.
        window_mri: MRI units of black and white, as 0,255; the same for all volumes.
        volume: which result volume.

    Example:
        roi-fusion export_slices --results_dir results --output pictures --window_mri 0,255
    """
    expect_there(results_dir=results_dir)
    from roi_fusion_tools.slices import export_slices as export

    pictures = export(results_dir, output, window_mri, volume)
    print(f"{len(pictures)} pictures in {output}")
