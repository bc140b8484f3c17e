# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Commands that use weights: predict, report, demo, label."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from roi_fusion.errors import InputError

from .arguments import expect_there, with_knobs

__all__ = ["demo", "export_bids", "label", "predict", "report"]


@with_knobs("inference")
def predict(
    *, output: str, mri: str | None = None, ct: str | None = None, dataset_dir: str | None = None, **knobs: Any
) -> None:
    """Fuse one MRI and head CT, or a folder of cases, and segment the stroke lesion.

    Files may be NIfTI, MGH, MHA, NRRD, a folder of DICOM files, or several of these with
    commas between. Takes about 6 s a pair on two processor cores.

    Args:
        output: folder to write to; each case gets a folder with fused.nii.gz, lesion.nii.gz, result.json (lesion volume in mL)
            and more; beside these lie metrics.csv and report.html.
        mri: MRI of one pair.
        ct: CT of the same patient, in HU.
        dataset_dir: instead of one pair, a folder <case>/{mri,ct}.nii.gz.

    Example:
        roi-fusion predict --mri mri.nii.gz --ct ct.nii.gz --output results
        roi-fusion predict --dataset_dir cases --output results --guidance off
        roi-fusion predict --mri study/dwi --ct study/ct --output results --register true --dicom true
    """
    if dataset_dir is None and mri is None and ct is None:
        raise InputError("predict: expected --mri and --ct, or --dataset_dir, got none")
    if knobs.get("dicom") and mri is None:
        raise InputError("dicom: expected --mri as a DICOM folder beside it, got none")
    expect_there(mri=mri, ct=ct, dataset_dir=dataset_dir, checkpoint=knobs.get("checkpoint"))
    given = {name: path for name, path in (("mri", mri), ("ct", ct), ("dataset_dir", dataset_dir)) if path is not None}
    from .bundle import run_bundle

    run_bundle(["inference"], {"output_dir": output, **given, **knobs})


def export_bids(results_dir: str, *, output: str, contrast: str = "") -> None:
    """Write a folder of results as a BIDS derivative data set.

    Writes <output>/sub-*/[ses-*/]{anat,dwi}/ with the fused volume, the lesion mask and its probability, and
    dataset_description.json. A case called sub-01 or sub-01_ses-1 keeps that label; of other names letters and digits count.

    Args:
        results_dir: folder of results.
        output: the data set, such as derivatives/roi_fusion; new, or an earlier one of this command, which is added to.
        contrast: t1, t2, flair, dwi or adc of all MRIs; by default as preparation noted it or the name of the MRI's file tells.

    Example:
        roi-fusion export_bids results --output derivatives/roi_fusion
    """
    expect_there(results_dir=results_dir)
    from roi_fusion.data.bids_out import write_bids
    from roi_fusion.data.results import result_folders

    folders = result_folders(results_dir)
    if not folders:
        raise InputError(f"{results_dir}: expected a folder of results, found no <case>/result.json in it")
    left_out = write_bids(folders, output, contrast)
    for sentence in left_out.values():
        print(sentence)
    if len(left_out) == len(folders):
        raise InputError(f"{results_dir}: expected at least one case to write, got none of {len(folders)}")
    print(f"{len(folders) - len(left_out)} cases in {output}")


def report(results_dir: str, history_dir: str | None = None, single_file_cases: int = 20) -> None:
    """Write the report of a results folder or a training again, and print its metrics.

    What shards have left (--shard of predict and evaluate) becomes one table, one summary and one list of refused cases.
    Beside the report it writes the cohort: a row a patient in cohort.csv, and with roi-fusion[cohort] in cohort.parquet and in
    cohort.html, a table that sorts and filters.

    Args:
        results_dir: folder of the results or of the training.
        history_dir: training whose curves are shown beside.
        single_file_cases: up to so many cases the report is one file; beyond, an index with a page per case.

    Example:
        roi-fusion report results
    """
    expect_there(results_dir=results_dir, history_dir=history_dir)
    from roi_fusion.data.shards import merge_errors
    from roi_fusion.metrics.table import refresh_tables
    from roi_fusion.report.page import write_report
    from roi_fusion.report.tables import metrics_text

    merge_errors(results_dir)
    refresh_tables(results_dir)
    write_report(results_dir, history_dir=history_dir, single_file_cases=single_file_cases, cohort=True)
    if Path(results_dir, "summary.json").is_file():
        print(metrics_text(results_dir))


