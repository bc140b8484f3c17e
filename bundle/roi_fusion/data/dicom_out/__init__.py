# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Results as DICOM, by highdicom: segmentations, a structured report, a derived MR series and parametric maps."""
