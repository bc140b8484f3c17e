# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Keeps requests inside the studies' folder, and turns errors into one sentence with a 4xx code.

The stock server joins names from requests to paths as they come (``PUT /datastore/?image=../../x`` writes outside the folder),
reads any file whose path a request names, and answers bad input with 500.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.utils.sessions import Sessions
from request_guard import GuardOptions, RequestGuard
from starlette.middleware.cors import CORSMiddleware

_MRI_FILES = ("mri.nii.gz", "mri.nii")
_NO_STUDY = re.compile(r"(.+_)?(ct|lesion_mask|brain_mask|bone_mask)")


class NotThere(Exception):
    """A name that is not known: 404."""


class RefusedPath(Exception):
    """A name that leaves its folder: 400."""


class TooLarge(Exception):
    """More than the limit: 413."""


def stop(sentence: str) -> NoReturn:
    """End the process at once: uvicorn would wrap an exit during its start in pages of traceback."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(2)


def plain_name(what: str, name: Any) -> str:
    """`name`, when it is one that cannot leave a folder."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .+-]*", name) or ".." in name:
        raise RefusedPath(f"{what}: expected a name of letters, digits, dots, blanks and dashes, got {name!r}")
    return name


def private_uploads() -> Path:
    """Where this process keeps uploads from now on: a folder of its own, whose names no request can know beforehand."""
    folder = Path(tempfile.mkdtemp(prefix="roi_fusion_label_")).resolve()
    tempfile.tempdir = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Studies(LocalDatastore):
    """A folder of studies: ``x_mri.nii.gz`` beside ``x_ct.nii.gz``, or ``<case>/mri.nii.gz`` beside ``<case>/ct.nii.gz``.

    Only MRIs are studies. An id is the file's name without its ending, or the case's name.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).resolve()
        super().__init__(
            str(self.folder),
            extensions=("*.nii.gz", "*.nii", "*.nrrd"),
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _to_id(self, file: str) -> tuple[str, str]:
        case, _, name = file.rpartition("/")
        return (case, f"/{name}") if case and name in _MRI_FILES else super()._to_id(file)

    def _list_files(self, path: str, patterns: Any) -> dict[str, str]:
        found = super()._list_files(path, patterns)
        if Path(path).resolve() == self.folder:
            found = {f: f for f in found if not _NO_STUDY.fullmatch(super(Studies, self)._to_id(f)[0])}
            for name in _MRI_FILES:
                found.update({f"{p.parent.name}/{name}": f"{p.parent.name}/{name}" for p in self.folder.glob(f"*/{name}")})
        return found

    def _remove_non_existing(self) -> int:
        count = super()._remove_non_existing()
        for image in [i for i in self._datastore.objects if _NO_STUDY.fullmatch(i)]:  # as a stock server or an upload adds it
            del self._datastore.objects[image]
            count += 1
        return count

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        info = super().get_image_info(image_id)
        return {**info, "name": info["name"].replace("/", "_")} if "name" in info else info

    def get_ct_uri(self, name: str) -> str:
        """The CT that a request names: ``x_ct`` or ``x_ct.nii.gz`` for that file, the name of a case for its CT."""
        plain_name("ct", name)
        for file in (name, f"{name}.nii.gz", f"{name}.nii", f"{name}/ct.nii.gz", f"{name}/ct.nii"):
            if (self.folder / file).is_file():
                return str(self.folder / file)
        raise NotThere(f"ct: expected a CT of the studies, found no {name}")

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        plain_name("image", image_id)
        if not re.search(r"\.(nii|nii\.gz|nrrd)$", image_filename):
            raise RefusedPath(f"image: expected a file .nii.gz, .nii or .nrrd, got {Path(image_filename).suffix or 'none'}")
        added = super().add_image(image_id, image_filename, image_info)
        self.refresh()
        return added

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        from roi_fusion.data.io import read_volume
        from roi_fusion.data.transforms.loading import CheckVolumesd, to_metatensor
        from roi_fusion.errors import InputError

        plain_name("tag", label_tag)
        image_file = self.get_image_uri(image_id)
        if not image_file:
            raise NotThere(f"image: expected the id of a study, got {image_id!r}")
        try:
            label = to_metatensor(read_volume(label_filename, as_stored=True))
        except InputError as e:
            raise InputError(f"label: {str(e).removeprefix(f'{label_filename}: ')}") from e
        image = to_metatensor(read_volume(image_file, as_stored=True))
        if label.shape != image.shape:
            raise InputError(f"label: expected the MRI's shape {tuple(image.shape[1:])}, got {tuple(label.shape[1:])}")
        if not np.allclose(label.affine, image.affine, atol=1e-2):
            raise InputError("label: expected the MRI's orientation and position (affine), got another")
        if label_tag == "final":
            label.meta["filename_or_obj"] = "label"
            CheckVolumesd("label")({"label": label})
        return super().save_label(image_id, label_filename, label_tag, label_info)


class GuardedSessions(Sessions):
    """Sessions whose ids are ids, and whose archives cannot write outside or unpack to more than an upload may hold."""

    max_unpacked_bytes = int(GuardOptions().max_upload_mb * 1e6)

    def get_session(self, session_id: str, *args: Any, **kwargs: Any) -> Any:
        return super().get_session(plain_name("session_id", session_id), *args, **kwargs)

    def add_session(self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: Any = None) -> Any:
        if uncompress and not data_file.lower().endswith(".zip"):  # unlike zip, tar keeps paths that lead outside
            raise RefusedPath(f"files: expected a .zip to unpack, got {Path(data_file).suffix or 'none'}")
        if uncompress:
            self._check_archive(data_file)
        return super().add_session(data_file, expiry, uncompress, session_id)

    def _check_archive(self, file: str) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
        except (OSError, zipfile.BadZipFile):
            raise RefusedPath("files: expected a .zip to unpack, got a file that is none") from None
        if size > self.max_unpacked_bytes:
            limit = self.max_unpacked_bytes / 1e6
            raise TooLarge(f"files: expected {limit:g} MB or less when unpacked, got {size / 1e6:.0f} MB")


def guard_options() -> GuardOptions:
    """What ``--conf`` lets in; ends the process where it cannot be read."""
    try:
        return GuardOptions.from_conf(settings.MONAI_LABEL_APP_CONF)
    except ValueError as e:
        stop(f"--conf {e}")


def guard_server(input_error: type[Exception], options: GuardOptions) -> None:
    """Put the guard and the sentences into MONAI Label's running server.

    MONAI Label's own answer to pages of other sites, which lets all of them in with the reader's credentials, goes.
    """
    from monailabel.app import app

    def sentence(status: int) -> Any:
        async def answer(_: Request, error: Exception) -> JSONResponse:
            broken = isinstance(error, json.JSONDecodeError)
            text = "params: expected JSON" if broken else getattr(error, "msg", None) or str(error)
            return JSONResponse({"detail": text}, status)

        return answer

    assert isinstance(app, FastAPI)
    app.middleware_stack = None  # built anew with these at the next request
    app.user_middleware = [m for m in app.user_middleware if m.cls is not CORSMiddleware]
    app.add_middleware(RequestGuard, options=options)
    GuardedSessions.max_unpacked_bytes = int(options.max_upload_mb * 1e6)
    codes = {
        input_error: 422,
        RefusedPath: 400,
        TooLarge: 413,
        json.JSONDecodeError: 400,
        NotThere: 404,
        MONAILabelException: 404,
    }
    for kind, status in codes.items():
        app.add_exception_handler(kind, sentence(status))
