"""Trained generators by any address: a run, a checkpoint, an MLflow model, or a folder that `raygan sample --export` wrote.

Nothing that lies there is run: weights are tensors, configs are YAML, and networks are those of gan_core. A model's pickles, code and
exported program are not even fetched.
"""

import json
import pickle
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import nn

from gan_core import checkpoint, portable
from gan_core.building import load_dataset
from gan_core.config import GanConfig
from gan_core.data._tables import possible
from gan_core.overrides import unflatten, validate
from gan_core.portable import Description, Portable, Shape
from gan_core.wording import brief
from pipelines import past, storage
from pipelines.config import JobConfig
from pipelines.tracking import Tracker

LARGEST_POINT = 1  # pixels: images of 2 channels and this resolution are points


class Trained(NamedTuple):
    """An averaged generator, on the CPU and ready to draw, what is known of it, and the run that made it, if this store knows that."""

    name: str
    generator: nn.Module
    description: Description
    run_id: str | None


def find(word: str, tracker: Tracker, *, best: bool) -> Trained:
    """The generator that `word` names: a models:/ or runs:/ address, a folder, or an MLflow run, by its last or best checkpoint.

    Raises:
        ValueError: nothing is there, it is not a generator, or it is not safe to load.
    """
    if word.startswith(("models:/", "runs:/")):
        return _model(word, tracker)
    path = Path(possible(word))
    if is_checkpoint(path):
        return _checkpoint(word, path, _run_of(path, tracker), tracker)
    if path.exists():
        return Trained(word, *portable.read(path), run_id=None)
    try:
        config = validate(past.read_config(tracker, word), JobConfig)
    except ValueError as error:
        raise ValueError(f"{brief(word)} is no path, models:/ address or run: {error}") from None
    return storage.read_latest(config.ray.storage_path, word, lambda folder: _checkpoint(word, folder, word, tracker), best=best)


def require_runs(words: list[str]) -> None:
    """Check that one of the targets at least is a run, of which there may be a best checkpoint.

    Raises:
        ValueError: none is.
    """
    if words and all("://" in word or is_generator(word) or Path(word).exists() for word in words):
        raise ValueError(f"--best chooses a checkpoint of a run, and has no effect on {words[0]}; give a run id, or leave it out")


def is_checkpoint(path: Path) -> bool:
    """Whether the folder is a checkpoint of a training."""
    return (path / checkpoint.SUMS).is_file()


def is_generator(word: str) -> bool:
    """Whether `word` is a place that only `find` can read, and no run id."""
    path = Path(word)
    return word.startswith(("models:/", "runs:/")) or is_checkpoint(path) or (path / portable.SUMS).is_file()


def _checkpoint(name: str, folder: Path, run_id: str | None, tracker: Tracker) -> Trained:
    try:
        state = checkpoint.load(folder)
        config = validate(unflatten(state["config"]), GanConfig)
        seen = {"images_seen": state["images_seen"], "content_hash": state["content_hash"]}
        description = Description(shape=_shape(config, run_id, tracker), gan=config, **seen)
        return Trained(name, portable.build(config, description.shape, state["g_ema"]), description, run_id)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{folder} holds no checkpoint of a training that can be read ({reason}); code in it was not run") from None


def _run_of(path: Path, tracker: Tracker) -> str | None:
    """The run that a checkpoint folder `<storage>/<run id>/<name>` belongs to, if this store knows it."""
    run_id = path.resolve().parent.name
    return run_id if past.knows(tracker, run_id) else None


def _shape(config: GanConfig, run_id: str | None, tracker: Tracker) -> Shape:
    """What the checkpoint's generator makes: as the run noted of its data, so that these need not be here; else as they are."""
    noted = tracker.client.get_run(run_id).inputs.dataset_inputs if run_id else []
    if not noted:
        return portable.shape_of(config, load_dataset(config))
    profile = json.loads(noted[0].dataset.profile)
    return Shape(
        resolution=profile["resolution"],
        channels=profile["channels"],
        num_classes=profile["classes"] if config.network.conditional else 0,
        points=profile["resolution"] <= LARGEST_POINT,
        class_names=tuple(profile.get("class_names", ())) or None if config.network.conditional else None,
    )


class Place(NamedTuple):
    """Where a model's files are, and the run that logged it, if that is known."""

    location: str
    run_id: str | None


def _model(uri: str, tracker: Tracker) -> Trained:
    try:
        place = _place(uri, tracker.client)
    except (MlflowException, OSError, LookupError) as error:
        raise ValueError(f"the model {uri} cannot be loaded from {tracker.uri} ({str(error).splitlines()[0]})") from None
    if (local := _local(place.location)) is not None:
        return Trained(uri, *_read(uri, local), run_id=place.run_id)
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        for name in portable.FILES:
            try:
                mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{place.location.rstrip('/')}/{name}", dst_path=folder, tracking_uri=tracker.uri
                )
            except Exception as error:  # each kind of artifact store has its own exceptions
                raise ValueError(
                    f"the model {uri} cannot be loaded: {name} could not be fetched from {tracker.uri} ({str(error).splitlines()[0]}); "
                    f"it is not one of raygan's generators, or the store is away"
                ) from None
        return Trained(uri, *_read(uri, Path(folder)), run_id=place.run_id)


def _read(uri: str, folder: Path) -> Portable:
    try:
        return portable.read(folder)
    except ValueError as error:
        raise ValueError(f"the model {uri} cannot be loaded: {error}") from None


def _local(location: str) -> Path | None:
    """The folder, where a model lies in this machine's file system."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def _place(uri: str, client: MlflowClient) -> Place:
    """Where a models:/ or runs:/ address leads.

    Raises:
        MlflowException, LookupError: nowhere.
    """
    if uri.startswith("runs:/"):
        run_id, _, name = uri.removeprefix("runs:/").strip("/").partition("/")
        outputs = client.get_run(run_id).outputs
        models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
        named = [model for model in models if model.name == name]
        if not named:
            known = ", ".join(sorted({f"runs:/{run_id}/{model.name}" for model in models})) or "none"
            raise LookupError(f"the run has no model '{name}'; its models: {known}")
        return Place(named[-1].artifact_location, run_id)
    word = uri.removeprefix("models:/").strip("/")
    if not re.search(r"[/@]", word):
        model = client.get_logged_model(word)
        return Place(model.artifact_location, _known(model.source_run_id))
    version = _version(word, client)
    if version.model_id:
        return Place(client.get_logged_model(version.model_id).artifact_location, _known(version.run_id))
    return Place(client.get_model_version_download_uri(version.name, version.version), _known(version.run_id))


def _version(word: str, client: MlflowClient) -> Any:
    """The version of a registered model that `NAME/VERSION`, `NAME/latest` or `NAME@ALIAS` names."""
    parts = re.fullmatch(r"([^/@']+)([/@])([^/@']+)", word)
    if parts is None:
        raise LookupError("write models:/ID, models:/NAME/VERSION, models:/NAME/latest or models:/NAME@ALIAS")
    name, mark, which = parts.groups()
    if which.lower() == "latest":  # reserved by MLflow, for either mark
        client.get_registered_model(name)  # says so where there is none
        return max(client.search_model_versions(f"name='{name}'"), key=lambda found: int(found.version))
    return client.get_model_version_by_alias(name, which) if mark == "@" else client.get_model_version(name, which)


def _known(run_id: str | None) -> str | None:
    return run_id or None
