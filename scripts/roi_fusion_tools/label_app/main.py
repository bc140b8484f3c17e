# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""MONAI Label app of the bundle: lesion and fused volume, training on submitted labels, active learning and scoring.

    monailabel start_server --app label_app --studies DIR --host 127.0.0.1 [--conf bundle PATH]
        [--conf allowed_hosts A,B] [--conf max_upload_mb 1024] [--conf proxy true]

PATH is the bundle's folder, by default the one beside this app; the rest is explained in ``request_guard.py``. Nothing is
fetched from a network. What users need to know stands in ``bundle/docs/monai_label.md``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from guarded import (
    GuardedSessions,
    NotThere,
    RefusedPath,
    Studies,
    guard_options,
    guard_server,
    plain_name,
    private_uploads,
    stop,
)
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

BUNDLE = Path(settings.MONAI_LABEL_APP_CONF.get("bundle") or Path(__file__).parents[1] / "bundle").expanduser().resolve()
if not (BUNDLE / "configs" / "inference.json").is_file():
    stop(f"--conf bundle: expected the folder of the bundle, found no {BUNDLE / 'configs' / 'inference.json'}")
if "start_server" in sys.argv and not any(a.startswith(("-i", "--ho")) for a in sys.argv):
    stop("--host: expected an address to listen on, as --host 127.0.0.1; MONAI Label's own default is every network")
GUARD = guard_options()
sys.path.insert(0, str(BUNDLE))

from bundle_tasks import KINDS, MODELS, BatchInfer, Infer, LeastKnown, Metrics, Train, check_device, first_of  # noqa: E402

from roi_fusion import __version__  # noqa: E402
from roi_fusion.errors import InputError  # noqa: E402

#: What of an inference's request is used: anything more could name a file.
_INFER_KEYS = ("model", "image", "ct", "kind", "device", "result_extension", "save_label", "label_tag")


class RoiFusionApp(MONAILabelApp):
    """See the module."""

    _infers: dict[str, Any]

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._uploads = private_uploads()
        super().__init__(app_dir, studies, conf, name="ROI Fusion", description="; ".join(MODELS.values()), version=__version__)
        self._auto_update_scoring = False  # it would run the whole network on all labels at every request for a study

    def init_infers(self) -> dict[str, Any]:
        return {kind: Infer(BUNDLE, kind) for kind in MODELS}

    def init_trainers(self) -> dict[str, Any]:
        return {"lesion": Train(BUNDLE)}

    def init_strategies(self) -> dict[str, Any]:
        return {"uncertainty": LeastKnown(self), "random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, Any]:
        return {"metrics": Metrics(self)}

    def init_batch_infer(self) -> BatchInfer:
        return BatchInfer()

    def init_datastore(self) -> Any:
        remote = self.studies.startswith(("http://", "https://"))
        return super().init_datastore() if remote else Studies(self.studies)

    def _load_sessions(self, load: bool = False) -> Any:
        return GuardedSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY) if load else None

    def on_init_complete(self) -> None:
        guard_server(InputError, GUARD)
        super().on_init_complete()

    def infer_task(self, model: Any) -> Infer:
        if model not in MODELS:
            raise NotThere(f"model: expected one of {', '.join(MODELS)}, got {model!r}")
        if not self._infers[model].is_valid():  # at the start there were no weights
            self._infers = self.init_infers()
        weights = BUNDLE / "models" / "model.pt"
        if not self._infers[model].is_valid() or not weights.is_file():
            raise InputError(
                f"{weights}: expected weights to run, found no such file; put them there, or train with pretrained false"
            )
        return self._infers[model]

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        return super().infer(self._checked(request), datastore)

    def _checked(self, request: dict[str, Any]) -> dict[str, Any]:
        """What of a request is used, with ids resolved.

        Raises:
            InputError: for what cannot be used, and for paths that leave the studies.
        """
        given = {k: request[k] for k in _INFER_KEYS if request.get(k) not in (None, "", [])}
        given["kind"] = first_of(given.get("kind", given["model"]))
        self.infer_task(given["model"])
        if given["kind"] not in KINDS:
            raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {given['kind']!r}")
        if given.get("result_extension", ".nii") not in (".nii", ".nii.gz", ".nrrd"):
            raise InputError(f"result_extension: expected .nii.gz, .nii or .nrrd, got {given['result_extension']!r}")
        if "device" in given:
            given["device"] = first_of(given["device"])
            check_device(given["device"])
        plain_name("label_tag", given.get("label_tag", "original"))
        found = self.datastore().get_image_uri(given.get("image", ""))
        if not found or os.path.exists(given["image"]):
            given["image"] = found or self._upload(given.get("image", ""))
        if "ct" in given:
            given["ct"] = self.datastore().get_ct_uri(given["ct"])
        return given

    def _upload(self, path: str) -> str:
        """`path`, when it is what this server stored of a request's own upload or session."""
        folders = [self._uploads, *([Path(self._sessions.store_path)] if self._sessions else [])]
        if path and os.path.exists(path) and any(Path(path).resolve().is_relative_to(f.resolve()) for f in folders):
            return path
        kind = RefusedPath if os.sep in path or ".." in path else NotThere
        raise kind(f"image: expected the id of a study, got {path!r}")

    def train(self, request: dict[str, Any]) -> Any:
        try:
            return super().train(request)
        except Exception as e:
            cause: BaseException | None = e
            while cause is not None and not isinstance(cause, InputError):
                cause = cause.__cause__ or cause.__context__
            if cause is None or self._server_mode:
                raise cause or e from None
            sys.exit(f"error: {cause}")
