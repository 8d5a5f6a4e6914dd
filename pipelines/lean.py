"""Ray Train on a cluster that this command has started for itself, without the processes that watch for what cannot happen there.

Ray Train starts eight processes beside the workers, one after the other, and each imports Ray and pandas. On one machine that ends with the
driver there is no autoscaler to ask for nodes, no notice that a node will be taken away, and nobody to whom the place of the workers would
be lost when the controller dies, for then the run ends. An elastic run asks one of them all the same, the AutoscalingCoordinator, for how
many workers there is room. And all processes inherit the driver's environment: one that is told to Ray again keeps Ray from using processes
that are ready.
"""

import time
from typing import Any

import ray
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import controller
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from pipelines import yielding

LONGEST_SECONDS = 1.0
NOT_NEEDED = PlacementGroupCleanerCallback
# Read where Ray Train runs; to be in the environment before Ray starts.
ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"}


class _Group(WorkerGroup):
    def _init_train_context(self, workers: Any, sync_actor: Any, *told: Any, **named: Any) -> None:
        sync_actor.__ray_call__.remote(yielding.begin)
        super()._init_train_context(workers, sync_actor, *told, **named)

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: dict[str, Any]) -> dict[str, Any]:
        return custom_runtime_env


class TrainController(controller.TrainController):
    """Ray Train's, by its name, which its process has too; it yields to the ranks, and asks them less often the longer they train, unless
    it has checkpoints scored: what they report waits for such a question.
    """

    worker_group_cls = _Group
    _health_check_interval_s: float

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self._began, self._shortest = time.monotonic(), self._health_check_interval_s
        self._validates = told.get("validation_config") is not None

    def _start_worker_group(self, *told: Any, **named: Any) -> None:
        super()._start_worker_group(*told, **named)
        self._began = time.monotonic()

    async def _poll_workers(self) -> Any:
        yielding.begin()  # now that the ranks have started, for which this process works itself
        if not self._validates:
            self._health_check_interval_s = interval(time.monotonic() - self._began, self._shortest)
        return await super()._poll_workers()


class Policy(FixedScalingPolicy):
    """As many workers as were asked for, and no word of them to the autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """There is nobody to tell."""

    def _maybe_send_resource_request(self) -> None:
        """There is nobody to tell."""


def interval(seconds: float, shortest: float) -> float:
    """Of questions whether the ranks have ended, which have trained for so many seconds: that is seen within a fiftieth of them."""
    return max(shortest, min(LONGEST_SECONDS, seconds / 50))


def run(**told: Any) -> Any:
    """The result of a controller that is given `told`."""
    actor = ray.remote(num_cpus=0)(TrainController).remote(**told)
    ray.get(actor.run.remote())
    return ray.get(actor.get_result.remote())
