# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The benchmark of quality: the shipped weights, rules of fusion, and networks trained for the same minutes, on the same cases.

Everything is kept as it is made, one file per case and method, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from roi_fusion.config.check import inference_parser
from roi_fusion.core.guidance import RoiGuidance
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.data.cases import each_item, load_datalist
from roi_fusion.data.grids import spacing_of
from roi_fusion.data.lesions import PackedLesions
from roi_fusion.data.results import versions
from roi_fusion.engine.case_metrics import benchmark_metrics
from roi_fusion.engine.evaluator import CaseMetrics, measure_fused
from roi_fusion.engine.inferer import SamplingInferer, sample_case
from roi_fusion.engine.weights import check_weights, load_weights
from roi_fusion.errors import InputError
from roi_fusion.metrics.lesion import LesionMetrics
from roi_fusion.values import write_json

from ..phantoms.render import PhantomConfig
from ..phantoms.write import make_phantoms
from .comparison import compare, grouped, summarise_rows, worst
from .networks import ABLATIONS, DIFFUSION, NETWORKS, OURS, label_of, train_networks, trained_network
from .peers import SEGMENTERS, DiffusionPeer, segment
from .rules import fused_by_rules

__all__ = ["STAGES", "QualityOptions", "run_quality"]


#: The compared trainings; our weights and the rules; the trained networks; the plain diffusion.
STAGES = ("train", "shipped", "peers", "diffusion")


#: Voxels of the crops for the plain diffusion.
_CROP = (96, 96, 8)


@dataclass(frozen=True)
class QualityOptions:
    """What the benchmark of quality takes.

    Attributes:
        output_dir: folder of everything.
        lesions: packed real lesion masks.
        checkpoint: shipped weights.
        cases: unseen phantoms, 256×256×26 at 0.9×0.9×6 mm, ids 800:900, misregistered by up to 2 mm and 2°.
        train_cases: phantoms of the same kind that the compared trainings see, ids 0:700.
        minutes: of processor time of each compared training at its best learning rate.
        search_minutes: of each of the three trainings that choose it.
        ablation_minutes: of each ablation of ours, and of the plain diffusion, at the learning rate that ours chose.
        networks: the trainings to do, some of :data:`NETWORKS`; several processes can share them.
        peer_cases: of the unseen phantoms, how many the trained networks and our unguided run are measured on.
        diffusion_cases: how many 96×96×8 crops the plain diffusion baseline is measured on.
        learning_rates: tried for each network.
        num_workers: processes that draw phantoms.
        precision: of the network's passes, see :func:`~roi_fusion.core.precision.autocast_for`.
        earlier: ``quality.json`` of a run with the same options and other shipped weights. What it holds of the trained
            networks, which do not depend on those, is taken over where this folder has none; for pairs of both, which need each
            case's numbers, there is no test then.
    """

    output_dir: str
    lesions: str
    checkpoint: str
    cases: int = 60
    train_cases: int = 64
    minutes: float = 10.0
    search_minutes: float = 1.5
    ablation_minutes: float = 6.0
    networks: tuple[str, ...] = NETWORKS
    peer_cases: int = 24
    diffusion_cases: int = 3
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    num_workers: int = 2
    precision: str = "auto"
    earlier: str = ""

    def __post_init__(self) -> None:
        for name in ("cases", "train_cases", "peer_cases"):
            if int(getattr(self, name)) != getattr(self, name) or getattr(self, name) < 1:
                raise InputError(f"{name}: expected a whole number of 1 or more, got {getattr(self, name)}")
        for name in ("minutes", "search_minutes", "ablation_minutes"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in self.networks:
            if name not in NETWORKS:
                raise InputError(f"networks: expected some of {'; '.join(NETWORKS)}, got {name!r}")
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise InputError(f"learning_rates: expected positive numbers, got {self.learning_rates}")


def run_quality(options: QualityOptions, stages: Sequence[str] = STAGES) -> dict[str, Any]:
    """Run the stages that are not done yet and write ``quality.json``.

    Args:
        options: sizes and places.
        stages: some of :data:`STAGES`.

    Returns:
        The content of ``quality.json``.
    """
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"stages: expected some of {', '.join(STAGES)}, got {stage!r}")
    if options.earlier:  # an error found after hours of measuring would be found late
        _read_earlier(_stated(options), Path(options.earlier))
    root = Path(options.output_dir)
    root.mkdir(parents=True, exist_ok=True)
    _begin_or_continue(options, root)
    if "train" in stages:
        _train(options, root)
    test_dir = _phantoms(options, root / "test_cases", options.cases, 2.0, "800:900", 2026)
    if "shipped" in stages:
        _measure_shipped(options, root, test_dir)
    if "peers" in stages:
        _measure_peers(options, root, test_dir)
    if "diffusion" in stages:
        _measure_diffusion(options, root, test_dir)
    return _collect(options, root, test_dir)


