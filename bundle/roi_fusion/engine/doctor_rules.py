# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The rules by which the doctor reads a training's history: one function a rule, each returns findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from ..core.losses import COMPONENTS
from ..errors import InputError
from .doctor_chart import Chart, Finding

__all__ = ["diagnose"]

_WEIGHT_KNOBS = {"brain": "--alpha", "bone": "--beta", "lesion": "--gamma"}


RULES: list[Callable[[Chart], list[Finding]]] = []


def _rule(function: Callable[[Chart], list[Finding]]) -> Callable[[Chart], list[Finding]]:
    RULES.append(function)
    return function


@_rule
def _schedule(chart: Chart) -> list[Finding]:
    fault = chart.start.get("schedule")
    if not fault:
        return []
    return [
        Finding(
            "schedule",
            "critical",
            f"sampler and noise schedule disagree: {fault}",
            0,
            "the sampler steps with coefficients of other timesteps than its own, so x stays near noise whatever is predicted",
            "step between consecutive timesteps of the run, the last to (1, 0), as roi_fusion.core.schedule.sample does",
        )
    ]


@_rule
def _scales(chart: Chart) -> list[Finding]:
    broken = chart.start.get("scales") or {}
    if not broken:
        return []
    case, fault = next(iter(broken.items()))
    return [
        Finding(
            "scales",
            "critical",
            f"MRI and CT scales apart in {len(broken)} of {chart.start.get('cases', len(broken))} cases "
            f"as loaded, such as {case}: {fault}",
            0,
            "one volume was not normalised over the head, for instance a CT scaled to [0, 1] beside a z-scored MRI: "
            "the network ignores it",
            "end the preprocessing of both with NormalizeIntensityd(nonzero=True) behind MaskIntensityd, "
            "as configs/train.json does",
        )
    ]


@_rule
def _zero_ssim(chart: Chart) -> list[Finding]:
    out = []
    for region in ("brain", "bone"):
        name = f"{region}_ssim"
        since = chart.first_since(lambda r: r["validation"].get(name, 1.0) < 0.005, chart.validated)  # noqa: B023
        last = chart.validated[-1] if chart.validated else {}
        if since is None or last["epoch"] <= 20:
            continue
        falling = _falls(chart, "loss_diffusion")
        cause = (
            "the diffusion loss falls, so the network learns, but the sampler does not follow its schedule"
            if falling
            else "no structure is learned: inputs on different scales, a clamped output, or a learning rate that is far off"
        )
        out.append(
            Finding(
                "zero_ssim",
                "critical",
                f"{name} is {last['validation'][name]:.4f} at epoch {last['epoch']}, still below 0.005",
                since,
                cause,
                "run the schedule self-test and look at the scales of the loaded cases (start_check.json), "
                "then at the fused range",
            )
        )
    return out


@_rule
def _negative_psnr(chart: Chart) -> list[Finding]:
    late = [r for r in chart.validated if r["epoch"] > 10]
    since = chart.first_since(lambda r: r["validation"].get("bone_psnr", 1.0) < 0, late)
    if since is None:
        return []
    return [
        Finding(
            "negative_psnr",
            "critical",
            f"bone PSNR is {late[-1]['validation']['bone_psnr']:.1f} dB at epoch {late[-1]['epoch']}",
            since,
            "the error in bone is larger than the CT's whole range: the CT is weak beside the MRI, "
            "or bone has too little weight",
            "check the CT's normalisation and raise --beta",
        )
    ]


def _falls(chart: Chart, name: str) -> bool:
    values = [r[name] for r in chart.rows if name in r]
    return len(values) >= 6 and min(values[1:]) < 0.98 * values[0]


