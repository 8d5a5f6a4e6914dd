"""Ray and MLflow warn while they are imported, which is not ours to mend: import them once, here, before warnings are errors."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import ray.train.torch  # noqa: F401

import pyarrow.parquet as pq
import pytest

from tests.support import noise_images, write_parquet


@pytest.fixture
def parquet_file(tmp_path):
    """Noise in row groups of 16, 100 images of 3 classes."""
    encoded, pixels = noise_images(100, size=12, channels=3)
    table = pq.read_table(write_parquet(tmp_path / "noise.parquet", encoded, [n % 3 for n in range(100)], nested=True))
    pq.write_table(table, tmp_path / "noise.parquet", row_group_size=16)
    return tmp_path / "noise.parquet", pixels
