# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Phantoms: MNI brains with a skull in five MRI contrasts and CT."""
