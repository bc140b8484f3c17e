# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Tables of case rows: per-method means with confidence intervals, ``metrics.csv`` and ``summary.json``."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from ..data.results import CASE_TABLE, read_case_table, read_result, result_folders
from ..values import printable, whole_file, write_json

__all__ = [
    "GrowingTable",
    "csv_cell",
    "folder_rows",
    "known_rows",
    "mean_of",
    "means_by_column",
    "read_rows",
    "refresh_tables",
    "summarise",
    "write_rows",
    "write_tables",
]

logger = logging.getLogger(__name__)


def mean_by_name(names: Sequence[str], buffer: Any) -> dict[str, float]:
    """Mean of each column of `buffer` ``[N, len(names)]`` without its NaNs; NaN for every name if it has no rows."""
    if not isinstance(buffer, torch.Tensor) or not len(buffer):
        return {n: float("nan") for n in names}
    return dict(zip(names, torch.nanmean(buffer, dim=0).tolist()))


_COUNTS = ("n_cases", "n_empty_pred", "n_empty_ref", "fused_at_bounds")


def _metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(k for r in rows for k, v in r.items() if isinstance(v, float))
    return [n for n in names if n != "lesion_ml"]


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that exist; NaN when none does."""
    present = [v for v in values if not math.isnan(v)]
    return sum(present) / len(present) if present else math.nan


def means_by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of every numeric column where it exists; counts are summed."""
    out = {}
    for name in _metric_names(rows):
        values = [r[name] for r in rows if name in r]
        out[name] = sum(v for v in values if not math.isnan(v)) if name in _COUNTS else mean_of(values)
    return out


