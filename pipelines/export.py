"""The averaged generator as an MLflow model: loads where only mlflow and torch are installed, and, by raygan, without running its code."""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from gan_core import checkpoint, portable
from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.portable import Description, Portable, Shape
from gan_core.truncation import Truncated, TruncatedInW, truncatable
from pipelines.tracking import Tracker

MODEL_NAME, PROGRAM = "generator", "generator.pt2"
PACKAGES = ("mlflow", "torch", "numpy", "pillow")


def log_generator(tracker: Tracker, run_id: str, config: GanConfig, dataset: ImageDataset, folder: Path) -> str:
    """Log the averaged generator of the checkpoint in `folder` to the run; returns the model's URI. A model of this run and step that is
    there already, by an attempt whose answer was lost say, is that one, and is completed.
    """
    state = checkpoint.load(folder)
    shape = portable.shape_of(config, dataset)
    description = Description(shape=shape, images_seen=state["images_seen"], content_hash=dataset.content_hash, gan=config)
    model = _model_of(tracker, run_id, state["images_seen"]) or tracker.client.create_logged_model(
        tracker.experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        model_type="generator",
        params={"images_seen": str(state["images_seen"]), "network": config.network.name, "loss": config.loss.name},
    )
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(prefix="raygan-") as temporary:
            saved = Path(temporary) / "model"
            save_model(saved, Portable(portable.build(config, shape, state["g_ema"]), description))
            tracker.client.log_model_artifacts(model.model_id, str(saved))
        tracker.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = tracker.client.get_run(run_id).outputs
    if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        tracker.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=state["images_seen"])])
    return f"models:/{model.model_id}"


def _model_of(tracker: Tracker, run_id: str, images_seen: int) -> LoggedModel | None:
    """The run's model of that step, if there is one."""
    condition = f"source_run_id = '{run_id}' AND name = '{MODEL_NAME}' AND params.images_seen = '{images_seen}'"
    found = tracker.client.search_logged_models([tracker.experiment_id], condition, max_results=1)
    return found[0] if found else None


def save_model(path: Path, made: Portable) -> None:
    """Write the model folder: an exported program, the code that feeds it, a signature and the packages it needs; and beside them the
    files of gan_core.portable, which are all that raygan itself reads.
    """
    shape, z_dim = made.description.shape, made.description.gan.network.z_dim
    model = truncatable(made.generator, z_dim=z_dim, num_classes=shape.num_classes)
    with tempfile.TemporaryDirectory(prefix="raygan-") as temporary:
        program = Path(temporary) / PROGRAM
        save_program(program, model, z_dim, shape)
        mlflow.pyfunc.save_model(
            path,
            python_model=str(Path(__file__).with_name("generator_model.py")),
            artifacts={"generator": str(program)},
            model_config={
                "z_dim": z_dim,
                "num_classes": shape.num_classes,
                "points": shape.points,
                "truncated_in": "w" if isinstance(model, TruncatedInW) else "z",
            },
            input_example=pd.DataFrame({"seed": [0, 1], "label": [0, 1]} if shape.num_classes else {"seed": [0, 1]}),
            signature=_signature(shape),
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES],
        )
    portable.save(path, made)


def save_program(path: Path, model: Truncated, z_dim: int, shape: Shape) -> None:
    """Write the generator as a torch.export program: of z [batch, z_dim], labels [batch] (None without classes) and truncation []."""
    batch = torch.export.Dim("batch", min=1, max=2**16)
    example = (torch.zeros(2, z_dim), torch.zeros(2, dtype=torch.int64) if shape.num_classes else None, torch.tensor(model.off))
    shapes: dict[str, Any] = {"z": {0: batch}, "labels": {0: batch} if shape.num_classes else None, "truncation": None}
    torch.export.save(torch.export.export(model, example, dynamic_shapes=shapes), path)


def _signature(shape: Shape) -> ModelSignature:
    columns = [ColSpec(DataType.long, "seed")] + ([ColSpec(DataType.long, "label")] if shape.num_classes else [])
    size = (-1, shape.resolution, shape.resolution, shape.channels)
    params = [ParamSpec("truncation", DataType.double, None), ParamSpec("format", DataType.string, "pixels")]
    output = Schema([TensorSpec(np.dtype("float32" if shape.points else "uint8"), size)])
    return ModelSignature(Schema(columns), output, ParamSchema(params))


def require_registry(tracker: Tracker, name: str | None) -> None:
    """Check at the start that the store has a registry, where a model is to become a version of `name` at the end.

    Raises:
        ValueError: it has none that answers, or refuses the name.
    """
    if name is None:
        return
    try:
        tracker.client.search_registered_models(f"name = '{name}'", max_results=1)
    except Exception as error:  # each kind of store has its own exceptions
        raise ValueError(
            f"mlflow.registered_model: the model registry of {tracker.uri} cannot be used ({str(error).splitlines()[0]}); set it to null"
        ) from None


def register(tracker: Tracker, name: str, uri: str, run_id: str, *, tags: dict[str, str], alias: str | None = None) -> str:
    """Make the logged model at `uri` a new version of the registered model `name`, unless it is one already; returns its address.

    MLflow calls the newest version models:/NAME/latest by itself, and reserves that word; `alias` may be another.
    """
    client = tracker.client
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    model_id = uri.rpartition("/")[2]
    tags = {"raygan.run": run_id, "raygan.model": model_id, **tags}  # not every store keeps a version's model_id
    known = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    made = [version for version in known if version.tags.get("raygan.model") == model_id]  # by an attempt whose answer was lost
    version = (made[0] if made else client.create_model_version(name, uri, run_id, tags=tags, model_id=model_id)).version
    if alias is None:
        return f"models:/{name}/{version}"
    client.set_registered_model_alias(name, alias, version)
    return f"models:/{name}@{alias} (version {version}, {uri})"