@_rule
def _flat_loss(chart: Chart) -> list[Finding]:
    values = [(int(r["epoch"]), float(r["loss_total"])) for r in chart.rows if "loss_total" in r]
    if len(values) < 6 or min(v for _, v in values[1:]) < 0.99 * values[0][1]:
        return []
    return [
        Finding(
            "flat_loss",
            "critical",
            f"total loss is {values[-1][1]:.4f} at epoch {values[-1][0]}, {values[0][1]:.4f} at epoch {values[0][0]}",
            values[0][0],
            "the weights do not move towards the target: learning rate, a frozen or clamped network, or labels that "
            "do not belong to the images",
            "look at gradient_norm and learning_rate in the history; try --learning_rate 5e-4 on a few cases first",
        )
    ]


@_rule
def _bounds(chart: Chart) -> list[Finding]:
    def at_bounds(row: Mapping[str, Any]) -> float:
        return row.get("fused_at_bounds", 0) + row.get("validation", {}).get("fused_at_bounds", 0)

    found = [r for r in chart.rows if at_bounds(r) > 0]
    if not found:
        return []
    first, last = found[0], found[-1]
    extent = f", range {last['fused_min']:.3f} to {last['fused_max']:.3f}" if "fused_min" in last else ""
    return [
        Finding(
            "bounds",
            "critical",
            f"{at_bounds(last):.0f} voxels of the fused output lie exactly at a bound at epoch {last['epoch']}{extent}",
            first["epoch"],
            "the output is clamped: at a bound the gradient is zero and nothing is learned there",
            "remove the clamp (clip_sample=False, no torch.clamp on x or F); gate and bounded residual limit it already",
        )
    ]


@_rule
def _too_good(chart: Chart) -> list[Finding]:
    since = chart.first_since(lambda r: r["validation"].get("lesion_dice", 0.0) > 0.9999, chart.validated)
    if since is None:
        return []
    return [
        Finding(
            "too_good",
            "critical",
            f"lesion Dice is {chart.validated[-1]['validation']['lesion_dice']:.4f} on every validation case",
            since,
            "a reference mask is scored as its own prediction",
            "score the lesion head's output (pred), never label; see roi_fusion.engine.evaluator.CaseMetrics",
        )
    ]


@_rule
def _nothing_predicted(chart: Chart) -> list[Finding]:
    def silent(row: Mapping[str, Any]) -> bool:
        v = row["validation"]
        return v.get("n_empty_pred", 0) >= v.get("n_cases", math.inf) > v.get("n_empty_ref", 0)

    late = [r for r in chart.validated if r["epoch"] > 20]
    since = chart.first_since(silent, late)
    if since is None:
        return []
    return [
        Finding(
            "nothing_predicted",
            "warning",
            f"the lesion head marks no voxel in any validation case up to epoch {late[-1]['epoch']}",
            since,
            "lesions are too rare in the batches, or their weight is too small",
            "raise --gamma, use --preset stroke, crop more often on lesions",
        )
    ]


@_rule
def _starved(chart: Chart) -> list[Finding]:
    out = []
    weights = chart.run.get("loss_weights", {})
    for name in COMPONENTS:
        if weights.get(name, 1.0) == 0:
            out.append(
                Finding(
                    "zero_weight",
                    "critical",
                    f"the {name} term has weight 0",
                    0,
                    "it was switched off, so nothing trains what it guards",
                    f"give it a weight above 0 ({_WEIGHT_KNOBS.get(name, '--roi_weight')})",
                )
            )
            continue
        share = f"gradient_share_{name}"
        measured = [r for r in chart.rows if share in r]
        since = chart.first_since(lambda r: r[share] < 0.01, measured)  # noqa: B023
        trailing = [r for r in measured if since is not None and r["epoch"] >= since]
        # A component that has reached its floor no longer pulls; one that still costs and does not pull is starved.
        costly = bool(trailing) and trailing[-1].get(f"loss_{name}", 0.0) > 0.1
        if since is not None and len(trailing) >= 5 and costly:
            out.append(
                Finding(
                    "starved",
                    "warning",
                    f"the {name} term has {100 * trailing[-1][share]:.2f} % of the gradient, under 1 % "
                    f"for {len(trailing)} epochs, at a loss of {trailing[-1].get(f'loss_{name}', 0):.3f}",
                    since,
                    "the other terms drown it",
                    f"raise its weight ({_WEIGHT_KNOBS.get(name, '--roi_weight')}) or lower the others",
                )
            )
    return out


