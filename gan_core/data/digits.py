"""The 1,797 handwritten digits of 8x8 pixels that ship inside scikit-learn (Alpaydin and Kaynak 1998): real data, no download."""

from hashlib import sha256

import torch
from sklearn.datasets import load_digits

from gan_core.datatypes import ImageDataset


def load() -> ImageDataset:
    """Images [1797, 1, 8, 8] uint8, scaled from the source's 17 grey levels, and labels 0..9."""
    source = load_digits()
    images = torch.from_numpy(source.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1).contiguous()
    labels = torch.from_numpy(source.target).to(torch.int64)
    content = sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    return ImageDataset("digits", images, labels, content, num_classes=10, source="sklearn.datasets.load_digits")
