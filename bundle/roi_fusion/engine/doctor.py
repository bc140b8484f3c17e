# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The doctor: names the fault of a training, since when, its likely cause and the remedy.

It reads what a training logs (``history.jsonl``, ``run.json``, ``start_check.json``), so it can look at a running one, at a
finished one, or sit in the trainer as a handler. The rules stand in ``doctor_rules``, the gates in ``doctor_chart``.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events

from ..core.schedule import Level, signal_and_noise
from ..errors import InputError
from ..values import is_first_rank, write_json
from .doctor_chart import Chart, gate_results, gates, read_chart
from .doctor_rules import diagnose

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["Doctor", "case_scales", "check_scales", "check_schedule", "prescription", "scale_fault"]

logger = logging.getLogger(__name__)


def prescription(chart: Chart) -> str:
    """Findings and gates as text for people."""
    found = diagnose(chart)
    last = chart.rows[-1]["epoch"] if chart.rows else 0
    lines = [f"{last} epochs, {len(chart.validated)} validations, {len(found)} finding{'s' if len(found) != 1 else ''}"]
    for n, f in enumerate(found, start=1):
        since = f"since epoch {f.since_epoch}" if f.since_epoch else "since the start"
        lines += [
            "",
            f"{n}. {f.severity.upper()} [{f.code}] {f.what} ({since})",
            f"   likely cause: {f.cause}",
            f"   remedy: {f.remedy}",
        ]
    return "\n".join([*lines, "", *map(str, gates(chart))])