def _begin_or_continue(options: QualityOptions, root: Path) -> None:
    """Note in ``run.json`` what the folder's numbers hold for, and refuse to mix others with them."""
    fixed = ("train_cases", "minutes", "search_minutes", "ablation_minutes", "learning_rates", "precision")
    expected = {name: getattr(options, name) for name in fixed}
    expected = json.loads(json.dumps({"checkpoint": check_weights(options.checkpoint), **expected}))
    file = root / "run.json"
    if not file.is_file():
        write_json(file, expected)
        return
    held = json.loads(file.read_text())
    for name, value in expected.items():
        if held.get(name) != value:
            raise InputError(f"{file}: expected {name} {held.get(name)} as before, got {value}; take another output_dir")


def _phantoms(options: QualityOptions, folder: Path, count: int, misregistration_mm: float, ids: str, seed: int) -> Path:
    """A data set, made where it is missing."""
    if sum(1 for _ in folder.glob("*/bone_mask.nii.gz")) < count:
        config, lesions = PhantomConfig(misregistration_mm=misregistration_mm), PackedLesions(options.lesions, ids)
        make_phantoms(folder, count, config, lesions=lesions, seed=seed, num_workers=options.num_workers)
    return folder


def _train(options: QualityOptions, root: Path) -> None:
    def data(registered: bool) -> Path:
        folder = root / ("registered_cases" if registered else "train_cases")
        return _phantoms(options, folder, options.train_cases, 0.0 if registered else 2.0, "0:700", 70)

    train_networks(
        options.networks,
        root / "peers",
        data,
        cases=options.train_cases,
        minutes=options.minutes,
        search_minutes=options.search_minutes,
        ablation_minutes=options.ablation_minutes,
        learning_rates=options.learning_rates,
    )


def _each(root: Path, method: str, test_dir: Path, count: int, measure: Callable[[Any], list[dict[str, Any]]]) -> None:
    """Rows of one method for the first `count` cases; cases that have theirs are not even loaded."""
    folder = root / "rows" / method
    names = [c["case"] for c in load_datalist(test_dir)][:count]
    if all((folder / f"{n}.json").is_file() for n in names):
        return
    dataset = inference_parser({"dataset_dir": str(test_dir)}).get_parsed_content("dataset")
    for item in tqdm(each_item(dataset, count), total=count, desc=method, unit="case"):
        file = folder / f"{item['case']}.json"
        if not file.is_file():
            write_json(file, measure(item))


def _measure_shipped(options: QualityOptions, root: Path, test_dir: Path) -> None:
    network: Any = load_weights(RoiFusionNet(), options.checkpoint).eval()
    chosen = benchmark_metrics()
    for method, guidance in (("ROI Fusion", RoiGuidance()), ("ROI Fusion, unguided", RoiGuidance(mode="off"))):
        inferer = SamplingInferer(make_scheduler(), 4, 2, guidance=guidance, precision=options.precision)
        metrics = CaseMetrics(threshold=network.threshold, with_baselines=guidance.mode != "off", metrics=chosen)

        def measure(item: Any, inferer: Any = inferer, metrics: Any = metrics, method: str = method) -> list[dict[str, Any]]:
            start = time.perf_counter()
            prediction = sample_case(inferer, network, item)
            seconds = time.perf_counter() - start
            own, *rules = metrics.measure(item, prediction)
            rows = [{**own, "method": method, "seconds": seconds}, *rules]
            if rules:
                found = fused_by_rules(item, network, options.precision)
                rows += [measure_fused(item, name, fused, chosen) for name, fused in found]
            return rows

        _each(root, method, test_dir, options.cases if guidance.mode != "off" else options.peer_cases, measure)
    _measure_crops(options, root, test_dir, "ROI Fusion on the same crops", network)


