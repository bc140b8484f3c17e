# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Every command in the documents is one that the program takes, every target one of make, and the site has no dead link."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUNDLE, ROOT
from roi_fusion.config.knobs import KNOBS
from roi_fusion_tools.cli.arguments import as_annotated, parameters_of, tidy_words
from roi_fusion_tools.cli.table import command_of

DOCUMENTS = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *BUNDLE.glob("docs/*.md"), *ROOT.glob("training/*.md")))
#: What every ``monai.bundle run`` takes beside the ids of the config.
RUN_ARGUMENTS = {
    "config_file",
    "meta_file",
    "logging_file",
    "tracking",
    "run_id",
    "runner_id",
    "init_id",
    "final_id",
    "args_file",
}


def code_of(text: str) -> Iterator[str]:
    """Lines of fenced and indented blocks, a line that ends on a backslash with the next; and what stands in backticks."""
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"```[a-z]*\n(.*?)```", text, re.S)
    for block in fenced:
        yield from block.splitlines()
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    yield from (line[4:] for line in text.splitlines() if line.startswith("    "))
    yield from (re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", text))


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command of this project, without a comment behind it, from the program on."""
    for line in code_of(text):
        line = re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ "))
        if not re.search(r"(^|[\s/])(roi-fusion|make|-m monai\.bundle|-m roi_fusion_tools\.cli)\b", line) or "…" in line:
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            continue  # prose in backticks with an apostrophe
        for at, word in enumerate(words):
            if word == "-m" and words[at + 1 : at + 2] in (["monai.bundle"], ["roi_fusion_tools.cli"]):
                yield ["roi-fusion" if words[at + 1] != "monai.bundle" else "monai.bundle", *words[at + 2 :]]
                break
            if Path(word).name == "roi-fusion" or (word == "make" and at == 0):
                yield [Path(word).name, *words[at + 1 :]]
                break


ALL = sorted(
    {(p.relative_to(ROOT).as_posix(), tuple(c)) for p in DOCUMENTS for c in commands_of(p.read_text(encoding="utf-8"))}
)


def in_words(case: tuple[str, tuple[str, ...]]) -> str:
    return f"{case[0]}: {' '.join(case[1])}"[:120]


@pytest.mark.parametrize("case", [c for c in ALL if c[1][0] == "roi-fusion"], ids=in_words)
def test_the_command_line_takes_what_the_documents_show(case: tuple[str, tuple[str, ...]]) -> None:
    words = list(case[1][1:])
    if not words or words[0] in ("--help", "--version"):
        return
    developer = words[0] == "dev"
    words = words[1:] if developer else words
    if not words:
        return
    command = command_of(words[0], developer)
    assert command is not None, words[0]
    if len(words) == 1 or "--help" in words:
        return  # named in a sentence
    title = f"roi-fusion {words[0]}"
    # A fragment such as `roi-fusion predict --register true` says nothing of what every run needs.
    needed = [p.name for p in parameters_of(command).values() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    words += [f"--{name}=x" for name in needed if not any(word.split("=")[0] == f"--{name}" for word in words)]
    parameters = parameters_of(command)
    for word in tidy_words(command, words[1:], title):
        name, sign, value = word.partition("=")
        if (
            sign and (parameter := parameters.get(name.removeprefix("--"))) and value.upper() != value
        ):  # O, D and F stand for paths
            as_annotated(parameter.name, str if parameter.annotation is parameter.empty else parameter.annotation, value)


@pytest.mark.parametrize("case", [c for c in ALL if c[1][0] == "monai.bundle"], ids=in_words)
def test_monai_finds_the_configs_and_knobs_that_the_documents_show(case: tuple[str, tuple[str, ...]]) -> None:
    words = list(case[1][1:])
    for at, word in enumerate(words):
        if word in ("--config_file", "--tracking"):
            for file in re.findall(r"[\w/]+\.json", words[at + 1]):
                assert (BUNDLE / file.removeprefix("bundle/")).is_file(), file
        elif word.startswith("--") and word != "--":
            name = word.removeprefix("--").split("=")[0]
            assert name in RUN_ARGUMENTS or "#" in name or name in KNOBS or name in {"help"}, word


@pytest.mark.parametrize("case", [c for c in ALL if c[1][0] == "make"], ids=in_words)
def test_make_has_the_targets_that_the_documents_show(case: tuple[str, tuple[str, ...]]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in case[1][1:]:
        name, sign, _ = word.partition("=")
        if sign:
            assert re.search(rf"\$\({name}\)|^{name} [?:]?=", makefile, re.M), word
        elif re.fullmatch(r"[a-z-]+", word) and word == case[1][1]:
            assert re.search(rf"^{word}:", makefile, re.M) or " ".join(case[1]).count(" ") > 3, word


def test_commands_are_found_at_all() -> None:
    """The tests above would hold for an empty list, too."""
    assert sum(c[1][0] == "roi-fusion" for c in ALL) > 25
    assert sum(c[1][0] == "monai.bundle" for c in ALL) >= 5
    found = list(
        commands_of("Text `roi-fusion predict --mri a \\\n --ct b` and\n\n    make test  # all\n    roi-fusion stack\n")
    )
    assert ["roi-fusion", "predict", "--mri", "a", "--ct", "b"] in found
    assert ["make", "test"] in found


def test_the_job_array_for_slurm_is_sound_and_runs_each_shard_once(tmp_path: Path) -> None:
    """By shellcheck, and with stand-ins for srun and roi-fusion that note what they were called with."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    if shellcheck is None:
        pytest.skip("needs shellcheck (pip install .[dev])")
    text = (ROOT / "docs" / "many_patients.md").read_text()
    (script,) = (block for block in re.findall(r"```bash\n(.*?)```", text, re.S) if "#SBATCH" in block)
    job = tmp_path / "predict.sh"
    job.write_text(script)
    # SC2154: Slurm assigns these variables.
    checked = subprocess.run([shellcheck, "--enable=all", "--exclude=SC2154", str(job)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    first, last = map(int, re.search(r"^#SBATCH --array=(\d+)-(\d+)$", script, re.M).groups())
    assert first == 1
    (tmp_path / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "roi-fusion").write_text(f'#!/bin/sh\necho "$OMP_NUM_THREADS $*" >> {tmp_path}/called\n')
    for name in ("srun", "roi-fusion"):
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_CPUS_PER_TASK": "2", "SLURM_ARRAY_TASK_COUNT": str(last), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    for number in range(first, last + 1):
        subprocess.run(["bash", str(job)], env={**slurm, "SLURM_ARRAY_TASK_ID": str(number)}, check=True)
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [f"2 predict --dataset_dir D --output O --shard {n}/{last}" for n in range(1, last + 1)]
    words = shlex.split(called[0].removeprefix("2 predict "))
    assert "--shard=1/8" in tidy_words(command_of("predict"), words, "roi-fusion predict")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_site_is_built_without_a_dead_link(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site needs mkdocs-material (pip install .[dev])")
    if not (ROOT / ".git").exists():
        pytest.skip("the site lists the pages that git knows, and this is no checkout")
    arguments = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "bundle" / "docs" / "index.html").is_file()
    texts = {d["location"].split("#")[0] for d in json.loads((tmp_path / "search" / "search_index.json").read_text())["docs"]}
    assert {"index.html", "docs/benchmarks.html", "bundle/docs/python.html"} <= texts
