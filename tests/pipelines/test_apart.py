"""Scores made beside the training, without a cluster: what they may be mixed with, and what the cluster must have for them."""

import pytest
from mlflow import MlflowClient

from gan_core.judge import Scores
from gan_core.overrides import flatten, merge, validate
from pipelines import apart, machines
from pipelines.config import JobConfig, load_named, require_resumable
from pipelines.desk import PROVENANCE_TAG
from tests.support import provenance

BESIDE = {"ray.asynchronous_evaluation": True, "schedule.evaluate_kimg": 50}


def config(**overrides):
    return validate(
        merge(load_named("digits"), {**BESIDE, **{key.replace("__", "."): value for key, value in overrides.items()}}), JobConfig
    )


class Board:
    """Keeps what is said to the user."""

    def __init__(self):
        self.said, self.put = [], self

    def remote(self, sentence):
        self.said.append(sentence)


def made_by(weights_hash, value):
    return Scores({"quality/kid_lenet": value}, {"score": "no luck"}, provenance(weights_hash=weights_hash))


@pytest.fixture
def told(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run(client.create_experiment("apart"))
    return apart.Told(job={"config": {}, "tracking_uri": uri, "run_id": run.info.run_id}, credentials={}, board=Board())


def test_scores_are_delivered_once_with_how_they_were_made(told):
    client, run_id = MlflowClient(tracking_uri=told["job"]["tracking_uri"]), told["job"]["run_id"]
    assert apart._deliver(800, made_by("one", 2.0), config(), told) == {"quality/kid_lenet": [2.0]}
    assert apart._deliver(1600, made_by("one", 1.0), config(), told) == {"quality/kid_lenet": [2.0, 1.0]}
    assert apart._deliver(1600, made_by("one", 5.0), config(), told) == {"quality/kid_lenet": [2.0, 1.0]}  # a repeat
    tags = client.get_run(run_id).data.tags
    assert '"weights_hash": "one"' in tags[PROVENANCE_TAG]
    assert tags["evaluation.failed.score"] == "at 1.6 kimg: no luck"
    with pytest.raises(ValueError, match="weights_hash: one and other"):
        apart._deliver(2400, made_by("other", 0.0), config(), told)


def test_what_is_measured_and_what_is_not_is_said(told):
    apart._tell(800, made_by("one", 2.0), told)
    assert told["board"].said == ["scores at 0.8 kimg: kid_lenet 2", "score could not be measured at 0.8 kimg: no luck"]


def test_workers_leave_the_evaluation_its_gpu(monkeypatch):
    node = {"Alive": True, "NodeID": "abcdef123456", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 8.0, "GPU": 2.0}}
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: node["Resources"])
    monkeypatch.setattr(machines.ray, "nodes", lambda: [node])
    monkeypatch.setattr(machines, "_grows", lambda: False)
    with_gpu = config(ray__evaluation_gpus=1)
    assert not machines.uses_gpu(with_gpu)
    machines.require_room(with_gpu)
    assert machines.uses_gpu(config(ray__evaluation_gpus=0))
    with pytest.raises(
        ValueError, match="2 workers of 1 CPU and 1 GPU each and the evaluation beside them with 1 CPU and 1 GPU do not fit"
    ):
        machines.require_room(config(ray__evaluation_gpus=1, ray__use_gpu=True))


def test_who_scores_does_not_change_within_a_run():
    before, after = config(), config(ray__asynchronous_evaluation=False)
    with pytest.raises(ValueError, match="ray.asynchronous_evaluation: true -> false"):
        require_resumable(flatten(before), flatten(after), "abc")
    require_resumable(flatten(before), flatten(config(ray__evaluation_cpus=2, ray__num_workers=1)), "abc")
