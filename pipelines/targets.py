"""What `raygan evaluate` can judge: a run, a checkpoint, a model, a folder of images or Parquet files - each a source of fake images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from torch import Tensor

from gan_core import checkpoint, sampling
from gan_core.building import build_networks
from gan_core.config import GanConfig
from gan_core.data import folder, parquet
from gan_core.datatypes import Batch, ImageDataset
from gan_core.overrides import unflatten, validate
from pipelines import storage, tracking
from pipelines.config import JobConfig
from pipelines.tracking import Tracker

AT_ONCE = 256
FIRST_SEED = 2**33  # of the latents: beyond those of pictures and of scores in training


class Place(NamedTuple):
    """Where images are drawn: the real data, which gives shapes and labels, and the device."""

    dataset: ImageDataset
    device: torch.device


Draw = Callable[[int, int, Place], Iterator[Tensor]]


class Target(NamedTuple):
    """Something to judge. `draw(count, seed, place)` gives batches [batch, C, H, W] in [-1, 1].

    `available` is how many images there are, None for a generator. `config` and `run_id` are those of the training that made it, where
    that is known; `images_seen` is where its clock stood.
    """

    name: str
    draw: Draw
    available: int | None = None
    config: GanConfig | None = None
    run_id: str | None = None
    images_seen: int = 0


def find(word: str, tracker: Tracker, *, best: bool) -> Target:
    """The target that `word` names: an existing path, a models:/ or runs:/ address, or an MLflow run, by its last or best checkpoint.

    Raises:
        ValueError: nothing is there, or what is there is none of these.
    """
    if word.startswith(("models:/", "runs:/")):
        return _model(word, tracker)
    path = Path(word)
    if (path / checkpoint.SUMS).is_file():
        return _checkpoint(word, checkpoint.load(path), _run_of(path, tracker))
    if path.is_dir() and not any(path.rglob("*.parquet")):
        return _images(word, folder.load(path=word))
    if path.exists():
        return _images(word, parquet.load(path=word))
    return _run(word, tracker, best=best)


def _run(run_id: str, tracker: Tracker, *, best: bool) -> Target:
    try:
        config = validate(tracking.read_config(tracker, run_id), JobConfig)
    except ValueError as error:
        raise ValueError(f"'{run_id}' is no path, models:/ address or run: {error}") from None
    with storage.latest(config.ray.storage_path, run_id, best=best) as path:
        return _checkpoint(run_id, checkpoint.load(path), run_id)


def _run_of(path: Path, tracker: Tracker) -> str | None:
    """The run that a checkpoint folder `<storage>/<run id>/<name>` belongs to, if this store knows it."""
    run_id = path.resolve().parent.name
    return run_id if tracking.knows(tracker, run_id) else None


def _checkpoint(name: str, state: dict[str, Any], run_id: str | None) -> Target:
    config = validate(unflatten(state["config"]), GanConfig)

    def draw(count: int, seed: int, place: Place) -> Iterator[Tensor]:
        generator, _ = build_networks(config, place.dataset)
        generator.load_state_dict(state["g_ema"])
        generator = generator.to(place.device).eval().requires_grad_(False)
        labels = _labels(place.dataset, count, seed) if config.network.conditional else None
        z = sampling.latents_of_seeds(_first_seed(seed), count, z_dim=config.network.z_dim)
        for batch in Batch(z, labels).split(AT_ONCE):
            yield generator(batch.inputs.to(place.device), None if batch.labels is None else batch.labels.to(place.device))

    return Target(name, draw, config=config, run_id=run_id, images_seen=state["images_seen"])


def _model(uri: str, tracker: Tracker) -> Target:
    import mlflow.pyfunc

    try:
        model = mlflow.pyfunc.load_model(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracker.uri))
    except Exception as error:  # of many kinds: no such model, no such run, a server that is away
        raise ValueError(f"the model {uri} cannot be loaded from {tracker.uri} ({str(error).splitlines()[0]})") from None
    schema = model.metadata.get_input_schema()
    columns = schema.input_names() if schema is not None else []
    if "seed" not in columns:
        raise ValueError(f"the model {uri} is not one of raygan's generators: its inputs are {columns}, and not seed (and label)")
    run_id, images_seen = _source_of(uri, tracker)

    def draw(count: int, seed: int, place: Place) -> Iterator[Tensor]:
        table = pd.DataFrame({"seed": np.arange(count, dtype=np.int64) + _first_seed(seed)})
        if "label" in columns:
            table["label"] = _labels(place.dataset, count, seed).numpy()
        for first in range(0, count, AT_ONCE):
            pixels = torch.from_numpy(model.predict(table[first : first + AT_ONCE])).permute(0, 3, 1, 2)
            yield pixels.float() / 127.5 - 1.0 if pixels.dtype == torch.uint8 else pixels

    return Target(uri, draw, config=_config_of(run_id, tracker), run_id=run_id, images_seen=images_seen)


def _source_of(uri: str, tracker: Tracker) -> tuple[str | None, int]:
    """The run that logged a model of its own id, models:/m-..., and its place on the clock; for other addresses nothing is known."""
    try:
        model = tracker.client.get_logged_model(uri.removeprefix("models:/"))
    except MlflowException:
        return None, 0
    return model.source_run_id, int(model.params.get("images_seen", 0))


def _config_of(run_id: str | None, tracker: Tracker) -> GanConfig | None:
    return validate(tracking.read_config(tracker, run_id), JobConfig).gan() if run_id else None


def _images(name: str, images: ImageDataset) -> Target:
    def draw(count: int, seed: int, place: Place) -> Iterator[Tensor]:
        chosen = sampling.evaluation_indices(seed, count=count, dataset_size=len(images))
        for indices in chosen.split(AT_ONCE):
            yield images.batch(indices, place.device, torch.float32, labelled=False).inputs

    return Target(name, draw, available=len(images))


def _labels(dataset: ImageDataset, count: int, seed: int) -> Tensor:
    """Classes for a conditional generator, as frequent as in the real data."""
    if dataset.labels is None:
        raise ValueError(f"the generator needs classes, and the data set {dataset.name} has no labels")
    order = sampling.evaluation_indices(seed, count=len(dataset), dataset_size=len(dataset))
    return dataset.labels[order[torch.arange(count) % len(order)]]


def _first_seed(seed: int) -> int:
    return FIRST_SEED + (seed << 24)
