"""What is done to a run in MLflow, which is imported where a client is made: other ranks do without the seconds that it takes."""

import logging
import os
from typing import TYPE_CHECKING

from pipelines.run_pictures import RunPictures

if TYPE_CHECKING:
    from mlflow import MlflowClient

Point = tuple[str, float, int, int]  # key, value, milliseconds, step


def patient_client(tracking_uri: str) -> "MlflowClient":
    """A client whose calls fail within seconds when the server is away: the queue is what is patient, not the call.

    MLflow reads these from the environment at each call; its defaults are 7 retries of 120 s.
    """
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines at each end of a run; the summary names its page
    return MlflowClient(tracking_uri=tracking_uri)


class Store:
    """What is done to one run in MLflow. `ready_at`: since when, on the monotonic clock."""

    ready_at = 0.0

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._client, self._run_id = patient_client(tracking_uri), run_id
        self._pictures = RunPictures(self._client, run_id)

    def open(self) -> None:
        """It is, since it was made."""

    def latest(self, key: str) -> float | None:
        """A metric's last value."""
        value: float | None = self._client.get_run(self._run_id).data.metrics.get(key)
        return value

    def log(self, points: list[Point]) -> None:
        """As many points as one request may hold."""
        from mlflow.entities import Metric

        self._client.log_batch(self._run_id, metrics=[Metric(*point) for point in points], synchronous=True)

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""
        self._client.set_tag(self._run_id, key, value, synchronous=True)

    def picture(self, step: int, milliseconds: int, picture: str) -> None:
        """An encoded picture, once for each step."""
        self._pictures.deliver(step, milliseconds, picture)

    def close(self) -> None:
        """There is nothing to end."""
