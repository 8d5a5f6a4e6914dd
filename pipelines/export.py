"""The averaged generator as an MLflow model that loads where only mlflow and torch are installed."""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from torch import nn

from gan_core import checkpoint
from gan_core.building import build_networks
from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from pipelines.tracking import Tracker

MODEL_NAME = "generator"


def log_generator(tracker: Tracker, run_id: str, config: GanConfig, dataset: ImageDataset, folder: Path) -> str:
    """Log the averaged generator of the checkpoint in `folder` to the run; returns the model's URI."""
    state = checkpoint.load(folder)
    generator, _ = build_networks(config, dataset)
    generator.load_state_dict(state["g_ema"])
    generator.eval().requires_grad_(False)
    model = tracker.client.create_logged_model(
        tracker.experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        model_type="generator",
        params={"images_seen": str(state["images_seen"]), "network": config.network.name, "loss": config.loss.name},
    )
    with tempfile.TemporaryDirectory(prefix="raygan-") as temporary:
        saved = Path(temporary) / "model"
        save_model(saved, generator, config, dataset)
        tracker.client.log_model_artifacts(model.model_id, str(saved))
    tracker.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    tracker.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=state["images_seen"])])
    return f"models:/{model.model_id}"


def save_model(path: Path, generator: nn.Module, config: GanConfig, dataset: ImageDataset) -> None:
    """Write the model folder: an exported program, the code that feeds it, a signature and the packages it needs."""
    conditional, points = config.network.conditional, dataset.images.dtype != torch.uint8
    with tempfile.TemporaryDirectory(prefix="raygan-") as temporary:
        program = Path(temporary) / "generator.pt2"
        torch.export.save(_exported(generator, config.network.z_dim, dataset.num_classes if conditional else 0), program)
        mlflow.pyfunc.save_model(
            path,
            python_model=str(Path(__file__).with_name("generator_model.py")),
            artifacts={"generator": str(program)},
            model_config={
                "z_dim": config.network.z_dim,
                "num_classes": dataset.num_classes if conditional else 0,
                "points": points,
            },
            input_example=pd.DataFrame({"seed": [0, 1], "label": [0, 1]} if conditional else {"seed": [0, 1]}),
            signature=_signature(dataset, conditional=conditional, points=points),
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in ("mlflow", "torch", "numpy")],
        )


def _exported(generator: nn.Module, z_dim: int, num_classes: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    example: tuple[torch.Tensor, ...] = (torch.zeros(2, z_dim),)
    shapes: dict[str, Any] = {"z": {0: batch}, "labels": None}
    if num_classes:
        example = (*example, torch.zeros(2, dtype=torch.int64))
        shapes["labels"] = {0: batch}
    else:
        del shapes["labels"]
    return torch.export.export(generator.float(), example, dynamic_shapes=shapes)


def _signature(dataset: ImageDataset, *, conditional: bool, points: bool) -> ModelSignature:
    columns = [ColSpec(DataType.long, "seed")] + ([ColSpec(DataType.long, "label")] if conditional else [])
    shape = (-1, dataset.resolution, dataset.resolution, dataset.channels)
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype("float32" if points else "uint8"), shape)]))
