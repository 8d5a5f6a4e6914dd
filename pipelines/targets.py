"""What `raygan evaluate` can judge: any trained generator, a folder of images or Parquet files - each a source of fake images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gan_core import sampling
from gan_core.config import GanConfig
from gan_core.data import folder, parquet
from gan_core.data._tables import possible
from gan_core.datatypes import Batch, ImageDataset
from pipelines import generators
from pipelines.generators import Trained
from pipelines.tracking import Tracker

AT_ONCE = 256
FIRST_SEED = 2**33  # of the latents: beyond those of pictures and of scores in training


class Place(NamedTuple):
    """Where images are drawn: the real data, which gives shapes and labels, and the device."""

    dataset: ImageDataset
    device: torch.device


Draw = Callable[[int, int, Place], Iterator[Tensor]]
Labels = Callable[[int, int, Place], Tensor | None]


class Target(NamedTuple):
    """Something to judge. `draw(count, seed, place)` gives batches [batch, C, H, W] in [-1, 1], and `labels` of the same arguments the
    classes that these are of, None where they are of none.

    `available` is how many images there are, None for a generator. `config` and `run_id` are those of the training that made it, where
    that is known; `images_seen` is where its clock stood.
    """

    name: str
    draw: Draw
    labels: Labels
    available: int | None = None
    config: GanConfig | None = None
    run_id: str | None = None
    images_seen: int = 0


def find(word: str, tracker: Tracker, *, best: bool) -> Target:
    """The target that `word` names: an existing path, Parquet at an address such as s3://bucket/folder, a models:/ or runs:/ address, or an
    MLflow run, by its last or best checkpoint.

    Raises:
        ValueError: nothing is there, or what is there is none of these.
    """
    path = Path(possible(word))
    if "://" in word:
        return _images(word, parquet.load(path=word))
    if generators.is_generator(word) or not path.exists():
        return _generator(generators.find(word, tracker, best=best))
    if path.is_dir() and not any(path.rglob("*.parquet")):
        return _images(word, folder.load(path=word))
    return _images(word, parquet.load(path=word))


def _generator(trained: Trained) -> Target:
    config, classes = trained.description.gan, trained.description.shape.num_classes

    def labels_of(count: int, seed: int, place: Place) -> Tensor | None:
        return _labels(place.dataset, count, seed, classes) if classes else None

    def draw(count: int, seed: int, place: Place) -> Iterator[Tensor]:
        generator = trained.generator.to(place.device)
        labels = labels_of(count, seed, place)
        z = sampling.latents_of_seeds(_first_seed(seed), count, z_dim=config.network.z_dim)
        for batch in Batch(z, labels).split(AT_ONCE):
            yield generator(batch.inputs.to(place.device), None if batch.labels is None else batch.labels.to(place.device))

    return Target(trained.name, draw, labels_of, config=config, run_id=trained.run_id, images_seen=trained.description.images_seen)


def _images(name: str, images: ImageDataset) -> Target:
    def labels_of(count: int, seed: int, place: Place) -> Tensor | None:
        if images.labels is None or images.num_classes != place.dataset.num_classes:
            return None
        return images.labels[sampling.evaluation_indices(seed, count=count, dataset_size=len(images))]

    def draw(count: int, seed: int, place: Place) -> Iterator[Tensor]:
        chosen = sampling.evaluation_indices(seed, count=count, dataset_size=len(images))
        for indices in chosen.split(AT_ONCE):
            yield images.batch(indices, place.device, torch.float32, labelled=False).inputs

    return Target(name, draw, labels_of, available=len(images))


def _labels(dataset: ImageDataset, count: int, seed: int, num_classes: int) -> Tensor:
    """Classes for a generator of `num_classes`, as frequent as in the real data.

    Raises:
        ValueError: the data have no classes, or another number of them: then they are not the generator's.
    """
    if dataset.labels is None:
        raise ValueError(f"the generator needs classes, and the data set {dataset.name} has no labels")
    if dataset.num_classes != num_classes:
        raise ValueError(
            f"the generator was trained on {num_classes} classes, and the data set {dataset.name} has {dataset.num_classes}; "
            f"judge it on data with its own classes"
        )
    order = sampling.evaluation_indices(seed, count=len(dataset), dataset_size=len(dataset))
    return dataset.labels[order[torch.arange(count) % len(order)]]


def _first_seed(seed: int) -> int:
    return FIRST_SEED + (seed << 24)
