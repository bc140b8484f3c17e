# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Commands that measure: evaluate_public, benchmark, unseen, study, nnunet, export_nnunet, slices."""

from __future__ import annotations

from pathlib import Path

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.errors import InputError

from .arguments import expect_there

__all__ = ["benchmark", "evaluate_public", "export_nnunet", "nnunet", "slices", "study", "unseen"]

SHIPPED = str(BUNDLE_ROOT / "models" / "model.pt")
_PARTS = ("quality", "speed", "robustness", "lesions")
_STUDIES = ("steps", "guidance", "misregistration", "uncertainty", "seams")


def benchmark(
    name: str,
    *,
    output: str,
    lesions: str | None = None,
    label_maps: str | None = None,
    real_dir: str | None = None,
    sections: tuple[str, ...] = ("unseen", "old", "changed", "grids", "real"),
    checkpoint: str = SHIPPED,
    stages: tuple[str, ...] = ("train", "shipped", "peers", "diffusion"),
    cases: int = 60,
    train_cases: int = 64,
    minutes: float = 10.0,
    search_minutes: float = 1.5,
    ablation_minutes: float = 6.0,
    networks: tuple[str, ...] | None = None,
    peer_cases: int = 24,
    diffusion_cases: int = 3,
    robustness_cases: int = 6,
    repeats: int = 2,
    num_workers: int = 2,
    precision: str = "auto",
    earlier: str = "",
) -> None:
    """Run one part of the benchmark.

    An interrupted one goes on where it stopped. Needs roi-fusion[benchmark].

    Args:
        name: quality, speed, robustness or lesions.
        output: folder of the data, the trainings and <name>.json.
        lesions: packed .npz file of real lesion masks; all but speed need it.
        label_maps: packed .npz file of whole heads, whose last three are unseen heads; lesions needs it.
        real_dir: folder of real scans, which serve for nothing but this test of lesions; none are measured without it.
        sections: parts of lesions.
        checkpoint: weights to measure; the shipped ones by default.
        stages: parts of quality.
        cases: unseen phantoms of quality, or unseen heads of lesions.
        train_cases: phantoms that the compared trainings see.
        minutes: of each compared training.
        search_minutes: of each of the three trainings that choose a learning rate.
        ablation_minutes: of each ablation of ours and of the plain diffusion.
        networks: trainings to do, so that several processes can share them; all by default.
        peer_cases: unseen phantoms for the trained networks.
        diffusion_cases: crops for the plain diffusion baseline.
        robustness_cases: unseen phantoms, each in every condition.
        repeats: of each measurement of speed; the fastest counts.
        num_workers: processes that draw phantoms.
        precision: auto, bf16 or fp32, of the network's passes in quality and robustness.
        earlier: quality.json of a run with the same options and other shipped weights; with --stages shipped its trained
            networks are not trained again.

    Example:
        roi-fusion benchmark speed --output bench
    """
    if name not in _PARTS:
        raise InputError(f"name: expected one of {', '.join(_PARTS)}, got {name!r}")
    if name != "speed" and lesions is None:
        raise InputError("lesions: expected a packed .npz file of real lesion masks, got none")
    expect_there(checkpoint=checkpoint, lesions=lesions, earlier=earlier or None, label_maps=label_maps, real_dir=real_dir)
    if name == "speed":
        from roi_fusion_tools.benchmark.speed import run_speed

        run_speed(output, checkpoint, repeats)
    elif name == "robustness":
        from roi_fusion_tools.benchmark.robustness import run_robustness

        run_robustness(output, str(lesions), checkpoint, robustness_cases, precision)
    elif name == "lesions":
        from roi_fusion_tools.benchmark.lesions import LesionOptions, run_lesions

        run_lesions(LesionOptions(output, checkpoint, label_maps, lesions, real_dir, cases, precision), sections)
    else:
        from roi_fusion_tools.benchmark.networks import NETWORKS
        from roi_fusion_tools.benchmark.quality import QualityOptions, run_quality

        options = QualityOptions(
            output,
            str(lesions),
            checkpoint,
            cases,
            train_cases,
            minutes,
            search_minutes,
            ablation_minutes,
            NETWORKS if networks is None else networks,
            peer_cases,
            diffusion_cases,
            num_workers=num_workers,
            precision=precision,
            earlier=earlier,
        )
        run_quality(options, stages)
    print(f"{output}/{name}.json")


