# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the bundle does not need to run: preparing data, phantoms, benchmarks, export and the package."""
