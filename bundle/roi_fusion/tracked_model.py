# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The model that MLflow's registry holds: a pyfunc from two file paths to result files and volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel

from .prediction import predict

__all__ = ["FusionModel"]


class FusionModel(PythonModel):
    """``predict(DataFrame with columns mri, ct[, output_dir])`` → a row per pair: folder of its files, lesion volume.

    Loaded by ``mlflow.pyfunc.load_model("models:/<name>/<version>")``.
    """

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        bundle = Path(context.artifacts["bundle"])
        rows = []
        for row in model_input.to_dict("records"):
            output_dir = row.get("output_dir") or str(Path(row["mri"]).resolve().parent / "roi_fusion")
            result = predict(row["mri"], row["ct"], output_dir=output_dir, checkpoint=bundle / "models" / "model.pt")
            rows.append(
                {"mri": row["mri"], "ct": row["ct"], "folder": str(result["folder"]), "lesion_ml": result["facts"]["lesion_ml"]}
            )
        return pd.DataFrame(rows)
