"""The code inside an exported MLflow model: image seeds in, pictures out. Needs mlflow, torch and numpy, and nothing of raygan.

MLflow copies this file into the model and runs it where the model is loaded.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

IMAGES_AT_ONCE = 256


class GeneratorModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Predicts images [rows, height, width, channels] from a table with a `seed`, and for class-conditional models a `label`.

    Seed i always gives image i. Images are uint8; generators of 2-D points give float32 [rows, 1, 1, 2].
    """

    def load_context(self, context: Any) -> None:
        """Load the exported program; `model_config` says how to feed it."""
        self.config = context.model_config
        self.generator = torch.export.load(context.artifacts["generator"]).module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """One image for each row of a table.

        Raises:
            ValueError: a label is missing or not a class.
        """
        seeds = [int(seed) for seed in model_input["seed"]]
        labels = self._labels(model_input, len(seeds))
        images = []
        for first in range(0, len(seeds), IMAGES_AT_ONCE):
            part = slice(first, first + IMAGES_AT_ONCE)
            z = torch.stack([self._latent(seed) for seed in seeds[part]])
            with torch.no_grad():
                images.append(self.generator(z) if labels is None else self.generator(z, labels[part]))
        stacked = torch.cat(images).permute(0, 2, 3, 1)
        if self.config["points"]:
            return stacked.numpy()
        return ((stacked + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()

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


set_model(GeneratorModel())
