# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What each site of a federation runs: MONAI's federated client on the bundle, for NVIDIA FLARE. Needs nvflare.

The executor of the package monai-nvflare does the same, but it needs nvflare 2.7, which pins other versions of packages than
MLflow, and Python below 3.12; and it sends one metric.
"""

from __future__ import annotations

import math
from typing import Any

from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject
from monai.utils import set_determinism
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLMetaKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.console import set_up_console
from roi_fusion.engine.tracking import TrackingHandler
from roi_fusion.errors import input_error_behind

__all__ = ["SAID", "SiteExecutor"]

#: What a line begins with that is for whoever started the federation.
SAID = "federated: "


class SiteExecutor(Executor):
    """Validates the global weights on the site's validation cases, and trains them on its training cases.

    The answer holds the difference of the weights, the number of steps, and the means of the validation's metrics: nothing else
    leaves the site. FLARE makes it from the job, so all arguments are plain values.

    Args:
        dataset_dir: the site's own cases.
        output_dir: the site's own folder: ``train/`` of its training, ``global/`` of the validations of the global weights.
        rounds: of the federation, which the plan of the learning rate needs.
        local_epochs: epochs of each round.
        knobs: of the training; no paths.
        tracking: log to the site's MLflow.
    """

    def __init__(
        self,
        dataset_dir: str,
        output_dir: str,
        rounds: int,
        local_epochs: int = 1,
        knobs: dict[str, Any] | None = None,
        tracking: bool = False,
    ) -> None:
        super().__init__()
        self.dataset_dir, self.output_dir, self.rounds, self.local_epochs = dataset_dir, output_dir, rounds, local_epochs
        self.knobs, self.tracking = dict(knobs or {}), tracking
        self._algo: Any = None
        self._not_logged: dict[int, dict[str, float]] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Stop the training when its task is aborted, and end the workflow when the run ends."""
        if event_type == EventType.ABORT_TASK and self._algo is not None:
            self._algo.abort()
        elif event_type == EventType.END_RUN and self._algo is not None:
            self._algo.finalize()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Answer ``train`` with weights and metrics, ``validate`` with metrics alone.

        What goes wrong stays in the site's log, because a sentence may name a case; the server learns that something did.
        """
        site = fl_ctx.get_identity_name()
        try:
            if self._algo is None:
                self._algo = self._client(site)
            if task_name not in ("train", "validate"):
                return make_reply(ReturnCode.TASK_UNKNOWN)
            received = FLModelUtils.from_shareable(shareable)
            answer = FLModel(metrics=self._validate(received), current_round=received.current_round)
            if task_name == "train":
                self._train(received, answer)
            self._log()
            return FLModelUtils.to_shareable(answer)
        except Exception as error:
            found = input_error_behind(error)
            print(f"{SAID}{site}: {found or f'{type(error).__name__}: {error}'}", flush=True)
            self.log_exception(fl_ctx, f"{task_name} failed")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)

    def _client(self, site: str) -> MonaiAlgo:
        set_up_console(False)
        set_determinism(int(self.knobs.get("seed") or 0))
        files = ["configs/train.json", "configs/federated.json"]
        common = {**self.knobs, "dataset_dir": self.dataset_dir, "max_epochs": self.rounds * self.local_epochs}
        own: dict[str, Any] = {"output_dir": f"{self.output_dir}/train"}
        if self.tracking:
            own |= {"tracking": str(BUNDLE_ROOT / "configs" / "tracking.json"), "run_name": site}
        algo = MonaiAlgo(
            str(BUNDLE_ROOT),
            local_epochs=self.local_epochs,
            config_train_filename=files,
            train_kwargs={**common, **own},
            config_evaluate_filename=files,
            eval_kwargs={**common, "output_dir": f"{self.output_dir}/global"},
        )
        algo.initialize({ExtraItems.CLIENT_NAME: site})
        return algo

    def _validate(self, received: FLModel) -> dict[str, float]:
        """The global weights on the site's validation cases; a metric without a value is left out."""
        found = self._algo.evaluate(ExchangeObject(weights=dict(received.params))).metrics
        metrics = {k: float(v) for k, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        self._not_logged[int(received.current_round) * self.local_epochs] = metrics
        return metrics

    def _train(self, received: FLModel, answer: FLModel) -> None:
        self._algo.train(ExchangeObject(weights=dict(received.params)))
        sent = self._algo.get_weights()
        answer.params = {name: value.numpy() for name, value in sent.weights.items()}
        answer.params_type = ParamsType.DIFF
        answer.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND] = int(sent.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS])

    def _log(self) -> None:
        """Log the validations of the global weights to the run of the training, which begins with the first round."""
        if self.tracking:
            for handler in self._algo.train_workflow.parser.get_parsed_content("train#handlers"):
                if isinstance(handler, TrackingHandler):
                    for epoch, metrics in self._not_logged.items():
                        handler.log_global(metrics, epoch)
        self._not_logged.clear()