def _number(value: float) -> float | str | None:
    """For JSON: missing is null, an infinite PSNR (a copy) the word inf."""
    if math.isnan(value):
        return None
    return round(value, 6) if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    present = np.array([v for v in values if not math.isnan(v)])
    out: dict[str, Any] = {"count": len(present), "missing": len(values) - len(present)}
    if not len(present):
        return {"mean": None, "median": None, "std": None, "ci95": None, **out}
    out.update(mean=_number(float(present.mean())), median=_number(float(np.median(present))))
    finite = bool(np.isfinite(present).all())
    out["std"] = _number(float(present.std())) if finite else None
    out["ci95"] = None
    if finite and len(present) > 1:
        low, high = present.mean(), present.mean()
        if np.ptp(present) > 0:
            found = stats.bootstrap((present,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
            low, high = found.confidence_interval
        out["ci95"] = [_number(float(low)), _number(float(high))]
    return out


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, median, standard deviation, bootstrap 95 % interval and counts per method and metric, also per volume class.

    Args:
        rows: a row per case and method, with ``case``, ``method``, ``volume_class`` and metrics as floats.

    Returns:
        ``{"cases", "counts": {...}, "checkpoints": [...], "methods": {method: {metric: {...}}},
        "by_volume_class": {class: {metric: {...}}}}``

    Example:
        >>> row = {"case": "a", "method": "roi_fusion", "volume_class": "small"}
        >>> summary = summarise([{**row, "lesion_dice": 0.5}, {**row, "case": "b", "lesion_dice": float("nan")}])
        >>> dice = summary["methods"]["roi_fusion"]["lesion_dice"]
        >>> summary["cases"], dice["mean"], dice["count"], dice["missing"]
        (2, 0.5, 1, 1)
    """
    own = [r for r in rows if r["method"] == "roi_fusion"]
    methods = {}
    for method in dict.fromkeys(r["method"] for r in rows):
        part = [r for r in rows if r["method"] == method]
        names = [n for n in _metric_names(part) if n not in _COUNTS]
        methods[method] = {n: _statistics([r.get(n, math.nan) for r in part]) for n in names}
    classes = {}
    for name in ("none", "small", "medium", "large", "unknown"):
        part = [r for r in own if r["volume_class"] == name]
        if part:
            metrics = [n for n in _metric_names(part) if n not in _COUNTS]
            classes[name] = {"cases": len(part), **{n: _statistics([r.get(n, math.nan) for r in part]) for n in metrics}}
    counts = {n: int(sum(r.get(n, 0.0) for r in own)) for n in _COUNTS if n != "n_cases"}
    weights = sorted({str(r["checkpoint"]) for r in own if r.get("checkpoint")})
    return {"cases": len(own), "counts": counts, "checkpoints": weights, "methods": methods, "by_volume_class": classes}


_TEXTS = ("case", "method", "volume_class", "warnings", "checkpoint")


def csv_cell(value: Any) -> str:
    """For CSV: missing is empty; a text that a spreadsheet would take for a formula gets an apostrophe."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    text = printable(str(value))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def read_rows(output_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv``, numbers as floats; none where there is no table, or one that cannot be read."""
    path = Path(output_dir) / "metrics.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as f:
            found = list(csv.DictReader(f))
        return [
            {k: v.removeprefix("'") if k in _TEXTS else float(v or "nan") for k, v in row.items() if k in _TEXTS or v}
            for row in found
        ]
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as e:
        logger.warning("%s: expected a table of metrics, got one that cannot be read (%s): it is written anew", path, e)
        return []


def folder_rows(output_dir: str | Path) -> list[dict[str, Any]]:
    """The exact rows of the finished cases of a folder, by case, as their own folders hold them; none of stale results."""
    return [row for folder in result_folders(output_dir) for row in _own_rows(folder, read_result(folder))]


def _own_rows(folder: Path, facts: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows that a case's folder holds, given its ``result.json``; none of a stale or missing result."""
    table = read_case_table(folder) if facts and not facts.get("stale") else None
    return table["rows"] if table else []


def known_rows(output_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of all results in a folder that are not stale: exact ones of :func:`folder_rows`, else those of the table."""
    exact: list[dict[str, Any]] = []
    there: set[str] = set()
    for folder in result_folders(output_dir):
        facts = read_result(folder)
        exact += _own_rows(folder, facts)
        if not (facts or {}).get("stale"):
            there.add(printable(folder.name))
    there -= {printable(row["case"]) for row in exact}
    return exact + [row for row in read_rows(output_dir) if row["case"] in there]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    first = ["case", "method", "volume_class", "lesion_ml"]
    last = [n for n in ("warnings", "checkpoint") if any(n in r for r in rows)]
    return first + [n for n in _metric_names(rows) if n not in first] + last


def _lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows({k: csv_cell(row.get(k, "")) for k in columns} for row in rows)
    return text.getvalue()


def write_rows(output_dir: str | Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write ``metrics.csv``, a row per case and method, so that a reader never sees half a table; returns its columns."""
    columns = _columns(rows)
    with whole_file(Path(output_dir) / "metrics.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as f:
        csv.DictWriter(f, columns).writeheader()
        f.write(_lines(rows, columns))
    return columns


class GrowingTable:
    """``metrics.csv`` while cases come in: each adds its rows to the end of the file, in one piece.

    The file is written anew only at the first case, and where one brings a column that the table lacks: the time for a case
    does not grow with the number of cases before it.

    Args:
        output_dir: folder of results.
        rows: of earlier runs, which stay.
    """

    def __init__(self, output_dir: str | Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.output_dir, self.rows = Path(output_dir), list(rows)
        self._columns: list[str] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of a case."""
        self.rows += rows
        path = self.output_dir / "metrics.csv"
        if self._columns and set(_columns(rows)) <= set(self._columns) and path.is_file():
            with path.open("ab", buffering=0) as f:
                f.write(_lines(rows, self._columns).encode())
        else:
            self._columns = write_rows(self.output_dir, self.rows)


def write_tables(output_dir: str | Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write ``metrics.csv`` (a row per case and method) and ``summary.json``.

    Args:
        output_dir: folder to write to.
        rows: as in :func:`summarise`.

    Returns:
        The summary.
    """
    write_rows(output_dir, rows)
    summary = summarise(rows)
    write_json(Path(output_dir) / "summary.json", summary)
    return summary


def refresh_tables(output_dir: str | Path) -> None:
    """Write ``metrics.csv`` and ``summary.json`` again from the finished cases of a folder, by case.

    A folder without cases that hold their own rows stays as it is.
    """
    if any((folder / CASE_TABLE).is_file() for folder in result_folders(output_dir)):
        rows = sorted(known_rows(output_dir), key=lambda r: printable(r["case"]))
        if rows:
            write_tables(output_dir, rows)
