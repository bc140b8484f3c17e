# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The pages as a reader has them: in headless Chromium, at two widths, without a network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import open_in_real_time, open_page
from helpers import result_folder
from roi_fusion.metrics.table import write_tables
from roi_fusion.report.page import write_report
from roi_fusion.report.patients import patient_of
from roi_fusion.report.rendering import write_page
from roi_fusion_tools.explore import explore
from roi_fusion_tools.explore_page import write_exploration
from roi_fusion_tools.prepare_page import write_prepare_page

LONG = "a_study_whose_name_was_made_by_a_machine_and_never_ends_20260101T120000_series_0012"


def quiet(found: dict[str, Any]) -> bool:
    """No error, nothing that the page's policy stopped, nothing fetched from elsewhere."""
    assert found["errors"] == []
    assert found["refused"] == []
    return all(address.split(":")[0] in ("data", "blob", "file") for address in found["fetched"])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    root = tmp_path_factory.mktemp("report")
    warnings = [f"ct.nii.gz: a sentence of the length that they have, with a number of {n} mL in it" for n in range(5)]
    result_folder(root, tiny_dataset, "phantom_0000", {"warnings": warnings, "outside_training": ["slices 18 mm apart"]})
    result_folder(root, tiny_dataset, "phantom_0001").rename(root / LONG)
    own: dict[str, Any] = {"method": "roi_fusion", "volume_class": "small", "lesion_ml": 1.25}
    others = [{**own, "case": c, "method": m, "brain_ssim": 0.9} for c in ("a", "b") for m in ("paste", "maximum")]
    write_tables(root, [{"case": n, **own, "lesion_dice": 0.6, "brain_ssim": 0.9} for n in ("phantom_0000", LONG)] + others)
    (root / "errors.json").write_text(json.dumps({"bad": f"{LONG}/{LONG}/mri.nii.gz: expected finite values"}))
    page = write_report(root)
    assert page is not None
    return page


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_cut_off_and_nothing_is_fetched(report: Path, width: int) -> None:
    script = """
      found.list = wide();
      found.cut = [...document.querySelectorAll(".lesion")].filter((e) => e.getBoundingClientRect().right > innerWidth).length;
      location.hash = "#patient-phantom_0000";
      await wait(300);
      found.patient = wide();
      found.hidden = document.querySelector("#overview").offsetParent === null;
      found.pictures = [...document.querySelectorAll("#patient-phantom_0000 .sheet img")].map((i) => i.naturalWidth > 0);
    """
    found = open_page(report, script, width=width)
    assert quiet(found)
    assert found["cut"] == 0
    for name in ("list", "patient"):
        content, window = found[name]
        assert content <= window, name
        assert window > width - 30
    assert found["hidden"]
    assert found["pictures"] == [True] * 6


def test_one_slider_moves_all_panels(report: Path) -> None:
    script = """
      location.hash = "#patient-phantom_0000";
      await wait(300);
      const patient = document.querySelector("#patient-phantom_0000");
      const last = patient.querySelector(".slide").max;
      const state = () => {
        const boxes = [...patient.querySelectorAll(".window")].map((w) => {
          const [own, sheet] = [w, w.querySelector(".sheet")].map((e) => e.getBoundingClientRect());
          return [Math.round((own.left - sheet.left) / own.width), Math.round((own.top - sheet.top) / own.height)].join();
        });
        const where = patient.querySelector(".where").textContent;
        return [Number(patient.querySelector(".slide").value), new Set(boxes).size, where];
      };
      const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      found.steps = [];
      patient.toSlice(2); found.steps.push(state());
      press("ArrowUp"); found.steps.push(state());
      press("PageDown"); found.steps.push(state());
      const wheel = new WheelEvent("wheel", { deltaY: -80, cancelable: true, bubbles: true });
      patient.querySelector(".window").dispatchEvent(wheel); found.steps.push(state());
      patient.querySelector(".outlines").click();
      found.outlines = getComputedStyle(patient.querySelector(".sheet svg")).display;
      patient.querySelector(".montage").click();
      const all = patient.querySelector(".window").getBoundingClientRect();
      const sheet = patient.querySelector(".sheet").getBoundingClientRect();
      found.montage = Math.abs(all.width - sheet.width) < 1 && Math.abs(all.height - sheet.height) < 1;
    """
    found = open_page(report, script)
    assert quiet(found)
    assert [s[:2] for s in found["steps"]] == [[2, 1], [3, 1], [0, 1], [2, 1]]
    assert found["steps"][0][2].startswith("slice 3 of ")
    assert found["outlines"] == "none"
    assert found["montage"]


