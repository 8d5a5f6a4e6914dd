"""Sweeps run as a user does, and what they left in MLflow and in the storage."""

import time
from contextlib import suppress
from pathlib import Path

import psutil
from mlflow import MlflowClient

from gan_core import checkpoint
from pipelines import past
from pipelines.sweeps import ledger
from pipelines.tracking import Tracker
from tests.pipelines.command import TrackedRun, finish, start


def sweep(folder, *words, timeout=240):
    """Run `raygan sweep` to a good end; returns it with its output."""
    status, out, err = finish(start(folder, *words, command="sweep"), timeout)
    assert status == 0, err
    return Sweep(folder), out, err


class Sweep:
    """The one sweep of a folder."""

    def __init__(self, folder, uri=None):
        self.folder, self.uri = Path(folder), uri or f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(tracking_uri=self.uri)
        self.tracker = Tracker(self.client, self.uri, "")
        (self.name,) = ledger.names(self.tracker)
        self.run = ledger.find(self.tracker, self.name)

    @property
    def rows(self):
        return [ledger.row(run) for run in ledger.trials(self.tracker, self.name)]

    def tracked(self, row):
        return TrackedRun(self.folder, row.run_id, self.uri)

    def tags(self, row):
        return self.client.get_run(row.run_id).data.tags

    def config_of(self, row):
        """The config that the trial's run holds now."""
        return past.read_config(self.tracker, row.run_id)

    def checkpoints(self, row):
        """What the trial had seen at each checkpoint that is kept."""
        folders = (self.folder / "runs" / row.run_id).glob("checkpoint_0*")
        return sorted(int(folder.name.removeprefix("checkpoint_")) for folder in folders)

    def state(self, row, images_seen):
        return checkpoint.load(self.folder / "runs" / row.run_id / f"checkpoint_{images_seen:012d}")


def require_every_point_once(found, row, *, report, evaluate, total):
    """No metric point of the trial is missing or doubled, whatever happened on the way; in images."""
    run = found.tracked(row)
    assert run.steps("progress/images_seen") == list(range(0, total + 1, report))
    assert run.steps("d/loss") == list(range(report, total + 1, report))
    assert run.steps("quality/kid_pixels") == list(range(0, total + 1, evaluate))
    assert set(run.pictures().values()) == {1}


def trial_processes(process):
    """The processes of a sweep's trials."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ImplicitFunc" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def wait_until(condition, process, seconds=120):
    """Poll while the process lives; returns the first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def kill(process):
    """kill -9 a driver, and wait until what it started is gone; Ray's own agents stay for minutes, and are ended here."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(is_at_work(child) for child in children):
        assert time.monotonic() < deadline, "what a killed driver started must end by itself"
        time.sleep(0.1)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def is_at_work(process):
    """Not gone, no zombie that nobody reaps, and none of Ray's agents."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and not any(word.endswith("Agent") for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
