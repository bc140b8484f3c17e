# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Weights: read with every check at every load, and with what their training noted beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.network import RoiFusionNet
from ..data.results import versions
from ..errors import InputError
from ..values import write_json

__all__ = [
    "check_weights",
    "load_weights",
    "public_record",
    "read_tensors",
    "record_beside",
    "record_of",
    "sha256_of",
    "write_record",
]

logger = logging.getLogger(__name__)

#: Network → what is known of the weights that were loaded into it last.
_RECORDS: weakref.WeakKeyDictionary[torch.nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_weights(path: str | Path) -> str:
    """Load weights as the bundle does, see :func:`load_weights`; returns the file's sha256.

    Raises:
        InputError: for another network, a truncated file, pickled objects, weights that are not finite, or another hash.
    """
    return str(record_of(load_weights(RoiFusionNet(), path))["sha256"])


def record_of(network: torch.nn.Module) -> dict[str, Any]:
    """What is known of a network's weights: ``checkpoint``, ``sha256``, ``roi_fusion`` (version), ``scheduler`` and what else
    was noted when they were saved; empty where none were loaded.
    """
    return dict(_RECORDS.get(network, {}))


def public_record(network: torch.nn.Module) -> dict[str, Any]:
    """:func:`record_of` without the table of known cases and with the file's name alone, for results and records of runs."""
    record = {k: v for k, v in record_of(network).items() if k != "familiarity"}
    return {**record, **({"checkpoint": Path(record["checkpoint"]).name} if "checkpoint" in record else {})}


def read_tensors(path: str | Path, what: str) -> Any:
    """What ``torch.save`` wrote, tensors and plain values only; `what` it is to be, for the sentence.

    Raises:
        InputError: when it is missing, broken, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, found no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: expected {what} of plain tensors, got pickled objects or no checkpoint at all") from None
    except Exception as e:  # torch.load raises whatever the broken bytes lead it to
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise InputError(f"{path}: expected {what}, got a file that cannot be read ({first[:120]})") from None


def _noted_digest(path: Path) -> str:
    """Refuse a file that is not the one of ``<path>.sha256``; returns its digest."""
    digest, noted = sha256_of(path), path.with_name(path.name + ".sha256")
    if noted.is_file():
        expected = (noted.read_text(errors="replace").split() or [""])[0]
        if expected != digest:
            raise InputError(f"{path}: expected the weights of sha256 {expected[:12]}… ({noted.name}), got {digest[:12]}…")
    return digest


def record_beside(path: Path, digest: str) -> dict[str, Any]:
    """The content of ``<path>.json`` where it was written for these very weights."""
    beside = path.with_name(path.name + ".json")
    try:
        record = json.loads(beside.read_text())
        fits = isinstance(record, dict) and record.get("sha256") == digest
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        fits = False
    if not fits:
        logger.warning("%s describes other weights than %s, which were replaced or damaged since: not used", beside, path.name)
        return {}
    return record


def write_record(path: str | Path, record: Mapping[str, Any], digest: str | None = None) -> None:
    """Write ``<path>.json``: what weights belong to, with sha256 and the package's version; a plain state_dict has no room
    for it.

    Args:
        path: weights.
        record: such as ``{"scheduler": "ddim"}``.
        digest: of the file, where it is known.
    """
    path = Path(path)
    content = {"sha256": digest or sha256_of(path), "roi_fusion": versions()["roi_fusion"], **record}
    write_json(path.with_name(path.name + ".json"), {k: v for k, v in content.items() if k != "checkpoint"})


def load_weights(network: torch.nn.Module, path: str | Path, used_with: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """Load a bare state_dict (``model.pt``), or the averaged weights of a ``last.pt``, into `network`.

    ``<path>.sha256`` and ``<path>.json``, where they lie beside it, are asked each time: the first is the hash that the file
    must have, the second what its training noted (:class:`~roi_fusion.engine.checkpoint.CheckpointWriter`); :func:`record_of`
    tells what was found.

    Args:
        network: with the weights' shapes.
        path: file.
        used_with: settings that the weights are to run with, such as ``{"scheduler": "ddim"}``; one that differs from what
            their training noted is refused.

    Raises:
        InputError: when the file is missing, broken or not the one of its sha256 file, holds pickled objects, NaN,
            belongs to another network, or was trained for other settings.
    """
    path = Path(path)
    state = read_tensors(path, "weights of this network")
    digest = _noted_digest(path)
    record = record_beside(path, digest)
    if isinstance(state, dict) and "ema" in state:
        record = dict(state.get("record", {}))
        state = {k.removeprefix("module."): v for k, v in state["ema"].items() if k.startswith("module.")}
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a state_dict of tensors, got {type(state).__name__}")
    own = network.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    other = sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape)
    if missing or extra or other:
        first = (missing or extra or other)[0]
        raise InputError(
            f"{path}: expected weights of this network, got another's ({len(missing)} missing, {len(extra)} unknown, "
            f"{len(other)} of other shape, first {first})"
        )
    broken = [k for k, v in state.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise InputError(f"{path}: expected finite weights, got NaN or infinity in {len(broken)} tensors, first {broken[0]}")
    for name, value in (used_with or {}).items():
        noted = record.get(name)
        if noted is not None and noted != value:
            raise InputError(f"{name}: expected {noted}, which the weights {path} were trained with, got {value}")
    network.load_state_dict(state)
    _RECORDS[network] = {"scheduler": None, "roi_fusion": None, **record, "checkpoint": str(path), "sha256": digest}
    return network
