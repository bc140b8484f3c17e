# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Starts the MONAI Label server of the bundle; `roi-fusion label` is its command line."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import roi_fusion
from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.errors import InputError

from .phantoms.render import PhantomConfig
from .phantoms.write import write_phantoms

__all__ = ["APP", "prepare", "serve"]

#: The MONAI Label app.
APP = Path(__file__).resolve().parent / "label_app"
PHANTOMS = PhantomConfig(shape=(128, 128, 20), spacing_mm=(1.8, 1.8, 7.5), lesion_free_share=0.0)


def prepare(work_dir: Path) -> Path:
    """The server's own copy of app and bundle: a training there never touches the weights that the bundle ships.

    Weights that the copy already has stay; everything else is renewed.
    """
    bundle = work_dir / "bundle"
    if (bundle / "configs").exists() and not (work_dir / "app" / "main.py").is_file():
        raise InputError(
            f"work_dir: expected a new folder or one of an earlier server, got one with another bundle: {work_dir}"
        )
    (work_dir / "app").mkdir(parents=True, exist_ok=True)
    for file in APP.glob("*.py"):
        shutil.copyfile(file, work_dir / "app" / file.name)
    sources = {"configs": BUNDLE_ROOT / "configs", "docs": BUNDLE_ROOT / "docs", "roi_fusion": Path(roi_fusion.__file__).parent}
    for name, source in sources.items():
        shutil.rmtree(bundle / name, ignore_errors=True)
        shutil.copytree(source, bundle / name, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "models").mkdir(exist_ok=True)
    shipped, own = (folder / "models" / "model.pt" for folder in (BUNDLE_ROOT, bundle))
    if shipped.is_file() and not own.is_file():
        shutil.copyfile(shipped, own)
    return bundle


def serve(
    studies: str | None = None,
    work_dir: str = "label_work",
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: str = "",
    max_upload_mb: float = 1024,
    proxy: bool = False,
) -> None:
    """Start the server in place of this process; Ctrl-C ends it.

    Args:
        studies: folder of <case>/{mri,ct}.nii.gz or of x_mri.nii.gz beside x_ct.nii.gz, or the address of a DICOMweb server;
            phantoms are made when not given.
        work_dir: folder for weights, trainings and logs of this server.
        host: address to listen on; others than this machine reach it only at an address of the network, as 0.0.0.0.
        port: port to listen on.
        allowed_hosts: names and addresses, with commas between, under which other machines reach it; this machine's own
            loopback names and `host` always count.
        max_upload_mb: largest upload, in megabytes.
        proxy: pass requests below /proxy/ on to the DICOMweb server of the studies, as OHIF needs it.

    Raises:
        InputError: where monailabel is not installed, the studies are not there, or the folder holds another bundle.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise InputError("label: expected the package monailabel, found none (bundle/docs/monai_label.md tells how to get it)")
    work = Path(work_dir).resolve()
    work.mkdir(parents=True, exist_ok=True)
    remote = studies is not None and str(studies).startswith(("http://", "https://"))
    if studies is not None and not remote and not Path(studies).is_dir():
        raise InputError(f"studies: expected a folder of studies, found no folder {studies}")
    if studies is None:
        studies = str(work / "phantoms")
        if not Path(studies).is_dir():
            print("making four phantom studies ...", flush=True)
            list(write_phantoms(studies, 4, PHANTOMS, seed=5))
    folder = str(studies) if remote else str(Path(studies).resolve())
    bundle = prepare(work)
    address = f"http://{host}:{port}"
    weights = bundle / "models" / "model.pt"
    lines = [
        "ROI Fusion for MONAI Label. For research, not for diagnosis.",
        "",
        f"address     {address}   (what it can do: {address}/info/, all requests: {address}/)",
        f"studies     {folder}",
        "models      lesion  mask of the stroke lesion; trains on submitted labels",
        "            fused   MRI and CT in one volume, in the MRI's units",
        f"            both from {weights}" + ("" if weights.is_file() else "  (not there yet)"),
        f"3D Slicer   module MONAI Label, server {address}, Next Sample, then Auto Segmentation with lesion",
        f"OHIF        {address}/ohif/ where the studies come from a DICOMweb server, with --proxy true",
        f"results     submitted labels: {'the DICOMweb server' if remote else folder + '/labels/final'}",
        f"            trainings and scores: {bundle / 'runs' / 'label'}; weights before the last training: models/previous.pt",
        "more        bundle/docs/monai_label.md",
    ]
    print("\n".join(lines), flush=True)
    named = [n for n in (*allowed_hosts.split(","), host) if n and n not in ("0.0.0.0", "::")]
    if host in ("0.0.0.0", "::") and not allowed_hosts:
        print("warning: no other machine is let in without --allowed_hosts and the names that they use", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1") and os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() != "true":
        print("warning: the server listens beyond this machine without a login (see MONAI_LABEL_AUTH_ENABLE)", flush=True)
    arguments = ["start_server", "--app", str(work / "app"), "--studies", folder, "--conf", "bundle", str(bundle)]
    arguments += ["--conf", "allowed_hosts", ",".join(named), "--conf", "max_upload_mb", f"{max_upload_mb:g}"]
    arguments += ["--conf", "proxy", str(proxy).lower()]
    command = [sys.executable, "-m", "monailabel.main", *arguments, "--host", str(host), "--port", str(port)]
    os.execv(sys.executable, command)
