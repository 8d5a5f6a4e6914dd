"""What a run that goes on says of its interruptions."""

import re

import pytest

from gan_core.building import load_dataset
from gan_core.overrides import flatten, validate
from pipelines import tracking
from pipelines.config import JobConfig
from tests.support import tiny_tree

SILENT = "its last driver ended without a word: killed, or the tracking store was away"


class Tracked:
    """A run in a store in a file."""

    def __init__(self, folder):
        self.config = validate(tiny_tree(mlflow__tracking_uri=f"sqlite:///{folder}/mlflow.db"), JobConfig)
        self.tracker = tracking.connect(self.config.mlflow.tracking_uri, self.config.mlflow.experiment)
        self.run_id = tracking.create_run(self.tracker, self.config, load_dataset(self.config.gan()), "x")

    def reopen(self):
        return tracking.reopen_run(self.tracker, self.run_id, self.config, flatten(self.config))

    def end(self, status, stopped=None):
        if stopped:
            self.tracker.client.set_tag(self.run_id, "raygan.stopped", stopped)
        self.tracker.client.set_terminated(self.run_id, status)

    @property
    def tags(self):
        return self.tracker.client.get_run(self.run_id).data.tags


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    return Tracked(tmp_path_factory.mktemp("store"))


def test_each_resumption_is_kept_with_what_was_before_and_no_run_that_goes_on_looks_stopped(tracked):
    assert "raygan.resumed" not in tracked.tags
    assert tracked.reopen() == SILENT
    tracked.end("KILLED", "by SIGTERM, checkpoint at 4.3 kimg")
    assert tracked.reopen() == ""
    assert "raygan.stopped" not in tracked.tags
    tracked.end("FAILED")
    assert tracked.reopen() == ""
    tracked.tracker.client.set_tag(tracked.run_id, "raygan.stopped", "by SIGINT, no new checkpoint")  # and then the store was away
    assert tracked.reopen() == ""
    assert tracked.tracker.client.get_run(tracked.run_id).info.status == "RUNNING"
    said = [re.fullmatch(r"(\d+): \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, (.*)", line) for line in tracked.tags["raygan.resumed"].splitlines()]
    assert [line.groups() for line in said] == [
        ("1", SILENT),
        ("2", "was KILLED by SIGTERM, checkpoint at 4.3 kimg"),
        ("3", "was FAILED"),
        ("4", "was RUNNING by SIGINT, no new checkpoint"),
    ]


def test_of_many_resumptions_the_last_are_kept_and_all_are_counted(tracked, monkeypatch):
    monkeypatch.setattr(tracking, "RESUMPTIONS_KEPT", 3)
    counts = lambda: [int(line.partition(":")[0]) for line in tracked.tags["raygan.resumed"].splitlines()]  # noqa: E731
    tracked.reopen()
    before = counts()[-1]
    for _ in range(4):
        tracked.reopen()
    assert counts() == [before + 2, before + 3, before + 4]
