# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Studies from a DICOMweb archive and results back to it: ``roi-fusion pacs``."""
