# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from conftest import BUNDLE
from raw_layouts import LAYOUT_WRITERS, dicom_series, save
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import find_cases, load_datalist
from roi_fusion.data.grids import resample
from roi_fusion.data.itk_bridge import read_transform
from roi_fusion.data.plausibility import Judgement, Placed
from roi_fusion.data.registration import Registration, measure
from roi_fusion.errors import InputError
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.prepare import PrepareOptions, case, prepare_dataset, storage
from roi_fusion_tools.prepare_page import contour_shift, quality_flags
from unregistered import Pair, draw_pair, random_pose

pytest.importorskip("itk")

FILES = {"mri.nii.gz", "ct.nii.gz", "brain_mask.nii.gz", "bone_mask.nii.gz", "transform.tfm", "overlay.png", "case.json"}
TRUST = PrepareOptions(register=False)


@pytest.fixture(scope="module")
def pair() -> Pair:
    rng = np.random.default_rng(0)
    mri, ct = PhantomConfig((72, 84, 18), (2.9, 2.8, 8.0)), PhantomConfig((96, 108, 24), (2.2, 2.2, 6.5))
    return draw_pair(101, "adc", mri, ct, *random_pose(rng))


@pytest.fixture(scope="module")
def truth(pair: Pair) -> Registration:
    """What a perfect registration says."""
    at_truth = measure(pair.mri, pair.mri_affine, pair.ct, np.linalg.inv(pair.truth) @ pair.ct_affine)
    before = measure(pair.mri, pair.mri_affine, pair.ct, pair.ct_affine).before
    return replace(at_truth, matrix=pair.truth, before=before, aligned_before=False)


@pytest.fixture
def known_pose(truth: Registration, monkeypatch: pytest.MonkeyPatch) -> Registration:
    monkeypatch.setattr(case, "register", lambda *a, **k: truth)
    return truth


def run(raw: Path, out: Path, **options: object) -> dict:
    return prepare_dataset(raw, out, num_workers=0, progress=False, **options)  # type: ignore[arg-type]


def volume(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_each_layout_becomes_cases(layout: str, pair: Pair, known_pose: Registration, tmp_path: Path) -> None:
    write, name = LAYOUT_WRITERS[layout]
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write(raw, pair)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in raw.rglob("*")}
    record = run(raw, out, names="keep")
    assert record["layout"] == layout
    assert record["counts"] == {"prepared": 1, "kept": 0, "refused": int(layout == "bids")}
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in raw.rglob("*")}
    assert {p.name for p in (out / name).iterdir()} == FILES | {"lesion_mask.nii.gz"}
    np.testing.assert_allclose(volume(out / name / "mri.nii.gz").mean(), pair.mri.mean(), rtol=1e-2)
    brain, lesion = (volume(out / name / f"{n}_mask.nii.gz") > 0 for n in ("brain", "lesion"))
    axes = nib.orientations.io_orientation(nib.load(out / name / "mri.nii.gz").affine)  # type: ignore[attr-defined]
    brain, lesion = (nib.orientations.apply_orientation(m, axes) > 0 for m in (brain, lesion))
    assert dice(brain, pair.brain) > 0.9  # the CT came to the MRI
    np.testing.assert_array_equal(lesion, pair.lesion)
    facts = json.loads((out / name / "case.json").read_text())
    assert facts["registration"]["mutual_information_after"] > facts["registration"]["mutual_information_before"]
    assert {"roi_fusion", "itk", "torch"} <= set(facts["versions"])
    assert name in (out / "prepare.html").read_text()
    assert [c["case"] for c in find_cases(out)] == [name]
    assert json.loads((out / "errors.json").read_text()) == record["errors"]
    if layout == "bids":
        assert "sub-02: expected an MRI and a CT, found no CT" in record["errors"]["sub-02"]
    if layout == "cases":
        assert load_datalist(out, "train")[0]["case"] == name