def demo(output: str = "demo", *, cases: int = 6, epochs: int = 4, skip_training: bool = False) -> None:
    """Show the shipped weights on six painted cases, and a training of a minute.

    The cases are painted from an atlas, so that no patient's scan is needed: DWI, ADC, FLAIR, T2, a T1 without a lesion, and a
    CT that ends inside of the brain. For each the true volume and the one that was found are printed, in mL.

    Args:
        output: folder to write to, which must be new or an earlier demonstration's; that one is replaced.
        cases: how many cases to paint.
        epochs: of the short training.
        skip_training: stop behind the shipped weights.

    Example:
        roi-fusion demo --output demo
    """
    if cases < 1 or epochs < 1:
        raise InputError(f"demo: expected --cases and --epochs of 1 or more, got {cases} and {epochs}")
    folder = Path(output)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "cases" / "demo.json").is_file()):
        raise InputError(f"output: expected a new folder or one of an earlier demonstration, got {output} with other files")
    from roi_fusion.console import progress_bar
    from roi_fusion_tools.demo import TRAINING_KNOBS, case_table, write_demo_cases, write_training_cases

    from .bundle import run_bundle

    shutil.rmtree(folder, ignore_errors=True)
    print(f"1. Painting {cases} cases, MRI and CT, with known lesions", flush=True)
    with progress_bar(cases, "painting", "case") as bar:
        for _ in write_demo_cases(folder / "cases", cases):
            bar.update()
    print("2. The shipped weights on these cases", flush=True)
    run_bundle(["inference"], {"dataset_dir": str(folder / "cases"), "output_dir": str(folder / "results")})
    table = case_table(folder / "cases", folder / "results")
    print(f"\n{table}\n", flush=True)
    if not skip_training:
        print(f"3. A training (epochs: {epochs}) on six tiny phantoms; it shows the tools, no usable network", flush=True)
        write_training_cases(folder / "training_cases")
        data = {"dataset_dir": str(folder / "training_cases"), "output_dir": str(folder / "training")}
        run_bundle(["train"], {**data, **TRAINING_KNOBS, "max_epochs": epochs, "val_interval": epochs})
    print(f"report of the shipped weights: {(folder / 'results' / 'report.html').resolve()}")


def label(
    *,
    studies: str | None = None,
    work_dir: str = "label_work",
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: str = "",
    max_upload_mb: float = 1024,
    proxy: bool = False,
) -> None:
    """Start the MONAI Label server for 3D Slicer; Ctrl-C ends it.

    Needs the package monailabel, which wants older packages than the rest: give it an environment of its own, as `make label`
    does in a checkout.

    Args:
        studies: folder of <case>/{mri,ct}.nii.gz or of x_mri.nii.gz beside x_ct.nii.gz, or the address of a DICOMweb server;
            phantoms are made when not given.
        work_dir: folder for weights, trainings and logs of this server.
        host: address to listen on; others than this machine reach it only at an address of the network, as 0.0.0.0.
        port: port to listen on.
        allowed_hosts: names and addresses, with commas between, under which other machines reach it; this machine's own
            loopback names and --host always count.
        max_upload_mb: largest upload, in megabytes.
        proxy: pass requests below /proxy/ on to the DICOMweb server of the studies, as OHIF needs it.

    Example:
        roi-fusion label --studies studies --port 8000
    """
    from roi_fusion_tools.label_server import serve

    serve(studies, work_dir, host, port, allowed_hosts, max_upload_mb, proxy)
