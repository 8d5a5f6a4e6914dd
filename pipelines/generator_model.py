"""The code inside an exported MLflow model: image seeds in, pictures out. Needs mlflow, torch, numpy and pillow, and nothing of raygan.

MLflow copies this file into the model and runs it where the model is loaded.
"""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL import Image

IMAGES_AT_ONCE = 256
OFF = {"w": 1.0, "z": float("inf")}
FORMATS = ("pixels", "png")


class GeneratorModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Predicts images [rows, height, width, channels] from a table with a `seed`, and for class-conditional models a `label`.

    Seed i always gives image i, to the rounding of another batch size. Images are uint8; generators of 2-D points give float32
    [rows, 1, 1, 2]. The parameter `format` = "png" gives base64 texts instead. `truncation` trades variety for quality: a factor from 0 to
    1 about the mean of w, or where there is no w, the number of standard deviations that z is cut at; None is off.
    """

    def load_context(self, context: Any) -> None:
        """Load the exported program; `model_config` says how to feed it."""
        self.config = context.model_config
        self.generator = torch.export.load(context.artifacts["generator"]).module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray | list[str]:
        """One image for each row of a table.

        Raises:
            ValueError: a label is missing or not a class, or a parameter is not one.
        """
        params = params or {}
        if (kind := params.get("format", "pixels")) not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, given {kind!r}")
        if kind == "png" and self.config["points"]:
            raise ValueError("format: this generator makes points, which are no PNG; use pixels")
        seeds = [int(seed) for seed in model_input["seed"]]
        labels, truncation = self._labels(model_input, len(seeds)), self._truncation(params.get("truncation"))
        images = []
        for first in range(0, len(seeds), IMAGES_AT_ONCE):
            part = slice(first, first + IMAGES_AT_ONCE)
            z = torch.stack([self._latent(seed) for seed in seeds[part]])
            with torch.no_grad():
                images.append(self.generator(z, None if labels is None else labels[part], truncation))
        stacked = torch.cat(images).permute(0, 2, 3, 1)
        if self.config["points"]:
            return stacked.numpy()
        pixels = ((stacked + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        return pixels if kind == "pixels" else [_png(image) for image in pixels]

    def _latent(self, seed: int) -> torch.Tensor:
        return torch.randn(self.config["z_dim"], generator=torch.Generator().manual_seed(seed))

    def _labels(self, table: pd.DataFrame, count: int) -> torch.Tensor | None:
        classes = self.config["num_classes"]
        if not classes:
            return None
        labels = torch.tensor([int(label) for label in table["label"]])
        if len(labels) != count or not bool(((labels >= 0) & (labels < classes)).all()):
            raise ValueError(f"label must be 0 to {classes - 1} in every row")
        return labels

    def _truncation(self, given: float | None) -> torch.Tensor:
        in_w = self.config["truncated_in"] == "w"
        if given is not None and not (0.0 <= given <= 1.0 if in_w else given > 0.0):
            raise ValueError(f"truncation must be {'from 0 to 1' if in_w else 'above 0'}, given {given}")
        return torch.tensor(OFF[self.config["truncated_in"]] if given is None else float(given))


def _png(pixels: np.ndarray) -> str:
    """Pixels [height, width, channels] as base64 PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


set_model(GeneratorModel())
