"""A LeNet-class network trained on the data set's own labels: the judge for small images on which Inception was never trained.

Its scores are comparable between runs with one `weights_hash`, and never to a published FID.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gan_core.datatypes import ImageDataset
from gan_core.extractors import _cache, _training
from gan_core.extractors._extractor import Extractor, Features, hash_of, on_cpu, require_colours

DEFINITION = "lenet 1: two 5x5 convolutions with ReLU and max-pooling, linear, ReLU, linear; float32"
SMALLEST_SIDE, LARGEST_SIDE = 8, 32
WIDTHS = (16, 32)


def build(
    dataset: ImageDataset,
    *,
    device: torch.device,
    cache_dir: Path,
    seed: int = 0,
    dimensions: Annotated[int, Field(gt=0)] = 128,
) -> Extractor:
    """The `dimensions` outputs of the last hidden layer, after its ReLU, and the class probabilities.

    Trained once on 90 % of `dataset`, in a minute and a half of one core for MNIST and seconds for a few thousand images; the other
    10 %, the same each time, give `facts["test_accuracy"]`. Weights and facts are kept in `cache_dir` by content hash and recipe; one
    process trains, others wait for it. Images above 32 pixels are reduced to 32, by bilinear interpolation with anti-aliasing.

    Training is on one thread of the CPU, without the caller's random state, so one machine gives the same `weights_hash` each time.
    Another kind of processor may give another one: share `cache_dir`, or its files, where scores must be compared between machines.

    Architecture after LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.

    Raises:
        ValueError: no labels, labels of one class or outside 0 ... num_classes - 1, fewer than 20 images, an image smaller than 8 pixels,
            channels other than 1 or 3, a cache that cannot be used.
    """
    _require_usable(dataset)
    side = min(dataset.resolution, LARGEST_SIDE)
    layout = {"channels": dataset.channels, "side": side, "num_classes": dataset.num_classes, "dimensions": dimensions}
    recipe = {"definition": DEFINITION, "widths": WIDTHS, **layout, **_training.RECIPE, "seed": seed}
    key = sha256(json.dumps([dataset.content_hash, recipe], sort_keys=True).encode()).hexdigest()[:24]
    network = on_cpu(lambda: LeNet(**layout))
    with _cache.entry(cache_dir, f"lenet-{key}") as cache:
        if not cache.is_complete():
            found = _training.train(network, dataset, seed=seed)
            facts = found | {"recipe": recipe, "content_hash": dataset.content_hash, "torch": torch.__version__}
            cache.write(network.state_dict(), facts | {"weights_hash": hash_of(DEFINITION, network.state_dict())})
        weights, facts = cache.read()
        weights_hash = hash_of(DEFINITION, weights)
        if weights_hash != facts.get("weights_hash"):
            raise cache.damaged(f"its weights hash to {weights_hash[:8]} and not {str(facts.get('weights_hash'))[:8]}")
    network.load_state_dict(weights)
    network = network.to(device).requires_grad_(False).eval()

    def features_of(images: Tensor) -> Features:
        features, logits = network(images)
        return Features(features, logits.softmax(1))

    return Extractor(
        name="lenet",
        weights_hash=weights_hash,
        dimensions=dimensions,
        num_classes=dataset.num_classes,
        resize="none" if side == dataset.resolution else "bilinear-antialias",
        dtype="float32",
        image_shape=(dataset.channels, dataset.resolution, dataset.resolution),
        device=device,
        network=features_of,
        facts=facts,
    )


class LeNet(nn.Module):
    """Images [batch, C, H, W] to the last hidden layer [batch, dimensions] and logits [batch, classes]."""

    def __init__(self, *, channels: int, side: int, num_classes: int, dimensions: int) -> None:
        super().__init__()
        self.side = side
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, WIDTHS[0], 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(WIDTHS[0], WIDTHS[1], 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Linear(WIDTHS[1] * (side // 4) ** 2, dimensions)
        self.classes = nn.Linear(dimensions, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        features = F.relu(self.hidden(self.convolutions(images).flatten(1)))
        return features, self.classes(features)


def _require_usable(dataset: ImageDataset) -> None:
    name, labels = dataset.name, dataset.labels
    require_colours("lenet", dataset.channels)
    if dataset.images.shape[2] != dataset.resolution or dataset.resolution < SMALLEST_SIDE:
        raise ValueError(
            f"extractor lenet needs square images of {SMALLEST_SIDE} pixels or more, and those of {name} are "
            f"{dataset.images.shape[3]}x{dataset.images.shape[2]}; use pixels or random_conv"
        )
    if labels is None:
        raise ValueError(f"extractor lenet is trained on labels, and {name} has none; set data.label_column, or use random_conv")
    if len(dataset) < _training.FEWEST_IMAGES:
        raise ValueError(f"extractor lenet needs {_training.FEWEST_IMAGES} images or more, and {name} has {len(dataset)}; use random_conv")
    low, high = int(labels.min()), int(labels.max())
    if low == high:
        raise ValueError(f"extractor lenet needs two classes or more, and every label of {name} is {low}; use random_conv")
    if low < 0 or high >= dataset.num_classes:
        raise ValueError(f"labels of {name} run from {low} to {high}, and num_classes is {dataset.num_classes}; labels are 0 and up")


def accuracy(extractor: Extractor, dataset: ImageDataset, indices: Tensor | None = None) -> float:
    """The share of the named images (default: all) whose likeliest class is their label, 0 to 1, by any extractor with classes.

    Raises:
        ValueError: as the extractor, and for a data set without labels.
    """
    if dataset.labels is None:
        raise ValueError(f"accuracy needs labels, and {dataset.name} has none")
    chosen = torch.arange(len(dataset)) if indices is None else indices
    right = 0
    for part in chosen.split(_training.AT_ONCE):
        images = dataset.batch(part, torch.device("cpu"), torch.float32, labelled=False).inputs
        right += int((extractor.probabilities(images).argmax(1).cpu() == dataset.labels[part]).sum())
    return right / len(chosen)
