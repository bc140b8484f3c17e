# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command ``roi-fusion`` itself: it starts, answers mistakes at once and by one sentence, and hands over what is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import BUNDLE, ROOT
from in_process import run_cli
from roi_fusion_tools.cli import use

HEAVY = ("torch", "monai", "ignite", "nibabel", "numpy", "matplotlib")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(BUNDLE), str(ROOT / "scripts")))}


def answer(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, from a folder that is not the repository."""
    code = (
        "import sys\nfrom roi_fusion_tools.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    assert not set({HEAVY!r}) & set(sys.modules), 'imported what takes long'"
    )
    return subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("--help", 0, "roi-fusion COMMAND"),
        ("dev --help", 0, "roi-fusion dev COMMAND"),
        ("train --help", 0, "--max_epochs"),
        (
            "predit",
            2,
            "error: predit: expected a command, got an unknown one; did you mean predict? (roi-fusion --help lists them)",
        ),
        (
            "predict --output x --mri none.nii.gz",
            2,
            "error: mri: expected a file or folder that is there, found no none.nii",
        ),
        ("predict --mri . --output x --num_samples 0", 2, "error: num_samples: expected a whole number of 1 or more, got 0"),
        ("predict --output x", 2, "error: predict: expected --mri and --ct, or --dataset_dir, got none"),
        ("train --output x --dataset_dir . --run_name y", 2, "error: run_name: expected --tracking beside it"),
    ],
)
def test_help_and_mistakes_are_answered_without_torch(words: str, code: int, sentence: str, tmp_path: Path) -> None:
    done = answer(*words.split(), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in (done.stdout if code == 0 else done.stderr)
    assert "Traceback" not in done.stderr
    assert code == 0 or len(done.stderr.splitlines()) == 1


def test_the_module_starts_as_a_process(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"run": "$@nothing.run()"}')
    command = [sys.executable, "-m", "roi_fusion_tools.cli", "check", str(broken)]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"file: {broken}" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_names_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from roi_fusion_tools.cli import bundle, main

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "last.pt").touch()
    words = ["train", "--dataset_dir", str(tmp_path), "--output", str(tmp_path)]
    monkeypatch.setattr(bundle, "run_bundle", stopped)
    monkeypatch.setattr(sys, "argv", ["roi-fusion", *words])
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    assert f"this goes on: roi-fusion {' '.join(words)} --resume {tmp_path}/last.pt" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def needs_itk(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'itk'", name="itk")

    monkeypatch.setattr(use, "expect_there", needs_itk)
    text = run_cli("report", str(tmp_path), ok=False)
    assert "error: expected the package itk, found none: pip install 'roi-fusion[registration]' installs it" in text


def test_a_sentence_names_the_option_that_was_typed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = run_cli("prepare", "--input", str(tmp_path), "--output", str(tmp_path / "out"), ok=False)
    assert "error: output: expected a folder outside of input_dir" in text


def test_version_is_printed() -> None:
    from roi_fusion import __version__

    assert run_cli("--version").strip() == __version__


def test_a_pipe_that_closes_early_ends_it_quietly() -> None:
    command = f"{sys.executable} -m roi_fusion_tools.cli benchmark --help | head -1"
    paths = f"{BUNDLE}{os.pathsep}{BUNDLE.parent / 'scripts'}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.stdout.strip() == "Run one part of the benchmark."
    assert done.stderr == ""
