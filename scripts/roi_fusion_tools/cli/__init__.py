# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command ``roi-fusion``.

``table`` lists the commands, ``arguments`` reads the command line, ``help`` explains it, ``start`` runs a command. The other
modules hold the commands, a few lines each; they import torch and MONAI inside of the functions, so that help and mistakes in
the arguments are answered at once.
"""

from .start import main

__all__ = ["main"]
