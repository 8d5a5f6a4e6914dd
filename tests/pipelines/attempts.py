"""A run through the worker, in the test's own process and without the command around it."""

import json

from mlflow import MlflowClient

from gan_core import checkpoint
from gan_core.overrides import merge, validate
from pipelines import local, storage, worker
from pipelines.config import JobConfig
from pipelines.session import Job
from pipelines.signals import Asked
from tests.pipelines.command import require_equal_states
from tests.support import tiny_tree

TIMES = ("progress/device_seconds", "progress/images_per_second", "progress/diagnostics_share")


class Run:
    """One run through the worker, without the command around it."""

    def __init__(self, client, folder, **options):
        tree = tiny_tree(total_kimg=0.64, schedule__report_kimg=0.064, schedule__sample_kimg=0.64, **options)
        tree = merge(tree, {"schedule.checkpoint_kimg": 0.16, "schedule.evaluate_kimg": 0.32, "mlflow.system_metrics": False})
        self.config = validate(merge(tree, {"ray.storage_path": str(folder)}), JobConfig)
        self.client, self.folder, self.said = client, folder, []
        self.run_id = client.create_run(client.get_experiment_by_name("recovery").experiment_id).info.run_id

    def show(self, images_seen, metrics):
        pass

    def say(self, sentence):
        self.said.append(sentence)

    def go(self, asked=None):
        job = Job(config=self.config.model_dump(), tracking_uri=self.client.tracking_uri, run_id=self.run_id, content_hash="")
        self.said.clear()
        return worker.run(job, local.LocalSession(self.config, self.run_id, self, asked or Asked()))

    def points(self):
        """Every metric's points but those of the clock on the wall."""
        keys = self.client.get_run(self.run_id).data.metrics.keys()
        histories = {key: self.client.get_metric_history(self.run_id, key) for key in keys if key not in TIMES}
        return {key: [(point.step, point.value) for point in history] for key, history in histories.items()}

    def tags(self):
        return {key: value for key, value in self.client.get_run(self.run_id).data.tags.items() if key.startswith("raygan.")}

    def state(self):
        with storage.latest(str(self.folder), self.run_id) as folder:
            return checkpoint.load(folder)

    def recalled(self):
        return json.loads((self.kept() / "facts.json").read_text())

    def change(self, **options):
        self.config = validate(
            merge(self.config.model_dump(), {key.replace("__", "."): value for key, value in options.items()}), JobConfig
        )

    def kept(self):
        return self.folder / self.run_id


def store(folder):
    """A tracking store with the experiment of such runs."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    client.create_experiment("recovery", artifact_location=str(folder / "artifacts"))
    return client


def require_undisturbed(run, undisturbed):
    assert run.points() == undisturbed.points()
    require_equal_states(run.state(), undisturbed.state())
