# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Federated training with NVIDIA FLARE: what a site does, what the server does, and the job of both."""
