# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The MONAI Label server as users start it, ours and the stock sample app; run by `make test-label` in its own environment."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import ROOT
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.results import RESULT_FILES
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import write_phantoms

requests = pytest.importorskip("requests")
pytest.importorskip("monailabel")
pytestmark = pytest.mark.label

CASES = [f"phantom_{i:04d}" for i in range(4)]
#: Study of our server → case of the data set that it is.
STUDIES = {**{f"{c}_mri": c for c in CASES[:3]}, CASES[3]: CASES[3]}
KINDS = [stem for stem, _ in RESULT_FILES.values()]
TRAINING = {"max_epochs": 1, "patch_size": [32, 32, 4], "num_inference_steps": 1}
# Refuses every address but this machine's, and notes it: a server has to start and work where there is no network.
NO_NETWORK = """
import os, socket
def connect(self, address, _connect=socket.socket.connect):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        open(os.environ["NETWORK_LOG"], "a").write(f"{address}\\n")
        raise OSError("no network in this test")
    return _connect(self, address)
socket.socket.connect = connect
"""


def test_the_extra_lists_what_monailabel_needs_without_sam2() -> None:
    needed = {r for r in requires("monailabel") or [] if "extra ==" not in r}
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["label"]
    assert {r.split(">")[0] for r in needed - set(extra)} == {"sam2"}


class Server:
    """A MONAI Label server in a process of its own, without a network."""

    def __init__(self, folder: Path, *command: str) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        self.url, self.log, self.network_log = f"http://127.0.0.1:{port}", folder / "server.log", folder / "network.log"
        (folder / "sitecustomize.py").write_text(NO_NETWORK)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(folder),
            "NETWORK_LOG": str(self.network_log),
            "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        }
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port", port],
            cwd=folder,
            env=environment,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for _ in range(240):
            if self.process.poll() is not None:
                break
            try:
                requests.get(f"{self.url}/info/", timeout=30)
                return
            except requests.ConnectionError:
                time.sleep(0.5)
        self.stop()
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def __call__(self, method: str, path: str, **kwargs: Any) -> Any:
        return requests.request(method, self.url + path, timeout=300, **kwargs)

    def infer(self, model: str, params: dict | None = None, files: dict | None = None, **query: str) -> Any:
        form = {"params": json.dumps(params or {})}
        return self("POST", f"/infer/{model}", params={"output": "image", **query}, data=form, files=files)

    def submit(self, study: str, label: Path, **query: str) -> Any:
        query = {"image": study, "tag": "final", **query}
        return self("PUT", "/datastore/label", params=query, files={"label": (label.name, label.read_bytes())})

    def train(self, model: str, **params: Any) -> dict:
        """Train to the end; returns the task."""
        answer = self("POST", f"/train/{model}", json=params)
        assert answer.status_code == 200, answer.text
        while self("GET", "/train/").json()["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        return self("GET", "/train/").json()


def volume(answer: Any) -> nib.Nifti1Image:
    assert answer.status_code == 200, answer.text
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def assert_equal_volumes(volume: nib.Nifti1Image, file: Path, like: Path) -> None:
    expected, source = nib.load(file), nib.load(like)
    assert volume.shape == source.shape
    np.testing.assert_allclose(volume.affine, source.affine, atol=1e-4)
    assert volume.get_data_dtype() == expected.get_data_dtype()
    ours, theirs = np.asarray(volume.dataobj), np.asarray(expected.dataobj)
    scale = max(1, np.nanmax(np.abs(theirs)))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * scale)
    # Guidance steps by the sign of gradients: rounding between two runs in other surroundings shows in single voxels.
    assert np.mean(~np.isclose(ours, theirs, atol=1e-5 * scale, equal_nan=True)) <= 1e-3


def write_random_weights(path: Path) -> None:
    """Weights whose results vary over space, with a threshold that is not the default one."""
    torch.manual_seed(0)
    network = RoiFusionNet()
    with torch.no_grad():
        network.out.weight.normal_(0, 0.5)
    network.threshold.fill_(0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)


