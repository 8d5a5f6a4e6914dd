"""A store that stands for MLflow's under a run_writer, and what tests of the writer share."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from pipelines import run_writer
from pipelines import store as stores
from pipelines.run_pictures import step_of
from pipelines.run_writer import CLOCK


class Store:
    """Stands for an MLflow store: keeps what it is given, and can be away, or away after some calls."""

    def __init__(self):
        self.points, self.files, self.calls, self.tags = [], {}, [], {}
        self.away, self.fail_after = False, None
        self.lock = threading.Lock()

    def answer(self, call):
        with self.lock:
            if self.fail_after is not None:
                self.fail_after -= 1
                if self.fail_after < 0:
                    self.away = True
            if self.away:
                raise ConnectionError("nobody answers")
            self.calls.append(call)

    def get_run(self, run_id):
        self.answer("get_run")
        clock = [point for point in self.points if point.key == CLOCK]
        latest = {CLOCK: max(point.step for point in clock)} if clock else {}
        return SimpleNamespace(data=SimpleNamespace(metrics=latest))

    def list_artifacts(self, run_id, path):
        self.answer("list_artifacts")
        return [SimpleNamespace(path=f"images/{name}") for name in self.files]

    def log_artifact(self, run_id, path, folder):
        self.answer("log_artifact")
        self.files[Path(path).name] = np.asarray(Image.open(path))

    def set_tag(self, run_id, key, value, synchronous=True):
        self.answer("set_tag")
        self.tags[key] = value

    def log_batch(self, run_id, metrics, synchronous):
        self.answer("log_batch")
        assert len(metrics) <= 1000
        self.points += metrics

    @property
    def pictures(self):
        """Step and pixels of every full picture; each has its preview."""
        full = [(step_of(f"images/{name}"), pixels) for name, pixels in self.files.items() if name.endswith(".png")]
        assert len(self.files) == 2 * len(full)
        return full

    def steps(self, key):
        return [point.step for point in self.points if point.key == key]


SAID = []
PACE = {name: getattr(run_writer, name) for name in ("WAIT_SECONDS", "RETRY_SECONDS", "LONGEST_WAIT_SECONDS")}


def install(monkeypatch):
    """The store of all writers that are made from now on, and quick ones."""
    store = Store()
    SAID.clear()
    monkeypatch.setattr(stores, "patient_client", lambda uri: store)
    for name, seconds in zip(PACE, (0.02, 0.02, 0.05), strict=True):
        monkeypatch.setattr(run_writer, name, seconds)
    return store


def picture(value):
    return np.full((4, 5, 3), value, np.uint8)


def wait_until(holds):
    """For ten seconds at most."""
    give_up_at = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)