@pytest.mark.parametrize("reference", ["mri", "ct"])
def test_the_transform_file_makes_the_outcome_again(
    reference: str, pair: Pair, known_pose: Registration, tmp_path: Path
) -> None:
    """ITK, given transform.tfm and the raw files, gives what was written."""
    import itk

    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    LAYOUT_WRITERS["pairs"][0](raw, pair)
    run(raw, out, options=PrepareOptions(reference=reference))
    moved, outside = ("ct", -1024) if reference == "mri" else ("mri", 0)
    fixed = itk.imread(str(out / "x" / f"{reference}.nii.gz"), itk.F)
    transform = itk.transformread(str(out / "x" / "transform.tfm"))[0]
    again = itk.resample_image_filter(
        itk.imread(str(raw / f"x_{moved}.nii.gz"), itk.F),
        transform=transform,
        use_reference_image=True,
        reference_image=fixed,
        default_pixel_value=outside,
    )
    written = volume(out / "x" / f"{moved}.nii.gz")
    inner = tuple(slice(3, -3) for _ in range(3))
    difference = np.abs(itk.array_from_image(again).T - written)[inner]
    assert np.median(difference) < 1
    assert np.corrcoef(itk.array_from_image(again).T[inner].ravel(), written[inner].ravel())[0, 1] > 0.97
    expected = pair.truth if reference == "mri" else np.linalg.inv(pair.truth)
    np.testing.assert_allclose(read_transform(out / "x" / "transform.tfm"), expected, atol=1e-5)
    lesion = volume(out / "x" / "lesion_mask.nii.gz")
    if reference == "ct":  # it went with the MRI
        spacing = np.prod([2.2, 2.2, 6.5]) / np.prod([2.9, 2.8, 8.0])
        assert lesion.sum() * spacing == pytest.approx(pair.lesion.sum(), rel=0.35)


