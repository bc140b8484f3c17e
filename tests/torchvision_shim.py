# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""For the MONAI Label environment of a machine with a CPU torch and no CPU torchvision: let PyPI's CUDA build import.

MONAI Label imports ``torchvision.utils`` (pictures of pathology) at its start. The registry's Linux wheel is a CUDA build:
beside a CPU torch its C++ operators do not load, and the import ends at ``operator torchvision::nms does not exist``. Declaring
those operators, with no code behind them, is enough for what is written in Python; calling one is an error, nothing here does.

Run as a script by the Makefile in that environment: it does nothing where torchvision imports, and else installs itself there.
No part of the bundle or of the label app knows of it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

_OPERATORS = ("nms", "qnms")


class _DeclareOperators(MetaPathFinder):
    """Finds no module; when torchvision is first looked for, declares the operators that it registers shapes for."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in _OPERATORS:
                torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _torchvision_imports() -> bool:
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def main() -> None:
    """Install the shim where torchvision does not import without it; end with a sentence where that does not help."""
    if _torchvision_imports():
        return
    site = Path(sysconfig.get_paths()["purelib"])
    shutil.copyfile(__file__, site / "torchvision_shim.py")
    (site / "torchvision_shim.pth").write_text("import torchvision_shim\n")
    if not _torchvision_imports():
        (site / "torchvision_shim.pth").unlink()
        sys.exit("error: torchvision does not import; install one that was built for this torch")
    print("torchvision: no build for this torch here; its CUDA build is used without its operators (tests/torchvision_shim.py)")


if __name__ == "__main__":
    main()
elif Path(__file__).parent == Path(sysconfig.get_paths()["purelib"]):
    sys.meta_path.insert(0, _DeclareOperators())
