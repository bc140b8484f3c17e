# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the app makes of the bundle: inference, training, active learning and scoring."""

from __future__ import annotations

import copy
import logging
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, device_map

from roi_fusion.config.check import check_config
from roi_fusion.core.facts import facts_of
from roi_fusion.data.cases import sentence_for
from roi_fusion.data.io import split_ending
from roi_fusion.data.results import RESULT_FILES, write_volume
from roi_fusion.data.splits import hold_back
from roi_fusion.data.transforms.loading import CompleteCased
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.engine.inferer import intensity_of
from roi_fusion.engine.weights import load_weights
from roi_fusion.engine.writers import ResultWriter
from roi_fusion.errors import InputError
from roi_fusion.metrics.table import write_tables

logger = logging.getLogger(__name__)

#: What a request may name as its ``kind`` → (key after postprocessing, type on disk).
KINDS = {stem: (key, dtype) for key, (stem, dtype) in RESULT_FILES.items()}
MODELS = {
    "lesion": "Lesion mask of a pair of MRI and CT. Research only, not for diagnosis.",
    "fused": "MRI and CT fused into one volume in the MRI's units: load it as a volume, not as a label map.",
}
#: What of a training's request is used: any other text would be evaluated as Python by the config.
_TRAIN_KEYS = ("model", "device", "max_epochs", "val_split", "multi_gpu", "gpus")
_TRAIN_KNOBS = (
    "learning_rate",
    "final_learning_rate",
    "warmup_steps",
    "ema_decay",
    "batch_size",
    "samples_per_case",
    "patch_size",
    "preset",
    "alpha",
    "beta",
    "gamma",
    "roi_weight",
    "jitter_mm",
    "jitter_degrees",
    "val_interval",
    "num_inference_steps",
    "seed",
)


def first_of(value: Any) -> Any:
    """Clients send an option's whole list of choices for its first."""
    return value[0] if isinstance(value, (list, tuple)) and value else value


def run_dir(bundle: Path) -> Path:
    """Where trainings and scores of this server go."""
    return bundle / "runs" / "label"


def check_device(device: Any) -> None:
    if device not in {"cpu", "cuda", *device_list(), *device_map().values()}:
        raise InputError(f"device: expected one of {', '.join(device_list())}, got {device!r}")


class Infer(BundleInferTask):
    """The bundle's inference; answers with the volume `kind` where the request names no other."""

    def __init__(self, bundle: Path, kind: str) -> None:
        self.weights = bundle / "models" / "model.pt"
        kind_type = InferType.SEGMENTATION if kind == "lesion" else InferType.OTHERS  # viewers offer OTHERS for no label map
        super().__init__(str(bundle), {}, type=kind_type, add_post_restore=False)
        if self.valid:
            self.description, self.labels = MODELS[kind], {"lesion": 1} if kind == "lesion" else {}
            self._config.pop("model_filename")
            self._config["kind"] = [kind, *(k for k in KINDS if k != kind)]

    def stamp(self) -> int:
        """Changes with the weights."""
        return self.weights.stat().st_mtime_ns

    def _get_network(self, device: str, data: Any) -> torch.nn.Module:
        stamp = self.stamp()
        if self._networks.get(device, (None, None))[1] != stamp:
            network = load_weights(copy.deepcopy(self.network), self.weights)
            self._networks[device] = (network.to(torch.device(device)).eval(), stamp)
        return self._networks[device][0]

    def run_pre_transforms(self, data: dict[str, Any], transforms: Any) -> dict[str, Any]:
        case: Any = CompleteCased(allow_missing=True)(cast(Any, data))
        try:
            return super().run_pre_transforms(case, transforms)
        except Exception as e:  # readers raise whatever broken bytes lead them to
            raise InputError(sentence_for(e, case)) from e

    def sampler(self) -> Any:
        return super().inferer()

    def inferer(self, data: Any = None) -> Any:
        return partial(self.sampler(), intensity=intensity_of(data))  # it guides on the MRI's scale

    def run(self, image: str, label: str | None = None) -> dict[str, Any]:
        """All volumes of a case after postprocessing, nothing written; with `label` as its reference where it is given."""
        return self({"image": image, "skip_writer": True, **({"label": label} if label else {})})[1]

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str, dict[str, Any]]:
        kind = first_of(data["kind"])
        key, dtype = KINDS[kind]
        network = self._get_network(str(data.get("device", "cpu")), data)
        facts = {"kind": kind, **ResultWriter("", self.sampler(), network=network).facts(data, data)}
        ending = data.get("result_extension") or ".nii.gz"
        if ending == ".nrrd":
            return super().writer({**data, "pred": data[key][0]}, ending, dtype)[0], facts
        handle, path = tempfile.mkstemp(suffix=ending)
        os.close(handle)
        write_volume(path, data[key], dtype)
        return path, facts


def _named(mri: Path) -> dict[str, str]:
    """Case and folder of a study, by which its patient is known."""
    nested = split_ending(mri.name)[0] == "mri"
    return {"case": mri.parent.name, "folder": str(mri.parent)} if nested else {"case": split_ending(mri.name)[0]}


