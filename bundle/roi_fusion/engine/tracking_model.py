# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The best weights of a training as a model in MLflow's registry, which takes two file paths.

Importing this module works without mlflow.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.utils import optional_import

from ..errors import InputError
from .prediction import Predictor

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.pyfunc import PythonModel
else:
    pd, _ = optional_import("pandas")
    PythonModel, _ = optional_import("mlflow.pyfunc", name="PythonModel", as_type="base")

__all__ = ["FusionModel", "bundle_copy", "register_weights"]

_REQUIREMENTS = ["torch", "monai", "pytorch-ignite", "nibabel", "scikit-image", "scipy", "matplotlib", "jinja2", "tqdm"]
_CODE = """from mlflow.models import set_model

from roi_fusion.engine.tracking_model import FusionModel

set_model(FusionModel())
"""


def bundle_copy(bundle_root: str | Path, run_dir: str | Path, folder: str | Path) -> Path:
    """A copy of what inference needs as ``<folder>/bundle``: configs, package, licence and the best weights of a training.

    Network and noise schedule of ``inference.json`` become those that the training had.

    Raises:
        InputError: when the training has left no weights.
    """
    weights = Path(run_dir) / "model.pt"
    if not weights.is_file():
        raise InputError(f"register_model: expected best weights at {weights}, found none (was there a validation?)")
    source, target = Path(bundle_root), Path(folder) / "bundle"
    for name in ("configs", "roi_fusion"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "LICENSE", target / "LICENSE")
    (target / "models").mkdir()
    shutil.copy(weights, target / "models" / "model.pt")
    run = json.loads((Path(run_dir) / "run.json").read_text())
    config = json.loads((target / "configs" / "inference.json").read_text())
    config.update({"network_def": run["network_def"], "scheduler": run["knobs"]["scheduler"]})
    (target / "configs" / "inference.json").write_text(json.dumps(config, indent=4))
    return target


def register_weights(tracking_uri: str, run_id: str, name: str, bundle_root: str | Path, run_dir: str | Path) -> None:
    """Log the best weights of a training to its run as a model with signature and input example, and register it.

    Args:
        tracking_uri: of MLflow.
        run_id: of the training.
        name: in the registry.
        bundle_root, run_dir: see :func:`bundle_copy`.

    Raises:
        InputError: when the training has left no weights.
    """
    import mlflow

    example = pd.DataFrame([{"mri": "case_01/mri.nii.gz", "ct": "case_01/ct.nii.gz", "output_dir": "results"}])
    before, said = mlflow.get_tracking_uri(), logging.getLogger("mlflow.models.model")
    level = said.level
    said.setLevel(logging.ERROR)  # MLflow tries the example, whose files are names alone, and warns
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=run_id):
            bundle = bundle_copy(bundle_root, run_dir, scratch)
            code = Path(scratch) / "fusion_model.py"  # MLflow advises against pickled models
            code.write_text(_CODE)
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(code),
                artifacts={"bundle": str(bundle)},
                code_paths=[str(bundle / "roi_fusion")],
                registered_model_name=name,
                signature=_signature(),
                input_example=example,
                pip_requirements=_REQUIREMENTS,
            )
    finally:
        mlflow.set_tracking_uri(before)
        said.setLevel(level)


def _signature() -> Any:
    """Columns of what :class:`FusionModel` takes and returns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    given: list[Any] = [ColSpec("string", "mri"), ColSpec("string", "ct"), ColSpec("string", "output_dir", required=False)]
    found = [
        ColSpec("string", "folder"),
        *(ColSpec("double", n, required=False) for n in ("lesion_ml", "lesion_ml_low", "lesion_ml_high")),
        ColSpec("string", "warnings"),
    ]
    return ModelSignature(inputs=Schema(given), outputs=Schema([*given, *found]))


class FusionModel(PythonModel):
    """``predict(DataFrame with columns mri, ct[, output_dir])`` → the row of each pair with ``folder``, where its files lie,
    ``lesion_ml``, ``lesion_ml_low`` and ``lesion_ml_high``, its interval, None where there is none, and ``warnings``.

    Loaded by ``mlflow.pyfunc.load_model("models:/<name>/<version>")``. Without an `output_dir` the files go to ``roi_fusion``
    beside the MRI.
    """

    def load_context(self, context: Any) -> None:
        """Load the weights once."""
        bundle = Path(context.artifacts["bundle"])
        self._predictor = Predictor(bundle / "models" / "model.pt", bundle_root=bundle)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict every pair of files.

        Raises:
            InputError: when a column is missing or a pair cannot be used.
        """
        if not {"mri", "ct"} <= set(model_input):
            raise InputError(f"model_input: expected the columns mri and ct, got {', '.join(map(str, model_input)) or 'none'}")
        rows = []
        for row in pd.DataFrame(model_input).to_dict("records"):
            output_dir = Path(row.get("output_dir") or Path(row["mri"]).resolve().parent / "roi_fusion")
            found = self._predictor(row["mri"], row["ct"], output_dir)
            low, high = found.lesion_ml_interval or (None, None)
            facts = {"lesion_ml": found.lesion_ml, "lesion_ml_low": low, "lesion_ml_high": high}
            rows.append({**row, "folder": str(output_dir / found.case), **facts, "warnings": " | ".join(found.warnings)})
        return pd.DataFrame(rows)
