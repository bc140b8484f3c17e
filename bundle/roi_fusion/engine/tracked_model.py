# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The model that MLflow's registry holds: a pyfunc from two file paths to result files and volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from ..data.transforms.loading import CompleteCased
from ..errors import InputError
from .prediction import Predictor

__all__ = ["FusionModel"]


class FusionModel(PythonModel):
    """``predict(DataFrame with columns mri, ct[, output_dir])`` → a row per pair: folder of its files, lesion volume.

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
            result = self._predictor(row["mri"], row["ct"], output_dir)
            case = CompleteCased()({"image": row["mri"], "ct": row["ct"]})["case"]
            voxel_ml = abs(float(np.linalg.det(result["affine"][:3, :3]))) / 1000
            rows.append({**row, "folder": str(output_dir / case), "lesion_ml": float(result["lesion"].sum()) * voxel_ml})
        return pd.DataFrame(rows)
