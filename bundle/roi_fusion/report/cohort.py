# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One row a patient, for statistics: ``cohort.csv``, ``cohort.parquet`` and ``cohort.html``, which sorts and filters.

Its table is DataTables as the installed package `itables` ships it: nothing is fetched, and nothing of it lies in the
repository.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ..data.results import read_case_table, read_result, result_folders
from ..metrics.table import csv_cell
from ..values import printable, read_json, whole_file
from .plots import figure_uri
from .rendering import write_page

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = lazy_loader.load("pandas")  # a training's report needs none

__all__ = ["COHORT_FILES", "cohort_frame", "cohort_rows", "write_cohort"]

logger = logging.getLogger(__name__)

#: What :func:`write_cohort` writes.
COHORT_FILES = ("cohort.csv", "cohort.parquet", "cohort.html")

#: Column → type. Numbers that are not known are missing, never 0.
_COLUMNS = {
    "case": "string",
    "lesion_ml": "float64",
    "low_ml": "float64",
    "high_ml": "float64",
    "interval_note": "string",
    "lower_bound": "boolean",
    "reference_ml": "float64",
    "lesion_dice": "float64",
    "outside_training": "string",
    "warnings": "string",
    "num_warnings": "Int64",
    "missing": "string",
    "seconds": "float64",
    "refused": "string",
    "weights": "string",
}

_TITLES = {
    "case": "patient",
    "lesion_ml": "lesion, mL",
    "low_ml": "low, mL",
    "high_ml": "high, mL",
    "interval_note": "why no interval",
    "lower_bound": "or more",
    "reference_ml": "reference, mL",
    "lesion_dice": "Dice",
    "outside_training": "outside of training",
    "warnings": "warnings",
    "num_warnings": "warnings, number",
    "missing": "missing image",
    "seconds": "seconds",
    "refused": "refused",
    "weights": "weights",
}


