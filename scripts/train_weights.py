#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The training behind bundle/models/model.pt."""

from _cli import main
from roi_fusion_tools.weights_recipe import make_weights

if __name__ == "__main__":
    main(make_weights)
