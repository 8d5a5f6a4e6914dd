"""Pictures of a run, named so that MLflow's UI lets one scrub through them by step; each step's picture is there once.

MlflowClient.log_image makes a new random name at each call: a call that fails half-way and is repeated leaves two pictures. Here a
step keeps its name, over retries and over restarts.
"""

import base64
import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY, FOLDER = "samples", "images"
PREVIEW_SIZE = 256  # pixels of the longer side, as MLflow's own previews have
FULL, PREVIEW = ".png", "+compressed.webp"


class RunPictures:
    """Writes the pictures of run `run_id`; what is there already is read once, at the first picture."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._names: dict[int, str] | None = None
        self._complete: set[int] = set()

    def deliver(self, step: int, milliseconds: int, picture: str) -> None:
        """Store an encoded picture, unless the step has one; repeating a call that failed writes the same files again."""
        if self._names is None:
            self._names = self._find()
        if step in self._complete:
            return
        fresh = f"{KEY}+step+{step}+timestamp+{milliseconds}+{uuid5(NAMESPACE_URL, f'{self._run_id}/{step}')}"
        name = self._names.setdefault(step, fresh)
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        preview = image.copy()
        preview.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
        with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
            for picture_file, suffix in ((image, FULL), (preview, PREVIEW)):
                path = Path(folder) / f"{name}{suffix}"
                picture_file.save(path)
                self._client.log_artifact(self._run_id, str(path), FOLDER)
        self._client.set_tag(self._run_id, "mlflow.loggedImages", "True")
        self._complete.add(step)

    def _find(self) -> dict[int, str]:
        """The names that steps have, and which of them have both files."""
        names: dict[int, str] = {}
        found = {artifact.path.rpartition("/")[2] for artifact in self._client.list_artifacts(self._run_id, FOLDER)}
        for file in found:
            match = re.fullmatch(rf"({KEY}\+step\+(\d+)\+timestamp\+\d+\+[0-9a-f-]+)(?:\.png|\+compressed\.webp)", file)
            if match:
                names[int(match[2])] = match[1]
        self._complete = {step for step, name in names.items() if {f"{name}{FULL}", f"{name}{PREVIEW}"} <= found}
        return names


def encode(picture: np.ndarray | None) -> str:
    """A picture [rows, columns, 3] uint8 as base64 PNG, which fits into JSON; empty for None."""
    if picture is None:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def step_of(path: str) -> int | None:
    """The step in an artifact's name, or None where it is not one of these pictures."""
    match = re.match(rf"{FOLDER}/{KEY}\+step\+(\d+)\+", path)
    return int(match[1]) if match else None