def read_weights(path: Path) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in torch.load(path, weights_only=True).values()])


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nested/` as the bundle's commands read it; `studies/` as an annotator has them, some of which cannot be used."""
    folder = tmp_path_factory.mktemp("data")
    nested, studies = folder / "nested", folder / "studies"
    list(
        write_phantoms(nested, 4, PhantomConfig(shape=(48, 48, 8), spacing_mm=(4.8, 4.8, 18.0), lesion_free_share=0.0), seed=3)
    )
    (studies / CASES[3]).mkdir(parents=True)
    for name in ("mri.nii.gz", "ct.nii.gz"):
        for case in CASES[:3]:
            shutil.copy(nested / case / name, studies / f"{case}_{name}")
        shutil.copy(nested / CASES[3] / name, studies / CASES[3] / name)
    for study in ("alone", "other"):
        shutil.copy(nested / CASES[0] / "mri.nii.gz", studies / f"{study}_mri.nii.gz")
    ct = nib.load(nested / CASES[1] / "ct.nii.gz")
    away = ct.affine.copy()
    away[:3, 3] += 5000
    nib.save(nib.Nifti1Image(np.asarray(ct.dataobj), away), studies / "other_ct.nii.gz")
    (studies / "broken_mri.nii.gz").write_bytes(b"no volume")
    shutil.copy(nested / CASES[0] / "ct.nii.gz", studies / "broken_ct.nii.gz")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    write_random_weights(folder / "label_work" / "bundle" / "models" / "model.pt")
    return folder / "label_work"


@pytest.fixture(scope="module")
def server(data: Path, work: Path) -> Iterator[Server]:
    """Our server, as `make label STUDIES=dir` starts it."""
    limit = ("--max_upload_mb", "4")
    server = Server(
        work.parent, "-m", "roi_fusion_tools.cli", "label", "--studies", str(data / "studies"), "--work_dir", str(work), *limit
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def reference(data: Path, server: Server, work: Path) -> Path:
    """What inference.json writes for the same cases with the same weights, before any training."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "monai.bundle",
            "run",
            "--config_file",
            "configs/inference.json",
            "--dataset_dir",
            str(data / "nested"),
            "--output_dir",
            str(data / "reference"),
        ],
        cwd=work / "bundle",
        check=True,
        capture_output=True,
    )
    return data / "reference"


def test_the_start_says_what_a_user_needs(server: Server, data: Path) -> None:
    text = server.log.read_text()
    for part in (
        server.url,
        str(data / "studies"),
        "lesion",
        "fused",
        "3D Slicer",
        "OHIF",
        "labels/final",
        "not for diagnosis",
    ):
        assert part in text
    assert "warning: the server listens beyond" not in text


def test_info(server: Server) -> None:
    info = server("GET", "/info/").json()
    assert set(info["models"]) == {"lesion", "fused"}
    assert info["models"]["lesion"]["labels"] == {"lesion": 1}
    assert info["models"]["lesion"]["type"] == "segmentation"
    assert info["models"]["fused"]["type"] == "others"
    assert set(info["trainers"]) == {"lesion"}
    assert {"uncertainty", "random", "first"} <= set(info["strategies"])
    assert set(info["scoring"]) == {"metrics"}
    objects = server("GET", "/datastore/", params={"output": "all"}).json()["objects"]
    assert set(objects) == {*STUDIES, "alone_mri", "other_mri", "broken_mri"}  # and no CT


@pytest.mark.parametrize("study", list(STUDIES))
@pytest.mark.parametrize("kind", KINDS)
def test_infer_by_id_equals_the_bundles_files(server: Server, data: Path, reference: Path, study: str, kind: str) -> None:
    model = "fused" if kind == "fused" else "lesion"
    answer = server.infer(model, {} if kind == model else {"kind": kind}, image=study)
    case = STUDIES[study]
    assert_equal_volumes(volume(answer), reference / case / f"{kind}.nii.gz", data / "nested" / case / "mri.nii.gz")


def test_the_answer_has_the_facts_of_result_json(server: Server, reference: Path) -> None:
    facts = server.infer("lesion", image=CASES[3], output="json").json()
    expected = json.loads((reference / CASES[3] / "result.json").read_text())
    assert facts["kind"] == "lesion"
    for name in ("lesion_ml", "seed", "num_samples"):
        assert facts[name] == pytest.approx(expected[name])


@pytest.mark.parametrize("model", ["lesion", "fused"])
def test_infer_by_upload(server: Server, data: Path, reference: Path, model: str) -> None:
    case = CASES[1]
    mri, ct = (data / "nested" / case / f"{n}.nii.gz" for n in ("mri", "ct"))
    files = [("files", (f.name, f.read_bytes())) for f in (mri, ct)]
    session = server("PUT", "/session/", files=files).json()["session_id"]
    by_session = server.infer(model, session_id=session)
    assert_equal_volumes(volume(by_session), reference / case / f"{model}.nii.gz", mri)
    by_file = server.infer(model, {"ct": f"{case}_ct"}, files={"file": ("any.nii.gz", mri.read_bytes())})
    assert_equal_volumes(volume(by_file), reference / case / f"{model}.nii.gz", mri)


def test_slicer_gets_the_lesion_as_nrrd(server: Server, reference: Path, tmp_path: Path) -> None:
    import nrrd

    answer = server.infer("lesion", {"result_extension": ".nrrd"}, image=CASES[3])
    (tmp_path / "lesion.nrrd").write_bytes(answer.content)
    voxels, _ = nrrd.read(str(tmp_path / "lesion.nrrd"))
    np.testing.assert_array_equal(voxels, np.asarray(nib.load(reference / CASES[3] / "lesion.nii.gz").dataobj))


def test_two_requests_at_once(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        lesion, fused = pool.map(lambda m: server.infer(m, image=f"{CASES[0]}_mri"), ("lesion", "fused"))
    assert volume(lesion).shape == volume(fused).shape


STUDY = {"image": f"{CASES[0]}_mri"}


@pytest.mark.parametrize(
    ("model", "query", "params", "code", "sentence"),
    [
        ("lesion", {"image": "other_mri"}, {}, 422, "other_ct.nii.gz: expected"),
        ("lesion", {"image": "broken_mri"}, {}, 422, "broken_mri.nii.gz: expected a readable volume"),
        ("lesion", {"image": "unknown"}, {}, 404, "image: expected the id of a study"),
        ("lesions", STUDY, {}, 404, "model: expected one of lesion, fused"),
        ("lesion", STUDY, {"kind": "heat"}, 422, "kind: expected one of lesion, fused"),
        ("lesion", STUDY, {"device": "$1"}, 422, "device: expected one of"),
        ("lesion", STUDY, {"result_extension": "/../x.nii"}, 422, "result_extension: expected"),
        ("lesion", STUDY, {"ct": "unknown_ct"}, 404, "ct: expected a CT of the studies"),
        ("lesion", {"image": "/etc/hostname"}, {}, 400, "image: expected the name of something in the studies"),
        ("lesion", {"session_id": "../sessions"}, {}, 400, "session_id: expected"),
        ("lesion", STUDY, {"image": "/etc/hostname"}, 400, "image: expected the id of a study"),
        ("lesion", STUDY, {"ct": "../reference/x"}, 400, "ct: expected a name"),
        ("lesion", STUDY, {"save_label": True, "label_tag": "../../x"}, 400, "label_tag: expected a name"),
    ],
)
def test_bad_input_is_one_sentence(server: Server, model: str, query: dict, params: dict, code: int, sentence: str) -> None:
    answer = server.infer(model, params, **query)
    assert answer.status_code == code
    assert sentence in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


#: What a page of another site could send through the browser of a reader who has it open.
ATTACKS = [
    ("GET", "/datastore/?output=all"),
    ("GET", "/datastore/image?image=phantom_0000_mri"),
    ("DELETE", "/datastore/?id=phantom_0000_mri"),
    ("PUT", "/datastore/?image=planted"),
    ("POST", "/train/lesion"),
    ("POST", "/reload"),
    ("OPTIONS", "/datastore/"),
    ("GET", "/ohif/"),
    ("GET", "/no/such/page"),
]


@pytest.mark.parametrize(("method", "path"), ATTACKS)
def test_pages_of_other_sites_get_no_answer(server: Server, data: Path, method: str, path: str) -> None:
    """From a site, from a sandboxed frame or a file (null), and from a site whose name was made to point here."""
    before = tree(data)
    port = server.url.rsplit(":", 1)[1]
    upload = {"files": {"file": ("x.nii.gz", b"x")}} if method == "PUT" else {}
    leave = {"Access-Control-Request-Method": "DELETE"} if method == "OPTIONS" else {}
    for headers, word in (
        ({"Origin": "https://example.org"}, "origin"),
        ({"Origin": "null"}, "origin"),
        ({"Origin": "http://localhost:1"}, "origin"),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "origin"),
        ({"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}, "host"),
        ({"Host": f"evil.example:{port}"}, "host"),
        ({"Host": f"127.0.0.1.evil.example:{port}"}, "host"),
    ):
        answer = server(method, path, headers={**headers, **leave}, **upload)
        assert answer.status_code == 403, headers
        assert answer.json()["detail"].startswith(f"{word}: expected"), headers
        assert not [k for k in answer.headers if k.lower().startswith("access-control")]
    assert tree(data) == before


def test_pages_of_this_server_and_programs_get_answers(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    for headers in ({}, {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}, {"Host": f"localhost:{port}"}):
        answer = server("GET", "/info/", headers=headers)
        assert answer.status_code == 200
        assert not [k for k in answer.headers if k.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/proxy/dicom/wado/studies", "/proxy/dicom/stow/studies", "//proxy/dicom/x", "/%70roxy/dicom/x"]
)
def test_the_proxy_is_off(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        answer = server(method, path)
        assert answer.status_code == 404
        assert "expected requests to this server only" in answer.json()["detail"]


def test_uploads_above_the_limit_are_refused(server: Server, data: Path) -> None:
    """The server was started with 4 MB: told, in chunks, and as an archive that unpacks to more."""
    before = tree(data)
    body = b"x" * 5_000_000
    sentence = "upload: expected 4 MB or less, got more (--max_upload_mb sets the limit)"
    boundary = {"Content-Type": "multipart/form-data; boundary=b"}
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.nii.gz"\r\n\r\n' + body + b"\r\n--b--\r\n"
    told = server("PUT", "/datastore/", params={"image": "big"}, files={"file": ("x.nii.gz", body)})
    chunks = (form[i : i + 100_000] for i in range(0, len(form), 100_000))
    untold = server("PUT", "/datastore/", params={"image": "big"}, data=chunks, headers=boundary)
    for answer in (told, untold):
        assert (answer.status_code, answer.json()["detail"]) == (413, sentence)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mri.nii.gz", b"\0" * 50_000_000)
    bomb = [("files", ("x.zip", packed.getvalue()))]
    answer = server("PUT", "/session/", params={"uncompress": "true"}, files=bomb)
    assert (answer.status_code, answer.json()["detail"]) == (413, "files: expected 4 MB or less when unpacked, got 50 MB")
    fake = [("files", ("x.zip", b"no archive"))]
    assert server("PUT", "/session/", params={"uncompress": "true"}, files=fake).status_code == 400
    assert tree(data) == before


def test_broken_params_are_one_sentence(server: Server) -> None:
    answer = server("POST", "/infer/lesion", params=STUDY, data={"params": "{no json"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "params: expected JSON")


def test_a_server_without_weights_says_so_and_finds_them_when_they_come(server: Server, work: Path) -> None:
    weights = work / "bundle" / "models" / "model.pt"
    weights.rename(weights.with_suffix(".away"))
    answer = server.infer("lesion", **STUDY)
    assert answer.status_code == 422
    assert "expected weights to run, found no such file" in answer.json()["detail"]
    weights.write_bytes(b"no weights")
    broken = server.infer("lesion", **STUDY)
    weights.with_suffix(".away").rename(weights)
    assert broken.status_code == 422
    assert "model.pt: expected weights of" in broken.json()["detail"]
    assert server.infer("lesion", **STUDY).status_code == 200


def test_nothing_is_written_outside_the_studies(server: Server, data: Path, work: Path) -> None:
    mri = (data / "nested" / CASES[0] / "mri.nii.gz").read_bytes()
    before = tree(data), tree(work / "bundle")
    upload = {"file": ("x.nii.gz", mri)}
    requests_out = [
        server("PUT", "/datastore/", params={"image": "../../x"}, files=upload),
        server("PUT", "/datastore/image", params={"image": "../x"}, files=upload),
        server("PUT", "/datastore/image", params={"image": str(data / "x")}, files=upload),
        server("PUT", "/datastore/image", params={"image": "a/../../x"}, files=upload),
        server("PUT", "/datastore/image", params={"image": "x/y"}, files=upload),
        server("PUT", "/datastore/label", params={**STUDY, "tag": "../../x"}, files={"label": ("x.nii.gz", mri)}),
        server("PUT", "/datastore/label", params={**STUDY, "tag": "a/b"}, files={"label": ("x.nii.gz", mri)}),
        server("DELETE", "/datastore/image", params={"id": "../nested"}),
        server("PUT", "/session/", params={"uncompress": "true"}, files=[("files", ("x.tar", b"x"))]),
    ]
    assert [r.status_code for r in requests_out] == [400] * len(requests_out)
    assert (tree(data), tree(work / "bundle")) == before


def test_a_label_that_does_not_fit_is_refused(server: Server, data: Path, tmp_path: Path) -> None:
    mri = nib.load(data / "nested" / CASES[0] / "mri.nii.gz")
    empty = np.zeros(mri.shape, np.uint8)
    other = mri.affine.copy()
    other[0, 3] += 30
    files = {
        "shape": (nib.Nifti1Image(empty[:-1], mri.affine), "label: expected the MRI's shape"),
        "place": (nib.Nifti1Image(empty, other), "label: expected the MRI's orientation and position"),
        "value": (
            nib.Nifti1Image(empty + np.arange(8, dtype=np.uint8), mri.affine),
            "label: expected a lesion mask of 0 and 1",
        ),
    }
    for name, (image, sentence) in files.items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
        answer = server.submit(f"{CASES[0]}_mri", tmp_path / f"{name}.nii.gz")
        assert answer.status_code == 422
        assert sentence in answer.json()["detail"]
    nib.save(files["shape"][0], tmp_path / "x.nii.gz")
    assert server.submit("unknown", tmp_path / "x.nii.gz").status_code == 404
    assert not (data / "studies" / "labels" / "final").exists() or not any((data / "studies" / "labels" / "final").iterdir())


def test_active_learning_gives_what_the_model_knows_least(server: Server, reference: Path) -> None:
    bits = {}
    for study, case in STUDIES.items():
        image = nib.load(reference / case / "uncertainty.nii.gz")
        bits[study] = float(np.asarray(image.dataobj, dtype=float).sum()) * abs(np.linalg.det(image.affine[:3, :3])) / 1000
    answer = server("POST", "/activelearning/uncertainty", json={}).json()
    most = max(bits, key=lambda s: bits[s])
    assert answer["id"] in (most, "alone_mri")  # the MRI alone is asked as well, and has no reference here
    if answer["id"] == most:
        assert answer["uncertainty"]["bit_ml"] == pytest.approx(bits[most], rel=1e-3)
    else:
        assert answer["uncertainty"]["bit_ml"] > bits[most]
    assert Path(answer["path"]).is_file()


def test_training_without_a_label_says_so(server: Server) -> None:
    task = server.train("lesion", **TRAINING)
    assert task["status"] == "ERROR"
    assert "error: expected at least one submitted label to train on, got none" in "\n".join(task["details"])
    answer = server("POST", "/train/lesion", params={"run_sync": "true"}, json=TRAINING)
    assert (answer.status_code, answer.json()["detail"]) == (422, "expected at least one submitted label to train on, got none")


def test_submitting_scoring_and_training(server: Server, data: Path, work: Path) -> None:
    weights = work / "bundle" / "models" / "model.pt"
    for study in (f"{CASES[0]}_mri", CASES[3]):
        answer = server.submit(study, data / "nested" / STUDIES[study] / "lesion_mask.nii.gz")
        assert answer.status_code == 200, answer.text
        assert (data / "studies" / "labels" / "final" / f"{study}.nii.gz").is_file()
    assert server("GET", "/datastore/").json()["completed"] == 2

    scores = server("POST", "/scoring/metrics", params={"run_sync": "true"}).json()
    assert set(scores) == {f"{CASES[0]}_mri", CASES[3]}
    assert 0 < scores[CASES[3]]["brain_ssim"] <= 1
    assert "lesion_dice" in scores[CASES[3]]
    info = server("GET", "/datastore/label/info", params={"label": CASES[3], "tag": "final"}).json()
    assert info["metrics"]["brain_ssim"] == scores[CASES[3]]["brain_ssim"]
    assert (work / "bundle" / "runs" / "label" / "scoring" / "metrics.csv").is_file()

    before, image = read_weights(weights), volume(server.infer("fused", image=CASES[3]))
    assert server("POST", "/train/lesion", json=TRAINING).status_code == 200
    while server("GET", "/train/").json()["status"] == "SUBMITTED":
        time.sleep(0.1)
    assert server("POST", "/train/lesion", json=TRAINING).status_code == 429  # one at a time
    during = 0
    while server("GET", "/train/").json()["status"] in ("SUBMITTED", "RUNNING"):
        assert server.infer("lesion", image=CASES[3]).status_code == 200
        during += 1
    task = server("GET", "/train/").json()
    assert task["status"] == "DONE", "\n".join(task["details"])
    assert during > 0
    after = read_weights(weights)
    assert not torch.equal(after, before)
    assert float((after - before).abs().max()) < 0.05  # it went on from them
    assert torch.equal(read_weights(weights.with_name("previous.pt")), before)
    assert not np.array_equal(np.asarray(volume(server.infer("fused", image=CASES[3])).dataobj), np.asarray(image.dataobj))


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"learning_rate": "$__import__('os')"}, "learning_rate: expected a number"),
        ({"max_epochs": 0}, "max_epochs: expected a whole number of 1 or more"),
        ({"max_epochs": "$1"}, "max_epochs: expected a number"),
        ({"preset": "$1"}, "preset: expected a preset"),
        ({"val_split": 2}, "val_split: expected a share"),
        ({"preset": "strok"}, "preset: expected one of"),
        ({"device": "$1"}, "device: expected one of"),
    ],
)
def test_a_training_that_cannot_start_says_so(server: Server, params: dict, sentence: str) -> None:
    answer = server("POST", "/train/lesion", params={"run_sync": "true"}, json={**TRAINING, **params})
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]


def test_batch_infer_leaves_out_what_cannot_be_used(server: Server, data: Path) -> None:
    answer = server("POST", "/batch/infer/lesion", params={"images": "unlabeled", "run_sync": "true"})
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert "error" not in result["alone_mri"]  # the MRI alone is an ordinary input
    assert "broken_mri.nii.gz: expected a readable volume" in result["broken_mri"]["error"]
    for case in CASES[1:3]:
        assert (data / "studies" / "labels" / "original" / f"{case}_mri.nii.gz").is_file()


def test_the_server_lived_on_without_a_network_or_a_traceback(server: Server) -> None:
    assert server.process.poll() is None
    assert not server.network_log.exists(), server.network_log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_the_app_refuses_to_listen_everywhere_unasked(data: Path, work: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "monailabel.main",
            "start_server",
            "--app",
            str(work / "app"),
            "--studies",
            str(data / "studies"),
            "--conf",
            "bundle",
            str(work / "bundle"),
            "--port",
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=work,
    )
    assert done.returncode == 2
    assert "error: --host: expected an address to listen on" in done.stderr


class TestStockSampleApp:
    """The bundle as it ships, unchanged, in MONAI Label's own `monaibundle` app."""

    @pytest.fixture(scope="class")
    def bundle(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        app = tmp_path_factory.mktemp("stock") / "monaibundle"
        shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
        bundle = app / "model" / "roi_fusion"
        for name in ("configs", "roi_fusion"):
            shutil.copytree(ROOT / "bundle" / name, bundle / name, ignore=shutil.ignore_patterns("__pycache__"))
        write_random_weights(bundle / "models" / "model.pt")
        return bundle

    @pytest.fixture(scope="class")
    def stock(self, bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        studies = bundle.parents[2] / "studies"
        studies.mkdir()
        for case in CASES[:3]:
            for name in ("mri", "ct"):
                shutil.copy(data / "nested" / case / f"{name}.nii.gz", studies / f"{case}_{name}.nii.gz")
        server = Server(
            bundle.parents[2],
            "-m",
            "monailabel.main",
            "start_server",
            "--app",
            str(bundle.parents[1]),
            "--studies",
            str(studies),
            "--conf",
            "models",
            "roi_fusion",
            "--conf",
            "zoo_source",
            "local",
            "--conf",
            "sam2",
            "false",
            "--host",
            "127.0.0.1",
        )
        yield server
        server.stop()

    def test_infer(self, stock: Server, data: Path, reference: Path) -> None:
        assert set(stock("GET", "/info/").json()["models"]) == {"roi_fusion"}
        for case in CASES[:2]:
            image = volume(stock.infer("roi_fusion", image=f"{case}_mri"))
            expected = nib.load(reference / case / "lesion.nii.gz")
            np.testing.assert_allclose(image.affine, expected.affine, atol=1e-4)
            np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))

    def test_train(self, stock: Server, data: Path, bundle: Path) -> None:
        before = read_weights(bundle / "models" / "model.pt")
        for case in CASES[:2]:
            assert stock.submit(f"{case}_mri", data / "nested" / case / "lesion_mask.nii.gz").status_code == 200
        task = stock.train("roi_fusion", max_epochs=1, val_split=0.5)
        assert task["status"] == "DONE", "\n".join(task["details"])
        after = read_weights(bundle / "models" / "model.pt")
        assert not torch.equal(after, before)
        assert float((after - before).abs().max()) < 0.05
        assert stock.infer("roi_fusion", image=f"{CASES[0]}_mri").status_code == 200
        assert not stock.network_log.exists()
