"""The pixels themselves as features: no network and no weights. What they judge is brightness and place, not content."""

from pathlib import Path

import torch
from torch import Tensor

from gan_core.datatypes import ImageDataset
from gan_core.extractors._extractor import Extractor, Features, hash_of


def build(dataset: ImageDataset, *, device: torch.device, cache_dir: Path) -> Extractor:
    """Features are images [C, H, W] in [-1, 1] flattened to [C * H * W] in float32; `weights_hash` is that of this definition."""
    shape = (dataset.channels, *dataset.images.shape[2:])
    return Extractor(
        name="pixels",
        weights_hash=hash_of(f"pixels 1: {shape} flattened, float32", {}),
        dimensions=dataset.images[0].numel(),
        num_classes=0,
        resize="none",
        dtype="float32",
        image_shape=shape,
        device=device,
        network=_flatten,
        bounded=dataset.images.dtype == torch.uint8,
    )


def _flatten(images: Tensor) -> Features:
    return Features(images.flatten(1), None)