def _measure_peers(options: QualityOptions, root: Path, test_dir: Path) -> None:
    for name in (n for n in SEGMENTERS if n in options.networks):
        network = trained_network(root / "peers", name)

        def measure(item: Any, network: Any = network, name: str = name) -> list[dict[str, Any]]:
            start = time.perf_counter()
            probability = segment(network, torch.as_tensor(item["image"])[None].float())[0]
            seconds = time.perf_counter() - start
            brain = torch.as_tensor(item["brain"])
            spacing = spacing_of(item["image"])
            scores = LesionMetrics()(probability, item["label"], spacing_mm=spacing, threshold=0.5, brain=brain)
            return [{"case": str(item["case"]), "method": name, "seconds": seconds, **scores}]

        _each(root, name, test_dir, options.peer_cases, measure)
    for name in (n for n in (OURS, *ABLATIONS) if n in options.networks):
        own, label = trained_network(root / "peers", name), label_of(name)
        # Without a gate there is nothing that guidance on the logits could move: all ablations are measured without it.
        modes = {f"{label}, unguided" if name in (OURS, "short") else label: RoiGuidance(mode="off")}
        if name == OURS:
            modes[label] = RoiGuidance()
        for method, guidance in modes.items():
            inferer = SamplingInferer(make_scheduler(), 4, 1, guidance=guidance, precision=options.precision)
            metrics = CaseMetrics(with_baselines=False, metrics=benchmark_metrics())

            def measure_own(
                item: Any, method: str = method, inferer: Any = inferer, own: Any = own, metrics: Any = metrics
            ) -> Any:
                row = metrics.measure(item, sample_case(inferer, own, item))[0]
                return [{**row, "method": method}]

            _each(root, method, test_dir, options.peer_cases, measure_own)


def _measure_diffusion(options: QualityOptions, root: Path, test_dir: Path) -> None:
    """The plain baseline on crops in the middle of the head: a whole case takes it some 20 minutes on two cores."""
    peer = trained_network(root / "peers", DIFFUSION)
    label = f"{label_of('short')} on the same crops"
    _measure_crops(options, root, test_dir, "plain diffusion, 50 steps", peer)
    _measure_crops(options, root, test_dir, label, trained_network(root / "peers", "short"))


def _measure_crops(options: QualityOptions, root: Path, test_dir: Path, method: str, network: Any) -> None:
    """Fusion metrics of one network on the crops that the plain diffusion is measured on."""
    inferer = SamplingInferer(make_scheduler(), 4, 1, guidance=RoiGuidance(), precision=options.precision)

    def measure(item: Any) -> list[dict[str, Any]]:
        crop = _crop(item, _CROP)
        start = time.perf_counter()
        if isinstance(network, DiffusionPeer):
            fused = network.fuse(torch.as_tensor(crop["image"])[None].float())[0][:1]
        else:
            fused = sample_case(inferer, network, crop)[:1]
        return [{**measure_fused(crop, method, fused, benchmark_metrics()), "seconds": time.perf_counter() - start}]

    _each(root, method, test_dir, options.diffusion_cases, measure)