def evaluate_public(
    name: str,
    data_dir: str,
    *,
    output: str,
    images: str | None = None,
    contrast: str | None = None,
    checkpoint: str = SHIPPED,
    guidance: str = "logits",
    num_workers: int = 2,
) -> None:
    """Prepare a public stroke data set, segment it, and score it with the metrics of its challenge.

    Writes <output>/cases, <output>/results with report.html, and the table as <output>/<name>.md, .csv and .json. Called again
    it does not prepare anew what is unchanged.

    Args:
        name: isles22, isles24, apis, soop, atlas2 or isles15.
        data_dir: folder of the download, or one above or below it; nothing in it is changed.
        output: folder to write to.
        images: mri, ct or pair; by default what the challenge's methods are given.
        contrast: which MRI to take of several: auto, adc, dwi, flair, t2 or t1; by default one that the masks lie on.
        checkpoint: weights; the shipped ones by default.
        guidance: off, logits or full.
        num_workers: processes that prepare.

    Example:
        roi-fusion evaluate_public isles22 ISLES-2022 --output isles22
    """
    expect_there(checkpoint=checkpoint)
    if not Path(data_dir).exists():
        raise InputError(f"{data_dir}: expected the folder of the download behind the name {name}, found no such folder")
    from roi_fusion_tools.prepare import prepare_dataset
    from roi_fusion_tools.public_data import PUBLIC_SETS, score_public, table_text

    from .bundle import run_bundle

    if name not in PUBLIC_SETS:
        raise InputError(f"name: expected one of {', '.join(PUBLIC_SETS)}, got {name!r}")
    known, root = PUBLIC_SETS[name], Path(output)
    images, contrast = images or known.images, contrast or known.contrast
    cases, results = root / "cases", root / "results"
    prepare_dataset(data_dir, cases, layout=name, contrast=contrast, images=images, num_workers=num_workers)
    knobs = {"checkpoint": checkpoint, "guidance": guidance}
    run_bundle(["inference"], {"dataset_dir": str(cases), "output_dir": str(results), **knobs})
    print(table_text(score_public(name, cases, results, root)))
    print(root / f"{name}.md")


def unseen(
    *,
    dataset_dir: str,
    output: str,
    checkpoint: str = SHIPPED,
    modes: tuple[str, ...] = ("pair", "mri", "ct"),
    num_cases: int | None = None,
    num_inference_steps: int = 4,
    num_samples: int = 4,
    precision: str = "auto",
) -> None:
    """Measure weights on unseen cases with both images, the MRI alone and the CT alone.

    Args:
        dataset_dir: case folders, such as `roi-fusion paint` writes.
        output: JSON file to write, with a row a case and a summary of each mode.
        checkpoint: weights; the shipped ones by default.
        modes: some of pair, mri and ct.
        num_cases: how many of the cases, the first ones; all by default.
        num_inference_steps: sampling steps.
        num_samples: draws per case.
        precision: auto, bf16 or fp32, of the network's passes.

    Example:
        roi-fusion unseen --dataset_dir unseen --output unseen.json
    """
    expect_there(dataset_dir=dataset_dir, checkpoint=checkpoint)
    from roi_fusion_tools.unseen_heads import evaluate_folder

    found = evaluate_folder(
        dataset_dir, checkpoint, output, modes, num_cases, num_inference_steps, num_samples, precision=precision
    )
    for mode, content in found["modes"].items():
        told = (f"{key} {'–' if value is None else value}" for key, value in content["summary"].items())
        print(f"{mode}: {', '.join(told)}")
    print(output)


def study(
    name: str,
    *,
    checkpoint: tuple[str, ...],
    dataset_dir: str,
    output: str,
    cases: int | None = None,
    precision: str = "auto",
) -> None:
    """Study the sampler on cases with references.

    Prints a table and writes <output>/study_<name>.json.

    Args:
        name: steps, guidance, misregistration, uncertainty or seams.
        checkpoint: weights; several, joined by commas, are studied one after the other, as with and without something.
        dataset_dir: folder of cases with lesion masks.
        output: folder of the result.
        cases: how many of the folder's cases, the first ones; all by default.
        precision: auto, bf16 or fp32, of the network's passes.

    Example:
        roi-fusion study steps --checkpoint run/model.pt --dataset_dir cases --output studies
    """
    if name not in _STUDIES:
        raise InputError(f"name: expected one of {', '.join(_STUDIES)}, got {name!r}")
    expect_there(dataset_dir=dataset_dir)
    from roi_fusion.data.results import versions
    from roi_fusion.values import write_json
    from roi_fusion_tools.studies import STUDIES, load_study, study_table

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    networks, items = load_study(checkpoint, dataset_dir, cases)
    rows = []
    for file, network in zip(checkpoint, networks):
        found = STUDIES[name](network, items, Path(dataset_dir), folder, precision)
        rows += [{**row, "name": f"{Path(file).stem}: {row['name']}"} for row in found] if len(checkpoint) > 1 else found
    path = folder / f"study_{name}.json"
    names = [_shown(file) for file in checkpoint]
    write_json(path, {"study": name, "checkpoint": names, "precision": precision, "rows": rows, "versions": versions()})
    print(study_table(rows))
    print(path)


