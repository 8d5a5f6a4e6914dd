"""LeNet three times over, for Stacked-MNIST: one classifier of single digits reads each channel.

So the 1000 modes are counted by a network that is trained on 54,000 digits of 10 classes, and not on stacks of 1000.
"""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gan_core.data import stacked_mnist
from gan_core.data._encoded import LocalPath
from gan_core.datatypes import ImageDataset
from gan_core.extractors import lenet
from gan_core.extractors._extractor import Extractor, Features, hash_of

CHANNELS = 3


def build(
    dataset: ImageDataset,
    *,
    device: torch.device,
    cache_dir: Path,
    path: LocalPath,
    seed: int = 0,
    dimensions: Annotated[int, Field(gt=0)] = 128,
) -> Extractor:
    """The features of the three digits side by side, and the probabilities of the 1000 modes: the products of those of the digits.

    `path` is the Parquet file of plain MNIST; what is trained on it, kept and hashed is as for `lenet`.

    Raises:
        ValueError: a data set that is not Stacked-MNIST, and as `lenet` and `gan_core.data.stacked_mnist.digits`.
    """
    if dataset.channels != CHANNELS or dataset.num_classes != stacked_mnist.DIGITS**CHANNELS:
        raise ValueError(f"extractor stacked_lenet is for the data set stacked_mnist, and not for {dataset.name}; use lenet")
    of_digits = lenet.build(
        stacked_mnist.digits(path=path, resolution=28 if dataset.resolution == 28 else 32),
        device=device,
        cache_dir=cache_dir,
        seed=seed,
        dimensions=dimensions,
    )

    def features_of(images: Tensor) -> Features:
        features, probabilities = of_digits.network(images.flatten(0, 1).unsqueeze(1))
        assert probabilities is not None
        red, green, blue = probabilities.unflatten(0, (-1, CHANNELS)).unbind(1)
        modes = red[:, :, None, None] * green[:, None, :, None] * blue[:, None, None, :]
        return Features(features.unflatten(0, (-1, CHANNELS)).flatten(1), modes.flatten(1))

    return Extractor(
        name="stacked_lenet",
        weights_hash=hash_of(f"stacked_lenet 1: {CHANNELS} channels, each by lenet {of_digits.weights_hash}", {}),
        dimensions=CHANNELS * of_digits.dimensions,
        num_classes=dataset.num_classes,
        resize=of_digits.resize,
        dtype=of_digits.dtype,
        image_shape=(CHANNELS, dataset.resolution, dataset.resolution),
        device=device,
        network=features_of,
        facts=of_digits.facts,
    )
