# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the doctor looks at: the chart of a training, the findings about it, and the gates that it has to pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.history import read_history
from ..errors import InputError

__all__ = ["GATES", "Chart", "Finding", "Gate", "gate_results", "gates", "read_chart"]


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        code: short name of the rule.
        severity: ``"critical"`` (the training cannot become good) or ``"warning"``.
        what: what was seen, with numbers.
        since_epoch: first epoch at which it was seen; 0 is the start.
        cause: the likely cause.
        remedy: what to do.
    """

    code: str
    severity: str
    what: str
    since_epoch: int
    cause: str
    remedy: str


@dataclass(frozen=True)
class Chart:
    """Everything the doctor knows of a training.

    Attributes:
        rows: lines of ``history.jsonl``, one an epoch.
        run: ``run.json``: weights of the loss, plan of the learning rate, knobs.
        start: ``start_check.json``: scales of each case as loaded, and the self-test of the schedule.
    """

    rows: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)

    @property
    def validated(self) -> list[Mapping[str, Any]]:
        """Rows with validation metrics."""
        return [r for r in self.rows if r.get("validation")]

    def first_since(self, bad: Callable[[Mapping[str, Any]], bool], rows: Iterable[Mapping[str, Any]]) -> int | None:
        """Epoch from which `bad` holds without a break up to the last of `rows`; None when it does not hold there."""
        since = None
        for row in rows:
            since = (since if since is not None else int(row["epoch"])) if bad(row) else None
        return since


def read_chart(run_dir: str | Path) -> Chart:
    """The chart of a finished or running training.

    Raises:
        InputError: when the folder is none of a training.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of a training, found no folder")

    def read(name: str) -> dict[str, Any]:
        path = folder / name
        try:
            return json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as e:
            raise InputError(f"{path}: expected JSON, got {e}") from None

    start = read("start_check.json")
    rows = read_history(folder) if (folder / "history.jsonl").is_file() or not start else []
    return Chart(rows, read("run.json"), start)


#: Epoch → (metric, value that it has to exceed) of a training on its way.
GATES: dict[int, tuple[tuple[str, float], ...]] = {
    20: (("brain_ssim", 0.15), ("bone_psnr", 5.0), ("bone_ssim", 0.05)),
    50: (("brain_ssim", 0.50), ("bone_psnr", 12.0), ("bone_ssim", 0.30), ("lesion_dice", 0.40)),
}


@dataclass(frozen=True)
class Gate:
    """What a training should have reached at an epoch.

    Attributes:
        epoch: 20 or 50; a metric is read at the first validation from then on.
        metric: of the validation, or ``"loss_total falling"``.
        least: value that the metric has to exceed; None for the falling loss.
        value: what it was; None where it was not measured.
        passed: None while the gate is not reached.
    """

    epoch: int
    metric: str
    least: float | None
    value: float | None
    passed: bool | None

    def __str__(self) -> str:
        state = {None: "not reached", True: "passed", False: "MISSED"}[self.passed]
        expected = f" > {self.least:g}" if self.least is not None else ""
        value = f" ({self.value:.3f})" if self.value is not None and self.passed is not None else ""
        return f"gate of epoch {self.epoch}: {self.metric}{expected}: {state}{value}"


def gates(chart: Chart) -> list[Gate]:
    """All gates, with what the training has reached so far."""
    out = []
    for epoch, limits in GATES.items():
        at = next((r for r in chart.validated if r["epoch"] >= epoch), None)
        for metric, least in limits:
            value = at["validation"].get(metric) if at else None
            out.append(Gate(epoch, metric, least, value, None if at is None else value is not None and value > least))
        if epoch == min(GATES):
            totals = [r["loss_total"] for r in chart.rows if r["epoch"] <= epoch and "loss_total" in r]
            falling = totals[-1] < totals[0] if len(totals) > 1 and chart.rows[-1]["epoch"] >= epoch else None
            out.append(Gate(epoch, "loss_total falling", None, totals[-1] if totals else None, falling))
    return out


def gate_results(found: Iterable[Gate]) -> dict[int, str]:
    """One sentence for each epoch whose gates are all reached: ``passed``, or which were missed.

    Example:
        >>> gate_results([Gate(50, "bone_ssim", 0.3, 0.9, True), Gate(50, "lesion_dice", 0.4, 0.31, False)])
        {50: 'MISSED: lesion_dice 0.310, expected above 0.4'}
    """
    by_epoch: dict[int, list[Gate]] = {}
    for gate in found:
        by_epoch.setdefault(gate.epoch, []).append(gate)
    out = {}
    for epoch, group in by_epoch.items():
        if any(g.passed is None for g in group):
            continue
        missed = []
        for gate in (g for g in group if not g.passed):
            value = "not measured" if gate.value is None else f"{gate.value:.3f}"
            missed.append(f"{gate.metric} {value}" + (f", expected above {gate.least:g}" if gate.least is not None else ""))
        out[epoch] = f"MISSED: {'; '.join(missed)}" if missed else "passed"
    return out