@_rule
def _worse_than_rules(chart: Chart) -> list[Finding]:
    late = [r for r in chart.validated if r["epoch"] >= 50 and r.get("baselines")]
    if not late:
        return []

    def context(metrics: Mapping[str, float]) -> float:
        return metrics.get("brain_ssim_context", math.nan) + metrics.get("bone_ssim_context", math.nan)

    def loses(row: Mapping[str, Any]) -> bool:
        return any(context(row["validation"]) < context(row["baselines"].get(m, {})) for m in ("paste", "maximum"))

    since = chart.first_since(loses, late)
    if since is None:
        return []
    last = late[-1]
    best = max(("paste", "maximum"), key=lambda m: context(last["baselines"].get(m, {})))
    return [
        Finding(
            "worse_than_rules",
            "warning",
            f"the context SSIMs add up to {context(last['validation']):.3f} at epoch {last['epoch']}, "
            f"the {best} alone reaches {context(last['baselines'][best]):.3f} on the same cases",
            since,
            "the network has not learned to fuse better than a rule of one line",
            "train longer, check the regions (brain and bone masks) and the weights alpha and beta",
        )
    ]


@_rule
def _learning_rate(chart: Chart) -> list[Finding]:
    plan = chart.run.get("learning_rate_plan")
    if not plan:
        return []
    low = min(plan["peak"], plan["final"]) if plan["final"] > 0 else 0.0
    off = [
        r
        for r in chart.rows
        if "learning_rate" in r
        and (
            r["learning_rate"] > 1.001 * plan["peak"]
            or (r["iteration"] > plan["warmup_steps"] and r["learning_rate"] < 0.999 * low)
        )
    ]
    if not off:
        return []
    return [
        Finding(
            "learning_rate",
            "warning",
            f"learning rate {off[0]['learning_rate']:.3g} at epoch {off[0]['epoch']}, planned {low:.3g} to {plan['peak']:.3g}",
            off[0]["epoch"],
            "something else than the plan sets the learning rate, such as a second scheduler "
            "or a resumed optimizer of another run",
            "resume with the same knobs, and let one scheduler step",
        )
    ]


@_rule
def _not_a_number(chart: Chart) -> list[Finding]:
    out = []
    lost = [r for r in chart.rows if "loss_total" not in r]
    if lost:
        missing = [n for n in COMPONENTS if f"loss_{n}" not in lost[0]]
        out.append(
            Finding(
                "nan",
                "critical",
                f"the loss is not a number at epoch {lost[0]['epoch']} ({', '.join(missing) or 'total'})",
                lost[0]["epoch"],
                "an input that is not finite, or a step that was too large",
                "lower --learning_rate, and look at the batch that the trainer names when it stops",
            )
        )
    blind = [r for r in chart.validated if "brain_ssim" not in r["validation"] or "bone_ssim" not in r["validation"]]
    if blind:
        out.append(
            Finding(
                "nan",
                "critical",
                f"brain or bone SSIM of the validation is not a number at epoch {blind[0]['epoch']}",
                blind[0]["epoch"],
                "the output is not finite, or no validation case has a brain and a bone region",
                "look at the validation cases and their masks",
            )
        )
    return out


def diagnose(chart: Chart) -> list[Finding]:
    """All findings, critical ones first; none for a healthy training.

    Raises:
        InputError: when epochs are missing in the history or come twice.
    """
    epochs = [int(r["epoch"]) for r in chart.rows]
    if epochs and epochs != list(range(epochs[0], epochs[0] + len(epochs))):
        last, gap = next((a, b) for a, b in pairwise(epochs) if b != a + 1)
        raise InputError(f"history: expected every epoch once from {epochs[0]} to {epochs[-1]}, got epoch {gap} behind {last}")
    found = [f for rule in RULES for f in rule(chart)]
    return sorted(found, key=lambda f: (f.severity != "critical", f.since_epoch))