def test_spacing_and_masks_of_other_programs(pair: Pair, known_pose: Registration, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    LAYOUT_WRITERS["pairs"][0](raw, pair)
    save(tmp_path / "masks" / "x" / "brain.nii.gz", pair.ct_brain, pair.ct_affine)
    save(tmp_path / "masks" / "x" / "skull.nii.gz", pair.ct_bone, pair.ct_affine)
    run(raw, out, masks_dir=tmp_path / "masks", options=PrepareOptions(spacing_mm=(4.0, 4.0, 8.0)))
    image = nib.load(out / "x" / "ct.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), (4, 4, 8))  # type: ignore[attr-defined]
    facts = json.loads((out / "x" / "case.json").read_text())
    assert facts["masks"]["brain_mask"] == f"ct: {tmp_path / 'masks' / 'x' / 'brain.nii.gz'}"
    voxel_ml = 4 * 4 * 8 / 1000
    truth_ml = pair.brain.sum() * 2.9 * 2.8 * 8 / 1000
    assert volume(out / "x" / "brain_mask.nii.gz").sum() * voxel_ml == pytest.approx(truth_ml, rel=0.05)


def two_cases(raw: Path, pair: Pair) -> None:
    for name in ("a", "b"):
        save(raw / f"{name}_ct.nii.gz", pair.ct, np.linalg.inv(pair.truth) @ pair.ct_affine)
        save(raw / f"{name}_mri.nii.gz", pair.mri, pair.mri_affine)


def test_finished_cases_are_kept_until_their_inputs_change(pair: Pair, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    two_cases(raw, pair)
    assert run(raw, out, options=TRUST)["counts"]["prepared"] == 2
    times = {p: p.stat().st_mtime_ns for p in out.glob("*/*")}
    os.utime(raw / "a_ct.nii.gz")  # touched, the same content
    assert run(raw, out, options=TRUST)["counts"] == {"prepared": 0, "kept": 2, "refused": 0}
    assert times == {p: p.stat().st_mtime_ns for p in out.glob("*/*")}
    save(raw / "a_mri.nii.gz", pair.mri * 2, pair.mri_affine)
    (out / "b" / "ct.nii.gz").unlink()
    assert run(raw, out, options=TRUST)["counts"] == {"prepared": 2, "kept": 0, "refused": 0}
    assert (out / "b" / "ct.nii.gz").is_file()
    swapped = volume(raw / "b_ct.nii.gz")
    shutil.copy(raw / "b_mri.nii.gz", raw / "b_ct.nii.gz")
    save(raw / "b_mri.nii.gz", swapped, pair.ct_affine)
    record = run(raw, out, options=TRUST)
    assert record["counts"] == {"prepared": 0, "kept": 1, "refused": 1}
    assert "look swapped" in record["errors"]["b"]
    assert record["stale"] == {"b": "prepared from other input files or options, left as it was"}
    assert {p.name for p in (out / "b").iterdir()} == FILES


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_nothing_that_a_user_made_is_removed(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A lesion drawn by hand, in a case whose inputs stay, change, break and vanish; and a mask that was corrected."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    two_cases(raw, pair)
    save(raw / "b_lesion_mask.nii.gz", pair.lesion, pair.mri_affine)
    run(raw, out, options=TRUST)
    save(out / "a" / "lesion_mask.nii.gz", pair.lesion, pair.mri_affine)  # drawn
    (out / "a" / "notes").mkdir()
    (out / "a" / "notes" / "reader1.txt").write_text("seen")
    save(out / "b" / "lesion_mask.nii.gz", np.roll(pair.lesion, 1), pair.mri_affine)  # corrected
    before = {c: contents(out / c) for c in "ab"}

    def unchanged() -> bool:
        return before == {c: contents(out / c) for c in "ab"}

    record = run(raw, out, options=TRUST)
    assert record["counts"]["kept"] == 2
    assert record["stale"] == {}
    rows = {c["case"]: c["notes"][-1] for c in record["cases"]}
    assert rows["a"].endswith("by hand and left as it is: lesion_mask.nii.gz, notes/")
    assert rows["b"].endswith("by hand and left as it is: lesion_mask.nii.gz")
    assert unchanged()

    save(raw / "a_mri.nii.gz", pair.mri * 2, pair.mri_affine)  # other inputs
    record = run(raw, out, options=TRUST)
    assert record["counts"] == {"prepared": 0, "kept": 1, "refused": 1}
    assert "by hand: lesion_mask.nii.gz, notes/; left alone" in record["errors"]["a"]
    assert set(record["stale"]) == {"a"}
    assert unchanged()

    with pytest.raises(InputError, match="expected at least one usable pair"):  # other options
        run(raw, out, options=PrepareOptions(register=False, spacing_mm=(4.0, 4.0, 8.0)))
    assert unchanged()

    (raw / "a_ct.nii.gz").unlink()  # half of a pair
    for file in raw.glob("b_*"):  # all of one
        file.unlink()
    two_cases(tmp_path / "more", pair)
    (tmp_path / "more" / "a_ct.nii.gz").rename(raw / "c_ct.nii.gz")
    (tmp_path / "more" / "a_mri.nii.gz").rename(raw / "c_mri.nii.gz")
    caplog.clear()
    record = run(raw, out, options=TRUST)
    assert record["counts"] == {"prepared": 1, "kept": 0, "refused": 1}
    assert record["stale"]["b"] == "no longer among the raw data, left as it was"
    assert set(record["stale"]) == {"a", "b"}
    assert "stale case b: no longer among the raw data" in caplog.text
    assert "no longer among the raw data" in (out / "prepare.html").read_text()
    assert unchanged()


def test_a_case_of_an_older_version_is_kept_but_never_replaced(pair: Pair, tmp_path: Path) -> None:
    """Its case.json does not say what was written, so every file may be a user's."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    two_cases(raw, pair)
    run(raw, out, options=TRUST)
    facts = json.loads((out / "a" / "case.json").read_text())
    assert set(facts["files"]) == FILES - {"case.json"}
    del facts["files"]
    (out / "a" / "case.json").write_text(json.dumps(facts))
    assert run(raw, out, options=TRUST)["counts"]["kept"] == 2
    save(raw / "a_mri.nii.gz", pair.mri * 2, pair.mri_affine)
    before = contents(out / "a")
    assert "made or changed by hand: bone_mask.nii.gz, brain_mask.nii.gz" in run(raw, out, options=TRUST)["errors"]["a"]
    assert contents(out / "a") == before


def test_a_mask_drawn_while_a_case_is_prepared_anew_stays(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    two_cases(raw, pair)
    run(raw, out, options=TRUST)
    save(raw / "a_mri.nii.gz", pair.mri * 2, pair.mri_affine)

    write = case.write_transform

    def draw_meanwhile(*arguments: object, **more: object) -> None:
        (out / "a" / "lesion_mask.nii.gz").write_bytes(b"drawn")
        write(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(case, "write_transform", draw_meanwhile)
    record = run(raw, out, options=TRUST)
    assert "by hand: lesion_mask.nii.gz" in record["errors"]["a"]
    assert (out / "a" / "lesion_mask.nii.gz").read_bytes() == b"drawn"


def test_splits_of_the_output_stay(pair: Pair, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    two_cases(raw, pair)
    (raw / "splits.json").write_text('{"train": ["a"], "test": ["b"]}')
    run(raw, out, options=TRUST)
    assert (out / "splits.json").read_text() == (raw / "splits.json").read_text()
    (out / "splits.json").write_text('{"train": ["b"], "test": ["a"]}')
    run(raw, out, options=TRUST)
    assert (out / "splits.json").read_text() == '{"train": ["b"], "test": ["a"]}'


@pytest.mark.parametrize("moment", ["between the renames", "before the old one is cleared"])
def test_a_kill_while_a_case_is_replaced_loses_nothing(moment: str, tmp_path: Path) -> None:
    old, place = tmp_path / ".roi_fusion_prepare" / "old" / "a", tmp_path / "a"
    old.mkdir(parents=True)
    (old / "case.json").write_text("old")
    if moment != "between the renames":
        place.mkdir()
        (place / "case.json").write_text("new")
    with storage.locked(tmp_path):
        assert (place / "case.json").read_text() == ("old" if moment == "between the renames" else "new")
        with pytest.raises(InputError, match="expected a folder that no other run writes into"), storage.locked(tmp_path):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_mask_that_does_not_say_lesion_is_no_lesion(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In other data sets mask.nii.gz is the outline of the head."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    save(raw / "a" / "ct.nii.gz", pair.ct, np.linalg.inv(pair.truth) @ pair.ct_affine)
    save(raw / "a" / "mri.nii.gz", pair.mri, pair.mri_affine)
    mask = save(raw / "a" / "mask.nii.gz", pair.mri > 0, pair.mri_affine)
    record = run(raw, out, options=TRUST)
    assert {p.name for p in (out / "a").iterdir()} == FILES
    said = f"left alone, as the name says neither lesion nor stroke: {mask}"
    assert record["cases"][0]["notes"] == [said]
    assert f"a: {said}" in caplog.text
    assert "lesion_ml" not in record["cases"][0]["quality"]


def test_bad_cases_are_told_and_the_others_go_on(pair: Pair, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    two_cases(raw, pair)
    aligned = np.linalg.inv(pair.truth) @ pair.ct_affine

    def add(name: str, ct: np.ndarray = pair.ct, mri: np.ndarray = pair.mri, affine: np.ndarray = aligned) -> None:
        save(raw / f"{name}_ct.nii.gz", ct, affine)
        save(raw / f"{name}_mri.nii.gz", mri, pair.mri_affine)

    add("display", np.clip(pair.ct, -5, 80))
    add("headless", np.where(np.arange(pair.ct.shape[0])[:, None, None] < 3, pair.ct.clip(900), -1000))
    far = aligned.copy()
    far[0, 3] += 900
    add("far", affine=far)
    add("shape")
    save(raw / "shape_lesion_mask.nii.gz", pair.lesion[:-1], pair.mri_affine)
    add("levels")
    save(raw / "levels_lesion_mask.nii.gz", pair.lesion.astype(np.int16) * 3, pair.mri_affine)
    add("broken")
    (raw / "broken_mri.nii.gz").write_bytes(b"no volume")
    add("taken")
    save(out / "taken" / "mine.nii.gz", pair.mri, pair.mri_affine)
    record = run(raw, out, options=TRUST)
    errors = record["errors"]
    assert record["counts"] == {"prepared": 2, "kept": 0, "refused": 7}
    assert "expected CT in HU" in errors["display"]
    assert "expected" in errors["headless"]
    assert "expected a CT that shows the MRI's head, got 0 %" in errors["far"]
    assert "expected a lesion mask on the grid of the MRI" in errors["shape"]
    assert "expected a lesion mask of 0 and 1, got values 0, 3" in errors["levels"]
    assert "broken_mri.nii.gz: expected a readable volume" in errors["broken"]
    assert "expected a new folder or one that was prepared before" in errors["taken"]
    assert (out / "taken" / "mine.nii.gz").is_file()
    assert not any("Traceback" in e or "\n" in e for e in errors.values())
    page = (out / "prepare.html").read_text()
    assert "7 refused" in page


def test_what_would_be_written_is_judged_too(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs that serve on their own grids and not on the MRI's: a mask falls between voxels; no brain is left of a head."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    aligned = np.linalg.inv(pair.truth) @ pair.ct_affine
    for name in ("dot", "brainless", "good"):
        save(raw / f"{name}_ct.nii.gz", pair.ct, aligned)
        save(raw / f"{name}_mri.nii.gz", pair.mri, pair.mri_affine)
    dot = np.zeros(pair.ct.shape, np.uint8)
    dot[48, 54, 12] = 1
    save(raw / "dot_bone_mask.nii.gz", dot, aligned)
    judge_pair = case.judge_pair

    def judge(mri: Placed, ct: Placed, **options: object) -> Judgement:
        if "brainless" in str(options["names"]) and ct.array.shape == pair.mri.shape:  # on the MRI's grid
            ct = ct._replace(array=np.where(ct.array > 100, ct.array, -1000.0))
        return judge_pair(mri, ct, **options)

    monkeypatch.setattr(case, "judge_pair", judge)
    record = run(raw, out, options=TRUST)
    assert [row["case"] for row in record["cases"]] == ["good"]
    assert "dot_bone_mask.nii.gz: expected at least one voxel in the bone mask, got an empty one" in record["errors"]["dot"]
    assert "brainless_ct.nii.gz: expected" in record["errors"]["brainless"]
    assert all(e.endswith("(on the grid of the prepared case)") for e in record["errors"].values())
    assert not (out / "dot").exists()


def test_a_worse_registration_is_refused(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(*_: object, **__: object) -> Registration:
        raise InputError("registration: expected a pose better than the given one, got mutual information 0.1 after 0.2")

    two_cases(tmp_path / "raw", pair)
    monkeypatch.setattr(case, "register", worse)
    with pytest.raises(
        InputError, match="expected at least one usable pair, got none of 2 \\(a: registration: expected a pose"
    ):
        run(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()
    assert len(json.loads((tmp_path / "out" / "errors.json").read_text())) == 2


def test_arguments_are_checked(tmp_path: Path) -> None:
    for make, sentence in (
        (lambda: PrepareOptions(reference="pet"), "reference: expected mri or ct"),
        (lambda: PrepareOptions(spacing_mm=(1, 2)), "spacing_mm: expected three positive lengths"),  # type: ignore[arg-type]
        (lambda: prepare_dataset(tmp_path, tmp_path / "out"), "output_dir: expected a folder outside of input_dir"),
        (lambda: prepare_dataset(tmp_path, tmp_path.parent / "o", num_workers=-1), "num_workers: expected a whole number"),
    ):
        with pytest.raises(InputError, match=sentence):
            make()


def test_the_contours_shift_is_measured(pair: Pair) -> None:
    aligned = pair.mri
    ct = resample(pair.ct, pair.ct_affine, pair.mri.shape, pair.mri_affine, pair.truth, outside=-1024)
    moved = ndimage.shift(ct, (2, 0, 0), order=0, mode="nearest")  # 5.8 mm
    assert (contour_shift(aligned, ct, pair.mri_affine) or 0) < 2
    assert contour_shift(aligned, moved, pair.mri_affine) == pytest.approx(5.8, abs=2)
    assert contour_shift(aligned, np.full_like(ct, -1000), pair.mri_affine) is None


def test_flags() -> None:
    good = {
        "mutual_information_after": 0.2,
        "overlap": 1.0,
        "contour_shift_mm": 0.4,
        "brain_ml": 1500.0,
        "bone_ml": 600.0,
        "shift_mm": 3.0,
        "rotation_degrees": 2.0,
    }
    assert quality_flags(good) == []
    bad = {**good, "overlap": 0.5, "contour_shift_mm": 8.0, "brain_ml": 300.0, "shift_mm": 45.0}
    assert quality_flags(bad) == ["partial_coverage", "contour_shift", "brain_volume", "large_move"]
    assert "large_move" not in quality_flags(bad, registered=False)


def command(raw: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "roi_fusion_tools.cli",
        "prepare",
        "--input",
        str(raw),
        "--output",
        str(out),
        *more,
    ]


def test_killed_in_the_middle_and_started_again(pair: Pair, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in "abcd":
        save(raw / f"{name}_ct.nii.gz", pair.ct, np.linalg.inv(pair.truth) @ pair.ct_affine)
        save(raw / f"{name}_mri.nii.gz", pair.mri, pair.mri_affine)
    arguments = command(raw, out, "--register", "false", "--num_workers", "1")
    first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400  # a busy machine takes long to import
    while not (out / "a" / "case.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/case.json")}
    assert 1 <= len(finished) < 4
    half = out / ".roi_fusion_prepare" / "new" / "1" / "d"  # as a kill while writing leaves it
    half.mkdir(parents=True, exist_ok=True)
    (half / "mri.nii.gz").write_bytes(b"half")
    assert len(find_cases(out)) == len(finished)
    second = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "layout pairs: 4 pairs" in second.stderr
    assert f"{4 - len(finished)} prepared, {len(finished)} kept, 0 refused" in second.stdout
    assert {n: (out / n / "case.json").stat().st_mtime_ns for n in finished} == finished
    assert len(find_cases(out)) == 4
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


#: Forks a preparation with two workers and kills all its processes after each of the given seconds, then runs it to the end.
_KILLS = """
import fcntl, json, multiprocessing, os, signal, sys, time
import itk, torch, numpy, nibabel
from pathlib import Path
from matplotlib.figure import Figure
from roi_fusion_tools.prepare import PrepareOptions, case, prepare_dataset, storage

# What takes long and writes nothing: without it more of the kills hit the writing.
case.contour_shift = lambda *_: 0.0
case.overlay_figure = lambda *_: Figure((1, 1))
case._roi_masks = lambda ct, *_: ((ct > 0) & (ct < 100), ct > 300)
fork = multiprocessing.get_context("fork")  # nothing has run yet: a fork is safe here and saves the imports
multiprocessing.get_context = lambda *_: fork
raw, out = map(Path, sys.argv[1:3])
torch.set_num_threads(1)

def prepare():
    return prepare_dataset(raw, out, num_workers=2, progress=False, options=PrepareOptions(register=False))

def in_child(after):
    child = os.fork()
    if child == 0:
        try:
            prepare()
        finally:
            os._exit(0)
    os.setpgid(child, child)
    time.sleep(after)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    lock = out / ".roi_fusion_prepare" / "lock"
    while lock.exists():  # forked workers hold it too, until they have died
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.05)

for after in json.loads(sys.argv[3]):
    in_child(after)
    for folder in (p for p in out.glob("*") if p.is_dir() and not p.name.startswith(".")):
        facts = json.loads((folder / "case.json").read_text())
        files = {p.name for p in folder.iterdir()} - {"case.json"}
        assert files == set(facts["files"]), files
        assert all(storage._sha256(folder / n) == s for n, s in facts["files"].items())
        print("whole", folder.name, (folder / "case.json").stat().st_mtime_ns, flush=True)
    for name in ("prepare.json", "errors.json"):
        if (out / name).exists():
            json.loads((out / name).read_text())
print("counts", json.dumps(prepare()["counts"]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_lose_nothing_leave_nothing_half_and_repeat_nothing(pair: Pair, tmp_path: Path) -> None:
    """With two workers: ten kills of a first preparation, then ten while it renews cases whose inputs have changed."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = [f"c{n:02d}" for n in range(10)]
    for n, name in enumerate(names):
        save(raw / f"{name}_ct.nii.gz", pair.ct, np.linalg.inv(pair.truth) @ pair.ct_affine)
        save(raw / f"{name}_mri.nii.gz", pair.mri * (1 + n / 100), pair.mri_affine)
    rng = np.random.default_rng(0)
    for change in (1, 2):
        seconds = json.dumps([round(float(s), 3) for s in rng.uniform(0.1, 4, 10)])
        arguments = [sys.executable, "-c", _KILLS, str(raw), str(out), seconds]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        seen: dict[str, set[str]] = {}
        for line in done.stdout.splitlines():
            if line.startswith("whole"):
                seen.setdefault(line.split()[1], set()).add(line.split()[2])
        if change == 1:
            assert all(len(times) == 1 for times in seen.values())  # a case once finished is not made again
        else:
            assert all(len(times) <= 2 for times in seen.values())  # the old one, then the new one
            assert sorted(seen) == names  # none was ever gone
        counts = json.loads(done.stdout.rsplit("counts", 1)[1])
        assert (counts["prepared"] + counts["kept"], counts["refused"]) == (10, 0)
        assert sorted(p.name for p in out.iterdir() if p.is_dir()) == names
        for n, name in enumerate(names):
            save(raw / f"{name}_mri.nii.gz", pair.mri * (2 + n / 100), pair.mri_affine)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_layout_to_the_end(pair: Pair, tmp_path: Path) -> None:
    """Six layouts, registered in two processes, then inference.json on the outcome and, with --register, on a raw pair."""
    cases = tmp_path / "cases"
    for layout, (write, name) in LAYOUT_WRITERS.items():
        raw, out = tmp_path / layout, tmp_path / f"{layout}_out"
        raw.mkdir()
        write(raw, pair)
        if layout == "dicom":
            dicom_series(raw / "tilted", pair.ct, pair.ct_affine, "CT", number=2, tilt_mm=1.0, description="head")
            dicom_series(raw / "tilted", pair.mri, pair.mri_affine, "MR", number=3, description="ADC")
            for file in dicom_series(raw / "gap", pair.ct, pair.ct_affine, "CT", number=2, description="head")[5:6]:
                file.unlink()
            dicom_series(raw / "gap", pair.mri, pair.mri_affine, "MR", number=3, description="ADC")
        subprocess.run(command(raw, out, "--num_workers", "2", "--names", "keep"), check=True)
        found = read_transform(out / name / "transform.tfm")
        assert pair.errors_mm(found).max() < 3
        shutil.copytree(out / name, cases / f"{layout}_{name}")
    record = json.loads((tmp_path / "dicom_out" / "prepare.json").read_text())
    assert "slices are missing" in record["errors"]["gap"]
    tilted = next(c for c in record["cases"] if c["case"] == "tilted")
    assert any("gantry tilt" in n for n in tilted["notes"])
    weights = tmp_path / "model.pt"
    torch.save(RoiFusionNet(channels=[32, 64, 96, 160], denoiser_channels=[16, 32, 48]).state_dict(), weights)

    def infer(*knobs: str) -> None:
        arguments = ["--config_file", "configs/inference.json", "--checkpoint", str(weights), "--num_inference_steps", "1"]
        subprocess.run(
            [sys.executable, "-m", "monai.bundle", "run", *arguments, "--num_samples", "1", *knobs], cwd=BUNDLE, check=True
        )

    infer("--dataset_dir", str(cases), "--output_dir", str(tmp_path / "results"))
    assert len(list((tmp_path / "results").glob("*/fused.nii.gz"))) == len(LAYOUT_WRITERS)
    raw = tmp_path / "pairs"
    single = ["--mri", str(raw / "x_mri.nii.gz"), "--ct", str(raw / "x_ct.nii.gz"), "--output_dir", str(tmp_path / "single")]
    infer(*single, "--register", "true")
    assert (tmp_path / "single" / "x" / "fused.nii.gz").is_file()
