"""Ray and MLflow warn while they are imported, which is not ours to mend: import them once, here, before warnings are errors."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import ray.train.torch  # noqa: F401

import os

import pyarrow.parquet as pq
import pytest

from pipelines.submitting import following
from tests.pipelines.job_server import JobServer
from tests.support import noise_images, write_parquet


@pytest.fixture
def parquet_file(tmp_path):
    """Noise in row groups of 16, 100 images of 3 classes."""
    encoded, pixels = noise_images(100, size=12, channels=3)
    table = pq.read_table(write_parquet(tmp_path / "noise.parquet", encoded, [n % 3 for n in range(100)], nested=True))
    pq.write_table(table, tmp_path / "noise.parquet", row_group_size=16)
    return tmp_path / "noise.parquet", pixels


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder to submit from, with nothing in the environment that speaks of clusters, stores or tokens."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("RAY_", "MLFLOW_TRACKING", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def server(project, monkeypatch):
    """A job server that answers as Ray's does, for commands of `project`."""
    monkeypatch.setattr(following, "PAUSES", (0.05,))
    with JobServer().running() as running:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", running.address)
        yield running
