# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A run that was ended goes on where it was: a case whose results are of the same inputs, options and weights is skipped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ignite.distributed as idist
import torch
from monai.bundle import ReferenceResolver
from monai.bundle.utils import ID_SEP_KEY

from ..config.bundle_run import calling_parser
from ..config.faults import walk
from ..data.results import read_case_table, read_result, versions
from ..metrics.table import refresh_tables
from ..values import as_bool
from .weights import record_of, sha256_of

if TYPE_CHECKING:
    from .cluster import Cluster

__all__ = ["Resume", "settings_digest"]

logger = logging.getLogger(__name__)

#: Knobs that change where a run reads, writes or computes, and which cases, but no result.
_NO_SETTINGS = {
    *("bundle_root", "dataset_dir", "output_dir", "evaluation_dir", "checkpoint", "split", "mri", "ct", "shard"),
    *("overwrite", "verbose", "num_workers", "cache_rate", "cluster", "cluster_workers", "cluster_memory"),
    *("names", "name_key", "naming", "bids"),
}


def settings_digest(config: Mapping[str, Any], start: str = "run") -> str:
    """sha256 of all parts of a config that can change a result, as they stand before they are resolved.

    These are the parts that the run refers to, directly or by way of others: what only a training uses does not count in an
    evaluation.

    Args:
        config: top-level keys and their values.
        start: id of what is run; a config without it counts as a whole.
    """
    if start not in config:
        kept = {k: v for k, v in config.items() if k not in _NO_SETTINGS}
    else:
        kept, left = {}, [start]
        while left:
            item = left.pop()
            if item in kept or item in _NO_SETTINGS:
                continue
            kept[item] = _part(config, item)
            texts = (text for _, text in walk(kept[item]) if isinstance(text, str))
            left += [i for text in texts for i in ReferenceResolver.match_refs_pattern(text)]
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _part(config: Any, item: str) -> Any:
    """What stands at an id such as ``validate::evaluator``; None where nothing does."""
    for key in item.split(ID_SEP_KEY):
        try:
            config = config[int(key) if isinstance(config, list) else key]
        except (KeyError, ValueError, IndexError, TypeError):
            return None
    return config


class Resume:
    """Run an evaluator on those cases of its data set that have no matching result yet.

    A case's result matches when ``<case>/metrics.json``, which is written last, notes the same files (size and time, or else
    their sha256), options, weights and version of the package, and ``result.json`` is not marked stale. A single pair that was
    given by its files is always computed.

    Args:
        dataset: of the evaluator, :class:`~roi_fusion.data.cases.CaseDataset` without a cache.
        output_dir: folder of results.
        overwrite: compute all cases anew.
        tables: false where other processes write to the folder too: tables are then made by ``roi-fusion report``.
        cluster: with an address, that the cases are computed on it.
        settings: of :func:`settings_digest`; None: of the config whose expression makes this object.
    """

    def __init__(
        self,
        dataset: Any,
        output_dir: str | Path,
        overwrite: bool | str = False,
        settings: str | None = None,
        tables: bool = True,
        cluster: Cluster | None = None,
    ) -> None:
        self.tables, self.cluster = tables, cluster
        self.dataset, self.output_dir, self.overwrite = dataset, Path(output_dir), as_bool("overwrite", overwrite)
        self.settings = settings or settings_digest(cast(dict[str, Any], calling_parser().config))
        self._seen: dict[str, dict[str, dict[str, Any]]] = {}
        self._network: torch.nn.Module | None = None

    def run(self, evaluator: Any, handlers: Sequence[Any] = ()) -> None:
        """Drop finished cases from the data set, say how many, and run the evaluator on the others; the tables hold all.

        Args:
            evaluator: over the data set.
            handlers: of the evaluator, for a cluster, see :class:`~roi_fusion.engine.cluster.Cluster`.
        """
        self._network = evaluator.network
        self._seen = {c["case"]: _looked_at(c) for c in self.dataset.data if "case" in c}
        several = idist.get_world_size() > 1  # whose sampler has dealt out the cases already
        anew = self.overwrite or several
        left = [c for c in self.dataset.data if anew or "case" not in c or not self._is_done(c)]
        skipped = len(self.dataset.data) - len(left)
        self.dataset.skipped = skipped
        if skipped:
            are = "case is" if skipped == 1 else "cases are"
            logger.info(
                "%d %s done with the same inputs, options and weights: skipped (--overwrite true does all)", skipped, are
            )
        self.dataset.data = left
        if several:
            evaluator.run()
        elif left and self.cluster is not None and self.cluster.address is not None:
            self.cluster.run(self, evaluator, handlers)
        elif left:
            evaluator.state.epoch_length = len(evaluator.data_loader)
            evaluator.run()
        elif self.tables:
            refresh_tables(self.output_dir)

    def stamp(self, case: str) -> dict[str, Any] | None:
        """What the result of a case was made of; None where its files are not known, or changed while it was computed."""
        seen = self._seen.get(case)
        if not seen or any(_state(f["path"]) != (f["bytes"], f["mtime_ns"]) for f in seen.values()):
            return None
        inputs = {k: {"bytes": f["bytes"], "mtime_ns": f["mtime_ns"], "sha256": sha256_of(f["path"])} for k, f in seen.items()}
        return {"inputs": inputs, **self._run_facts()}

    def _run_facts(self) -> dict[str, Any]:
        weights = record_of(self._network).get("sha256") if self._network is not None else None
        return {"settings": self.settings, "weights": weights, "roi_fusion": versions()["roi_fusion"]}

    def _is_done(self, case: Mapping[str, Any]) -> bool:
        folder, seen = self.output_dir / case["case"], self._seen[case["case"]]
        facts, table = read_result(folder), read_case_table(folder)
        made_of = (table or {}).get("made_of")
        if not seen or not facts or facts.get("stale") or not isinstance(made_of, dict):
            return False
        inputs = made_of.get("inputs")
        if not isinstance(inputs, dict) or {**made_of, "inputs": None} != {"inputs": None, **self._run_facts()}:
            return False
        return set(inputs) == set(seen) and all(_is_same(seen[k], inputs[k]) for k in seen)


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _looked_at(case: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and time of the files of a case; none where one is a folder or cannot be read, which is never skipped."""
    found: dict[str, dict[str, Any]] = {}
    for key, path in case.items():
        if key in ("case", "folder") or not isinstance(path, str):
            continue
        state = _state(path)
        if state is None or not Path(path).is_file():
            return {}
        found[key] = {"path": path, "bytes": state[0], "mtime_ns": state[1]}
    return found


def _is_same(seen: Mapping[str, Any], noted: Any) -> bool:
    if not isinstance(noted, dict) or noted.get("bytes") != seen["bytes"]:
        return False
    return bool(noted.get("mtime_ns") == seen["mtime_ns"] or noted.get("sha256") == sha256_of(seen["path"]))
