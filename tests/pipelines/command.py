"""Runs `raygan` as a user does, in a process and a folder of its own, and reads what it left in MLflow."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml
from mlflow import MlflowClient

from gan_core import checkpoint
from pipelines import storage
from pipelines.run_pictures import step_of
from tests.support import tiny_tree


def write_config(folder, workers=1, **overrides):
    """A config file in `folder` whose run takes seconds."""
    tree = tiny_tree(batch_size=16, total_kimg=3.2, schedule__report_kimg=0.16, schedule__sample_kimg=1.6, **overrides)
    tree["schedule"].update(evaluate_kimg=0.8, checkpoint_kimg=0.8)
    tree["ray"] = {"num_workers": workers}
    path = Path(folder) / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def start(folder, *words, command="train", **environment):
    """`raygan COMMAND` as a process, its output captured. Ctrl-C reaches it also where the tests run in the background of a shell, which
    ignores that.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1", **environment}
    environment.pop("MLFLOW_TRACKING_URI", None)
    program = [sys.executable, "-m", f"pipelines.{command}", *words]
    return subprocess.Popen(
        program,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it calls nothing that holds a lock
    )


def finish(process, timeout=240):
    """Exit status and output of a started command."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def train(folder, *words, uri=None):
    """Run the command to a good end; returns its MLflow run."""
    status, out, err = finish(start(folder, *words))
    assert status == 0, err
    return TrackedRun(folder, out.split("run ", 1)[1].split(":")[0], uri), out, err


class TrackedRun:
    """What a run left: in MLflow, and in its storage."""

    def __init__(self, folder, run_id, uri=None):
        self.client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder}/mlflow.db")
        self.folder, self.run_id = Path(folder), run_id
        self.run = self.client.get_run(run_id)

    def steps(self, key):
        return [point.step for point in self.client.get_metric_history(self.run_id, key)]

    def values(self, key):
        return {point.step: point.value for point in self.client.get_metric_history(self.run_id, key)}

    def pictures(self):
        """How many pictures there are at each step (MLflow stores each as PNG and as WebP)."""
        names = [artifact.path for artifact in self.client.list_artifacts(self.run_id, "images")]
        return Counter(step_of(name) for name in names if name.endswith(".png"))

    def final_state(self):
        with storage.latest(str(self.folder / "runs"), self.run_id) as folder:
            return checkpoint.load(folder)


def require_every_point_once(run, total=3200, every=160, evaluate=800, sample=1600):
    """Every report of the schedule is there exactly once, whatever happened on the way."""
    assert run.steps("progress/images_seen") == list(range(0, total + 1, every))
    for key in ("d/loss", "g/loss", "d/gradient_norm", "progress/images_per_second"):
        assert run.steps(key) == list(range(every, total + 1, every)), key
    assert run.steps("quality/kid_pixels") == list(range(0, total + 1, evaluate))
    assert run.pictures() == dict.fromkeys(range(0, total + 1, sample), 1)


def require_equal_states(left, right):
    """Weights, average and optimizers of two runs are equal bit for bit."""
    from tests.gan_core.test_trainer import same

    for key in ("generator", "discriminator", "g_ema", "generator_optimizer", "discriminator_optimizer", "images_seen", "best"):
        assert same(left[key], right[key]), key
