# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``report.html`` of a training, an evaluation or an inference, made from what it left: a list of patients, a page of each.

Up to 20 patients it is one file that needs nothing beside it; beyond, an index with one page per patient in ``report_pages/``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..console import short_path
from ..data.history import read_history
from ..data.results import read_result, result_folders
from ..errors import InputError
from ..metrics.table import read_rows
from ..values import is_first_rank, printable, read_json, whole_file
from .cohort import COHORT_FILES, write_cohort
from .patients import Patient, Pictures, patient_of, pictures_of
from .plots import evaluation_figures, figure_uri, history_figures
from .rendering import write_page
from .sheets import webp_uri
from .tables import metrics_table
from .viewer import niivue_script

__all__ = ["PAGES", "write_report", "write_training_report"]

logger = logging.getLogger(__name__)

#: Folder of the patients' pages beside ``report.html``, where there are many.
PAGES = "report_pages"


def _gates(training: Path) -> list[dict[str, Any]]:
    """The gates of a training as its doctor has noted them; none without notes, or where an earlier version wrote a list."""
    path = training / "doctor.json"
    notes = read_json(path) if path.is_file() else {}
    return [
        {
            "metric": str(gate["metric"]),
            "epoch": int(gate["epoch"]),
            "least": gate["least"],
            "value": None if gate["value"] is None else float(gate["value"]),
            "passed": gate["passed"],
        }
        for gate in (notes.get("gates", []) if isinstance(notes, dict) else [])
    ]


def _run_notes(history: Path, summary: Mapping[str, Any] | None) -> list[str]:
    """What has to be said of the whole page."""
    notes = []
    data = read_json(history / "run.json").get("data", {}) if (history / "run.json").is_file() else {}
    without = [name for name, facts in data.items() if facts.get("lesion_masks") == 0]
    if without:
        notes.append(f"Not one case had a lesion mask ({', '.join(without)}): nothing was learnt or measured of lesions there.")
    weights = (summary or {}).get("checkpoints", [])
    if len(weights) > 1:
        notes.append(f"The cases below were made with {len(weights)} checkpoints: {', '.join(weights)}.")
    return notes


class _Parts:
    """Parts of a page, each from files of its own; a broken one leaves its part out and a note, and never takes the rest along.

    Attributes:
        notes: a sentence for each part that is left out.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, file: Path, make: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return make()
        except InputError as e:
            self.notes.append(str(e))
        except Exception as e:  # whatever broken bytes lead to
            self.notes.append(f"{file}: expected content that can be shown, got {type(e).__name__}: {str(e)[:160]!r}")
        logger.warning("%s", printable(self.notes[-1]))
        return otherwise


def _curves(history: Path) -> list[dict[str, str]]:
    """The curves of a training, none without a history."""
    rows = read_history(history) if (history / "history.jsonl").is_file() else []
    return [{"name": n, "data": figure_uri(f, 90)} for n, f in history_figures(rows).items()] if rows else []


def _plots(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The plots of an evaluation; one or two cases are better read in the list."""
    if len({r["case"] for r in rows}) < 3:
        return []
    return [{"name": n, "data": figure_uri(f, 85)} for n, f in evaluation_figures(folder).items()]