def test_niivue_shows_the_volumes(report: Path) -> None:
    pytest.importorskip("ipyniivue")
    script = """
      location.hash = "#patient-phantom_0000";
      await wait(300);
      const patient = document.querySelector("#patient-phantom_0000");
      patient.querySelector(".open-viewer").click();
      for (let n = 0; n < 200 && !patient.dataset.viewer; n++) await wait(100);
      found.state = patient.dataset.viewer;
      found.canvas = patient.querySelectorAll(".volume canvas").length;
    """
    found = open_page(report, script, virtual_ms=60_000)
    assert quiet(found)
    assert (found["state"], found["canvas"]) == ("loaded", 1)


def test_the_list_of_a_thousand_patients_is_light_and_sorts(tmp_path: Path, tiny_dataset: Path) -> None:
    one = patient_of(result_folder(tmp_path, tiny_dataset, "phantom_0000"))
    patients = [replace(one, name=f"case_{n:04d}", slug=f"case_{n:04d}", lesion_ml=float(n * 7 % 1000)) for n in range(1000)]
    for n in range(1000):
        Image.new("RGB", (64, 88)).save(tmp_path / f"{n}.webp")
    content = {"evaluation": None, "plots": [], "curves": [], "gates": [], "script": None, "pictures": [], "notes": []}
    page = write_page(
        tmp_path / "report.html",
        "report.html.j2",
        title="many",
        name="many",
        refused={},
        patients=patients,
        thumbnails=[f"{n}.webp" for n in range(1000)],
        single=False,
        pages="report_pages",
        **content,
    )
    assert page.stat().st_size < 1_500_000
    script = """
      found.lazy = document.images.length === 1000 && [...document.images].every((i) => i.loading === "lazy");
      const first = () => document.querySelector(".patients tbody tr").cells[1].textContent;
      document.querySelector(".patients th[data-sort=number]").click();
      found.largest = first();
      const filter = document.querySelector(".filter");
      filter.value = "0042";
      filter.dispatchEvent(new Event("input"));
      found.shown = [...document.querySelectorAll(".patients tbody tr")].filter((r) => !r.hidden).length;
    """
    found = open_page(page, script)
    assert quiet(found)
    assert (found["largest"], found["shown"]) == ("case_0857", 1)
    assert found["lazy"]

    read = "[...document.images].filter((i) => i.complete && i.naturalWidth).length"
    script = f"""
      const wait = (ms) => new Promise((done) => setTimeout(done, ms));
      await wait(1500);
      const atFirst = {read};
      scrollTo(0, document.documentElement.scrollHeight);
      for (let n = 0; n < 100 && {read} === atFirst; n++) await wait(100);
      return [atFirst, {read}];
    """
    at_first, below = open_in_real_time(page, script, profile=tmp_path / "profile")
    assert 5 <= at_first < 100  # those in view and a little below
    assert at_first < below < 200


@pytest.mark.parametrize("width", [1280, 1920])
def test_explored_and_prepared_data_fit(width: int, tmp_path: Path, tiny_dataset: Path) -> None:
    rows = list(explore(tiny_dataset))[:3]
    rows[0] = {
        **rows[0],
        "case": LONG,
        "flags": ["shifted"],
        "notes": ["[21.9, -21.9, 21.3] mm of the CT would raise the agreement"],
    }
    write_exploration(rows, tmp_path, "Test")
    script = "found.size = wide(); found.pictures = [...document.images].map((i) => i.src.length > 100);"
    found = open_page(tmp_path / "explore.html", script, width=width)
    assert quiet(found)
    assert found["size"][0] <= found["size"][1]
    assert sum(found["pictures"]) >= 3

    quality = {
        "mutual_information_before": 0.1234,
        "mutual_information_after": 0.2345,
        "shift_mm": 12.34,
        "rotation_degrees": 3.21,
        "contour_shift_mm": None,
        "overlap": 0.987,
        "brain_ml": 1234.5,
        "bone_ml": 567.8,
    }
    flags = ["weak_match", "partial_coverage", "contour_shift"]
    case = {"case": LONG, "quality": quality, "flags": flags, "notes": ["a sentence"], "seconds": 12.3}
    counts = {"prepared": 1, "kept": 0, "refused": 1}
    record = {"layout": "bids", "counts": counts, "errors": {"sub-02": f"{LONG}/ct.nii.gz: no"}, "stale": {}, "cases": [case]}
    found = open_page(write_prepare_page(tmp_path, record), script, width=width)
    assert found["errors"] == found["refused"] == []
    assert found["size"][0] <= found["size"][1]
