"""Ray Train's count of failures, without those that are none: a group that starts again because a rank asked for it.

Ray Train has one budget, `max_failures`, for whatever ends a worker, and no public way to tell the two apart.
"""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

from pipelines.rank import Restart


class ForgivingPolicy(DefaultFailurePolicy):
    """Ray Train's own policy; where a rank raised Restart, others die with it, and the group starts again whatever the count."""

    def make_decision(self, training_failed_error: Any) -> Any:
        """Whether to start again."""
        failures = getattr(training_failed_error, "worker_failures", {}).values()
        if any(isinstance(getattr(failure, "_base_exc", failure), Restart) for failure in failures):
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class ForgivingTrainer(TorchTrainer):
    """A TorchTrainer with that policy."""

    def _initialize_and_run_controller(self, **told: Any) -> Any:
        told["failure_policy"] = ForgivingPolicy(self.run_config.failure_config)
        return super()._initialize_and_run_controller(**told)