def _crop(item: Mapping[str, Any], size: Sequence[int]) -> dict[str, Any]:
    """The case around the middle of its front skull, where brain and bone both are."""
    bone = torch.as_tensor(item["bone"])[0]
    middle = [n // 2 for n in bone.shape]
    columns = (bone[:, :, middle[2]].sum(0) > 0).nonzero()
    middle[1] = int(columns.max()) - size[1] // 3
    box = [slice(None)]
    for centre, n, expected in zip(middle, bone.shape, size):
        start = max(0, min(centre - expected // 2, n - expected))
        box.append(slice(start, start + expected))
    out = dict(item)
    for key in ("image", "ct", "label", "brain", "bone", "dense", "head"):
        if key in out:
            out[key] = out[key][tuple(box)]
    out.pop("label_voxels", None)  # of the whole
    return out


def _collect(options: QualityOptions, root: Path, test_dir: Path) -> dict[str, Any]:
    """``quality.json`` from what is there."""
    rows: list[dict[str, Any]] = []
    for file in sorted((root / "rows").glob("*/*.json")):
        rows += [{k: math.nan if v is None else v for k, v in r.items()} for r in json.loads(file.read_text())]
    cases = json.loads((test_dir / "dataset.json").read_text())["cases"]
    names = [str(c["case"]) for c in load_datalist(test_dir)]
    rows = [{**r, "contrast": cases[r["case"]]["contrast"]} for r in rows if r["case"] in names[: options.cases]]
    rows = list({(r["method"], r["case"]): r for r in rows}.values())
    first = set(names[: options.peer_cases])
    shared = f"ROI Fusion, first {len(first)} cases"  # beside what was measured on these alone
    rows += [{**r, "method": shared} for r in rows if r["method"] == "ROI Fusion" and r["case"] in first]
    peers = {f.stem: json.loads(f.read_text()) for f in sorted((root / "peers").glob("*.json"))}
    content = {
        "options": _stated(options),
        "methods": {
            method: {"cases": len(part), **{m: s for m, s in summarise_rows(part).items()}}
            for method in dict.fromkeys(r["method"] for r in rows)
            if (part := [r for r in rows if r["method"] == method])
        },
        "by_contrast": grouped(rows, "contrast"),
        "by_volume_class": grouped(rows, "volume_class"),
        "tests": compare(rows),
        "trainings": peers,
        "worst_cases": worst(rows),
        "versions": versions(),
    }
    if options.earlier:
        _take_over(content, Path(options.earlier))
    write_json(root / "quality.json", content)
    return content


def _stated(options: QualityOptions) -> dict[str, Any]:
    """The options that ``quality.json`` states: all but places on this machine."""
    return {k: v for k, v in asdict(options).items() if k not in ("output_dir", "lesions", "checkpoint", "earlier")}


def _read_earlier(options: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """An earlier ``quality.json``, refused where it was made with other options."""
    try:
        held: dict[str, Any] = json.loads(file.read_text())
        found = {name: held[name] for name in ("methods", "options", "tests", "trainings", "versions")}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: expected the result of roi-fusion benchmark quality, found none") from None
    for name, value in json.loads(json.dumps(options)).items():
        came = found["options"].get(name)
        if name not in ("networks", "num_workers", "precision") and came != value:
            raise InputError(f"{file}: expected {name} {value} as in this run, got {came}")
    return held


def _take_over(content: dict[str, Any], file: Path) -> None:
    """Add what an earlier benchmark found for networks that are not of the shipped weights, and the tests among them."""
    held = _read_earlier(content["options"], file)
    taken = [m for m in held["methods"] if m not in content["methods"] and not m.startswith("ROI Fusion")]
    old = not any("hyperdense_dice" in found for found in held["methods"].values())  # from before one ECE
    dropped = ("lesion_ece", "lesion_brier") if old else ()
    content["methods"].update({m: {k: v for k, v in held["methods"][m].items() if k not in dropped} for m in taken})
    content["tests"] += [t for t in held["tests"] if t["ours"] in taken and t["other"] in taken and not old]
    content["trainings"] = {**held["trainings"], **content["trainings"]}
    machine = held.get("taken_over", held)["versions"]  # what was taken over before is of that machine still
    content["taken_over"] = {"methods": taken, "versions": machine}
