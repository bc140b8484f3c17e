# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Does over REST what an annotator does with the MONAI Label server: next study, lesion, correction, training, lesion again.

Run it in the environment of `make label`, against its phantom studies: their true masks play the annotator.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import requests

from roi_fusion.errors import InputError

__all__ = ["Client", "dice", "picture", "walk"]

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Client:
    """The few requests that the walk needs; errors are the server's own sentences."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def _send(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        try:
            answer = requests.request(method, self.address + path, timeout=3600, **kwargs)
        except requests.ConnectionError:
            raise InputError(f"address: expected a running server, found none at {self.address} (make label)") from None
        if answer.status_code != 200:
            raise InputError(f"{path}: {answer.json().get('detail', answer.text)}")
        return answer

    def next_study(self) -> dict[str, Any]:
        """The study that the model knows least, with its ``id``; empty where all have a label."""
        return self._send("POST", "/activelearning/uncertainty", json={}).json()

    def infer(self, study: str, kind: str) -> np.ndarray:
        """A result volume of a study, such as ``lesion`` or ``fused``, ``[X, Y, Z]``."""
        query = {"image": study, "output": "image"}
        answer = self._send("POST", "/infer/lesion", params=query, data={"params": json.dumps({"kind": kind})})
        return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)

    def submit(self, study: str, label: Path) -> None:
        """Submit a mask as the label of a study."""
        self._send("PUT", "/datastore/label", params={"image": study}, files={"label": (label.name, label.read_bytes())})

    def train(self, **knobs: Any) -> None:
        """Train on all submitted labels, to the end."""
        self._send("POST", "/train/lesion", json=knobs)
        while (task := self._send("GET", "/train/").json())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(2)
        if task["status"] != "DONE":
            raise InputError(f"training: {task['details'][-1] if task['details'] else task['status']}")


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks; NaN where both are empty."""
    total = float((prediction > 0).sum() + (truth > 0).sum())
    return 2 * float(((prediction > 0) & (truth > 0)).sum()) / total if total else float("nan")


def picture(path: Path, mri: np.ndarray, ct: np.ndarray, truth: np.ndarray, before: dict, after: dict) -> None:
    """One slice of a study: sources and truth above, the answers before and after the training below."""
    z = int(truth.sum((0, 1)).argmax())
    top = float(np.percentile(mri[..., z], 99.5))
    panels = [
        ("MRI, true lesion", mri, truth, (0, top)),
        ("CT", ct, None, (-20, 100)),
        ("fused", before["fused"], None, (0, top)),
        ("uncertainty, bits", before["uncertainty"], None, (0, 1)),
        (f"lesion before: Dice {dice(before['lesion'], truth):.2f}", mri, before["lesion"], (0, top)),
        (f"lesion after: Dice {dice(after['lesion'], truth):.2f}", mri, after["lesion"], (0, top)),
        ("fused after", after["fused"], None, (0, top)),
        ("uncertainty after, bits", after["uncertainty"], None, (0, 1)),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    for axis, (title, volume, mask, (low, high)) in zip(axes.flat, panels):
        colours = "magma" if "bits" in title else "gray"
        axis.imshow(np.rot90(volume[..., z]), cmap=colours, vmin=low, vmax=high)
        if mask is not None and mask[..., z].any():
            axis.contour(np.rot90(mask[..., z]), [0.5], colors="tab:red", linewidths=1)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def walk(
    studies: str = "label_work/phantoms",
    address: str = "http://127.0.0.1:8000",
    output: str = "label_work/walk.png",
    labels: int = 2,
    max_epochs: int = 40,
    learning_rate: float = 1e-3,
) -> None:
    """Submit the lesions of the studies that the model knows least, train, and picture a study before and after.

    Args:
        studies: the folder that the server was started with, of <case>/{mri,ct,lesion_mask}.nii.gz.
        address: of the server.
        output: picture to write.
        labels: studies to submit.
        max_epochs: epochs to train; with so few studies an epoch is one step.
        learning_rate: of the training.
    """
    client, kinds = Client(address), ("lesion", "fused", "uncertainty")
    seen: list[str] = []
    before: dict[str, np.ndarray] = {}
    for _ in range(labels):
        study = client.next_study()
        if not study:
            break
        mask = Path(studies) / study["id"] / "lesion_mask.nii.gz"
        if not mask.is_file():
            raise InputError(f"studies: expected the true lesion to play the annotator, found no {mask}")
        print(f"next study: {study['id']}, entropy {study['uncertainty']['bit_ml']:.1f} bit mL")
        if not seen:
            before = {kind: client.infer(study["id"], kind) for kind in kinds}
        client.submit(study["id"], mask)
        seen.append(study["id"])
    if not seen:
        raise InputError("studies: expected at least one without a submitted label, got none")
    print(f"training {max_epochs} epochs on {len(seen)} submitted labels ...", flush=True)
    client.train(max_epochs=max_epochs, learning_rate=learning_rate, val_interval=max(1, max_epochs // 4), val_split=0)
    after = {kind: client.infer(seen[0], kind) for kind in kinds}
    files = [Path(studies) / seen[0] / f"{n}.nii.gz" for n in ("mri", "ct", "lesion_mask")]
    mri, ct, truth = (np.asarray(nib.Nifti1Image.from_filename(file).dataobj) for file in files)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    picture(Path(output), mri, ct, truth, before, after)
    print(f"{seen[0]}: Dice {dice(before['lesion'], truth):.2f} before, {dice(after['lesion'], truth):.2f} after; {output}")
