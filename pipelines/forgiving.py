"""Ray Train's count of failures, without those that are none: a group that starts again because a rank asked for it.

Ray Train has one budget, `max_failures`, for whatever ends a worker, and no public way to tell the two apart.
"""

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipelines import lean
from pipelines.rank import Restart


class ForgivingPolicy(DefaultFailurePolicy):
    """Ray Train's own policy; where a rank raised Restart, others die with it, and the group starts again whatever the count."""

    def make_decision(self, training_failed_error: Any) -> Any:
        """Whether to start again."""
        failures = getattr(training_failed_error, "worker_failures", {}).values()
        if any(isinstance(getattr(failure, "_base_exc", failure), Restart) for failure in failures):
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class ForgivingTrainer(DataParallelTrainer):
    """A DataParallelTrainer with that policy, and no process for the shards of Ray datasets; `leanly` on a cluster that is ours alone."""

    def __init__(self, train_loop: Any, *, leanly: bool, **told: Any) -> None:
        super().__init__(train_loop, **told)
        self._leanly = leanly

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, lean.NOT_NEEDED) if self._leanly else DatasetsCallback
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]

    def _initialize_and_run_controller(self, **told: Any) -> Any:
        told["failure_policy"] = ForgivingPolicy(self.run_config.failure_config)
        if not self._leanly:
            return super()._initialize_and_run_controller(**told)
        if isinstance(told["scaling_policy"], FixedScalingPolicy):
            told["scaling_policy"] = lean.Policy(self.scaling_config)
        return lean.run(**told)