def _evaluation(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and counts of a summary."""
    methods, classes = metrics_table(summary["methods"]), metrics_table(summary["by_volume_class"])
    counts = {name: int(summary["counts"][name]) for name in ("n_empty_pred", "n_empty_ref", "fused_at_bounds")}
    return {"methods": methods, "classes": classes, "cases": int(summary["cases"]), "counts": counts}


class _Pages:
    """Pictures of each patient; a broken result is shown with what is wrong with it, and never takes the others along."""

    def __init__(self, folder: Path, viewer: bool) -> None:
        self.folder, self.viewer = folder, viewer

    def pictures(self, name: str) -> Pictures:
        path = self.folder / name
        try:
            return pictures_of(path, viewer=self.viewer)
        except InputError as e:
            return Pictures(trouble=printable(str(e)))
        except Exception as e:
            wrong = f"{path}: expected results that can be shown, got {type(e).__name__}: {str(e)[:160]}"
            return Pictures(trouble=printable(wrong))


def _patients(folder: Path, rows: list[dict[str, Any]], refused: dict[str, str]) -> list[tuple[str, Patient]]:
    """All results of a folder with the names of their folders; what cannot be told of one goes to `refused`."""
    own = {str(r["case"]): r for r in rows if r.get("method") == "roi_fusion"}
    out = []
    for path in result_folders(folder):
        name = path.name
        if read_result(path) is None:
            continue
        try:
            out.append((name, patient_of(path, own.get(printable(name)))))
        except Exception as e:
            refused[name] = f"{path / 'result.json'}: expected facts that can be shown, got {type(e).__name__}: {str(e)[:160]}"
    return out


def _remove_pages(root: Path, but: set[str]) -> None:
    """Remove what an earlier report wrote below `root`, without the pages of patients that are shown again."""
    for page in root.glob("*/index.html"):
        if page.parent.name not in but:
            for name in ("index.html", "thumbnail.webp"):
                (page.parent / name).unlink(missing_ok=True)
            with suppress(OSError):  # other files in it stay
                page.parent.rmdir()
    if not but:
        (root / "niivue.js").unlink(missing_ok=True)
        with suppress(OSError):
            root.rmdir()


def _write_pages(folder: Path, patients: list[tuple[str, Patient]], pages: _Pages) -> list[str]:
    """Write a page and a thumbnail of each patient below ``report_pages/``; returns the thumbnails' addresses or ""."""
    root, thumbnails = folder / PAGES, []
    root.mkdir(exist_ok=True)
    script = niivue_script() if pages.viewer else None
    if script is not None:
        with whole_file(root / "niivue.js") as scratch:
            scratch.write_text(f'window.roiNiivue = "{script}";\n', encoding="ascii")
    for n, (name, patient) in enumerate(patients):
        found = pages.pictures(name)
        (root / name).mkdir(exist_ok=True)
        write_page(
            root / name / "index.html",
            "patient_page.html.j2",
            title=f"{patient.name} · ROI Fusion",
            patient=patient,
            pictures=found,
            previous=patients[n - 1][1] if n else None,
            next=patients[n + 1][1] if n + 1 < len(patients) else None,
        )
        if found.sheets is not None:
            with whole_file(root / name / "thumbnail.webp") as scratch:
                scratch.write_bytes(found.sheets.thumbnail)
        thumbnails.append(f"{PAGES}/{patient.slug}/thumbnail.webp" if found.sheets is not None else "")
    return thumbnails


def _thumbnail_uri(pictures: Pictures) -> str:
    return "" if pictures.sheets is None else webp_uri(pictures.sheets.thumbnail)


def write_report(
    output_dir: str | Path,
    *,
    history_dir: str | Path | None = None,
    single_file_cases: int = 20,
    viewer: bool = True,
    cohort: bool = False,
) -> Path | None:
    """Write ``report.html`` into a folder of results from its volumes, ``summary.json``, ``errors.json`` and a history.

    Args:
        output_dir: folder of results; the page is written there.
        history_dir: folder of the training whose curves are shown; None takes `output_dir`.
        single_file_cases: up to so many cases the report is one file; beyond, each has a page of its own in ``report_pages/``.
        viewer: with NiiVue where `ipyniivue` is installed.
        cohort: also write the cohort's table and page, see :func:`~roi_fusion.report.cohort.write_cohort`; where these lie
            there already they are always written again.

    Returns:
        The page, or None on other ranks than the first.

    Raises:
        InputError: when the folder holds neither results nor a history.
    """
    if not is_first_rank():
        return None
    folder = Path(output_dir)
    history = Path(history_dir) if history_dir else folder
    part, paths = _Parts(), {n: folder / f"{n}.json" for n in ("summary", "errors")}
    curves = part(history / "history.jsonl", lambda: _curves(history), [])
    summary = part(paths["summary"], lambda: read_json(paths["summary"]) if paths["summary"].is_file() else None, None)
    refused = part(paths["errors"], lambda: dict(read_json(paths["errors"])) if paths["errors"].is_file() else {}, {})
    rows = part(folder / "metrics.csv", lambda: read_rows(folder), [])
    patients = _patients(folder, rows, refused)
    if not patients and not curves and summary is None and not refused:
        raise InputError(f"{folder}: expected a folder of results or of a training, found neither")
    plots = part(folder / "metrics.csv", lambda: _plots(folder, rows), [])
    evaluation = part(paths["summary"], lambda: _evaluation(summary) if summary is not None else None, None)
    notes = part(history / "run.json", lambda: _run_notes(history, summary), [])
    gates = part(history / "doctor.json", lambda: _gates(history), [])
    single = len(patients) <= single_file_cases
    _remove_pages(folder / PAGES, set() if single else {name for name, _ in patients})
    pages = _Pages(folder, viewer and niivue_script() is not None)
    if single:
        shown = [pages.pictures(name) for name, _ in patients]
        thumbnails = [_thumbnail_uri(p) for p in shown]
    else:
        shown, thumbnails = [], _write_pages(folder, patients, pages)
    addresses = {name: f"report.html#patient-{p.slug}" if single else f"{PAGES}/{p.slug}/index.html" for name, p in patients}
    if cohort or (folder / COHORT_FILES[0]).is_file():
        part(folder / COHORT_FILES[0], lambda: write_cohort(folder, addresses), [])
    out = write_page(
        folder / "report.html",
        "report.html.j2",
        title=f"{folder.resolve().name} · ROI Fusion report",
        name=folder.resolve().name,
        refused={str(k): str(v) for k, v in refused.items()},
        notes=[*notes, *part.notes],
        patients=[p for _, p in patients],
        thumbnails=thumbnails,
        pictures=shown,
        single=single,
        pages=PAGES,
        cohort=[name for name in reversed(COHORT_FILES) if (folder / name).is_file()],
        script=niivue_script() if single and pages.viewer and any(p.volumes for p in shown) else None,
        evaluation=evaluation,
        plots=plots,
        curves=curves,
        gates=gates,
    )
    logger.info("report: %s", short_path(out))
    return out


def write_training_report(output_dir: str | Path) -> Path | None:
    """Write ``report.html`` of a training, with its curves; see :func:`write_report`."""
    return write_report(output_dir)