def _sentences(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else []


def _finite(value: Any) -> float | None:
    found = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    return found if math.isfinite(found) else None


def _row(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    table = read_case_table(folder) or {}
    own: dict[str, Any] = next((r for r in table.get("rows", []) if r["method"] == "roi_fusion"), {})
    interval = facts.get("lesion_ml_interval")
    low, high = interval if isinstance(interval, (list, tuple)) and len(interval) == 2 else (None, None)
    warnings = _sentences(facts.get("warnings"))
    return {
        "lesion_ml": _finite(facts.get("lesion_ml")),
        "low_ml": _finite(low),
        "high_ml": _finite(high),
        "interval_note": None if low is not None else facts.get("lesion_ml_interval_note"),
        "lower_bound": bool(facts.get("lesion_ml_is_lower_bound")),
        "reference_ml": _finite(own.get("lesion_ml")),
        "lesion_dice": _finite(own.get("lesion_dice")),
        "outside_training": " | ".join(_sentences(facts.get("outside_training"))),
        "warnings": " | ".join(warnings),
        "num_warnings": len(warnings),
        "missing": facts.get("missing"),
        "seconds": _finite(table.get("seconds")),
        "weights": str((facts.get("weights") or {}).get("sha256") or "")[:12] or None,
    }


def cohort_rows(output_dir: str | Path) -> list[dict[str, Any]]:
    """A row a patient of a folder of results, by name; a refused one has the sentence in ``refused`` and no numbers.

    A result that is marked stale is of an earlier run: its case counts as refused.
    """
    folder = Path(output_dir)
    try:
        refused = {str(k): str(v) for k, v in read_json(folder / "errors.json").items()}
    except (OSError, ValueError, AttributeError):
        refused = {}
    rows: dict[str, dict[str, Any]] = {case: {"refused": why} for case, why in refused.items()}
    for path in result_folders(folder):
        facts = read_result(path)
        if facts is None:
            continue
        try:
            rows[path.name] = {"refused": str(facts["stale"])} if facts.get("stale") else _row(path, facts)
        except (TypeError, ValueError, AttributeError, KeyError) as e:
            rows[path.name] = {"refused": f"{path / 'result.json'}: expected facts of a result, got {type(e).__name__}"}
    return [{"case": case, **rows[case]} for case in sorted(rows)]


def cohort_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of :func:`cohort_rows` as a data frame with typed columns."""
    texts = [n for n, kind in _COLUMNS.items() if kind == "string"]
    tidy = [{n: printable(str(r[n])) if n in texts and r.get(n) is not None else r.get(n) for n in _COLUMNS} for r in rows]
    return pd.DataFrame({n: pd.array([r[n] for r in tidy], dtype=kind) for n, kind in _COLUMNS.items()})


def _histograms(frame: pd.DataFrame) -> list[dict[str, str]]:
    """How volumes, widths of intervals, seconds and numbers of warnings are distributed, those that are known."""
    found = {
        "lesion, mL": frame["lesion_ml"],
        "width of the 90 % interval, mL": frame["high_ml"] - frame["low_ml"],
        "seconds a case": frame["seconds"],
        "warnings a case": frame["num_warnings"],
    }
    out = []
    for title, column in found.items():
        values = column.dropna().astype(float).to_numpy()
        if not len(values):
            continue
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        ax = figure.subplots()
        ax.hist(values, bins="auto" if len(values) < 10_000 else 100, color="tab:blue", alpha=0.8)
        ax.set(xlabel=title, ylabel="patients", title=f"{len(values)} of {len(frame)} patients")
        ax.grid(alpha=0.3, axis="y")
        out.append({"name": title, "data": figure_uri(figure, 80)})
    return out


def _shown(frame: pd.DataFrame, names: Sequence[str], address: Mapping[str, str]) -> pd.DataFrame:
    """What the table shows: every text escaped, a patient's name a link to its page, no column that is empty throughout.

    Numbers are texts too: a missing one is an empty cell, which DataTables sorts among numbers as less than all.
    """
    shown: dict[str, Any] = {}
    for column, kind in _COLUMNS.items():
        values = frame[column]
        if values.isna().all() or (kind in ("string", "boolean") and not any(bool(v) for v in values.dropna())):
            continue
        if column == "case":
            links = (
                Markup('<a href="{}">{}</a>').format(address[n], t) if n in address else escape(t)
                for n, t in zip(names, values)
            )
            shown[_TITLES[column]] = [str(link) for link in links]
        elif kind == "float64":
            shown[_TITLES[column]] = ["" if pd.isna(v) else f"{round(float(v), 3):.10g}" for v in values]
        elif kind == "Int64":
            shown[_TITLES[column]] = ["" if pd.isna(v) else str(int(v)) for v in values]
        else:
            words = ("" if pd.isna(v) else {True: "yes", False: ""}.get(v, v) for v in values)
            shown[_TITLES[column]] = [str(escape(w)) for w in words]
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in shown.items()})


def _table(shown: pd.DataFrame) -> str:
    """The table as `itables` makes it, with its script and style."""
    from itables import options, to_html_datatable
    from itables.javascript import generate_init_offline_itables_html

    table = to_html_datatable(
        shown,
        connected=False,
        allow_html=True,  # _shown has escaped all of it
        showIndex=False,
        maxBytes=0,  # all rows
        column_filters="header",
        layout={"topStart": "pageLength", "topEnd": "search", "bottomStart": "info", "bottomEnd": "paging"},
        lengthMenu=[25, 100, 1000],
        pageLength=25,
        display_logo_when_loading=False,
    )
    return generate_init_offline_itables_html(options.dt_bundle) + table


def write_cohort(output_dir: str | Path, pages: Mapping[str, str] | None = None) -> list[Path]:
    """Write :data:`COHORT_FILES` into a folder of results; nothing where it holds no patient.

    Where `pyarrow` or `itables` is not installed, its file is left out with a sentence, and an older one is removed.

    Args:
        output_dir: folder of results.
        pages: name of a case's folder → address of its page.

    Returns:
        The files.
    """
    folder, rows = Path(output_dir), cohort_rows(output_dir)
    if not rows:
        return []
    frame = cohort_frame(rows)
    cells = {
        n: [csv_cell("" if pd.isna(v) else float(v) if k == "float64" else v) for v in frame[n]] for n, k in _COLUMNS.items()
    }
    with whole_file(folder / COHORT_FILES[0]) as scratch:
        pd.DataFrame(cells).to_csv(scratch, index=False, encoding="utf-8", lineterminator="\n")
    written = [folder / COHORT_FILES[0]]
    for package, name in (("pyarrow", COHORT_FILES[1]), ("itables", COHORT_FILES[2])):
        if find_spec(package) is None:
            (folder / name).unlink(missing_ok=True)
            logger.warning(
                "%s: expected the package %s, found none: pip install 'roi-fusion[cohort]' installs it", name, package
            )
            continue
        if package == "pyarrow":
            with whole_file(folder / name) as scratch:
                frame.to_parquet(scratch, index=False)
        else:
            _write_html(folder / name, frame, [str(r["case"]) for r in rows], pages or {})
        written.append(folder / name)
    return written


def _write_html(path: Path, frame: pd.DataFrame, names: Sequence[str], pages: Mapping[str, str]) -> None:
    name = path.resolve().parent.name
    write_page(
        path,
        "cohort.html.j2",
        title=f"{name} · ROI Fusion cohort",
        name=name,
        patients=len(frame),
        refused=int(frame["refused"].notna().sum()),
        outside=int((frame["outside_training"].fillna("") != "").sum()),
        plots=_histograms(frame),
        table=Markup(_table(_shown(frame, names, pages))),
        files=[n for n in COHORT_FILES[:2] if (path.parent / n).is_file()],
    )