def _shown(file: str) -> str:
    """Name of the weights without the folders of this machine; that of the shipped ones from the repository's root."""
    return "bundle/models/model.pt" if Path(file).resolve() == Path(SHIPPED) else Path(file).name


def nnunet(action: str, *, benchmark_dir: str, folder: str, train_cases: int | None = None, cases: int | None = None) -> None:
    """Add nnU-Net v2 to the benchmark: write its data set, or score its masks.

    Needs roi-fusion[nnunet] to train it.

    Args:
        action: prepare or score.
        benchmark_dir: --output of `roi-fusion benchmark quality`, which holds train_cases and test_cases.
        folder: prepare: nnU-Net's nnUNet_raw; score: its predictions.
        train_cases: how many training cases; all by default.
        cases: how many test cases; all by default.

    Example:
        roi-fusion nnunet prepare --benchmark_dir bench --folder nnUNet_raw
    """
    if action not in ("prepare", "score"):
        raise InputError(f"action: expected prepare or score, got {action!r}")
    expect_there(benchmark_dir=benchmark_dir)
    from roi_fusion_tools.nnunet import METHOD, score_nnunet, write_nnunet_dataset

    root = Path(benchmark_dir)
    if action == "prepare":
        written = write_nnunet_dataset(root / "train_cases", root / "test_cases", folder, train_cases, cases)
        print(
            f"{written}\nnow, with nnUNet_raw, nnUNet_preprocessed and nnUNet_results set:\n"
            "  nnUNetv2_plan_and_preprocess -d 1 -c 3d_fullres\n"
            f"  cp {written / 'splits_final.json'} $nnUNet_preprocessed/{written.name}/\n  nnUNetv2_train 1 3d_fullres 0\n"
            f"  nnUNetv2_predict -d 1 -c 3d_fullres -f 0 -i {written / 'imagesTs'} -o PREDICTIONS\n"
            f"  roi-fusion nnunet score --benchmark_dir {benchmark_dir} --folder PREDICTIONS"
        )
    else:
        rows = score_nnunet(folder, root / "test_cases", root, cases)
        print(f"{len(rows)} cases of {METHOD}; roi-fusion benchmark quality --stages shipped puts them into quality.json")


def export_nnunet(dataset_dir: str, *, output: str) -> None:
    """Write prepared cases in nnU-Net's raw format, to train and compare nnU-Net v2 on the same data.

    The cases of the test split go to imagesTs, all others to imagesTr and labelsTr; splits_final.json holds folds by patient.
    MRI is channel 0 and CT channel 1; cases of one image have one channel.

    Args:
        dataset_dir: folder of cases with lesion masks.
        output: nnU-Net's nnUNet_raw.

    Example:
        roi-fusion export_nnunet cases --output nnUNet_raw
    """
    expect_there(dataset_dir=dataset_dir)
    from roi_fusion_tools.nnunet import export_dataset

    print(export_dataset(dataset_dir, output))


def slices(
    *, slices_dir: str, metrics_script: str, peers: str, output: str, checkpoint: str = SHIPPED, precision: str = "auto"
) -> None:
    """Compare with other methods on real 8-bit CT and MR pictures.

    They are scored by a metric script that is not ours.

    Args:
        slices_dir: folder with CT/ and MRI/ pictures, as the Harvard Whole Brain Atlas in the fusion literature.
        metrics_script: program that takes --data, --fused, --out and --all and writes <out>/<method>.json, a row per picture;
            its masks(ct) gives bone, brain and head.
        peers: JSON of other methods' figures on the same slices, {"methods": {name: {metric: value}}}.
        output: folder of cases, results, pictures and harvard.json.
        checkpoint: weights; the shipped ones by default.
        precision: auto, bf16 or fp32.

    Example:
        roi-fusion slices --slices_dir harvard --metrics_script metrics.py --peers peers.json --output bench
    """
    expect_there(slices_dir=slices_dir, metrics_script=metrics_script, peers=peers, checkpoint=checkpoint)
    from roi_fusion_tools.benchmark.real_slices import benchmark_slices

    benchmark_slices(slices_dir, metrics_script, peers, output, checkpoint, precision)