class Doctor:
    """Look at the training at its start and after every epoch, say each new finding once and keep all in ``doctor.json``.

    The gates of epochs 20 and 50 are said when they are reached. ``doctor.json`` holds ``findings``, ``gates`` with all values,
    and ``gate_results``, one sentence for each epoch that is reached. Attach it behind the handler that writes the history.

    Args:
        output_dir: folder of the training.
        dataset: training data set, whose loaded cases are measured.
        inferer: the sampling inferer of the validation.
        scheduler: the schedule that the training noises with.
        stop_on: ``"critical"`` ends the training at a critical finding; ``"never"`` only says it.

    Raises:
        InputError: for another value of `stop_on`.
    """

    def __init__(self, output_dir: str | Path, dataset: Any, inferer: Any, scheduler: Any, stop_on: str = "never") -> None:
        if stop_on not in ("never", "critical"):
            raise InputError(f"stop_on: expected never or critical, got {stop_on!r}")
        self.folder, self.dataset, self.stop_on = Path(output_dir), dataset, stop_on
        self.inferer, self.scheduler = inferer, scheduler
        self._said: set[tuple[str, str]] = set()
        self._gates_said: set[int] = set()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _start(self, engine: Engine) -> None:
        if is_first_rank():
            checked, broken = check_scales(self.dataset)
            fault = check_schedule(self.inferer, self.scheduler)
            write_json(self.folder / "start_check.json", {"cases": checked, "scales": broken, "schedule": fault})
            self._gates_said = set(gate_results(gates(read_chart(self.folder))))  # of the training that is resumed
            self._look(engine)

    def _look(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        chart = read_chart(self.folder)
        found, reached = diagnose(chart), gates(chart)
        results = gate_results(reached)
        content = {"findings": [asdict(f) for f in found], "gates": [asdict(g) for g in reached], "gate_results": results}
        write_json(self.folder / "doctor.json", content)
        for epoch in sorted(set(results) - self._gates_said):
            self._gates_said.add(epoch)
            level = logging.INFO if results[epoch] == "passed" else logging.WARNING
            logger.log(level, "doctor: gate of epoch %d: %s", epoch, results[epoch])
        for finding in found:
            key = (finding.code, finding.what.split(" ")[0])
            if key not in self._said:
                self._said.add(key)
                said = (finding.severity, finding.what, finding.cause, finding.remedy)
                logger.warning("doctor: %s: %s\n    likely cause: %s\n    remedy: %s", *said)
        critical = [f for f in found if f.severity == "critical"]
        if critical and self.stop_on == "critical":
            raise InputError(
                f"doctor: stopped the training: {critical[0].what}; likely cause: {critical[0].cause}; "
                f"remedy: {critical[0].remedy}"
            )


def case_scales(mri: torch.Tensor, ct: torch.Tensor, head: torch.Tensor) -> dict[str, float]:
    """Mean, deviation and range of both volumes over the head."""
    inside = head > 0
    out = {}
    for name, volume in (("mri", mri), ("ct", ct)):
        values = volume[inside].float()
        if values.numel() < 2:
            continue
        out.update(
            {
                f"{name}_mean": float(values.mean()),
                f"{name}_std": float(values.std()),
                f"{name}_min": float(values.min()),
                f"{name}_max": float(values.max()),
            }
        )
    return out


def scale_fault(scales: dict[str, float]) -> str | None:
    """What is wrong with a case's scales; None when both are normalised alike.

    Deviations more than a factor of 2 apart, a mean beyond 0.1, or a CT that fills [0, 1] exactly.
    """
    if "mri_std" not in scales or "ct_std" not in scales:
        return "no head"
    ratio = max(scales["mri_std"], scales["ct_std"]) / max(min(scales["mri_std"], scales["ct_std"]), 1e-9)
    facts = (
        f"MRI {scales['mri_mean']:.2f} ± {scales['mri_std']:.2f}, CT {scales['ct_mean']:.2f} ± {scales['ct_std']:.2f} "
        f"in [{scales['ct_min']:.2f}, {scales['ct_max']:.2f}]"
    )
    if scales["ct_min"] >= 0 and scales["ct_max"] <= 1.0 + 1e-4:
        return f"CT min-max scaled: {facts}"
    if ratio > 2:
        return f"deviations a factor of {ratio:.1f} apart: {facts}"
    if max(abs(scales["mri_mean"]), abs(scales["ct_mean"])) > 0.1:
        return f"mean away from 0: {facts}"
    return None


def check_scales(dataset: Any) -> tuple[int, dict[str, str]]:
    """Measure every case of a training data set that is kept in memory, as it was loaded, before random transforms.

    Returns:
        (cases looked at, ``{case: fault}``)
    """
    broken: dict[str, str] = {}
    cache = [c for c in getattr(dataset, "loaded", []) if isinstance(c, dict) and {"image", "ct", "head"} <= set(c)]
    for case in cache:
        mri, ct, head = (torch.as_tensor(case[k]) for k in ("image", "ct", "head"))
        fault = scale_fault(case_scales(mri, ct, head))
        if fault:
            broken[str(case.get("case"))] = fault
    return len(cache), broken


def check_schedule(inferer: Any, scheduler: Any, tolerance: float = 1e-3) -> str | None:
    """Run the inferer's sampler with an oracle that knows x₀: at each step x_t must lie on the level that the network is told.

    Args:
        inferer: with ``levels`` and ``sampler``.
        scheduler: the schedule that training noises with.
        tolerance: largest difference, in units of the data.

    Returns:
        What is wrong, or None.
    """
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(512, generator=generator, dtype=torch.float64) for _ in range(2))
    levels = list(inferer.levels)
    fault: list[str] = []

    def oracle(x_t: torch.Tensor, level: Level) -> torch.Tensor:
        try:
            signal, deviation = signal_and_noise(scheduler, level.t)
        except IndexError:
            fault.append(f"the sampler visits timestep {level.t:g}, which the training's schedule has not")
            return clean
        # What is left of x_t besides the signal must be unit noise at the level's deviation.
        rest = x_t - signal * clean
        spread = float(rest.std())
        if not fault and abs(spread - deviation) > 0.05 + tolerance:
            fault.append(
                f"at timestep {level.t:g} the state carries noise {spread:.2f} where the network is told {deviation:.2f}"
            )
        return clean

    result = inferer.sampler(oracle, noise, levels)
    error = float((result - clean).abs().mean())
    if not fault and not error <= tolerance:
        fault.append(f"with a perfect network the sample is {error:.2f} away from the clean state")
    return fault[0] if fault else None
