"""Ray Train on a cluster of our own, and on one that is joined: which of its own callbacks, policies and environments are there."""

import asyncio
from types import SimpleNamespace

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipelines import conduct, lean
from pipelines.forgiving import ForgivingPolicy, ForgivingTrainer
from pipelines.process_group import ProcessGroup

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray.data")  # by Ray, of its own settings


class Told(Exception):
    """Stands for a controller: what it would be given."""


def given(monkeypatch, tmp_path, *, leanly, workers=2):
    """Which way a trainer goes, what its controller is given, and the trainer."""

    def instead(way):
        def run(*_, **told):
            raise Told(way, told)

        return run

    monkeypatch.setattr(lean, "run", instead("leanly"))
    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", instead("as Ray does"))
    trainer = ForgivingTrainer(
        lambda: None,
        leanly=leanly,
        backend_config=ProcessGroup("gloo", timeout_s=30),
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(name="x", storage_path=str(tmp_path)),
    )
    monkeypatch.setattr("ray.train.v2.api.data_parallel_trainer.ObjectRefWrapper", lambda function: function)
    with pytest.raises(Told) as told:
        trainer.fit()
    return *told.value.args, trainer


@pytest.mark.parametrize("leanly", [True, False])
def test_every_controller_forgives_and_has_no_process_for_datasets(monkeypatch, tmp_path, leanly):
    way, told, _ = given(monkeypatch, tmp_path, leanly=leanly)
    kinds = [type(callback) for callback in told["callbacks"]]
    assert way == ("leanly" if leanly else "as Ray does")
    assert type(told["failure_policy"]) is ForgivingPolicy
    assert DatasetsCallback not in kinds
    assert (PlacementGroupCleanerCallback in kinds) is not leanly
    assert len(kinds) >= 4


@pytest.mark.parametrize(
    ("leanly", "workers", "kind"),
    [(True, 2, lean.Policy), (True, (1, 2), ElasticScalingPolicy), (False, 2, FixedScalingPolicy), (False, (1, 2), ElasticScalingPolicy)],
)
def test_only_a_fixed_number_of_workers_of_our_own_cluster_is_not_told_to_the_autoscaler(monkeypatch, tmp_path, leanly, workers, kind):
    _, told, _ = given(monkeypatch, tmp_path, leanly=leanly, workers=workers)
    assert type(told["scaling_policy"]) is kind


@pytest.mark.parametrize(
    ("seconds", "shortest", "expected"), [(0, 0.25, 0.25), (12, 0.25, 0.25), (25, 0.25, 0.5), (3600, 0.25, 1.0), (3600, 2.0, 2.0)]
)
def test_ranks_are_asked_less_often_the_longer_they_train_but_not_less_than_once_a_second(seconds, shortest, expected):
    assert lean.interval(seconds, shortest) == expected


@pytest.mark.parametrize(("validates", "trained", "expected"), [(False, 20.0, 0.4), (False, 500.0, 1.0), (True, 500.0, 0.25)])
def test_a_controller_counts_from_the_start_of_its_newest_ranks_and_lets_no_score_wait(monkeypatch, validates, trained, expected):
    now, asked = [1000.0], []

    async def poll(self):
        asked.append(self._health_check_interval_s)

    monkeypatch.setattr(lean.controller.TrainController, "__init__", lambda self, **_: setattr(self, "_health_check_interval_s", 0.25))
    monkeypatch.setattr(lean.controller.TrainController, "_start_worker_group", lambda self, *_: now.append(now[-1] + 30))
    monkeypatch.setattr(lean.controller.TrainController, "_poll_workers", poll)
    monkeypatch.setattr(lean.yielding, "begin", lambda: None)
    monkeypatch.setattr(lean, "time", SimpleNamespace(monotonic=lambda: now[-1]))
    controller = lean.TrainController(validation_config=object() if validates else None)
    for _ in range(2):  # the second group after a loss
        controller._start_worker_group(1, {})
        asyncio.run(controller._poll_workers())
        now.append(now[-1] + trained)
        asyncio.run(controller._poll_workers())
    assert asked == [0.25, expected] * 2


def test_ranks_of_our_own_cluster_have_the_environment_that_they_inherit(monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    assert lean._Group._get_worker_runtime_env({}) == {}
    assert lean.TrainController.worker_group_cls is lean._Group


@pytest.mark.parametrize("ours", [True, False])
def test_a_named_actor_guards_a_run_where_other_drivers_may_be(monkeypatch, tmp_path, ours):
    asked = []
    monkeypatch.setattr("pipelines.cluster.started_here", lambda: ours)
    monkeypatch.setattr(conduct, "only_driver", lambda *given, in_cluster=False: asked.append(in_cluster))

    class Config:
        class ray:
            storage_path = str(tmp_path)

    conduct._alone("abc", Config, local=False)
    conduct._alone("abc", Config, local=True)
    assert asked == [not ours, False]
