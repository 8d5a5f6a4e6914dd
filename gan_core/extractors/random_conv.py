"""A fixed convolutional network with random weights: a cheap judge of any images, without labels, training or a download."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gan_core import sampling
from gan_core.datatypes import ImageDataset
from gan_core.extractors._extractor import Extractor, Features, fill, hash_of, on_cpu

DEFINITION = "random_conv 1: 3x3 convolutions and ReLU, halved to 4 pixels or fewer, one linear map; float32"
SMALLEST_SIDE = 4
WIDEST = 256


def build(
    dataset: ImageDataset,
    *,
    device: torch.device,
    cache_dir: Path,
    seed: int = 0,
    width: Annotated[int, Field(gt=0)] = 32,
    dimensions: Annotated[int, Field(gt=0)] = 128,
) -> Extractor:
    """`dimensions` features of images of the data set's channels and size; weights are a function of those, `seed` and `width`.

    What such features are good for: local patterns such as strokes and edges change them where they hardly change pixels, so they rank
    checkpoints of one run, on data without labels and at any resolution, within seconds. They know nothing of what pictures mean: a
    lower distance is no evidence of better content, and no published figure uses them.

    Weights follow He's rule (1502.01852), under which a feature's mean square is that of the pixels, in expectation over the weights.
    """
    channels, side = dataset.channels, dataset.resolution
    network = on_cpu(lambda: _network(channels, side, width, dimensions))
    fill(network, sampling.random_source(seed, "random_conv", channels, side, width, dimensions))
    weights_hash = hash_of(DEFINITION, network.state_dict())
    network = network.to(device).requires_grad_(False).eval()

    def features_of(images: Tensor) -> Features:
        return Features(network(images), None)

    return Extractor(
        name="random_conv",
        weights_hash=weights_hash,
        dimensions=dimensions,
        num_classes=0,
        resize="none",
        dtype="float32",
        image_shape=(channels, *dataset.images.shape[2:]),
        device=device,
        network=features_of,
        facts={"seed": seed, "width": width},
    )


class _Scale(nn.Module):
    """The last map has no ReLU after it, so the variance 2 / fan-in is one factor of 2 too many."""

    def forward(self, values: Tensor) -> Tensor:
        return values.mul(0.5**0.5)


def _network(channels: int, side: int, width: int, dimensions: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    while side > SMALLEST_SIDE:
        wider = min(2 * width, max(width, WIDEST))
        layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.ReLU()]
        width, side = wider, (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, dimensions), _Scale())