class Train(BundleTrainTask):
    """The bundle's training from its current weights on all submitted labels; ends with new ``models/model.pt``."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(str(bundle), {})
        self.bundle = bundle

    def config(self) -> dict[str, Any]:
        return {"device": device_list(), "max_epochs": 20, "val_split": 0.2, "pretrained": True, "learning_rate": 1e-4}

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        knobs = {k: first_of(v) if k == "preset" else v for k, v in request.items() if k in _TRAIN_KNOBS and v is not None}
        allowed = {"multi_gpu": False, "max_epochs": 20, "val_split": 0.2}
        allowed |= {k: first_of(request[k]) for k in _TRAIN_KEYS if k in request}
        knobs["max_epochs"] = allowed["max_epochs"]
        for name, value in knobs.items():
            if isinstance(value, str) and (name != "preset" or value[:1] in "$@%"):  # the config would evaluate it
                raise InputError(f"{name}: expected a {'preset' if name == 'preset' else 'number'}, got {value!r}")
        check_config(knobs, set())
        if not isinstance(allowed["val_split"], (int, float)) or not 0 <= allowed["val_split"] < 1:
            raise InputError(f"val_split: expected a share from 0 to below 1, got {allowed['val_split']!r}")
        if allowed.get("device") is not None:
            check_device(allowed["device"])
        folders = {"output_dir": str(run_dir(self.bundle)), "publish_dir": str(self.bundle / "models")}
        self._knobs = {"warmup_steps": 10, **knobs, **folders}  # a short training would end within the default warm-up
        if request.get("pretrained", True) is not False:
            self._knobs["initial_weights"] = str(self.bundle / "models" / "model.pt")
        return super().__call__({**allowed, "tracking": ""}, datastore)

    def _load_checkpoint(self, *_: Any) -> None:
        """Nothing: ``initial_weights`` loads them, and reports a file that does not fit in one sentence."""

    def _fetch_datalist(self, request: Any, datastore: Any) -> list[dict[str, str]]:
        cases = sorted(super()._fetch_datalist(request, datastore), key=lambda d: d["image"])
        if not cases:
            raise InputError("expected at least one submitted label to train on, got none")
        return cases

    def _partition_datalist(self, datalist: Any, request: Any, shuffle: bool = False) -> tuple[list, list]:
        cases = [_named(Path(d["image"])) for d in datalist]
        train, held = hold_back(cases, min(len(datalist) - 1, round(request["val_split"] * len(datalist))))
        # Too few patients to hold any back: the training cases say how it goes.
        return [datalist[i] for i in train], [datalist[i] for i in held] or datalist

    def _update_overrides(self, overrides: dict[str, Any]) -> None:
        overrides.update(self._knobs)


class BatchInfer(BatchInferTask):
    """Many studies, one after the other; one that cannot be used does not stop the others."""

    def __call__(self, request: dict[str, Any], datastore: Any, infer: Any) -> Any:
        def one(study: dict[str, Any], store: Any) -> dict[str, Any]:
            try:
                return infer(study, store)
            except InputError as e:
                return {"error": str(e)}

        several = bool(request.get("multi_gpu", True)) and torch.cuda.device_count() > 1  # MONAI Label divides by zero without
        return super().__call__({**request, "multi_gpu": several}, datastore, one)


class LeastKnown(Strategy):
    """Next is the unlabelled study whose lesion volume is least certain."""

    def __init__(self, app: Any) -> None:
        super().__init__("The study whose lesion the model knows least: entropy in bits, summed over the volume in mL")
        self.app = app

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        until = time.monotonic() + float(
            request.get("max_seconds", 120)
        )  # what is not measured by then waits for the next call
        task = self.app.infer_task("lesion")
        known: dict[str, Any] = {}
        stamp = task.stamp()
        for image in datastore.get_unlabeled_images():
            value = datastore.get_image_info(image).get("uncertainty") or {}
            if value.get("weights") != stamp:
                if known and time.monotonic() > until:
                    continue
                try:
                    data = task.run(datastore.get_image_uri(image))
                except InputError as e:
                    logger.warning("no uncertainty of %s: %s", image, e)
                    continue
                voxel_ml = abs(float(np.linalg.det(data["uncertainty"].affine[:3, :3]))) / 1000
                value = {"bit_ml": round(float(data["uncertainty"].sum()) * voxel_ml, 4), "weights": stamp}
                datastore.update_image_info(image, {"uncertainty": value})
            known[image] = value["bit_ml"]
        return {"id": max(known, key=lambda image: known[image])} if known else {}


class Metrics(ScoringMethod):
    """The bundle's metrics of the current weights on submitted labels: in each label's info, and as tables in the bundle's
    ``runs/label/scoring``."""

    def __init__(self, app: Any) -> None:
        super().__init__("Metrics of the current weights on submitted labels")
        self.app = app

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        task, rows, answer = self.app.infer_task("lesion"), [], {}
        for image in datastore.get_labeled_images():
            try:
                data = task.run(datastore.get_image_uri(image), datastore.get_label_uri(image, "final"))
            except InputError as e:
                answer[image] = {"error": str(e)}
                continue
            measured = CaseMetrics(facts_of(data["prediction"]).lesion_threshold).measure(data, data["prediction"])
            rows += measured
            own = {k: v for k, v in measured[0].items() if not (isinstance(v, float) and not math.isfinite(v))}
            datastore.update_label_info(image, "final", {"metrics": own})
            answer[image] = own
        if rows:
            write_tables(run_dir(Path(task.bundle_path)) / "scoring", rows)
        return answer
